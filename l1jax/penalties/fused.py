"""Total variation along the last axis, and the chain problem behind it and SLOPE."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.checks import check_real
from l1jax.penalty import Penalty, gradient_operand, largest, operands, sign
from l1jax.prox import from_zero, shrink, solve
from l1jax.sharding import gathering


@dataclasses.dataclass(frozen=True)
class _FusedLasso(Penalty):
    l1_ratio: float
    convex = True

    def require_fit(
        self, path: str, shape: tuple[int, ...], strength_shape: tuple[int, ...] = ()
    ) -> None:
        _require_one_a_row("strength", strength_shape, path, shape)

    @gathering()
    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        x, strength = operands(x, strength)
        self.require_fit("x", x.shape, strength.shape)
        here = jax.lax.stop_gradient(x)
        variation = (1 - self.l1_ratio) * jnp.abs(_jumps(here))
        terms = variation + jnp.abs(self.l1_ratio * jnp.abs(here))
        # Only the derivative of what is added is not 0: that of |jump| would be wrong
        # where neighbours are equal.
        moved = (x - here) * self.subgradient(here)
        return jnp.sum(strength * (terms + moved))

    @gathering()
    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        wide, strength = operands(x, strength)
        slope = 0.0 - self._residual(wide, jnp.zeros_like(wide), strength)
        return slope.astype(jnp.asarray(x).dtype)

    @gathering()
    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        def formula(x: jax.Array, t: jax.Array) -> jax.Array:
            _require_one_a_row("threshold", t.shape, "x", x.shape)
            u = x
            if self.l1_ratio < 1:
                t_variation = jnp.abs(t * (1 - self.l1_ratio))
                u = fuse(x, t_variation, t_variation, jnp.zeros(x.shape, jnp.int32))
            if self.l1_ratio > 0:
                u = shrink(u, jnp.abs(t * self.l1_ratio))
            return u

        return solve(functools.partial(from_zero, formula), x, threshold)

    @gathering()
    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        x, grad, strength = operands(x, grad, strength)
        return jnp.abs(self._residual(x, -grad, strength))

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
            return largest(_greatest_ratio(grad, self.l1_ratio))
        sums = jnp.cumsum(grad, -1)
        rounding = 4 * grad.shape[-1] ** 0.5 * jnp.finfo(grad.dtype).eps
        size = jnp.sum(jnp.abs(grad), -1)
        balanced = jnp.abs(sums[..., -1]) <= rounding * size
        bound = largest(jnp.abs(sums[..., :-1]))
        return jnp.where(jnp.all(balanced), bound, jnp.inf)

    def _residual(self, x: jax.Array, v: jax.Array, strength: jax.Array) -> jax.Array:
        # What is left of v after its projection onto strength * d penalty(x). Between
        # two jumps of x this is a prox of v, in which the jumps' slopes are known.
        self.require_fit("x", x.shape, strength.shape)
        t_l1 = jnp.abs(strength * self.l1_ratio)
        t_variation = jnp.abs(strength * (1 - self.l1_ratio))
        jumps = _jumps(x)
        cut = (jumps > 0).astype(jnp.int32) - (jumps < 0).astype(jnp.int32)
        u = fuse(v - t_l1 * sign(x), t_variation, t_variation, cut)
        u = jnp.where(x == 0, shrink(u, t_l1), u)
        # NaN that comparisons have hidden.
        return jnp.where(jnp.isnan(x + strength), x + strength, u)


@jax.jit
def fuse(x: jax.Array, rise: ArrayLike, fall: ArrayLike, cut: jax.Array) -> jax.Array:
    """Solves the chain problem along the last axis.

    `argmin_u 1/2 |u - x|^2 + sum_i rise max(u_i - u_(i-1), 0) + fall max(u_(i-1) -
    u_i, 0)`. Equal `rise` and `fall` are total variation; `rise = inf, fall = 0` is the
    best fit that does not increase (isotonic regression).

    Starts from one piece of the mean level and splits every piece into what lies above
    its level and what lies below (Chambolle and Darbon, 2009; Hochbaum, 2001), until
    none splits. A piece has one value, so that all its elements are equal.

    Args:
      x: floating array.
      rise: scalar, or array with one number for each row, >= 0.
      fall: as `rise`.
      cut: integers of `x`'s shape. At i, 1 where it is known that u_i > u_(i-1), -1
        where u_i < u_(i-1), so that this term is linear; 0 elsewhere.
    """
    if x.ndim == 0 or x.shape[-1] < 2:
        return x
    known = cut
    rise, fall = jnp.asarray(rise, x.dtype), jnp.asarray(fall, x.dtype)
    fixed = jax.lax.stop_gradient((x, rise, fall))

    def split(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        cut, _ = carry
        loaded, level = _levels(*fixed, cut)
        above = _above(loaded - level, _starts(cut), *fixed[1:]).astype(jnp.int32)
        new = jnp.where(_starts(cut), 0, above - _shift(above, 1))
        return cut + new, jnp.any(new != 0)

    start = (cut, jnp.any(jnp.ones(x.shape, bool)))
    cut, _ = jax.lax.while_loop(lambda carry: carry[1], split, start)
    # By rounding, a piece may be split whose parts are equal, or in the wrong order.
    jumps = _jumps(_levels(*fixed, cut)[1])
    right = jnp.where(cut > 0, jumps > 0, jumps < 0)
    return _levels(x, rise, fall, jnp.where((known != 0) | right, cut, 0))[1]


def _levels(
    x: jax.Array, rise: jax.Array, fall: jax.Array, cut: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # x with the slopes of the cut terms taken off, and of this the mean of each piece.
    load = jnp.where(cut > 0, rise, jnp.where(cut < 0, -fall, 0))
    loaded = x - load + _shift(load, -1)
    starts = _starts(cut)

    def add(first: Sequence[jax.Array], then: Sequence[jax.Array]) -> list[jax.Array]:
        return [jnp.where(then[1], then[0], first[0] + then[0]), first[1] | then[1]]

    index = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    first = jax.lax.cummax(jnp.where(starts, index, 0), x.ndim - 1)
    last = _next(_ends(starts))
    sums = jnp.take_along_axis(_scan(add, [loaded, starts])[0], last, -1)
    return loaded, sums / (last - first + 1).astype(x.dtype)


def _above(
    d: jax.Array, starts: jax.Array, rise: jax.Array, fall: jax.Array
) -> jax.Array:
    # The least set, in each piece, of largest sum(d) - rise * (ways in) - fall * (ways
    # out): by dynamic programming, gain_i = clip(gain_(i-1), -rise, fall) + d_i. Maps
    # g -> clip(g + a, low, high) are closed under composition, so that it is a scan.
    clipped = jnp.clip(d, -rise, fall)
    low, high = jnp.where(starts, clipped, -rise), jnp.where(starts, clipped, fall)

    def follow(f: Sequence[jax.Array], g: Sequence[jax.Array]) -> list[jax.Array]:
        bounds = [jnp.clip(f[i] + g[0], g[1], g[2]) for i in (1, 2)]
        return [f[0] + g[0], *bounds]

    gain = jnp.where(starts, 0, _shift(_scan(follow, [d, low, high])[1], 1)) + d
    ends = _ends(starts)
    decided = ends | (gain > fall) | (gain <= -rise)
    inside = jnp.where(ends, gain > 0, gain > fall)
    return jnp.take_along_axis(inside, _next(decided), -1)


@functools.partial(jax.jit, static_argnums=1)
def _greatest_ratio(grad: jax.Array, l1_ratio: float) -> jax.Array:
    # The dual norm of each row: the greatest |sum(grad)| / penalty over the indicators
    # of intervals, by Dinkelbach's iteration (1967), both signs side by side.
    v = jnp.stack([grad, -grad])
    starts = _starts(jnp.zeros(v.shape, jnp.int32))

    def climb(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        s, _ = carry
        cost = jnp.abs(s * (1 - l1_ratio))
        inside = _above(v - jnp.abs(s * l1_ratio), starts, cost, cost)
        ends = ~starts & (inside ^ _shift(inside, 1))
        total, size, ends = (
            jnp.sum(jnp.where(chosen, what, 0), -1, keepdims=True, dtype=v.dtype)
            for chosen, what in ((inside, v), (inside, 1), (ends, 1))
        )
        weight = l1_ratio * jnp.maximum(size, 1) + jnp.abs((1 - l1_ratio) * ends)
        ratio = jnp.maximum(total / weight, s)
        return ratio, jnp.any(ratio > s)

    start = (jnp.zeros((*v.shape[:-1], 1), v.dtype), jnp.asarray(True))
    return jax.lax.while_loop(lambda carry: carry[1], climb, start)[0]


def _scan(
    combine: Callable[[Sequence[jax.Array], Sequence[jax.Array]], list[jax.Array]],
    items: list[jax.Array],
) -> list[jax.Array]:
    # The inclusive scan along the last axis, by doubling (Hillis and Steele, 1986). The
    # first item must not depend on what combine is given before it. A loop, since
    # unrolled it would take long to compile.
    def double(k: jax.Array, items: list[jax.Array]) -> list[jax.Array]:
        return combine([jnp.roll(item, 1 << k, -1) for item in items], items)

    return jax.lax.fori_loop(0, (items[0].shape[-1] - 1).bit_length(), double, items)


def _shift(x: jax.Array, by: int) -> jax.Array:
    filler = jnp.zeros((*x.shape[:-1], abs(by)), x.dtype)
    if by > 0:
        return jnp.concatenate([filler, x[..., :-by]], -1)
    return jnp.concatenate([x[..., -by:], filler], -1)


def _jumps(x: jax.Array) -> jax.Array:
    if x.ndim == 0 or x.shape[-1] == 0:
        return jnp.zeros_like(x)
    first = jnp.zeros_like(x[..., :1])
    return jnp.concatenate([first, x[..., 1:] - x[..., :-1]], -1)


def _starts(cut: jax.Array) -> jax.Array:
    index = jax.lax.broadcasted_iota(jnp.int32, cut.shape, cut.ndim - 1)
    return (cut != 0) | (index == 0)


def _ends(starts: jax.Array) -> jax.Array:
    return jnp.concatenate([starts[..., 1:], starts[..., :1]], -1)


def _next(chosen: jax.Array) -> jax.Array:
    # The index of the next chosen element, itself counted; the last one must be chosen.
    n = chosen.shape[-1]
    index = jax.lax.broadcasted_iota(jnp.int32, chosen.shape, chosen.ndim - 1)
    index = jnp.where(chosen, index, n - 1)
    return jax.lax.cummin(index, chosen.ndim - 1, reverse=True)


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
    """Gives `sum_i |x_(i+1) - x_i|` along the last axis (Rudin, Osher, Fatemi, 1992).

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
    """Gives `l1_ratio |x|_1 + (1 - l1_ratio) sum_i |x_(i+1) - x_i|` (Tibshirani, 2005).

    Its prox is the soft threshold of total variation's (Friedman et al., 2007), so that
    whole pieces are zero. Axes, cost and limits are those of `total_variation`;
    `lambda_max` is finite for `l1_ratio > 0`, and takes a few such rounds.

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
