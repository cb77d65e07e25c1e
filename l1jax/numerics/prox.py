"""Proximal operators: pure functions of arrays, each the one argmin it solves.

Arithmetic is in the array's own precision, in float32 for half precision, and the
result is rounded once to the array's dtype. NaN stays NaN, zeros come out as +0.0, a
threshold of 0 is the identity. A threshold is `step size * strength`: it is in units of
the parameter, and it is the only place where the strength enters. One that turns out
negative inside a compiled function gives NaN.

XLA on CPU flushes subnormal numbers to zero; apart from those, and from the NaN bits,
every function here is bitwise equal to its twin in `l1torch.numerics.prox`.
"""

import math
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.numerics.checks import check_number, real_array, require_broadcast
from l1jax.numerics.elementwise import compute_dtype, nonnegative


def soft_threshold(x: ArrayLike, threshold: ArrayLike) -> jax.Array:
    r"""Solve `argmin_u 1/2 |u - x|^2 + threshold * |u|_1`.

    .. math:: \mathrm{prox}_t(x) = \mathrm{sign}(x) \max(|x| - t, 0)

    The closed form is `x - clip(x, -threshold, threshold)` (Donoho, 1995).

    Args:
      x: real floating array of any shape.
      threshold: number or array >= 0 that broadcasts to `x`; infinity gives 0 for every
        finite `x`.

    Returns:
      Array of `x`'s shape and dtype.

    Raises:
      TypeError: `x` is not real floating, `threshold` not a real number.
      ValueError: `threshold` is negative, NaN or does not broadcast to `x`.

    Example:
      >>> print(soft_threshold(jnp.array([3.0, -0.5, -2.0]), 1.0))
      [ 2.  0. -1.]
    """
    return apply_prox_formula(soft_threshold_unchecked, x, threshold)


def prox_nonnegative_l1(x: ArrayLike, threshold: ArrayLike) -> jax.Array:
    """Solve `argmin_{u >= 0} 1/2 |u - x|^2 + threshold * sum(u)`.

    The closed form is `max(x - threshold, 0)`. Arguments, result and errors are those
    of `soft_threshold`.
    """
    return apply_prox_formula(lambda x, t: jnp.maximum(x - t, 0), x, threshold)


def prox_elastic_net(x: ArrayLike, threshold: ArrayLike, l1_ratio: float) -> jax.Array:
    """Solve the elastic net's proximal problem (Zou and Hastie, 2005).

    `argmin_u 1/2 |u - x|^2 + threshold * (l1_ratio |u|_1 + (1 - l1_ratio)/2 |u|^2)`,
    which is `soft_threshold(x, threshold * l1_ratio) / (1 + threshold * (1 -
    l1_ratio))`. An infinite threshold gives NaN where `l1_ratio` is 0.

    Args:
      x: real floating array of any shape.
      threshold: as in `soft_threshold`.
      l1_ratio: the share of L1, in [0, 1]; 1 is `soft_threshold`, 0 is ridge.

    Returns:
      As `soft_threshold`, with the same errors.
    """

    def formula(x: jax.Array, t: jax.Array) -> jax.Array:
        shrunk = soft_threshold_unchecked(x, t * l1_ratio)
        if l1_ratio == 1:
            return shrunk
        # Two of XLA's rewritings, which torch would not follow, are forestalled: abs
        # changes nothing but keeps the product from being fused into the sum, and a
        # quotient by a scalar would become a product with its reciprocal.
        return shrunk * (1 / (1 + jnp.abs(t * (1 - l1_ratio))))

    return apply_prox_formula(formula, x, threshold)


def soft_threshold_unchecked(x: jax.Array, t: jax.Array) -> jax.Array:
    """Return the soft threshold of arrays that are checked already."""
    # This is x - clip(x, -t, t), but without a threshold it has the derivative of the
    # identity at zero, and elsewhere that from above with respect to the threshold.
    held = (jnp.abs(x) <= t) & (t > 0)
    moved = x - jnp.sign(x) * jnp.where(held, 0, t)  # no 0 * inf
    return jnp.where(held, x - x, moved)


def freed(moved: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
    """Return a prox with the derivative of `x` where `x` and the threshold are zero.

    With a threshold of 0 the prox is the identity, but the derivative of a formula with
    a kink at `x = 0` is another.
    """
    return jnp.where((x == 0) & (t == 0), x, moved)


def from_zero(
    formula: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, t: jax.Array
) -> jax.Array:
    """Return `formula(x, t)`, or `x` itself where the threshold is 0.

    There the derivative with respect to `x` is that of the identity, and the one with
    respect to the threshold is that of the formula, from above.
    """
    u = formula(jnp.where(t > 0, x, jax.lax.stop_gradient(x)), t)
    slope = jnp.where(jnp.isfinite(u), u - jax.lax.stop_gradient(u), 0)
    return jnp.where(t > 0, u, x + jax.lax.stop_gradient(t) + slope)


def apply_prox_formula(
    formula: Callable[[jax.Array, jax.Array], jax.Array],
    x: ArrayLike,
    threshold: ArrayLike,
) -> jax.Array:
    """Check the arguments, compute `formula(x, threshold)` and round it once."""
    x = real_array("x", x)
    if not isinstance(threshold, numbers.Real) or threshold != math.inf:
        check_number("threshold", threshold)
    require_broadcast("threshold", threshold, "x", x.shape)
    dtype = compute_dtype(x.dtype)
    y = formula(x.astype(dtype), nonnegative(threshold, dtype)).astype(x.dtype)
    # A threshold of 0, underflow or a maximum may give -0.0. Unlike a constant zero,
    # the absolute value keeps the derivative of y, which may not be 0.
    return jnp.where(y == 0, jnp.abs(y), y)
