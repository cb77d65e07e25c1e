"""The non-convex penalties of single weights: they shrink large weights less than L1.

A proximal step with one of them finds a stationary point, not the optimum; start it
from the L1 solution. A prox has two values where it jumps: the one taken is the one
nearer to zero. Under a diagonal metric, or a long step, every prox here reaches the
thresholds at which it is discontinuous, and stays the global argmin there.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.numerics.checks import check_real
from l1jax.numerics.elementwise import largest, sign
from l1jax.penalties.base import Penalty, gradient_operand, operands
from l1jax.penalties.elementwise_base import SCALES, Elementwise, exceeds_root


class _Folded(Elementwise):
    """Slope 1 at zero, which falls linearly to 0 between the two ends of `_bend`.

    That of MCP starts at 0; that of the capped L1 has no width.
    """

    _bend: tuple[float, float]

    def _height(self, a: jax.Array) -> jax.Array:
        start, end = self._bend
        straight = jnp.minimum(a, start)
        if start == end:
            return straight
        bent = jnp.minimum(a - straight, end - start)
        mean_slope = 1 - jnp.abs(bent * (0.5 / (end - start)))
        return straight + jnp.abs(bent * mean_slope)

    def _slope(self, a: jax.Array) -> jax.Array:
        start, end = self._bend
        if start == end:
            return jnp.where(a >= start, jnp.zeros_like(a), jnp.ones_like(a))
        bent = jnp.maximum(a - start, 0)
        fallen = jnp.abs(bent * (1 / (end - start)))
        return jnp.maximum(1 - fallen, 0)

    def _shrunk(self, a: jax.Array, t: jax.Array) -> jax.Array:
        # The share of t that is taken off: the slope at the result. Below a threshold
        # of `width` the objective is convex; above it, the prox jumps over the bend.
        start, end = self._bend
        width, both = end - start, end + start
        jumps = t >= width
        curvature = jnp.where(jumps, 1, width - t)
        share = jnp.clip((end - a) * (1 / curvature), 0, 1)
        # There `a` is better than `a - t`, or than 0.
        free = jnp.where(t < both, a > 0.5 * (t + both), exceeds_root(a, t, both))
        whole = jnp.where(free, jnp.zeros_like(a), jnp.ones_like(a))
        return a - jnp.minimum(a, t * jnp.where(jumps, whole, share))

    def _at_zero(self, grad: jax.Array, strength: jax.Array) -> jax.Array:
        return jnp.maximum(jnp.abs(grad) - strength, 0)

    def lambda_max(self, grad: ArrayLike) -> jax.Array:
        return largest(jnp.abs(gradient_operand(grad)))


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
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        # At the cap, where the penalty has a kink downwards, slopes 0 and 1 will do.
        distance = super().optimality_distance(x, grad, strength)
        x, grad, strength = operands(x, grad, strength)
        other = jnp.minimum(distance, jnp.abs(grad + strength * sign(x)))
        return jnp.where(jnp.abs(x) == self.cap, other, distance)


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
      >>> print(mcp(1.0, 3.0).prox(jnp.array([4.0, 2.0, 0.5]), 1.0))
      [4.  1.5 0. ]
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
      >>> print(scad(1.0, 4.0).prox(jnp.array([5.0, 3.0, 1.5]), 1.0))
      [5.  2.5 0.5]
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
      >>> print(capped_l1(1.0).prox(jnp.array([2.0, 1.25, 0.5]), 1.0))
      [2.   0.25 0.  ]
    """
    cap = check_real("cap", cap, SCALES, "1.0")
    return _CappedL1(cap)
