"""Quantiles from a guess: the k-th smallest number in a few passes that count.

The bits of non-negative floating point numbers, read as integers, have the order of the
numbers, and are nearly their logarithm. So a quantile that moves little from one step
to the next is enclosed by counting on both sides of the last one, and the bracket
shrinks to about the square root of what it holds with every pass. Nothing is sorted or
gathered; of sharded arrays only counts are exchanged.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l1jax.numerics.blocks import alike, stacked
from l1jax.numerics.order_statistics import greatest, total

# Where the first pass counts, in sixteenths of an octave from the guess.
_AROUND = np.array([-8, -2, -0.5, -0.1, 0.1, 0.5, 2, 8])
# Where the next ones do, in standard deviations from the interpolated place.
_DEVIATIONS = np.array([-9, -3, -1.2, -0.4, 0.4, 1.2, 3, 9])
# Every third pass cuts the bracket evenly: 9 times smaller, whatever the numbers.
_EVENLY = np.arange(1, 9) / 9


class _Bracket(NamedTuple):
    """Where the k-th smallest key lies: above `low`, up to `high`."""

    low: jax.Array
    under: jax.Array
    """How many keys are at most `low`."""
    high: jax.Array
    upto: jax.Array
    """How many keys are at most `high`."""
    turn: jax.Array
    """Passes so far."""


class _Bisection(NamedTuple):
    low: jax.Array
    """A key that is too small; -1 before one is known."""
    high: jax.Array
    """A key that is large enough; that of infinity before another is known."""
    gap: jax.Array
    """How far beyond the known end to look next."""


# Compiled once for all steps that are not compiled themselves.
@functools.partial(jax.jit, inline=True)
def kth_smallest(
    keys: Sequence[jax.Array], k: jax.Array, guess: jax.Array
) -> jax.Array:
    """Return the k-th smallest of all elements, exactly.

    Args:
      keys: the `order_keys` of arrays of one dtype, with NaN as the largest number.
        If there are many, keep them from being computed again (`blocks.kept`).
      k: from 1 to the number of elements.
      guess: a scalar of the arrays' dtype; the nearer to the result, the fewer passes.

    Returns:
      Scalar; infinity where the k-th smallest is NaN.
    """
    keys = stacked(keys, alike(keys))
    integer, dtype = keys[0].dtype, guess.dtype
    beyond = key_of(jnp.asarray(np.inf, dtype)) + 1
    sixteenth = 1 << (jnp.finfo(dtype).nmant - 4)
    around = jnp.asarray(_AROUND * sixteenth, integer)

    def places(bracket: _Bracket) -> list[jax.Array]:
        low, under, high, upto, turn = bracket
        width = (high - low).astype(dtype)
        held = (upto - under).astype(dtype)
        deviation = 0.5 * jax.lax.rsqrt(held)
        wanted = ((k - under).astype(dtype) - 0.5) * (1 / held)
        near = wanted + jnp.asarray(_DEVIATIONS, dtype) * deviation
        evenly = jnp.asarray(_EVENLY, dtype)
        shares = jnp.where(turn % 3 == 2, evenly, jnp.clip(near, 0, 1))
        found = low + (width * shares).astype(integer)
        guessed = jnp.clip(key_of(guess), 0, beyond - 8 * sixteenth)
        return list(
            jnp.clip(jnp.where(turn == 0, guessed + around, found), low + 1, high - 1)
        )

    def advance(
        state: tuple[_Bracket, list[jax.Array]],
    ) -> tuple[_Bracket, list[jax.Array]]:
        (low, under, high, upto, turn), candidates = state
        columns = zip(*(_counts(x, candidates) for x in keys), strict=True)
        counts = jnp.stack([total(column) for column in columns])
        keys_at = jnp.stack(candidates)
        below = jnp.sum(counts < k)
        low, under = (
            jnp.where(below > 0, new[jnp.maximum(below - 1, 0)], old)
            for new, old in ((keys_at, low), (counts, under))
        )
        high, upto = (
            jnp.where(below < new.size, new[jnp.minimum(below, new.size - 1)], old)
            for new, old in ((keys_at, high), (counts, upto))
        )
        bracket = _Bracket(low, under, high, upto, turn + 1)
        return bracket, places(bracket)

    def is_open(state: tuple[_Bracket, list[jax.Array]]) -> jax.Array:
        bracket, _ = state
        return (bracket.high - bracket.low > 1) & (bracket.upto != k)

    size = jnp.asarray(sum(x.size for x in keys), jnp.result_type(int))
    start = _Bracket(
        low=jnp.full([], -1, integer),
        under=jnp.zeros_like(size),
        high=beyond,
        upto=size,
        turn=jnp.zeros([], jnp.int32),
    )
    end, _ = jax.lax.while_loop(is_open, advance, (start, places(start)))
    tops, counts = zip(*(_largest_upto(x, end.high) for x in keys), strict=True)
    found = jax.lax.bitcast_convert_type(greatest(tops).astype(integer), dtype)
    return jnp.where(total(counts) >= k, found, np.array(np.inf, dtype))


def least_strength(
    zeros: Callable[[jax.Array], jax.Array], k: jax.Array, guess: jax.Array
) -> jax.Array:
    """Return the least strength at which there are `k` zeros or more.

    It is above the least by a millionth of it, or less. Each pass counts once:
    bisection on the bits, in a bracket that grows from the guess.

    Args:
      zeros: counts the zeros at a strength; a larger strength must not give fewer.
      k: how many, an integer.
      guess: scalar, in the precision to be computed in.

    Returns:
      Scalar; infinity if no finite strength is enough.
    """
    dtype = guess.dtype
    digits = jnp.finfo(dtype).nmant
    beyond = key_of(jnp.asarray(np.inf, dtype))
    precision = 1 << (digits - 20)

    def advance(state: _Bisection) -> _Bisection:
        low, high, gap = state
        middle = low + (high - low) // 2
        place = jnp.where(high == beyond, low + jnp.minimum(gap, high - low), middle)
        place = jnp.where(low < 0, high - jnp.minimum(gap, high), place)
        unknown = (low < 0) & (high == beyond)
        place = jnp.where(unknown, jnp.clip(key_of(guess), 0, beyond - 1), place)
        place = jnp.clip(place, low + 1, high - 1)
        enough = zeros(jax.lax.bitcast_convert_type(place, dtype)) >= k
        return _Bisection(
            low=jnp.where(enough, low, place),
            high=jnp.where(enough, place, high),
            gap=jnp.where(unknown, gap, jnp.minimum(gap, beyond // 8) * 8),
        )

    def is_open(state: _Bisection) -> jax.Array:
        return state.high - state.low > jnp.where(state.low < 0, 1, precision)

    start = _Bisection(
        low=jnp.full_like(beyond, -1),
        high=beyond,
        gap=jnp.full_like(beyond, 1 << (digits - 5)),
    )
    end = jax.lax.while_loop(is_open, advance, start)
    return jax.lax.bitcast_convert_type(end.high, dtype)


def key_of(x: jax.Array) -> jax.Array:
    """Read the bits of a number as an integer."""
    return jax.lax.bitcast_convert_type(x, jnp.dtype(f"int{8 * x.dtype.itemsize}"))


def _counts(keys: jax.Array, candidates: jax.Array) -> list[jax.Array]:
    """Count the keys up to each candidate, in one pass over the keys."""
    # One reduction of several operands reads the keys once; several would not.
    integer = jnp.int32 if keys.size < 2**31 else jnp.result_type(int)
    marks = tuple((keys <= candidate).astype(integer) for candidate in candidates)
    zeros = (np.zeros((), integer),) * len(marks)
    counts = jax.lax.reduce(marks, zeros, _sums, tuple(range(keys.ndim)))
    return [count.astype(jnp.result_type(int)) for count in counts]


def _largest_upto(keys: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the largest key up to a bound, at least 0, and how many there are."""
    integer = jnp.int32 if keys.size < 2**31 else jnp.result_type(int)
    inside = keys <= high
    largest, count = jax.lax.reduce(
        (jnp.where(inside, keys, 0), inside.astype(integer)),
        (np.zeros((), keys.dtype), np.zeros((), integer)),
        lambda a, b: (jnp.maximum(a[0], b[0]), a[1] + b[1]),
        tuple(range(keys.ndim)),
    )
    return largest, count.astype(jnp.result_type(int))


def _sums(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))
