"""The non-convex penalties of single weights: they shrink large weights less than L1.

A proximal step with one of them finds a stationary point, not the optimum; start it
from the L1 solution. A prox has two values where it jumps: the one taken is the one
nearer to zero. Under a diagonal metric, or a long step, every prox here reaches the
thresholds at which it is discontinuous, and stays the global argmin there.
"""

import dataclasses

import torch
from torch import Tensor

from l1torch.numerics.checks import check_real
from l1torch.numerics.elementwise import Number, largest, sign
from l1torch.penalties.base import Penalty, gradient_operand, operands
from l1torch.penalties.elementwise_base import SCALES, Elementwise, exceeds_root


class _Folded(Elementwise):
    """Slope 1 at zero, which falls linearly to 0 between the two ends of `_bend`.

    That of MCP starts at 0; that of the capped L1 has no width.
    """

    _bend: tuple[float, float]

    def _height(self, a: Tensor) -> Tensor:
        start, end = self._bend
        straight = a.clamp(max=start)
        if start == end:
            return straight
        bent = (a - straight).clamp(max=end - start)
        mean_slope = 1 - bent * (0.5 / (end - start))
        return straight + bent * mean_slope

    def _slope(self, a: Tensor) -> Tensor:
        start, end = self._bend
        if start == end:
            return torch.where(a >= start, torch.zeros_like(a), torch.ones_like(a))
        bent = (a - start).clamp(min=0)
        fallen = bent * (1 / (end - start))
        return (1 - fallen).clamp(min=0)

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        # The share of t that is taken off: the slope at the result. Below a threshold
        # of `width` the objective is convex; above it, the prox jumps over the bend.
        start, end = self._bend
        width, both = end - start, end + start
        jumps = t >= width
        curvature = torch.where(jumps, 1, width - t)
        share = ((end - a) * (1 / curvature)).clamp(0, 1)
        # There `a` is better than `a - t`, or than 0.
        free = torch.where(t < both, a > 0.5 * (t + both), exceeds_root(a, t, both))
        whole = torch.where(free, torch.zeros_like(a), torch.ones_like(a))
        return a - torch.minimum(a, t * torch.where(jumps, whole, share))

    def _at_zero(self, grad: Tensor, strength: Tensor) -> Tensor:
        return (grad.abs() - strength).clamp(min=0)

    def lambda_max(self, grad: Tensor) -> Tensor:
        return largest(gradient_operand(grad).abs())


@dataclasses.dataclass(frozen=True)
class _MCP(_Folded):
    scale: float
    gamma: float

    @property
    def _bend(self) -> tuple[float, float]:  # type: ignore[override]
        return 0.0, self.gamma * self.scale


@dataclasses.dataclass(frozen=True)
class _SCAD(_Folded):
    scale: float
    a: float

    @property
    def _bend(self) -> tuple[float, float]:  # type: ignore[override]
        return self.scale, self.a * self.scale


@dataclasses.dataclass(frozen=True)
class _CappedL1(_Folded):
    cap: float

    @property
    def _bend(self) -> tuple[float, float]:  # type: ignore[override]
        return self.cap, self.cap

    def optimality_distance(
        self, x: Tensor, grad: Tensor, strength: Number = 1.0
    ) -> Tensor:
        # At the cap, where the penalty has a kink downwards, slopes 0 and 1 will do.
        distance = super().optimality_distance(x, grad, strength)
        x, grad, strength = operands(x, grad, strength)
        other = torch.minimum(distance, (grad + strength * sign(x)).abs())
        return torch.where(x.abs() == self.cap, other, distance)


def mcp(scale: float, gamma: float = 3.0) -> Penalty:
    r"""Return the minimax concave penalty (Zhang, 2010): `|x| - x^2/(2 K)` up to `K`.

    .. math::

       \mathrm{prox}_t(x) = \mathrm{sign}(x) \max(|x| - t, 0) / (1 - t / K),
       \quad |x| \leq K, \quad t < K

    `K = gamma * scale`; beyond it the penalty is constant, `K/2`, so that large weights
    are not shrunk at all. The textbook's `MCP(lambda, gamma)` is `strength = lambda`
    and `scale = lambda`.

    The prox, for a threshold `t < K`: 0 up to `t`; `(|x| - t) / (1 - t/K)` up to `K`;
    `x` beyond. For `t >= K` it is the hard threshold: `x` if `|x| > sqrt(t K)`, else 0;
    at `sqrt(t K)` both are solutions, and 0 is taken. A few operations an element.

    Args:
      scale: a Python number above 0, in units of the weights.
      gamma: a Python number above 1; the larger, the nearer to L1.

    Raises:
      TypeError: an argument is not a number.
      ValueError: a number is outside its range.

    Example:
      >>> mcp(1.0, 3.0).prox(torch.tensor([4.0, 2.0, 0.5]), 1.0)
      tensor([4.0000, 1.5000, 0.0000])
    """
    scale = check_real("scale", scale, SCALES, "1.0")
    gamma = check_real("gamma", gamma, "(1, 1e18]", "3.0")
    return _MCP(scale, gamma)


def scad(scale: float, a: float = 3.7) -> Penalty:
    r"""Return the smoothly clipped absolute deviation (Fan and Li, 2001).

    .. math::

       \mathrm{prox}_t(x) = ((a - 1) x - \mathrm{sign}(x) a t) / (a - 1 - t / s),
       \quad s + t < |x| \leq K, \quad s = \mathrm{scale}

    Its slope is 1 up to `scale`, falls linearly to 0 at `K = a * scale`, and stays
    there: `|x|`, then `(2 K |x| - x^2 - scale^2) / (2 (a - 1) scale)`, then
    `(a + 1) scale / 2`. The textbook's `SCAD(lambda, a)` is `strength = lambda` and
    `scale = lambda`.

    The prox, for a threshold `t < (a - 1) scale`: the soft threshold up to `scale + t`;
    `((a - 1) x - sign(x) a t) / (a - 1 - t/scale)` up to `K`; `x` beyond. For a larger
    `t` the soft threshold up to a jump to `x`: at `(t + M)/2` if `t < M`, else at
    `sqrt(t M)`, for `M = (a + 1) scale`; at the jump the smaller solution is taken. A
    few operations an element.

    Args:
      scale: a Python number above 0, in units of the weights.
      a: a Python number above 2.

    Raises:
      TypeError: an argument is not a number.
      ValueError: a number is outside its range.

    Example:
      >>> scad(1.0, 4.0).prox(torch.tensor([5.0, 3.0, 1.5]), 1.0)
      tensor([5.0000, 2.5000, 0.5000])
    """
    scale = check_real("scale", scale, SCALES, "1.0")
    a = check_real("a", a, "(2, 1e18]", "3.7")
    return _SCAD(scale, a)


def capped_l1(cap: float) -> Penalty:
    r"""Return `sum min(|x_i|, cap)`, the capped L1 penalty (Zhang, 2010).

    .. math:: \sum_i \min(|x_i|, \mathrm{cap})

    The prox is the soft threshold up to a jump to `x`: at `cap + t/2` for a threshold
    `t < 2 cap`, else at `sqrt(2 t cap)`; at the jump the smaller solution is taken. A
    few operations an element. Where `|x| = cap` the slopes 0 and 1 are subgradients;
    `subgradient` gives 0.

    Args:
      cap: a Python number above 0, in units of the weights.

    Raises:
      TypeError: an argument is not a number.
      ValueError: a number is outside its range.

    Example:
      >>> capped_l1(1.0).prox(torch.tensor([2.0, 1.25, 0.5]), 1.0)
      tensor([2.0000, 0.2500, 0.0000])
    """
    cap = check_real("cap", cap, SCALES, "1.0")
    return _CappedL1(cap)
