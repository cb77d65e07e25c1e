"""The convex penalties of single weights: L1, the elastic net, non-negative L1."""

import dataclasses
import math

import torch
from torch import Tensor

from l1torch.numerics.blocks import blocks_with
from l1torch.numerics.checks import check_real
from l1torch.numerics.elementwise import Number, absolute, compute_dtype, largest, sign
from l1torch.numerics.prox import prox_elastic_net, prox_nonnegative_l1, soft_threshold
from l1torch.numerics.sharding import local
from l1torch.penalties.base import (
    Penalty,
    gradient_operand,
    operands,
)
from l1torch.penalties.penalty_formula import PenaltyFormula

_LARGEST = {dtype: torch.finfo(dtype).max for dtype in (torch.float32, torch.float64)}


@dataclasses.dataclass(frozen=True)
class _L1(Penalty):
    convex = True
    separable = True
    least_slope = 1.0
    prox_is_soft_threshold = True

    def value(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        x, strength = operands(x, strength)
        return torch.sum(strength * absolute(x))

    def subgradient(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        wide, strength = operands(x, strength)
        return (strength * sign(wide)).to(x.dtype)

    def prox(self, x: Tensor, threshold: Number) -> Tensor:
        return soft_threshold(x, threshold)

    def prox_(self, x: Tensor, threshold: Number) -> None:
        largest = _LARGEST.get(x.dtype)
        if isinstance(threshold, Tensor):
            for x_block, t in blocks_with(threshold, x):
                wide = x_block.to(compute_dtype(x.dtype))
                x_block.copy_(wide - torch.clamp(wide, -t, t))
        elif largest and 0 <= threshold <= largest:
            # One kernel and no temporaries. It would round a threshold to half
            # precision, and takes a finite Python number that it trusts to be >= 0.
            torch.nn.functional.softshrink(local(x), threshold, out=local(x))
        else:
            super().prox_(x, threshold)

    def optimality_distance(
        self, x: Tensor, grad: Tensor, strength: Number = 1.0
    ) -> Tensor:
        x, grad, strength = operands(x, grad, strength)
        at_zero = torch.clamp(grad.abs() - strength, min=0)
        return torch.where(x == 0, at_zero, (grad + strength * sign(x)).abs())

    def lambda_max(self, grad: Tensor) -> Tensor:
        return largest(gradient_operand(grad).abs())

    def formula(self, shape: tuple[int, ...]) -> PenaltyFormula:
        return PenaltyFormula(slopes=1.0)


@dataclasses.dataclass(frozen=True)
class _ElasticNet(Penalty):
    l1_ratio: float
    convex = True
    separable = True

    @property
    def least_slope(self) -> float:  # type: ignore[override]
        """The slope at zero."""
        return self.l1_ratio

    @property
    def makes_zeros(self) -> bool:  # type: ignore[override]
        """Whether there is a share of L1."""
        return self.l1_ratio > 0

    def value(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        x, strength = operands(x, strength)
        mean_slope = self.l1_ratio + ((1 - self.l1_ratio) / 2 * x).abs()
        return torch.sum(strength * (absolute(x) * mean_slope))

    def subgradient(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        wide, strength = operands(x, strength)
        slope = strength * self._slope(wide)
        return (slope * sign(wide)).to(x.dtype)

    def prox(self, x: Tensor, threshold: Number) -> Tensor:
        return prox_elastic_net(x, threshold, self.l1_ratio)

    def optimality_distance(
        self, x: Tensor, grad: Tensor, strength: Number = 1.0
    ) -> Tensor:
        x, grad, strength = operands(x, grad, strength)
        at_zero = torch.clamp(grad.abs() - strength * self.l1_ratio, min=0)
        slope = strength * self._slope(x)
        return torch.where(x == 0, at_zero, (grad + slope * sign(x)).abs())

    def lambda_max(self, grad: Tensor) -> Tensor:
        # Without a kink at zero only a gradient of 0 keeps zero stationary.
        grad = largest(gradient_operand(grad).abs())
        factor = 1 / self.l1_ratio if self.l1_ratio else math.inf
        return torch.where(grad == 0, 0, grad * factor)

    def _slope(self, x: Tensor) -> Tensor:
        return self.l1_ratio + ((1 - self.l1_ratio) * x).abs()

    def formula(self, shape: tuple[int, ...]) -> PenaltyFormula:
        return PenaltyFormula(slopes=self.l1_ratio, ridge=1 - self.l1_ratio)


@dataclasses.dataclass(frozen=True)
class _NonnegativeL1(Penalty):
    finite = False
    convex = True
    separable = True
    least_slope = 1.0

    def value(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        x, strength = operands(x, strength)
        infeasible = (x < 0).any()
        return torch.sum(strength * absolute(x)).masked_fill(infeasible, math.inf)

    def subgradient(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        wide, strength = operands(x, strength)
        slope = (strength * sign(wide)).masked_fill(wide < 0, math.nan)
        return slope.to(x.dtype)

    def prox(self, x: Tensor, threshold: Number) -> Tensor:
        return prox_nonnegative_l1(x, threshold)

    def optimality_distance(
        self, x: Tensor, grad: Tensor, strength: Number = 1.0
    ) -> Tensor:
        x, grad, strength = operands(x, grad, strength)
        slope = grad + strength
        at_zero = (-slope).masked_fill(slope >= 0, 0)
        distance = torch.where(x == 0, at_zero, slope.abs() + 0 * x)
        return distance.masked_fill(x < 0, math.inf)

    def lambda_max(self, grad: Tensor) -> Tensor:
        return largest(-gradient_operand(grad))

    def formula(self, shape: tuple[int, ...]) -> PenaltyFormula:
        return PenaltyFormula(slopes=1.0, nonnegative=True)


def l1() -> Penalty:
    r"""Return `|x|_1 = sum |x_i|`, the lasso penalty (Tibshirani, 1996).

    .. math:: \mathrm{prox}_t(x) = \mathrm{sign}(x) \max(|x| - t, 0)

    Its prox is `soft_threshold`; the subgradient is `sign(x)` with `sign(0) = 0`.

    Example:
      >>> l1().prox(torch.tensor([3.0, -0.5]), 1.0)
      tensor([2., 0.])
    """
    return _L1()


def elastic_net(l1_ratio: float) -> Penalty:
    r"""Return `l1_ratio |x|_1 + (1 - l1_ratio)/2 |x|_2^2` (Zou and Hastie, 2005).

    .. math::

       \mathrm{prox}_t(x) = \mathrm{sign}(x) \max(|x| - t r, 0) / (1 + t (1 - r)),
       \quad r = \mathrm{l1\_ratio}

    With `strength` this is scikit-learn's `ElasticNet(alpha=strength, l1_ratio)`.

    Args:
      l1_ratio: the share of L1, a Python number in [0, 1]. 1 is the lasso; 0 is ridge
        and has no zeros.

    Raises:
      TypeError: `l1_ratio` is not a number.
      ValueError: it lies outside [0, 1].

    Example:
      >>> elastic_net(0.5).prox(torch.tensor([3.5, -0.5]), 1.0)
      tensor([2., 0.])
    """
    l1_ratio = check_real(
        "l1_ratio", l1_ratio, "[0, 1]", "1.0 for the lasso, 0.0 for ridge"
    )
    return _ElasticNet(l1_ratio)


def nonnegative_l1() -> Penalty:
    r"""Return `sum x_i` for `x >= 0` and infinity elsewhere.

    .. math:: \mathrm{prox}_t(x) = \max(x - t, 0)

    The penalty of scikit-learn's `Lasso(positive=True)`. Its prox is
    `max(x - threshold, 0)`. Below zero there is no subgradient (NaN), so that
    `add_subgradient` refuses it.

    Example:
      >>> nonnegative_l1().prox(torch.tensor([3.0, -0.5]), 1.0)
      tensor([2., 0.])
    """
    return _NonnegativeL1()
