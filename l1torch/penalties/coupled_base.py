"""The base of penalties that couple the elements of an array."""

import abc
import functools

import torch
from torch import Tensor

from l1torch.numerics.elementwise import Number
from l1torch.numerics.prox import apply_prox_formula, from_zero
from l1torch.numerics.sharding import gathering
from l1torch.penalties.base import Penalty, operands


class Coupled(Penalty):
    """A convex penalty whose subdifferential it can project onto.

    A subclass defines `_residual(x, v, strength)`, what is left of `v` after its
    projection onto `strength * d penalty(x)`, and `_prox(x, t)`, the prox for a
    threshold above 0. DTensors are gathered.
    """

    convex = True

    @abc.abstractmethod
    def _residual(self, x: Tensor, v: Tensor, strength: Tensor) -> Tensor:
        pass

    @abc.abstractmethod
    def _prox(self, x: Tensor, t: Tensor) -> Tensor:
        pass

    def _terms(self, x: Tensor) -> Tensor:
        # A norm is its subgradient times x: no term is negative.
        return x * self.subgradient(x.detach())

    @gathering()
    def value(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        """Sum `strength * _terms(x)`."""
        x, strength = operands(x, strength)
        self.require_fit("x", tuple(x.shape), tuple(strength.shape))
        return torch.sum(strength * self._terms(x))

    @gathering()
    def subgradient(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        """Return the subgradient that is nearest to 0."""
        wide, strength = operands(x, strength)
        self.require_fit("x", tuple(wide.shape), tuple(strength.shape))
        slope = 0.0 - self._residual(wide, torch.zeros_like(wide), strength)
        return slope.to(x.dtype)

    @gathering()
    def prox(self, x: Tensor, threshold: Number) -> Tensor:
        """Apply `_prox`, or the identity where the threshold is 0."""
        formula = functools.partial(from_zero, self._prox)
        return apply_prox_formula(formula, x, threshold)

    @gathering()
    def optimality_distance(
        self, x: Tensor, grad: Tensor, strength: Number = 1.0
    ) -> Tensor:
        """Return, per element, what is left of `-grad` after its projection."""
        x, grad, strength = operands(x, grad, strength)
        self.require_fit("x", tuple(x.shape), tuple(strength.shape))
        return self._residual(x, -grad, strength).abs()
