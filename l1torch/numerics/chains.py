"""The proximal step of total variation along a chain, by exact minimisation."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor


def fuse(x: Tensor, rise: Tensor, fall: Tensor, cut: Tensor) -> Tensor:
    """Solve the chain problem along the last axis.

    `argmin_u 1/2 |u - x|^2 + sum_i rise max(u_i - u_(i-1), 0) + fall max(u_(i-1) -
    u_i, 0)`. Equal `rise` and `fall` are total variation; `rise = inf, fall = 0` is the
    best fit that does not increase (isotonic regression).

    Starts from one piece of the mean level and splits every piece into what lies above
    its level and what lies below (Chambolle and Darbon, 2009; Hochbaum, 2001), until
    none splits. A piece has one value, so that all its elements are equal.

    Args:
      x: floating tensor.
      rise: scalar, or tensor with one number for each row, >= 0.
      fall: as `rise`.
      cut: integers of `x`'s shape. At i, 1 where it is known that u_i > u_(i-1), -1
        where u_i < u_(i-1), so that this term is linear; 0 elsewhere.
    """
    if x.ndim == 0 or x.shape[-1] < 2:
        return x
    known = cut
    fixed = (x.detach(), rise.detach(), fall.detach())
    new = torch.ones_like(cut)
    while new.any():
        loaded, level = _levels(*fixed, cut)
        above = _above(loaded - level, _starts(cut), *fixed[1:]).int()
        new = torch.where(_starts(cut), 0, above - _shift(above, 1))
        cut = cut + new
    # By rounding, a piece may be split whose parts are equal, or in the wrong order.
    jumps = row_jumps(_levels(*fixed, cut)[1])
    right = torch.where(cut > 0, jumps > 0, jumps < 0)
    return _levels(x, rise, fall, torch.where((known != 0) | right, cut, 0))[1]


def _levels(
    x: Tensor, rise: Tensor, fall: Tensor, cut: Tensor
) -> tuple[Tensor, Tensor]:
    # x without the slopes of the cut terms, and the mean of this over each piece.
    load = torch.where(cut > 0, rise, torch.where(cut < 0, -fall, 0))
    loaded = x - load + _shift(load, -1)
    starts = _starts(cut)

    def add(first: _Sum, then: _Sum) -> _Sum:
        total = torch.where(then.starts, then.total, first.total + then.total)
        return _Sum(total, first.starts | then.starts)

    index = torch.arange(x.shape[-1], device=x.device).expand(x.shape)
    first = torch.where(starts, index, 0).cummax(-1).values
    last = _next(_ends(starts))
    sums = torch.gather(_scan(add, _Sum(loaded, starts)).total, -1, last)
    return loaded, sums / (last - first + 1).to(x.dtype)


def _above(d: Tensor, starts: Tensor, rise: Tensor, fall: Tensor) -> Tensor:
    # In each piece, the smallest set of largest sum(d) - rise * (ways in) - fall *
    # (ways out), by dynamic programming: gain_i = clip(gain_(i-1), -rise, fall) + d_i.
    # Maps g -> clip(g + a, low, high) are closed under composition: a scan computes it.
    clipped = torch.clamp(d, -rise, fall)
    low, high = torch.where(starts, clipped, -rise), torch.where(starts, clipped, fall)

    def follow(first: _Clip, then: _Clip) -> _Clip:
        return _Clip(
            first.shift + then.shift,
            torch.clamp(first.low + then.shift, then.low, then.high),
            torch.clamp(first.high + then.shift, then.low, then.high),
        )

    gain = _shift(_scan(follow, _Clip(d, low, high)).low, 1)
    gain = torch.where(starts, 0, gain) + d
    ends = _ends(starts)
    decided = ends | (gain > fall) | (gain <= -rise)
    inside = torch.where(ends, gain > 0, gain > fall)
    return torch.gather(inside, -1, _next(decided))


class _Sum(NamedTuple):
    """The sum from the start of a piece, and whether the piece starts here."""

    total: Tensor
    starts: Tensor


class _Clip(NamedTuple):
    """The map `g -> clip(g + shift, low, high)`."""

    shift: Tensor
    low: Tensor
    high: Tensor


_Items = TypeVar("_Items", _Sum, _Clip)


def greatest_ratio(grad: Tensor, l1_ratio: float) -> Tensor:
    """Return the dual norm of the fused lasso for each row."""
    # The greatest |sum(grad)| / penalty over the indicators of intervals, by
    # Dinkelbach's iteration (1967), both signs side by side.
    v = torch.stack([grad, -grad])
    starts = _starts(torch.zeros_like(v, dtype=torch.int32))
    s, climbs = v.new_zeros((*v.shape[:-1], 1)), True
    while climbs:
        cost = s * (1 - l1_ratio)
        inside = _above(v - s * l1_ratio, starts, cost, cost)
        ends = ~starts & (inside ^ _shift(inside, 1))
        total, size, ends = (
            torch.sum(torch.where(chosen, what, 0), -1, keepdim=True, dtype=v.dtype)
            for chosen, what in ((inside, v), (inside, 1), (ends, 1))
        )
        weight = l1_ratio * size.clamp(min=1) + (1 - l1_ratio) * ends
        ratio = torch.maximum(total / weight, s)
        s, climbs = ratio, (ratio > s).any()
    return s


def _scan(combine: Callable[[_Items, _Items], _Items], items: _Items) -> _Items:
    # The inclusive scan along the last axis, by doubling (Hillis and Steele, 1986). The
    # first item must not depend on what combine is given before it.
    step = 1
    while step < items[0].shape[-1]:
        before = type(items)(*(_shift(item, step) for item in items))
        items = combine(before, items)
        step *= 2
    return items


def _shift(x: Tensor, by: int) -> Tensor:
    filler = x.new_zeros((*x.shape[:-1], abs(by)))
    if by > 0:
        return torch.cat([filler, x[..., :-by]], -1)
    return torch.cat([x[..., -by:], filler], -1)


def row_jumps(x: Tensor) -> Tensor:
    """Return each element of a row minus the one before it, and 0 at the first."""
    if x.ndim == 0 or x.shape[-1] == 0:
        return torch.zeros_like(x)
    first = torch.zeros_like(x[..., :1])
    return torch.cat([first, x[..., 1:] - x[..., :-1]], -1)


def _starts(cut: Tensor) -> Tensor:
    index = torch.arange(cut.shape[-1], device=cut.device)
    return (cut != 0) | (index == 0)


def _ends(starts: Tensor) -> Tensor:
    return torch.cat([starts[..., 1:], starts[..., :1]], -1)


def _next(chosen: Tensor) -> Tensor:
    # The index of the next chosen element, or of an element that is chosen itself. The
    # last one must be chosen.
    n = chosen.shape[-1]
    index = torch.arange(n, device=chosen.device)
    index = torch.where(chosen, index, n - 1)
    return index.flip(-1).cummin(-1).values.flip(-1)
