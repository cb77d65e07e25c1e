"""Quantiles without sorting: the k-th smallest number in a few passes that count.

A sample tells between which numbers the quantile lies; one pass counts what is below
and gathers the little that is between. Where the sample misleads, a histogram around a
guess is refined until the bin that holds the quantile is small enough to be looked
into: the bits of non-negative floating point numbers, read as integers, have the order
of the numbers, and are nearly their logarithm. Nothing of the numbers' size is sorted
or kept.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from l1torch.numerics.blocks import BLOCK

_BINS = 1 << 14
_FEW = 1 << 16  # elements that may be gathered
_SAMPLE = 1 << 18  # elements that tell where to look
_DEVIATIONS = 6.0  # standard deviations of the rank, to both sides of the sample's
_ROW = 32  # elements that are tested together before any of them is gathered
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def kth_smallest(
    passes: Callable[[int], Iterable[Tensor]],
    k: int,
    guess: float,
    size: int,
    dtype: torch.dtype,
) -> float:
    """Return the k-th smallest of all elements, exactly. It is for the CPU.

    Args:
      passes: `passes(n)` gives every n-th element, non-negative, in tensors that may be
        overwritten when the next is asked for. It is called for a sample, then for all
        elements: once, or some more times if the sample misleads.
      k: from 1 to the number of elements.
      guess: a number near the result, which saves passes if the sample misleads.
      size: the number of elements.
      dtype: float32 or float64, to which all elements are converted.

    Returns:
      The number; infinity where the k-th smallest is NaN.
    """
    if size <= _FEW:
        return _finite_or_inf(_gathered(passes(1), dtype).kthvalue(k).values.item())
    low, high = _likely(passes, k, size, dtype)
    under, inside = _between(passes, low, high, dtype)
    if under < k <= under + inside.numel():
        return _finite_or_inf(inside.kthvalue(k - under).values.item())
    return _kth_by_histogram(passes, k, guess, dtype)


def _likely(
    passes: Callable[[int], Iterable[Tensor]], k: int, size: int, dtype: torch.dtype
) -> tuple[float, float]:
    """Return two numbers between which, by a sample, the k-th smallest should lie."""
    sample = _gathered(passes(size // _SAMPLE | 1), dtype)  # odd: all columns
    share, m = k / size, sample.numel()
    reach = 1 + _DEVIATIONS * math.sqrt(m * share * (1 - share))
    below, above = math.floor(share * m - reach), math.ceil(share * m + reach)
    low = _finite_or_inf(sample.kthvalue(below).values.item()) if below >= 1 else 0.0
    if above > m:
        return low, math.inf
    return low, _finite_or_inf(sample.kthvalue(above).values.item())


def _kth_by_histogram(
    passes: Callable[[int], Iterable[Tensor]], k: int, guess: float, dtype: torch.dtype
) -> float:
    digits = 23 if dtype == torch.float32 else 52
    beyond = _key(math.inf, dtype) + 1
    reach = 1 << (digits - 2)  # a quarter of an octave
    base = min(max(_key(guess, dtype) - reach, 0), beyond)
    shift = (2 * reach // _BINS).bit_length() - 1
    while True:
        counts = _histogram(passes, base, shift, dtype)
        upto = counts.cumsum(0)
        i = int((upto < k).sum())
        low = base + (i - 1 << shift)
        if i == 0:
            base, shift = 0, _shift_for(base)
        elif low >= beyond:
            return math.inf
        elif i == _BINS - 1:
            base, shift = low, _shift_for(beyond - low)
        elif shift == 0:
            return _number(low, dtype)
        elif counts[i] <= _FEW:
            high = min(low + (1 << shift), beyond) - 1
            ends = _number(low, dtype), _number(high, dtype)
            under, inside = _between(passes, *ends, dtype)
            rank = k - under
            if rank > inside.numel():  # it is NaN, beyond infinity in the same bin
                return math.inf
            return inside.kthvalue(rank).values.item()
        else:
            base, shift = low, max(shift - 13, 0)


def least_strength(
    zeros: Callable[[float], int], k: int, guess: float, dtype: torch.dtype
) -> float:
    """Return the least strength at which there are `k` zeros or more.

    It is above the least by a millionth of it, or less. Each pass counts once:
    bisection on the bits, in a bracket that grows from the guess.

    Args:
      zeros: counts the zeros at a strength; a larger strength must not give fewer.
      k: how many.
      guess: the strength to begin with.
      dtype: the precision to compute in.

    Returns:
      The strength; infinity if no finite one is enough.
    """
    digits = 23 if dtype == torch.float32 else 52
    beyond = _key(math.inf, dtype)
    low, high, gap = -1, beyond, 1 << (digits - 5)
    place = min(max(_key(guess, dtype), 0), beyond - 1)
    while high - low > (1 if low < 0 else 1 << (digits - 20)):
        place = min(max(place, low + 1), high - 1)
        if zeros(_number(place, dtype)) >= k:
            high = place
        else:
            low = place
        if low < 0:
            place = high - min(gap, high)
        elif high == beyond:
            place = low + min(gap, high - low)
        else:
            place = low + (high - low) // 2
        gap = min(gap, beyond // 8) * 8
    return _number(high, dtype)


def _histogram(
    passes: Callable[[int], Iterable[Tensor]], base: int, shift: int, dtype: torch.dtype
) -> Tensor:
    """Count keys in three parts: below `base`, in bins of `2**shift`, and beyond."""
    integer = _INTEGERS[dtype]
    counts, memory = (
        torch.zeros(_BINS, dtype=torch.int64),
        torch.empty(0, dtype=integer),
    )
    for x in passes(1):
        x = x.to(dtype).reshape(-1)
        if x.numel() > memory.numel():
            memory = torch.empty_like(x, dtype=integer)
        keys = torch.sub(x.view(integer), base - (1 << shift), out=memory[: x.numel()])
        keys = keys.bitwise_right_shift_(shift).clamp_(0, _BINS - 1)
        counts += torch.bincount(keys, minlength=_BINS)
    return counts


def _between(
    passes: Callable[[int], Iterable[Tensor]],
    low: float,
    high: float,
    dtype: torch.dtype,
) -> tuple[int, Tensor]:
    """Count what is below `low`, and gather what lies in `[low, high]`.

    If there are more than expected, because many are equal, it returns 0 and nothing.
    """
    under, found, left = 0, [], 4 * max(_SAMPLE, _FEW)
    memory = torch.empty(2, BLOCK, dtype=dtype)
    for x in passes(1):
        for part in x.to(dtype).reshape(-1).split(BLOCK):
            # Marks as floats: their sums are quick, and exact for so few.
            row = _ROW if part.numel() % _ROW == 0 else 1
            below, upto = memory[:, : part.numel()].view(2, -1, row)
            part = part.view(-1, row)
            below = torch.lt(part, low, out=below).sum(1)
            under += int(below.sum())
            # Gathering is slow: find the rows first that have anything to gather.
            part = part[torch.le(part, high, out=upto).sum(1) > below]
            found.append(part[(part >= low) & (part <= high)])
            left -= found[-1].numel()
            if left < 0:
                return 0, part.new_empty(0)
    return under, torch.cat(found)


def _gathered(parts: Iterable[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat([x.reshape(-1).to(dtype, copy=True) for x in parts])


def _shift_for(width: int) -> int:
    return max(width // (_BINS - 2), 0).bit_length()


def _finite_or_inf(x: float) -> float:
    return math.inf if math.isnan(x) else x


def _key(x: float, dtype: torch.dtype) -> int:
    """Read the bits of a number as an integer."""
    return int(torch.tensor(x, dtype=dtype, device="cpu").view(_INTEGERS[dtype]))


def _number(key: int, dtype: torch.dtype) -> float:
    return torch.tensor(key, dtype=_INTEGERS[dtype], device="cpu").view(dtype).item()
