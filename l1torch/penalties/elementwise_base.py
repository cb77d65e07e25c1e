"""The base of penalties that treat every element by one formula."""

import abc

import torch
from torch import Tensor

from l1torch.numerics.elementwise import Number, absolute, sign
from l1torch.numerics.prox import apply_prox_formula, freed
from l1torch.penalties.base import Penalty, operands

SCALES = "[1e-18, 1e18]"
"""The scales whose squares and reciprocals single precision holds."""


class Elementwise(Penalty):
    """A sum of one function of the magnitudes `a = |x_i|`, which a subclass defines."""

    separable = True

    @abc.abstractmethod
    def _height(self, a: Tensor) -> Tensor:
        """Return the value."""

    @abc.abstractmethod
    def _slope(self, a: Tensor) -> Tensor:
        """Return the derivative of the value; at 0 it may be anything but NaN."""

    @abc.abstractmethod
    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        """Return the prox for a threshold; its zeros may have any sign."""

    @abc.abstractmethod
    def _at_zero(self, grad: Tensor, strength: Tensor) -> Tensor:
        """Return the distance of `-grad` to the subdifferential at 0."""

    def value(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        """Sum `strength * _height(|x_i|)`."""
        x, strength = operands(x, strength)
        return torch.sum(strength * self._height(absolute(x)))

    def subgradient(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        """Return `strength * _slope(|x|) sign(x)`."""
        wide, strength = operands(x, strength)
        slope = strength * self._slope(wide.abs())
        return (slope * sign(wide)).to(x.dtype)

    def prox(self, x: Tensor, threshold: Number) -> Tensor:
        """Apply `_shrunk` to the magnitudes."""

        def formula(x: Tensor, t: Tensor) -> Tensor:
            return freed(sign(x) * self._shrunk(x.abs(), t), x, t)

        return apply_prox_formula(formula, x, threshold)

    def optimality_distance(
        self, x: Tensor, grad: Tensor, strength: Number = 1.0
    ) -> Tensor:
        """Return the distance to the slope, and at zero to the subdifferential."""
        x, grad, strength = operands(x, grad, strength)
        slope = strength * self._slope(x.abs())
        distance = (grad + slope * sign(x)).abs()
        return torch.where(x == 0, self._at_zero(grad, strength), distance)


def exceeds_root(a: Tensor, t: Tensor, factor: float) -> Tensor:
    """Mark where `a > sqrt(factor * t)`, for `a >= 0`, without overflow."""
    return (a > 0) & (t / torch.where(a > 0, a, 1) * factor < a)
