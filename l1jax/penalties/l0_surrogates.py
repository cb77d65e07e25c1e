"""Penalties between L1 and the count of weights: log-sum, powers, and the count L0."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.numerics.checks import check_real
from l1jax.numerics.elementwise import largest
from l1jax.penalties.base import Penalty, gradient_operand
from l1jax.penalties.elementwise_base import SCALES, Elementwise, exceeds_root


@dataclasses.dataclass(frozen=True)
class _LogSum(Elementwise):
    epsilon: float

    def _height(self, a: jax.Array) -> jax.Array:
        return jnp.log1p(a * (1 / self.epsilon))

    def _slope(self, a: jax.Array) -> jax.Array:
        return 1 / (a + self.epsilon)

    def _shrunk(self, a: jax.Array, t: jax.Array) -> jax.Array:
        # The larger root u of (a - u) (u + epsilon) = t, by what is taken off: a - u is
        # a quotient without cancellation, and 0 for a threshold of 0.
        high = a + self.epsilon
        real = exceeds_root(high, t, 4)
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


class _Steep(Elementwise):
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
        # With u = a v the root depends on one number only: v + pull v^(p-1) = 1. It is
        # better than 0 where v > 2 (1-p)/(2-p), that is, for a pull below a constant.
        p, limit = self.p, _largest_pull(self.p)
        kept = self._pull(jnp.where(a > 0, a, 1), t) < limit
        inner = kept & (a >= jnp.finfo(a.dtype).tiny) & (a < jnp.inf)
        a_inner, t_inner = jnp.where(inner, a, 1), jnp.where(inner, t, 0)
        # The factor is 1. Its derivative is that of a^(p-2), which could overflow.
        fixed = jax.lax.stop_gradient(a_inner)
        pull = self._pull(fixed, t_inner) * (1 + (p - 2) * (a_inner / fixed - 1))
        v = jnp.ones_like(a)
        for _ in range(_newton_steps(p, jnp.finfo(a.dtype).eps)):
            w = jnp.abs(pull * self._root(v))
            # The outer abs keeps XLA from merging this 1 with the initial one.
            v = jnp.abs(v - (v - 1 + w) / (1 - jnp.abs((1 - p) * (w / v))))
        return jnp.where(kept, a * v, _nothing(t))

    def _pull(self, a: jax.Array, t: jax.Array) -> jax.Array:
        return self.p * ((t / a) * self._root(a))

    def _root(self, a: jax.Array) -> jax.Array:
        """Return `a^(p-1)` for `a > 0`; for p = 1/2 by a root, as the twin does."""
        return _inverse_root(a) if self.p == 0.5 else a ** (self.p - 1)


@dataclasses.dataclass(frozen=True)
class _L0(_Steep):
    has_subgradient = False  # type: ignore[assignment]

    def _height(self, a: jax.Array) -> jax.Array:
        return jnp.where(a > 0, jnp.ones_like(a), _nothing(a))

    def _slope(self, a: jax.Array) -> jax.Array:
        return jnp.zeros_like(a)

    def _shrunk(self, a: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.where(exceeds_root(a, t, 2), a, _nothing(t))


def log_sum(epsilon: float) -> Penalty:
    r"""Return `sum log(1 + |x_i| / epsilon)` (Candes, Wakin and Boyd, 2008).

    .. math:: \mathrm{prox}_t(x) = \mathrm{sign}(x) u, \quad (|x| - u)(u + \epsilon) = t

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

    Raises:
      TypeError: an argument is not a number.
      ValueError: a number is outside its range.

    Example:
      >>> print(log_sum(1.0).prox(jnp.array([3.0, 0.5]), 3.0))
      [2. 0.]
    """
    epsilon = check_real("epsilon", epsilon, SCALES, "0.1")
    return _LogSum(epsilon)


def lp(p: float) -> Penalty:
    r"""Return `sum |x_i|^p` for `0 < p < 1`: the bridge (Frank and Friedman, 1993).

    .. math:: \mathrm{prox}_t(x) = \mathrm{sign}(x) u, \quad u + t p u^{p - 1} = |x|

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
      p: a Python number in (0, 1), both ends excluded; `l0` and `l1` are the ends.

    Raises:
      TypeError: an argument is not a number.
      ValueError: a number is outside its range.

    Example:
      >>> print(lp(0.5).prox(jnp.array([1.25, 0.75]), 0.5))
      [1. 0.]
    """
    p = check_real("p", p, "(0, 1)", "0.5")
    return _Lp(p)


def l0() -> Penalty:
    r"""Return the number of elements that are not zero.

    .. math::

       \mathrm{prox}_t(x) = x \quad \mathrm{if} \quad |x| > \sqrt{2 t},
       \quad \mathrm{else} \quad 0

    Its prox is the hard threshold: `x` if `|x| > sqrt(2 t)`, else 0; at `sqrt(2 t)`
    both are solutions, and 0 is taken. It has no slope to follow: `subgradient` is 0
    everywhere, and `add_subgradient` refuses it.

    As with `lp`, zero is stationary for every strength.

    Example:
      >>> print(l0().prox(jnp.array([2.5, -2.0]), 2.0))
      [2.5 0. ]
    """
    return _L0()


def _nothing(x: jax.Array) -> jax.Array:
    """Return 0 for `x >= 0`, and NaN for NaN."""
    return jnp.minimum(x, 0)


def _inverse_root(a: jax.Array) -> jax.Array:
    """Return `1 / sqrt(a)` for `a > 0`, bitwise as the twin does."""
    # XLA approximates a quotient that it recognises as 1 / sqrt(a).
    return 1 / jnp.where(a > 0, jnp.sqrt(a), 1)


def _largest_pull(p: float) -> float:
    """Return the pull of `v + pull v^(p-1) = 1` at which `v` and 0 are equally good."""
    return p / (2 - p) * (2 * (1 - p) / (2 - p)) ** (1 - p)


def _newton_steps(p: float, eps: float) -> int:
    """Count the steps to the farthest root of `_Lp`, which is known exactly."""
    pull, root = _largest_pull(p), 2 * (1 - p) / (2 - p)
    v, steps = 1.0, 0
    # A Newton step squares the error, so that the loop may end before the last one.
    while v > root * (1 + max(eps / 4, 1e-8)):
        w = pull * v ** (p - 1)
        v, steps = v - (v - 1 + w) / (1 - (1 - p) * (w / v)), steps + 1
    return steps + (eps < 1e-8)
