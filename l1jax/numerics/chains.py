"""The proximal step of total variation along a chain, by exact minimisation."""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


@jax.jit
def fuse(x: jax.Array, rise: ArrayLike, fall: ArrayLike, cut: jax.Array) -> jax.Array:
    """Solve the chain problem along the last axis.

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
    jumps = row_jumps(_levels(*fixed, cut)[1])
    right = jnp.where(cut > 0, jumps > 0, jumps < 0)
    return _levels(x, rise, fall, jnp.where((known != 0) | right, cut, 0))[1]


def _levels(
    x: jax.Array, rise: jax.Array, fall: jax.Array, cut: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # x without the slopes of the cut terms, and the mean of this over each piece.
    load = jnp.where(cut > 0, rise, jnp.where(cut < 0, -fall, 0))
    loaded = x - load + _shift(load, -1)
    starts = _starts(cut)

    def add(first: _Sum, then: _Sum) -> _Sum:
        total = jnp.where(then.starts, then.total, first.total + then.total)
        return _Sum(total, first.starts | then.starts)

    index = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    first = jax.lax.cummax(jnp.where(starts, index, 0), x.ndim - 1)
    last = _next(_ends(starts))
    sums = jnp.take_along_axis(_scan(add, _Sum(loaded, starts)).total, last, -1)
    return loaded, sums / (last - first + 1).astype(x.dtype)


def _above(
    d: jax.Array, starts: jax.Array, rise: jax.Array, fall: jax.Array
) -> jax.Array:
    # In each piece, the smallest set of largest sum(d) - rise * (ways in) - fall *
    # (ways out), by dynamic programming: gain_i = clip(gain_(i-1), -rise, fall) + d_i.
    # Maps g -> clip(g + a, low, high) are closed under composition: a scan computes it.
    clipped = jnp.clip(d, -rise, fall)
    low, high = jnp.where(starts, clipped, -rise), jnp.where(starts, clipped, fall)

    def follow(first: _Clip, then: _Clip) -> _Clip:
        return _Clip(
            first.shift + then.shift,
            jnp.clip(first.low + then.shift, then.low, then.high),
            jnp.clip(first.high + then.shift, then.low, then.high),
        )

    gain = _shift(_scan(follow, _Clip(d, low, high)).low, 1)
    gain = jnp.where(starts, 0, gain) + d
    ends = _ends(starts)
    decided = ends | (gain > fall) | (gain <= -rise)
    inside = jnp.where(ends, gain > 0, gain > fall)
    return jnp.take_along_axis(inside, _next(decided), -1)


class _Sum(NamedTuple):
    """The sum from the start of a piece, and whether the piece starts here."""

    total: jax.Array
    starts: jax.Array


class _Clip(NamedTuple):
    """The map `g -> clip(g + shift, low, high)`."""

    shift: jax.Array
    low: jax.Array
    high: jax.Array


_Items = TypeVar("_Items", _Sum, _Clip)


@functools.partial(jax.jit, static_argnums=1)
def greatest_ratio(grad: jax.Array, l1_ratio: float) -> jax.Array:
    """Return the dual norm of the fused lasso for each row."""
    # The greatest |sum(grad)| / penalty over the indicators of intervals, by
    # Dinkelbach's iteration (1967), both signs side by side.
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


def _scan(combine: Callable[[_Items, _Items], _Items], items: _Items) -> _Items:
    # The inclusive scan along the last axis, by doubling (Hillis and Steele, 1986). The
    # first item must not depend on what combine is given before it. A loop, since
    # unrolled it would take long to compile.
    def double(k: jax.Array, items: _Items) -> _Items:
        before = type(items)(*(jnp.roll(item, 1 << k, -1) for item in items))
        return combine(before, items)

    return jax.lax.fori_loop(0, (items[0].shape[-1] - 1).bit_length(), double, items)


def _shift(x: jax.Array, by: int) -> jax.Array:
    filler = jnp.zeros((*x.shape[:-1], abs(by)), x.dtype)
    if by > 0:
        return jnp.concatenate([filler, x[..., :-by]], -1)
    return jnp.concatenate([x[..., -by:], filler], -1)


def row_jumps(x: jax.Array) -> jax.Array:
    """Return each element of a row minus the one before it, and 0 at the first."""
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
    # The index of the next chosen element, or of an element that is chosen itself. The
    # last one must be chosen.
    n = chosen.shape[-1]
    index = jax.lax.broadcasted_iota(jnp.int32, chosen.shape, chosen.ndim - 1)
    index = jnp.where(chosen, index, n - 1)
    return jax.lax.cummin(index, chosen.ndim - 1, reverse=True)
