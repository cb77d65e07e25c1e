"""Thresholds without sorting: the largest numbers of many arrays.

Everything is a few passes of sums, counts and maxima over the elements. Nothing is
sorted or gathered, so that the arrays of a tree stay where they are, and so do the
shards of an array: XLA adds up what the devices have summed. Where there are many small
arrays, those of one shape are stacked for these passes: XLA compiles them together.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from l1jax.numerics.blocks import MANY, alike, kept, stacked
from l1jax.numerics.elementwise import compute_dtype

_Found = TypeVar("_Found")


def k_largest(arrays: Sequence[jax.Array], k: int | jax.Array) -> list[jax.Array]:
    """Mark the k largest of all elements; among equals, those that come first.

    What comes first: the arrays in their order, the elements in C order. Where the k-th
    largest is 0, all zeros are marked.

    Args:
      arrays: real floating, non-negative, of one dtype.
      k: how many, >= 0.

    Returns:
      For each array one of booleans.
    """
    keys = [order_keys(x) for x in arrays]
    sizes = [key.size for key in keys]
    starts = np.cumsum([0, *sizes[:-1]])
    groups = alike(keys)
    if len(groups) < len(keys):
        keys = kept(keys)
    cut = _cut(stacked(keys, groups), k, [starts[group] for group in groups])
    # As constants these numbers would each make a kernel; taken from an array they
    # share one.
    ends = [(cut.end - jnp.array([start, -1], cut.end.dtype))[0] for start in starts]
    return [
        _marked(key, cut._replace(end=end)) for key, end in zip(keys, ends, strict=True)
    ]


def k_largest_of_each(
    arrays: Sequence[jax.Array], ks: Sequence[int]
) -> list[jax.Array]:
    """Mark the k largest of each array as `k_largest` does."""
    keys = kept([order_keys(x) for x in arrays])
    ks = [jnp.asarray(k, jnp.result_type(int)) for k in ks]
    cuts = of_each(lambda key, k: _cut([key], k), keys, ks)
    return [_marked(key, cut) for key, cut in zip(keys, cuts, strict=True)]


def of_each(
    search: Callable[..., _Found], *columns: Sequence[jax.Array]
) -> list[_Found]:
    """Return `search(*row)` for each row of arrays, at once for rows that are alike."""
    found: dict[int, _Found] = {}
    for group in alike(*columns):
        rows = [[column[i] for i in group] for column in columns]
        if len(group) == 1:
            found[group[0]] = search(*(row[0] for row in rows))
            continue
        together = jax.vmap(search)(*map(jnp.stack, rows))
        for place, i in enumerate(group):
            found[i] = jax.tree.map(functools.partial(_taken, place), together)
    return [found[i] for i in range(len(columns[0]))]


def order_keys(x: jax.Array) -> jax.Array:
    """Return integers in the order of non-negative numbers, with NaN the largest."""
    x = jax.lax.stop_gradient(x).astype(compute_dtype(x.dtype))
    integer = jnp.dtype(f"int{8 * x.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(x, integer)
    return jnp.where(jnp.isnan(x), jnp.iinfo(integer).max, bits)


def total(parts: Sequence[jax.Array]) -> jax.Array:
    """Add up the numbers that were computed from each array."""
    widest = max((part.dtype for part in parts), key=lambda dtype: dtype.itemsize)
    few = _few([part.astype(widest) for part in parts], jnp.add)
    return few[0] if len(few) == 1 else jnp.sum(_apart(few), dtype=few[0].dtype)


def greatest(parts: Sequence[jax.Array]) -> jax.Array:
    """Return the greatest of the numbers that were computed from each array."""
    few = _few(parts, jnp.maximum)
    return few[0] if len(few) == 1 else jnp.max(_apart(few))


def _few(
    parts: Sequence[jax.Array], combine: Callable[[jax.Array, jax.Array], jax.Array]
) -> list[jax.Array]:
    """Combine numbers to one, or, where there are many arrays, to a few."""
    width = 1 if len(parts) < MANY else math.isqrt(len(parts))
    return [functools.reduce(combine, parts[i::width]) for i in range(width)]


def _apart(few: Sequence[jax.Array]) -> jax.Array:
    """Put numbers side by side, so that XLA reduces them once, in a loop.

    It repeats a chain over all arrays in every kernel that needs its result, of which
    there is one for each array: hundreds of arrays would take minutes to compile.
    """
    stacked = jnp.stack(few)
    # XLA turns the reduction of an array that it knows to be stacked into such a chain.
    # This `where` changes nothing, but hides that the array is stacked.
    is_float = jnp.issubdtype(stacked.dtype, jnp.floating)
    top = np.inf if is_float else jnp.iinfo(stacked.dtype).max
    top = np.array(top, stacked.dtype)
    return jnp.where(stacked == top, top, stacked)


def count(marks: jax.Array) -> jax.Array:
    """Count what is marked."""
    # Four bytes are faster where they are enough; without x64 there are no wider ones.
    integer = jnp.int32 if marks.size < 2**31 else jnp.result_type(int)
    return jnp.sum(marks, dtype=integer).astype(jnp.result_type(int))


def any_of(marks: Sequence[jax.Array]) -> jax.Array:
    """Return whether anything is marked in any array."""
    return total([count(mark) for mark in marks]) > 0


def _kth_key(keys: Sequence[jax.Array], k: int | jax.Array) -> jax.Array:
    """Return the k-th largest key, exactly, by counting.

    The bits of non-negative floating point numbers, read as integers, have the order of
    the numbers. So one pass that counts finds each bit: 31 passes in single precision,
    63 in double. NaN is the largest number; beyond the last element it is 0.
    """
    integer = keys[0].dtype
    bits = jnp.iinfo(integer).bits - 1

    def refine(i: jax.Array, found: jax.Array) -> jax.Array:
        bit = (bits - 1 - i).astype(integer)
        candidate = found | jnp.left_shift(jnp.ones_like(bit), bit)
        enough = total([count(key >= candidate) for key in keys]) >= k
        return jnp.where(enough, candidate, found)

    return jax.lax.fori_loop(0, bits, refine, jnp.zeros([], integer))


def _taken(place: int, x: jax.Array) -> jax.Array:
    """Return an element of a vector, by one kernel for all places.

    XLA compiles a kernel for every constant index, but passes an array of indices to
    one kernel. This takes the first element that such an array picks.
    """
    return x[jnp.array([place, place - 1])][0]


class _Cut(NamedTuple):
    """Where the k largest end."""

    key: jax.Array
    """Larger keys are among the k largest."""
    end: jax.Array
    """Of equal keys, those before this index are."""


def _marked(key: jax.Array, cut: _Cut) -> jax.Array:
    first = _index(key.shape, cut.end.dtype) < cut.end
    return (key > cut.key) | ((key == cut.key) & first)


def _cut(
    keys: Sequence[jax.Array],
    k: int | jax.Array,
    starts: Sequence[np.ndarray] = (np.zeros(1, int),),
) -> _Cut:
    """Return where the k largest end, by bisection if too many elements are equal.

    Args:
      keys: arrays and stacks of arrays.
      k: how many, >= 0.
      starts: for each the index of its first element, or of each array of the stack.
    """
    found = _kth_key(keys, k)
    wanted = k - total([count(key > found) for key in keys])
    tied = [key == found for key in keys]
    crowded = (total([count(tie) for tie in tied]) > wanted) & (found > 0)
    integer, size = wanted.dtype, sum(tie.size for tie in tied)
    if size > jnp.iinfo(integer).max:
        raise ValueError(
            f"the arrays have {size} elements, more than {integer} can count. Enable "
            "jax_enable_x64, or treat each array by itself."
        )

    def first(tie: jax.Array, start: np.ndarray, end: jax.Array) -> jax.Array:
        if len(start) == 1:
            return tie & (_index(tie.shape, integer) < end - int(start[0]))
        index = _index(tie.shape[1:], integer)
        ends = end - jnp.asarray(start, integer)
        return tie & (index < ends.reshape(-1, *[1] * index.ndim))

    def advance(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = state
        middle = low + (high - low) // 2
        marks = [
            first(tie, start, middle) for tie, start in zip(tied, starts, strict=True)
        ]
        enough = total([count(mark) for mark in marks]) >= wanted
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    last = jnp.full([], size, integer)
    start = jnp.where(crowded, 0, last), last
    _, end = jax.lax.while_loop(lambda state: state[0] < state[1], advance, start)
    return _Cut(found, end)


def stacked_pairs(
    arrays: Sequence[jax.Array], metrics: Sequence[jax.Array]
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Stack arrays that are alike, and their metrics so that they broadcast."""
    groups = alike(arrays, metrics)
    arrays, metrics = kept(arrays), kept(metrics)
    for i in itertools.chain(*(group for group in groups if len(group) > 1)):
        missing = arrays[i].ndim - metrics[i].ndim
        metrics[i] = jax.lax.expand_dims(metrics[i], range(missing))
    return stacked(arrays, groups), stacked(metrics, groups)


def _index(shape: tuple[int, ...], integer: jnp.dtype) -> jax.Array:
    """Return each element's position in C order, without reshaping sharded arrays."""
    index, stride = jnp.zeros(shape, integer), 1
    for axis in reversed(range(len(shape))):
        index += stride * jax.lax.broadcasted_iota(integer, shape, axis)
        stride *= shape[axis]
    return index
