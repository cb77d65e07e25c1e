"""Projection onto the L1 ball, and what is needed to find it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from l1jax.numerics.blocks import MANY, alike, kept, stacked
from l1jax.numerics.elementwise import absolute, largest, sign
from l1jax.numerics.order_statistics import count, greatest, stacked_pairs, total
from l1jax.numerics.prox import soft_threshold_unchecked

_FREE = 2.0**60  # an infinite threshold, in units of the largest finite one


def relative(thresholds: Sequence[jax.Array]) -> list[jax.Array]:
    """Divide thresholds by the largest finite one: a projection knows only ratios.

    The largest becomes exactly 1, and so do all if all are zero. Otherwise a zero
    becomes tiny, so that every element can move, and infinity becomes huge.
    """
    if len(thresholds) >= MANY:
        thresholds = kept(thresholds)
    tops = stacked(thresholds, alike(thresholds))
    top = greatest([largest(jnp.where(jnp.isfinite(t), t, 0)) for t in tops])
    top = jax.lax.stop_gradient(top)
    tiny = jnp.finfo(top.dtype).tiny
    inverse = 1 / jnp.where(top < tiny, 1, top)
    ratios = []
    for t in thresholds:
        ratio = jnp.where(jnp.isinf(t), _FREE, t) * jnp.where(jnp.isinf(t), 1, inverse)
        # A product with the reciprocal may miss 1; this does not, and has its slope.
        one = 1 + (ratio - jax.lax.stop_gradient(ratio))
        bounded = jnp.clip(ratio, tiny**0.75, _FREE)
        ratios.append(jnp.where(t == top, one, bounded))
    return ratios


def l1_norm(arrays: Sequence[jax.Array]) -> jax.Array:
    """Return the sum of the absolute values of all arrays, without a derivative."""
    return total([jnp.sum(jnp.abs(jax.lax.stop_gradient(x))) for x in arrays])


def project_l1_ball(
    arrays: Sequence[jax.Array], metrics: Sequence[jax.Array], radius: float
) -> list[jax.Array]:
    """Solve `argmin_u sum_i (u_i - x_i)^2 / (2 metric_i)` with `|u|_1 <= radius`.

    The solution is `soft_threshold(x, tau * metric)`. Newton's method finds tau: it
    comes from below, never overshoots, and ends as soon as no further element becomes
    zero, after 3 to 10 passes (Michelot, 1986; Condat, 2016).

    Args:
      arrays: of one dtype, to be computed in.
      metrics: for each array one that broadcasts to it, greater than 0, the largest of
        them about 1.
      radius: the largest sum, >= 0.
    """
    if radius == 0:
        return [jnp.where(jnp.isnan(x), x, 0) for x in arrays]
    outputs = list(zip(arrays, metrics, strict=True))
    if len(arrays) >= MANY:
        arrays, metrics = stacked_pairs(arrays, metrics)
    fixed = [jax.lax.stop_gradient(x) for x in arrays]
    fixed_metrics = [jax.lax.stop_gradient(t) for t in metrics]
    # No element is larger than the radius in the end, which bounds tau from below. What
    # is left above this bound is of the radius' size: the arrays may be far from the
    # ball and cost no digits. The bound gives way to its own rounding errors.
    bound = greatest(
        [
            largest((jnp.abs(x) - radius) / t)
            for x, t in zip(fixed, fixed_metrics, strict=True)
        ]
    )
    bound *= 1 - 4 * jnp.finfo(bound.dtype).eps

    def newton(
        tau: jax.Array, arrays: Sequence[jax.Array], metrics: Sequence[jax.Array]
    ) -> jax.Array:
        sums, masses = [], []
        for x, t in zip(arrays, metrics, strict=True):
            over = absolute(soft_threshold_unchecked(x, bound * t)) - tau * t
            active = over > 0
            sums.append(jnp.sum(jnp.maximum(over, 0)))
            mass = active.astype(t.dtype) if t.ndim else count(active).astype(t.dtype)
            masses.append(jnp.sum(mass * t))
        mass = total(masses)
        some = mass > 0
        excess = total(sums) - radius
        mass = jnp.where(some, mass, 1)
        fixed = jax.lax.stop_gradient(mass)
        # The derivative of a quotient divides by the square. Where that is 0, the mass
        # is held: its share in the derivative is the excess, 0 in the end.
        held = fixed * fixed < jnp.finfo(fixed.dtype).tiny
        step = jnp.where(held, excess / fixed, excess / jnp.where(held, 1, mass))
        return jnp.where(some, tau + step, tau)

    def grows(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        previous, tau = state
        return tau > previous

    def advance(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        _, tau = state
        return tau, newton(tau, fixed, fixed_metrics)

    zero = jnp.zeros_like(bound)
    start = zero, newton(zero, fixed, fixed_metrics)
    active_from, _ = jax.lax.while_loop(grows, advance, start)
    # The loop has no derivative, but it is only needed for the set of active elements.
    tau = newton(active_from, arrays, metrics)
    # Below 0 by rounding alone: the derivative stays.
    tau = jnp.where(tau < 0, tau - jax.lax.stop_gradient(tau), tau)
    inside = l1_norm(fixed) <= radius
    return [
        jnp.where(
            inside,
            x,
            soft_threshold_unchecked(soft_threshold_unchecked(x, bound * t), tau * t),
        )
        for x, t in outputs
    ]


def nearest_slope(arrays: Sequence[jax.Array], grads: Sequence[jax.Array]) -> jax.Array:
    """Return the `mu >= 0` for which `mu * d|x|_1` is nearest to `-grads`.

    Nearest in the 2-norm, it is the mean of the outward pulls, `-grad_i sign(x_i)`, and
    of those `|grad_i|` at zeros that exceed it, found from below as in
    `project_l1_ball`.

    Args:
      arrays: of one dtype, to be computed in.
      grads: for each array one of its shape and dtype.
    """
    zeros = [x == 0 for x in arrays]
    pulls = [
        jnp.where(zero, jnp.abs(grad), -grad * sign(x))
        for zero, x, grad in zip(zeros, arrays, grads, strict=True)
    ]

    def mean(mu: jax.Array) -> jax.Array:
        chosen = [
            ~(zero & (pull <= mu)) for zero, pull in zip(zeros, pulls, strict=True)
        ]
        sums = [
            jnp.sum(jnp.where(mark, pull, 0))
            for mark, pull in zip(chosen, pulls, strict=True)
        ]
        number = jnp.maximum(total([count(mark) for mark in chosen]), 1)
        return total(sums) / number.astype(mu.dtype)

    def advance(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        _, mu = state
        return mu, mean(mu)

    zero = jnp.zeros([], arrays[0].dtype)
    mu, _ = jax.lax.while_loop(
        lambda state: state[1] > state[0], advance, (zero, mean(zero))
    )
    return mu
