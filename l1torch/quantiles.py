"""Quantiles from a guess: the k-th smallest number in a few passes that count.

The bits of non-negative floating point numbers, read as integers, have the order of the
numbers, and are nearly their logarithm. So a quantile that moves little from one step
to the next is found in a histogram around the last one, whose bin that holds it is
small enough to be looked into. Nothing of the numbers' size is sorted or kept.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_BINS = 1 << 14
_FEW = 1 << 16  # elements that may be gathered
_ROW = 64  # elements that are looked at together for what is to be gathered
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def kth_smallest(
    passes: Callable[[], Iterable[Tensor]],
    k: int,
    guess: float,
    size: int,
    dtype: torch.dtype,
) -> float:
    """Gives the k-th smallest of all elements, exactly. It is for the CPU.

    Args:
      passes: gives all elements, non-negative, in tensors that may be overwritten when
        the next is asked for; it is called two or three times if the guess
        is good.
      k: from 1 to the number of elements.
      guess: the nearer to the result, the fewer passes.
      size: the number of elements.
      dtype: float32 or float64, to which all elements are converted.

    Returns:
      The number; infinity where the k-th smallest is NaN.
    """
    if size <= _FEW:
        parts = [x.reshape(-1).to(dtype, copy=True) for x in passes()]
        found = torch.cat(parts).kthvalue(k)
        return _finite_or_inf(found.values.item())
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
            inside = _between(passes, *ends, dtype)
            rank = k - int(upto[i - 1])
            if rank > inside.numel():  # it is NaN, beyond infinity in the same bin
                return math.inf
            return inside.kthvalue(rank).values.item()
        else:
            base, shift = low, max(shift - 13, 0)


def least_strength(
    zeros: Callable[[float], int], k: int, guess: float, dtype: torch.dtype
) -> float:
    """Gives the least strength at which there are `k` zeros or more.

    Least to a relative precision of a millionth or so, from above. One count a pass:
    bisection on the bits, from a bracket that grows from the guess.

    Args:
      zeros: counts the zeros at a strength; it must not fall.
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
    passes: Callable[[], Iterable[Tensor]], base: int, shift: int, dtype: torch.dtype
) -> Tensor:
    """Counts by key: below `base`, in bins of `2**shift` keys, and beyond these."""
    integer = _INTEGERS[dtype]
    counts, memory = (
        torch.zeros(_BINS, dtype=torch.int64),
        torch.empty(0, dtype=integer),
    )
    for x in passes():
        x = x.to(dtype).reshape(-1)
        if x.numel() > memory.numel():
            memory = torch.empty_like(x, dtype=integer)
        keys = torch.sub(x.view(integer), base - (1 << shift), out=memory[: x.numel()])
        keys = keys.bitwise_right_shift_(shift).clamp_(0, _BINS - 1)
        counts += torch.bincount(keys, minlength=_BINS)
    return counts


def _between(
    passes: Callable[[], Iterable[Tensor]], low: float, high: float, dtype: torch.dtype
) -> Tensor:
    """Gathers what lies in `[low, high]`, of which there is little."""
    found, memory = [], torch.empty(2, 0, dtype=dtype)
    for x in passes():
        x = x.to(dtype).reshape(-1)
        if x.numel() % _ROW == 0:
            # Gathering is slow, and slower than to find the rows worth it.
            if x.numel() > memory[0].numel():
                memory = torch.empty(2, x.numel(), dtype=dtype)
            above, below = memory[:, : x.numel()]
            torch.ge(x, low, out=above)
            above.mul_(torch.le(x, high, out=below))
            x = x.view(-1, _ROW)[above.view(-1, _ROW).sum(1) > 0].view(-1)
        found.append(x[(x >= low) & (x <= high)])
    return torch.cat(found)


def _shift_for(width: int) -> int:
    return max(width // (_BINS - 2), 0).bit_length()


def _finite_or_inf(x: float) -> float:
    return math.inf if math.isnan(x) else x


def _key(x: float, dtype: torch.dtype) -> int:
    """Reads the bits of a number as an integer."""
    return int(torch.tensor(x, dtype=dtype, device="cpu").view(_INTEGERS[dtype]))


def _number(key: int, dtype: torch.dtype) -> float:
    return torch.tensor(key, dtype=_INTEGERS[dtype], device="cpu").view(dtype).item()
