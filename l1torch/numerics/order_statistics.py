"""Thresholds without sorting: the k-th largest number, the L1 ball, of many tensors.

Everything is a few passes of sums, counts and maxima over the elements. Nothing is
sorted, gathered or concatenated, so that the tensors of a model stay where they are.
`of` names the DTensors whose shards the tensors are, if they are: what each process has
summed is added up over the processes.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from l1torch.leaves import compute_dtype
from l1torch.penalty import sign
from l1torch.prox import shrink
from l1torch.sharding import over_shards

_FREE = 2.0**60  # what an infinite threshold is to the largest finite one
_BITS = {torch.float32: (torch.int32, 31), torch.float64: (torch.int64, 63)}


def relative(
    thresholds: Sequence[Tensor], of: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Divides thresholds by the largest finite one: a set knows no other scale.

    The largest becomes exactly 1, and so do zeros if there are only zeros. Elsewhere
    what is 0 becomes tiny, so that all elements can move, and what is infinite huge.
    """
    top = _most([_largest(t.masked_fill(~t.isfinite(), 0)) for t in thresholds], of)
    top = top.detach()
    tiny = torch.finfo(top.dtype).tiny
    inverse = 1 / top.masked_fill(top < tiny, 1)
    ratios = []
    for t in thresholds:
        ratio = torch.where(t.isinf(), _FREE, t * inverse)
        # A product with the reciprocal may miss 1; this does not, and has its slope.
        one = 1 + (ratio - ratio.detach())
        bounded = ratio.clamp(tiny**0.75, _FREE)
        ratios.append(torch.where(t == top, one, bounded))
    return ratios


def l1_norm(arrays: Sequence[Tensor], of: Sequence[Tensor] | None = None) -> Tensor:
    """Sums the absolute values of all tensors, to compare with: without derivative."""
    return total([x.detach().abs().sum() for x in arrays], of)


def project_l1_ball(
    arrays: Sequence[Tensor],
    metrics: Sequence[Tensor],
    radius: float,
    of: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Solves `argmin_u sum_i (u_i - x_i)^2 / (2 metric_i)` with `|u|_1 <= radius`.

    The solution is `soft_threshold(x, tau * metric)`. Newton's method finds tau: it
    comes from below, never overshoots, and ends as soon as no further element becomes
    zero, after 3 to 10 passes (Michelot, 1986; Condat, 2016). Each of them waits for
    the device.

    Args:
      arrays: of one dtype, to be computed in.
      metrics: for each array one that broadcasts to it, greater than 0, the largest of
        them about 1.
      radius: the largest sum, >= 0.
      of: the DTensors of which the arrays are shards.
    """
    if radius == 0:
        return [torch.where(x.isnan(), x, 0) for x in arrays]
    if bool(l1_norm(arrays, of) <= radius):
        return list(arrays)
    fixed = [x.detach() for x in arrays]
    fixed_metrics = [t.detach() for t in metrics]
    # No element is larger than the radius in the end, which bounds tau from below. What
    # is left above this bound is of the radius' size: the arrays may be far from the
    # ball and cost no digits. The bound gives way to its own rounding errors.
    bound = _most(
        [
            _largest((x.abs() - radius) / t)
            for x, t in zip(fixed, fixed_metrics, strict=True)
        ],
        of,
    )
    bound = bound * (1 - 4 * torch.finfo(bound.dtype).eps)

    def newton(
        tau: Tensor, arrays: Sequence[Tensor], metrics: Sequence[Tensor]
    ) -> Tensor:
        sums, masses = [], []
        for x, t in zip(arrays, metrics, strict=True):
            over = x.abs() - tau * t
            active = over > 0
            sums.append(over.clamp(min=0).sum())
            masses.append((active * t).sum() if t.dim() else count(active) * t)
        mass = total(masses, of)
        some = mass > 0
        excess = total(sums, of) - radius
        mass = torch.where(some, mass, 1)
        fixed = mass.detach()
        step = excess / fixed
        if torch.is_grad_enabled():
            # The derivative of a quotient divides by the square. Where that is 0, the
            # mass is held: its share in the derivative is the excess, 0 in the end.
            held = fixed * fixed < torch.finfo(fixed.dtype).tiny
            step = torch.where(held, step, excess / torch.where(held, 1, mass))
        return torch.where(some, tau + step, tau)

    with torch.no_grad():
        # Tau only grows, so that what is zero stays zero and can be left out.
        previous = torch.zeros_like(bound)
        left, left_metrics = _larger(fixed, fixed_metrics, bound)
        left = [x - bound * t for x, t in zip(left, left_metrics, strict=True)]
        tau = newton(previous, left, left_metrics)
        while bool(tau > previous):
            left, left_metrics = _larger(left, left_metrics, tau)
            previous, tau = tau, newton(tau, left, left_metrics)
    near = [shrink(x, bound * t) for x, t in zip(arrays, metrics, strict=True)]
    if torch.is_grad_enabled():
        # The loop has no derivative; it has found the set of active elements.
        step = newton(previous, near, metrics)
        tau = tau + (step - step.detach())
    # Below 0 by rounding alone: the derivative stays.
    tau = torch.where(tau < 0, tau - tau.detach(), tau)
    return [shrink(x, tau * t) for x, t in zip(near, metrics, strict=True)]


def nearest_slope(
    arrays: Sequence[Tensor],
    grads: Sequence[Tensor],
    of: Sequence[Tensor] | None = None,
) -> Tensor:
    """Gives the `mu >= 0` that takes `mu * d|x|_1` nearest to `-grads`, in the 2-norm.

    It is the mean of the pulls towards the outside, `-grad_i sign(x_i)`, and of those
    `|grad_i|` at zeros that exceed it, found from below as in `project_l1_ball`.

    Args:
      arrays: of one dtype, to be computed in.
      grads: for each array one of its shape and dtype.
      of: the DTensors of which the arrays are shards.
    """
    zeros = [x == 0 for x in arrays]
    pulls = [
        torch.where(zero, grad.abs(), -grad * sign(x))
        for zero, x, grad in zip(zeros, arrays, grads, strict=True)
    ]

    def mean(mu: Tensor) -> Tensor:
        chosen = [
            ~(zero & (pull <= mu)) for zero, pull in zip(zeros, pulls, strict=True)
        ]
        sums = [
            pull.where(mark, 0).sum() for mark, pull in zip(chosen, pulls, strict=True)
        ]
        number = total([count(mark) for mark in chosen], of).clamp(min=1)
        return total(sums, of) / number

    mu = torch.zeros_like(arrays[0].sum())
    following = mean(mu)
    while bool(following > mu):
        mu, following = following, mean(following)
    return mu


def kth_largest(
    arrays: Sequence[Tensor], k: int | Tensor, of: Sequence[Tensor] | None = None
) -> Tensor:
    """Gives the k-th largest of all elements, exactly, by counting.

    The bits of non-negative floating point numbers, read as integers, have the order of
    the numbers. So one pass that counts finds each bit: 31 passes in single precision,
    63 in double. NaN is the largest number.

    Args:
      arrays: real floating, non-negative, of one dtype.
      k: from 1 to the number of elements; beyond it gives 0.
      of: the DTensors of which the arrays are shards.

    Returns:
      Scalar; of half precision, in float32.
    """
    found = _kth_key([order_keys(x) for x in arrays], k, of)
    return found.view(compute_dtype(arrays[0].dtype))


def k_largest(
    arrays: Sequence[Tensor], k: int | Tensor, of: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Marks the k largest of all elements; among equals, those that come first.

    What comes first: the arrays in their order, the elements in C order. Where the k-th
    largest is 0, all zeros are marked. It waits for the device once.

    Args:
      arrays: real floating, non-negative, of one dtype.
      k: how many, >= 0.
      of: the DTensors of which the arrays are shards.

    Returns:
      For each array one of booleans.
    """
    keys = [order_keys(x) for x in arrays]
    found = _kth_key(keys, k, of)
    wanted = k - total([count(key > found) for key in keys], of)
    tied = [key == found for key in keys]
    crowded = (total([count(tie) for tie in tied], of) > wanted) & (found > 0)
    if bool(crowded):
        tied = _first(tied, wanted, of or arrays, of)
    return [(key > found) | tie for key, tie in zip(keys, tied, strict=True)]


def order_keys(x: Tensor) -> Tensor:
    """Gives integers in the order of non-negative numbers, NaN the largest."""
    x = x.detach().to(compute_dtype(x.dtype))
    integer, _ = _BITS[x.dtype]
    return x.view(integer).masked_fill(x.isnan(), torch.iinfo(integer).max)


def shard_slices(x: Tensor) -> tuple[slice, ...]:
    """Tells which part of a DTensor this process has; all, of any other tensor.

    Raises:
      ValueError: it is not shared out in the contiguous chunks of `Shard`.
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


def total(parts: Sequence[Tensor], of: Sequence[Tensor] | None = None) -> Tensor:
    """Adds up what was computed of each tensor, or of this process's shard of it."""
    return _reduced(parts, of, "sum", torch.add)


def count(marks: Tensor) -> Tensor:
    """Counts what is marked."""
    # Four bytes are faster, where they do.
    integer = torch.int32 if marks.numel() < 2**31 else torch.int64
    return marks.sum(dtype=integer).to(torch.int64)


def any_of(marks: Sequence[Tensor], of: Sequence[Tensor] | None = None) -> Tensor:
    """Tells whether anything is marked in any tensor."""
    return total([count(mark) for mark in marks], of) > 0


def _kth_key(
    keys: Sequence[Tensor], k: int | Tensor, of: Sequence[Tensor] | None
) -> Tensor:
    found = keys[0].new_zeros([])
    bits = torch.iinfo(found.dtype).bits - 1
    for i in range(bits):
        candidate = found | (1 << (bits - 1 - i))
        enough = total([count(key >= candidate) for key in keys], of) >= k
        found = torch.where(enough, candidate, found)
    return found


def _first(
    marks: Sequence[Tensor],
    wanted: Tensor,
    wholes: Sequence[Tensor],
    of: Sequence[Tensor] | None,
) -> list[Tensor]:
    """Keeps the first so many marks: bisects the index at which they end."""
    indices, size = [], 0
    for mark, whole in zip(marks, wholes, strict=True):
        indices.append(size + _index(mark, whole))
        size += whole.numel()

    def first(end: Tensor) -> list[Tensor]:
        return [m & (i < end) for m, i in zip(marks, indices, strict=True)]

    low, high = torch.zeros_like(wanted), torch.full_like(wanted, size)
    for _ in range(size.bit_length()):
        middle = low + (high - low) // 2
        enough = total([count(mark) for mark in first(middle)], of) >= wanted
        low = torch.where(enough, low, middle + 1)
        high = torch.where(enough, middle, high)
    return first(high)


def _index(part: Tensor, whole: Tensor) -> Tensor:
    """The position of each element of a part in the C order of the whole."""
    index, stride = torch.zeros_like(part, dtype=torch.int64), 1
    where = shard_slices(whole)
    for axis in reversed(range(part.dim())):
        steps = torch.arange(where[axis].start, where[axis].stop, device=part.device)
        shape = [-1 if axis == a else 1 for a in range(part.dim())]
        index += stride * steps.view(shape)
        stride *= whole.shape[axis]
    return index


def _larger(
    arrays: Sequence[Tensor], metrics: Sequence[Tensor], tau: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Gives the sizes, as vectors, of the elements that `tau` leaves, with metrics."""
    sizes, rest = [], []
    for x, t in zip(arrays, metrics, strict=True):
        size = x.abs()
        left = ~(size <= tau * t)  # with NaN, for that it be seen
        sizes.append(size[left])
        rest.append(t.expand(x.shape)[left] if t.dim() else t)
    return sizes, rest


def _most(parts: Sequence[Tensor], of: Sequence[Tensor] | None) -> Tensor:
    return _reduced(parts, of, "max", torch.maximum)


def _largest(x: Tensor) -> Tensor:
    """The largest element, at least 0: of no elements, too. It copies nothing."""
    return x.amax().clamp(min=0) if x.numel() else x.new_zeros([])


def _reduced(
    parts: Sequence[Tensor],
    of: Sequence[Tensor] | None,
    operation: str,
    combine: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    if of is None:
        return functools.reduce(combine, parts)
    # What is shared out alike is combined first: one message, not one for each tensor.
    groups: dict[Any, tuple[Tensor, list[Tensor]]] = {}
    for part, whole in zip(parts, of, strict=True):
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
