"""The non-convex penalties of single weights: they shrink large weights less than L1.

A proximal step with one of them finds a stationary point, not the optimum; start it
from the L1 solution. A prox has two values where it jumps: the one taken is the one
nearer to zero. Under a diagonal metric, or a long step, every prox here reaches the
thresholds at which it is discontinuous, and stays the global argmin there.
"""

import dataclasses
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.penalty import (
    Penalty,
    absolute,
    gradient_operand,
    largest,
    operands,
    sign,
)
from l1jax.prox import solve


class _Separable(Penalty):
    """A penalty of one element, of which its children say, for a magnitude `a`:

    `_height(a)`, the value; `_slope(a)`, its derivative, of no matter at 0 but no NaN;
    `_shrunk(a, t)`, the prox, its zeros of any sign; and `_at_zero(grad, strength)`,
    the distance of `-grad` to the subdifferential at 0.
    """

    separable = True

    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        x, strength = operands(x, strength)
        return jnp.sum(strength * self._height(absolute(x)))

    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        wide, strength = operands(x, strength)
        slope = strength * self._slope(jnp.abs(wide))
        return (slope * sign(wide)).astype(jnp.asarray(x).dtype)

    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        return solve(lambda x, t: sign(x) * self._shrunk(jnp.abs(x), t), x, threshold)

    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        x, grad, strength = operands(x, grad, strength)
        # Around products that go into a sum, abs: see prox_elastic_net.
        slope = jnp.abs(strength * self._slope(jnp.abs(x)))
        distance = jnp.abs(grad + slope * sign(x))
        return jnp.where(x == 0, self._at_zero(grad, strength), distance)


class _Folded(_Separable):
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
        free = jnp.where(t < both, a > 0.5 * (t + both), _exceeds_root(a, t, both))
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


@dataclasses.dataclass(frozen=True)
class _LogSum(_Separable):
    epsilon: float

    def _height(self, a: jax.Array) -> jax.Array:
        return jnp.log1p(a * (1 / self.epsilon))

    def _slope(self, a: jax.Array) -> jax.Array:
        return 1 / (a + self.epsilon)

    def _shrunk(self, a: jax.Array, t: jax.Array) -> jax.Array:
        # The larger root u of (a - u) (u + epsilon) = t, by what is taken off: a - u is
        # a quotient without cancellation, and 0 for a threshold of 0.
        high = a + self.epsilon
        real = _exceeds_root(high, t, 4)
        first = jnp.where(real, t, 0) / high
        room = jnp.maximum(1 - 4 * (jnp.abs(first) / high), 1e-30)
        off = 2 * first / (1 + jnp.abs(room * _inverse_root(room)))
        u = a - jnp.minimum(a, off)
        # Up to epsilon^2 the objective is convex. Above, u must be better than 0, off *
        # ((1 + 1/r) log(1 + r) - 1) < u / 2 for r = u / epsilon; r must not overflow.
        r = jnp.minimum(jnp.where(u > 0, u, 1) * (1 / self.epsilon), 1e38)
        gain = jnp.abs((1 + 1 / r) * jnp.log1p(r)) - 1
        worse = (t > self.epsilon**2) & (off * gain >= 0.5 * u)
        return jnp.where(real & ~worse, u, _nothing(t))

    def _at_zero(self, grad: jax.Array, strength: jax.Array) -> jax.Array:
        return jnp.maximum(jnp.abs(grad) - jnp.abs(strength * (1 / self.epsilon)), 0)

    def lambda_max(self, grad: ArrayLike) -> jax.Array:
        return self.epsilon * largest(jnp.abs(gradient_operand(grad)))


class _Steep(_Separable):
    """Infinitely steep at zero: every slope is a subgradient there."""

    def _at_zero(self, grad: jax.Array, strength: jax.Array) -> jax.Array:
        return jnp.minimum(jnp.abs(grad) + strength, 0)  # 0, or NaN

    def lambda_max(self, grad: ArrayLike) -> jax.Array:
        return _nothing(largest(jnp.abs(gradient_operand(grad))))


@dataclasses.dataclass(frozen=True)
class _Lp(_Steep):
    p: float

    def _height(self, a: jax.Array) -> jax.Array:
        zero = a == 0
        return jnp.where(zero, 0, jnp.where(zero, 1, a) ** self.p)

    def _slope(self, a: jax.Array) -> jax.Array:
        return self.p * self._root(jnp.where(a == 0, 1, a))

    def _shrunk(self, a: jax.Array, t: jax.Array) -> jax.Array:
        # With u = a v the root depends on one number, v + pull v^(p-1) = 1, and beats 0
        # where v > 2 (1-p)/(2-p): where the pull is below a constant.
        p, limit = self.p, _largest_pull(self.p)
        kept = self._pull(jnp.where(a > 0, a, 1), t) < limit
        inner = kept & (a >= jnp.finfo(a.dtype).tiny) & (a < jnp.inf)
        of, t_of = jnp.where(inner, a, 1), jnp.where(inner, t, 0)
        # The factor is 1. Its derivative is that of a^(p-2), which could overflow.
        fixed = jax.lax.stop_gradient(of)
        pull = self._pull(fixed, t_of) * (1 + (p - 2) * (of / fixed - 1))
        v = jnp.ones_like(a)
        for _ in range(_newton_steps(p, jnp.finfo(a.dtype).eps)):
            w = jnp.abs(pull * self._root(v))
            # The abs around it keeps XLA from joining this 1 and that of the start.
            v = jnp.abs(v - (v - 1 + w) / (1 - jnp.abs((1 - p) * (w / v))))
        return jnp.where(kept, a * v, _nothing(t))

    def _pull(self, a: jax.Array, t: jax.Array) -> jax.Array:
        return self.p * ((t / a) * self._root(a))

    def _root(self, a: jax.Array) -> jax.Array:
        """Gives `a^(p-1)` for `a > 0`; as a root where the twins would not agree."""
        return _inverse_root(a) if self.p == 0.5 else a ** (self.p - 1)


@dataclasses.dataclass(frozen=True)
class _L0(_Steep):
    has_subgradient = False  # type: ignore[assignment]

    def _height(self, a: jax.Array) -> jax.Array:
        return jnp.where(a > 0, jnp.ones_like(a), _nothing(a))

    def _slope(self, a: jax.Array) -> jax.Array:
        return jnp.zeros_like(a)

    def _shrunk(self, a: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.where(_exceeds_root(a, t, 2), a, _nothing(t))


def mcp(scale: float, gamma: float = 3.0) -> Penalty:
    """Gives the minimax concave penalty (Zhang, 2010): `|x| - x^2/(2 K)` up to `K`.

    `K = gamma * scale`; beyond it the penalty is constant, `K/2`, so that large weights
    are not shrunk at all. The textbook's `MCP(lambda, gamma)` is `strength = lambda`
    and `scale = lambda`.

    The prox, for a threshold `t < K`: 0 up to `t`; `(|x| - t) / (1 - t/K)` up to `K`;
    `x` beyond. For `t >= K` it is the hard threshold: `x` if `|x| > sqrt(t K)`, else 0;
    at `sqrt(t K)` both are solutions, and 0 is taken. A few operations an element.

    Args:
      scale: a Python number above 0, in units of the weights.
      gamma: a Python number above 1; the larger, the nearer to L1.

    Raises: TypeError or ValueError, for what is no such number.

    Example:
      >>> print(mcp(1.0, 3.0).prox(jnp.array([4.0, 2.0, 0.5]), 1.0))
      [4.  1.5 0. ]
    """
    _require_above("scale", scale, 0, "1.0")
    _require_above("gamma", gamma, 1, "3.0")
    return _MCP(float(scale), float(gamma))


def scad(scale: float, a: float = 3.7) -> Penalty:
    """Gives the smoothly clipped absolute deviation (Fan and Li, 2001).

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

    Raises: TypeError or ValueError, for what is no such number.

    Example:
      >>> print(scad(1.0, 4.0).prox(jnp.array([5.0, 3.0, 1.5]), 1.0))
      [5.  2.5 0.5]
    """
    _require_above("scale", scale, 0, "1.0")
    _require_above("a", a, 2, "3.7")
    return _SCAD(float(scale), float(a))


def capped_l1(cap: float) -> Penalty:
    """Gives `sum min(|x_i|, cap)`, the capped L1 penalty (Zhang, 2010).

    The prox is the soft threshold up to a jump to `x`: at `cap + t/2` for a threshold
    `t < 2 cap`, else at `sqrt(2 t cap)`; at the jump the smaller solution is taken. A
    few operations an element. Where `|x| = cap` the slopes 0 and 1 are subgradients;
    `subgradient` gives 0.

    Args:
      cap: a Python number above 0, in units of the weights.

    Raises: TypeError or ValueError, for what is no such number.

    Example:
      >>> print(capped_l1(1.0).prox(jnp.array([2.0, 1.25, 0.5]), 1.0))
      [2.   0.25 0.  ]
    """
    _require_above("cap", cap, 0, "1.0")
    return _CappedL1(float(cap))


def log_sum(epsilon: float) -> Penalty:
    """Gives `sum log(1 + |x_i| / epsilon)` (Candes, Wakin and Boyd, 2008).

    The penalty that iterated reweighting of L1 minimises. Its slope at zero is `1 /
    epsilon`: `lambda_max` is `epsilon max |grad|`.

    The prox is the larger root of `(|x| - u) (u + epsilon) = t`, or 0. Up to a
    threshold of `t = epsilon^2` it is continuous, 0 up to `|x| = t / epsilon`. Above,
    it jumps where root and 0 are equally good, and 0 is taken there. The logarithm that
    decides this is the framework's own: on the edge, where both are equally good to
    rounding, the twins may take different solutions.

    Args:
      epsilon: a Python number above 0, in units of the weights; the smaller, the nearer
        to counting them.

    Raises: TypeError or ValueError, for what is no such number.

    Example:
      >>> print(log_sum(1.0).prox(jnp.array([3.0, 0.5]), 3.0))
      [2. 0.]
    """
    _require_above("epsilon", epsilon, 0, "0.1")
    return _LogSum(float(epsilon))


def lp(p: float) -> Penalty:
    """Gives `sum |x_i|^p` for `0 < p < 1`: the bridge (Frank and Friedman, 1993).

    1/2 is the half thresholding of Xu et al. (2012), 2/3 that of Cao et al. (2013); all
    are computed by one Newton iteration, monotone from the right, in a fixed number of
    steps: 3 to 7, more for a larger `p` and for double precision. It is accurate to an
    ulp or two of `x`. The prox is 0 up to `(2 - p) / (2 (1 - p)) (2 t (1 - p))^(1 / (2
    - p))`, where it jumps; there it has two values, and 0 is taken.

    Every slope is a subgradient at zero, so that zero is stationary for every strength
    above 0: `optimality_distance` is 0 there, and so is `lambda_max`. Start proximal
    steps away from zero.

    The powers are the framework's own: for `p = 0.5` the twins are bitwise equal, else
    to 4 ulps, apart from the edge, where either solution may come out.

    Args:
      p: a Python number in (0, 1), its ends excluded: `l0` and `l1` are these.

    Raises: TypeError or ValueError, for what is no such number.

    Example:
      >>> print(lp(0.5).prox(jnp.array([1.25, 0.75]), 0.5))
      [1. 0.]
    """
    _require_above("p", p, 0, "0.5", below=1)
    return _Lp(float(p))


def l0() -> Penalty:
    """Gives the number of elements that are not zero.

    Its prox is the hard threshold: `x` if `|x| > sqrt(2 t)`, else 0; at `sqrt(2 t)`
    both are solutions, and 0 is taken. It has no slope to follow: `subgradient` is 0
    everywhere, and `add_subgradient` refuses it.

    As with `lp`, zero is stationary for every strength.

    Example:
      >>> print(l0().prox(jnp.array([2.5, -2.0]), 2.0))
      [2.5 0. ]
    """
    return _L0()


def _require_above(
    argument: str, value: Any, low: float, example: str, below: float = math.inf
) -> None:
    """Raises unless `value` is a Python number in the open interval."""
    interval = f"in ({low}, {below})" if below < math.inf else f"finite and above {low}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{argument} must be a Python number {interval}, got {value!r} of type "
            f"{type(value).__name__}. Pass a number such as {example}."
        )
    if not low < value < below:
        raise ValueError(
            f"{argument} must be {interval}, got {value!r}. Pass a number such as "
            f"{example}."
        )


def _nothing(x: jax.Array) -> jax.Array:
    """Gives 0 for `x >= 0`, and NaN of NaN."""
    return jnp.minimum(x, 0)


def _exceeds_root(a: jax.Array, t: jax.Array, factor: float) -> jax.Array:
    """Tells where `a > sqrt(factor * t)`, for `a >= 0`, without overflow."""
    return (a > 0) & (t / jnp.where(a > 0, a, 1) * factor < a)


def _inverse_root(a: jax.Array) -> jax.Array:
    """Gives `1 / sqrt(a)` for `a > 0`, bitwise as the twin does."""
    # XLA approximates what it sees to be this quotient; torch.sqrt is not exact on CPU.
    return 1 / jnp.where(a > 0, jnp.sqrt(a), 1)


def _largest_pull(p: float) -> float:
    """The pull of `v + pull v^(p-1) = 1` at which `v` and 0 are equally good."""
    return p / (2 - p) * (2 * (1 - p) / (2 - p)) ** (1 - p)


def _newton_steps(p: float, eps: float) -> int:
    """Counts the steps to the farthest root of `_Lp`, which is known exactly."""
    pull, root = _largest_pull(p), 2 * (1 - p) / (2 - p)
    v, steps = 1.0, 0
    # A Newton step squares the error, so that the last one need not be seen.
    while v > root * (1 + max(eps / 4, 1e-8)):
        w = pull * v ** (p - 1)
        v, steps = v - (v - 1 + w) / (1 - (1 - p) * (w / v)), steps + 1
    return steps + (eps < 1e-8)
