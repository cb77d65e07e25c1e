"""The norms of groups, and their proximal operators, on the view of a `Grouping`."""

import jax
import jax.numpy as jnp

from l1jax.penalties.groups import Grouping

_HALVINGS = 8
_NEWTON_STEPS = {"float32": 5, "float64": 7}


def group_norm(x: jax.Array, grouping: Grouping) -> jax.Array:
    """Return the Euclidean norm of each group, with derivative 0 at zero."""
    power = _power(x, grouping)
    squares = grouping.total(jnp.abs((x * grouping.spread(power)) ** 2))
    root = jnp.sqrt(jnp.where(squares == 0, 1, squares))
    return jnp.where(squares == 0, 0, root / power)


def shrink_by_norm(x: jax.Array, a: jax.Array, grouping: Grouping) -> jax.Array:
    """Shrink the norm of each group by `a`, which is constant in it."""
    norm = grouping.spread(group_norm(x, grouping))
    falls = (norm <= a) & (a > 0)
    left = 1 - a / jnp.where(falls | (norm == 0), 1, norm)
    return x * jnp.where(falls, 0, left)


def shrink_in_metric(x: jax.Array, a: jax.Array, grouping: Grouping) -> jax.Array:
    """Solve `argmin_u sum_i (u_i - x_i)^2 / (2 a_i) + |u_g|` for each group.

    `u_i = x_i * theta / (theta + a_i)`, where `theta`, the norm of `u_g`, is the root
    of `f(theta) = |x / (theta + a)| = 1`, or 0 if `f(0) <= 1`. Newton's method on `1/f`
    (More and Sorensen, 1983), which is concave and increasing, climbs to the root from
    any point below it; the exponent of the root is bisected first. These few steps
    reach rounding errors even if `a` varies by a factor of 1e24 in a group. Steps are
    kept within bounds, because rounding would carry one past them where `f` is flat.
    """

    def sums(
        y: jax.Array, a: jax.Array, theta: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        below = grouping.spread(theta) + a
        below = jnp.where(below == 0, 1, below)
        squares = jnp.abs((y / below) ** 2)
        return grouping.total(squares), grouping.total(squares / below)

    def newton(y: jax.Array, a: jax.Array, theta: jax.Array) -> jax.Array:
        square, slope = sums(y, a, theta)
        square = jnp.where(slope == 0, 1, square)
        slope = jnp.where(slope == 0, 1, slope)
        return square * (jnp.sqrt(square) - 1) / slope

    power = grouping.spread(_power(x, grouping))
    y, a = x * power, a * power
    fixed_y, fixed_a = jax.lax.stop_gradient((y, a))
    theta = grouping.top(jnp.abs(fixed_y) - fixed_a)
    above = jnp.maximum(group_norm(fixed_y, grouping), theta)
    least = above * 1e-22  # still a normal number in float32
    is_zero = (theta == 0) & (sums(fixed_y, fixed_a, theta)[0] <= 1)

    def halve(
        _: int, bounds: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        theta, above = bounds
        middle = jnp.sqrt(jnp.maximum(theta, least)) * jnp.sqrt(above)
        is_below = sums(fixed_y, fixed_a, middle)[0] >= 1
        return jnp.where(is_below, middle, theta), jnp.where(is_below, above, middle)

    def climb(_: int, theta: jax.Array) -> jax.Array:
        step = jnp.maximum(newton(fixed_y, fixed_a, theta), 0)
        return jnp.minimum(theta + step, above)

    theta, above = jax.lax.fori_loop(0, _HALVINGS, halve, (theta, above))
    theta = jax.lax.fori_loop(0, _NEWTON_STEPS[x.dtype.name] - 1, climb, theta)
    # The derivatives of the root are those of the last step.
    theta = jnp.minimum(theta + newton(y, a, theta), above)
    theta = jnp.where(is_zero, 0, theta)
    theta = grouping.spread(theta)
    below = theta + a
    share = theta / jnp.where(below == 0, 1, below)
    # An element without a threshold moves freely, even in a zero group.
    return x * jnp.where(a == 0, 1, share)


def _power(x: jax.Array, grouping: Grouping) -> jax.Array:
    """Return a power of 2 for each group, by which its squares stay within range."""
    largest = jax.lax.stop_gradient(grouping.top(jnp.abs(x)))
    bits = 256 if x.dtype == jnp.float64 else 32
    power = jnp.ones_like(largest)
    power = jnp.where(largest > 2.0**bits, 2.0 ** (-2.5 * bits), power)
    return jnp.where(largest < 2.0**-bits, 2.0 ** (2.5 * bits), power)
