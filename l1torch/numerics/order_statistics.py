"""Thresholds without sorting: the k-th largest number, the L1 ball, of many tensors.

Everything is a few passes of sums, counts and maxima over the elements. Nothing is
sorted, gathered or concatenated, so that the tensors of a model stay where they are.
`wholes` are the DTensors whose shards the tensors are, if they are shards: what each
process has summed is added up over the processes.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from l1torch.numerics.elementwise import compute_dtype
from l1torch.numerics.sharding import over_shards

_BITS = {torch.float32: (torch.int32, 31), torch.float64: (torch.int64, 63)}


def kth_largest(
    arrays: Sequence[Tensor], k: int | Tensor, wholes: Sequence[Tensor] | None = None
) -> Tensor:
    """Return the k-th largest of all elements, exactly, by counting.

    The bits of non-negative floating point numbers, read as integers, have the order of
    the numbers. So one pass that counts finds each bit: 31 passes in single precision,
    63 in double. NaN is the largest number.

    Args:
      arrays: real floating, non-negative, of one dtype.
      k: from 1 to the number of elements; for a larger one the result is 0.
      wholes: the DTensors of which the arrays are shards.

    Returns:
      Scalar, in float32 for arrays of half precision.
    """
    found = _kth_key([order_keys(x) for x in arrays], k, wholes)
    return found.view(compute_dtype(arrays[0].dtype))


def k_largest(
    arrays: Sequence[Tensor], k: int | Tensor, wholes: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Mark the k largest of all elements; among equals, those that come first.

    What comes first: the arrays in their order, the elements in C order. Where the k-th
    largest is 0, all zeros are marked. It waits for the device once.

    Args:
      arrays: real floating, non-negative, of one dtype.
      k: how many, >= 0.
      wholes: the DTensors of which the arrays are shards.

    Returns:
      For each array one of booleans.
    """
    keys = [order_keys(x) for x in arrays]
    found = _kth_key(keys, k, wholes)
    wanted = k - total([count(key > found) for key in keys], wholes)
    tied = [key == found for key in keys]
    crowded = (total([count(tie) for tie in tied], wholes) > wanted) & (found > 0)
    if bool(crowded):
        tied = _first(tied, wanted, wholes or arrays, wholes)
    return [(key > found) | tie for key, tie in zip(keys, tied, strict=True)]


def order_keys(x: Tensor) -> Tensor:
    """Return integers in the order of non-negative numbers, with NaN the largest."""
    x = x.detach().to(compute_dtype(x.dtype))
    integer, _ = _BITS[x.dtype]
    return x.view(integer).masked_fill(x.isnan(), torch.iinfo(integer).max)


def shard_slices(x: Tensor) -> tuple[slice, ...]:
    """Return which part of a DTensor this process has; all of any other tensor.

    Raises:
      ValueError: it is not divided into the contiguous chunks of `Shard`.
    """
    starts, sizes = [0] * x.dim(), list(x.shape)
    if not hasattr(x, "to_local"):
        return tuple(slice(0, size) for size in sizes)
    for i, placement in enumerate(x.placements):
        if placement.is_shard():
            axis = placement.dim
            chunk = math.ceil(sizes[axis] / x.device_mesh.size(i))
            skipped = min(chunk * x.device_mesh.get_local_rank(i), sizes[axis])
            starts[axis] += skipped
            sizes[axis] = min(chunk, sizes[axis] - skipped)
    if tuple(sizes) != tuple(x.to_local().shape):
        raise ValueError(
            f"a DTensor with placements {x.placements} is not shared out in contiguous "
            "chunks, so that its elements have no known order here. Use the placements "
            "Shard and Replicate."
        )
    return tuple(slice(s, s + n) for s, n in zip(starts, sizes, strict=True))


def total(parts: Sequence[Tensor], wholes: Sequence[Tensor] | None = None) -> Tensor:
    """Add up what was computed from each tensor, or from this process's shard of it."""
    return _reduced(parts, wholes, "sum", torch.add)


def count(marks: Tensor) -> Tensor:
    """Count what is marked."""
    # Four bytes are faster where they are enough.
    integer = torch.int32 if marks.numel() < 2**31 else torch.int64
    return marks.sum(dtype=integer).to(torch.int64)


def any_of(marks: Sequence[Tensor], wholes: Sequence[Tensor] | None = None) -> Tensor:
    """Return whether anything is marked in any tensor."""
    return total([count(mark) for mark in marks], wholes) > 0


def _kth_key(
    keys: Sequence[Tensor], k: int | Tensor, wholes: Sequence[Tensor] | None
) -> Tensor:
    found = keys[0].new_zeros([])
    bits = torch.iinfo(found.dtype).bits - 1
    for i in range(bits):
        candidate = found | (1 << (bits - 1 - i))
        enough = total([count(key >= candidate) for key in keys], wholes) >= k
        found = torch.where(enough, candidate, found)
    return found


def _first(
    marks: Sequence[Tensor],
    wanted: Tensor,
    arrays: Sequence[Tensor],
    wholes: Sequence[Tensor] | None,
) -> list[Tensor]:
    """Keep the first `wanted` marks, by bisection for the index at which they end."""
    indices, size = [], 0
    for mark, whole in zip(marks, arrays, strict=True):
        indices.append(size + _index(mark, whole))
        size += whole.numel()

    def first(end: Tensor) -> list[Tensor]:
        return [m & (i < end) for m, i in zip(marks, indices, strict=True)]

    low, high = torch.zeros_like(wanted), torch.full_like(wanted, size)
    for _ in range(size.bit_length()):
        middle = low + (high - low) // 2
        enough = total([count(mark) for mark in first(middle)], wholes) >= wanted
        low = torch.where(enough, low, middle + 1)
        high = torch.where(enough, middle, high)
    return first(high)


def _index(part: Tensor, whole: Tensor) -> Tensor:
    """Return the position of each element of a part in the C order of the whole."""
    index, stride = torch.zeros_like(part, dtype=torch.int64), 1
    where = shard_slices(whole)
    for axis in reversed(range(part.dim())):
        steps = torch.arange(where[axis].start, where[axis].stop, device=part.device)
        shape = [-1 if axis == a else 1 for a in range(part.dim())]
        index += stride * steps.view(shape)
        stride *= whole.shape[axis]
    return index


def greatest(parts: Sequence[Tensor], wholes: Sequence[Tensor] | None) -> Tensor:
    """Return the largest of scalars, over the shards of what they come from."""
    return _reduced(parts, wholes, "max", torch.maximum)


def _reduced(
    parts: Sequence[Tensor],
    wholes: Sequence[Tensor] | None,
    operation: str,
    combine: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    if wholes is None:
        return functools.reduce(combine, parts)
    # Tensors that are sharded alike are combined first: one message for all of them.
    groups: dict[Any, tuple[Tensor, list[Tensor]]] = {}
    for part, whole in zip(parts, wholes, strict=True):
        sharded = hasattr(whole, "to_local")
        if sharded and part.requires_grad:
            raise ValueError(
                "a projection of DTensors has no derivative: it would need sums over "
                "the processes on its way back. Call it under torch.no_grad()."
            )
        key = (whole.device_mesh, whole.placements) if sharded else None
        groups.setdefault(key, (whole, []))[1].append(part)
    return functools.reduce(
        combine,
        [
            over_shards(functools.reduce(combine, group), whole, operation)
            for whole, group in groups.values()
        ],
    )
