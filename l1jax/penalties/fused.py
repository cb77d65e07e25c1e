"""Total variation along the last axis, and the fused lasso, which adds L1 to it."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.numerics.chains import fuse, greatest_ratio, row_jumps
from l1jax.numerics.checks import check_real
from l1jax.numerics.elementwise import largest, sign
from l1jax.numerics.prox import soft_threshold_unchecked
from l1jax.numerics.sharding import gathering
from l1jax.penalties.base import Penalty, gradient_operand
from l1jax.penalties.coupled_base import Coupled


@dataclasses.dataclass(frozen=True)
class _FusedLasso(Coupled):
    l1_ratio: float

    def require_fit(
        self, path: str, shape: tuple[int, ...], strength_shape: tuple[int, ...] = ()
    ) -> None:
        _require_one_a_row("strength", strength_shape, path, shape)

    def _terms(self, x: jax.Array) -> jax.Array:
        here = jax.lax.stop_gradient(x)
        variation = (1 - self.l1_ratio) * jnp.abs(row_jumps(here))
        terms = variation + jnp.abs(self.l1_ratio * jnp.abs(here))
        # Only the derivative of what is added is not 0: that of |jump| would be wrong
        # where neighbours are equal.
        moved = (x - here) * self.subgradient(here)
        return terms + moved

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        _require_one_a_row("threshold", t.shape, "x", x.shape)
        u = x
        if self.l1_ratio < 1:
            t_variation = jnp.abs(t * (1 - self.l1_ratio))
            u = fuse(x, t_variation, t_variation, jnp.zeros(x.shape, jnp.int32))
        if self.l1_ratio > 0:
            u = soft_threshold_unchecked(u, jnp.abs(t * self.l1_ratio))
        return u

    @gathering()
    def lambda_max(self, grad: ArrayLike) -> jax.Array:
        grad = gradient_operand(grad)
        flaw = jnp.sum(jnp.where(jnp.isnan(grad), grad, 0))  # hidden by comparisons
        return self._lambda_max(grad) + flaw

    def _lambda_max(self, grad: jax.Array) -> jax.Array:
        if grad.ndim == 0 or grad.size == 0 or self.l1_ratio == 1:
            factor = 1 / self.l1_ratio if self.l1_ratio else jnp.inf
            bound = largest(jnp.abs(grad))
            return jnp.where(bound == 0, jnp.zeros_like(bound), bound * factor)
        if self.l1_ratio > 0:
            return largest(greatest_ratio(grad, self.l1_ratio))
        sums = jnp.cumsum(grad, -1)
        rounding = 4 * grad.shape[-1] ** 0.5 * jnp.finfo(grad.dtype).eps
        size = jnp.sum(jnp.abs(grad), -1)
        balanced = jnp.abs(sums[..., -1]) <= rounding * size
        bound = largest(jnp.abs(sums[..., :-1]))
        return jnp.where(jnp.all(balanced), bound, jnp.inf)

    def _residual(self, x: jax.Array, v: jax.Array, strength: jax.Array) -> jax.Array:
        # Between two jumps of x this is a prox of v, whose slopes at them are known.
        t_l1 = jnp.abs(strength * self.l1_ratio)
        t_variation = jnp.abs(strength * (1 - self.l1_ratio))
        jumps = row_jumps(x)
        cut = (jumps > 0).astype(jnp.int32) - (jumps < 0).astype(jnp.int32)
        u = fuse(v - t_l1 * sign(x), t_variation, t_variation, cut)
        u = jnp.where(x == 0, soft_threshold_unchecked(u, t_l1), u)
        # Comparisons have hidden NaN.
        return jnp.where(jnp.isnan(x + strength), x + strength, u)


def _require_one_a_row(
    argument: str, value_shape: tuple[int, ...], path: str, shape: tuple[int, ...]
) -> None:
    if value_shape[-1:] not in ((), (1,)):
        raise ValueError(
            f"{argument} of shape {tuple(value_shape)} differs along the last axis of "
            f"the parameter '{path}' of shape {tuple(shape)}, which total variation "
            "couples. Pass a scalar, or one number for each row: shape (..., 1)."
        )


def total_variation() -> Penalty:
    r"""Return `sum_i |x_(i+1) - x_i|` along the last axis (Rudin, Osher, Fatemi, 1992).

    .. math:: \sum_i |x_{i+1} - x_i|

    Leading axes are a batch of signals; move another axis to the end, or reshape, for
    variation along it. It gives flat pieces, whose elements are equal to the last bit,
    not zeros. The strength, and the threshold, is a scalar or one number for each row,
    of shape `(..., 1)`: there is no prox in a metric that differs inside a row.

    The prox is exact up to rounding. It costs O(n log n) for rows of n elements, times
    the rounds of splitting: as many as it takes to tell the pieces' levels apart, about
    log2 of their number for most data, at most n. In torch each round waits for the
    device. One NaN or infinity leaves no finite number in its row.

    The subgradient is constant on flat pieces, in units of the loss per unit of `x`.
    `optimality_distance` is, element by element, what is left of `-grad` after its
    projection onto the subdifferential. A constant costs nothing, so that `lambda_max`
    is infinite unless every row of the gradient sums to zero, up to rounding.

    Example:
      >>> print(total_variation().prox(jnp.array([0.0, 1.0, 5.0, 6.0]), 1.0))
      [1. 1. 5. 5.]
    """
    return _FusedLasso(0.0)


def fused_lasso(l1_ratio: float) -> Penalty:
    r"""Return the fused lasso, `l1_ratio |x|_1 + (1 - l1_ratio) sum_i |x_(i+1) - x_i|`.

    .. math::

       r \sum_i |x_i| + (1 - r) \sum_i |x_{i+1} - x_i|, \quad r = \mathrm{l1\_ratio}

    See Tibshirani et al. (2005). Its prox is the soft threshold of the prox of total
    variation (Friedman et al., 2007), so that whole pieces are zero. Axes, cost and
    limits are those of `total_variation`; `lambda_max` is finite for `l1_ratio > 0`,
    and takes a few such rounds.

    Args:
      l1_ratio: the share of L1, a Python number in [0, 1]. 1 is the lasso, 0 is total
        variation.

    Raises:
      TypeError: `l1_ratio` is not a number.
      ValueError: it lies outside [0, 1].

    Example:
      >>> print(fused_lasso(0.5).prox(jnp.array([0.0, 1.0, 5.0, 6.0]), 2.0))
      [0. 0. 4. 4.]
    """
    l1_ratio = check_real(
        "l1_ratio", l1_ratio, "[0, 1]", "1.0 for the lasso, 0.0 for steps"
    )
    return _FusedLasso(l1_ratio)
