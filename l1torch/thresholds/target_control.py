"""From a target sparsity to the strength of each step."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l1torch.numerics.blocks import blocks, sampled
from l1torch.numerics.checks import as_number
from l1torch.numerics.elementwise import Number, compute_dtype
from l1torch.numerics.order_statistics import k_largest, kth_largest
from l1torch.numerics.quantiles import kth_smallest, least_strength
from l1torch.numerics.sharding import local, over_shards
from l1torch.parameters.sparsity import Control
from l1torch.penalties.base import Penalty
from l1torch.strengths.targets import TargetSparsity


class Row(NamedTuple):
    """A penalised parameter that takes a step, or several that are one to a target."""

    name: str
    param: Tensor
    """After the optimizer's own step; a DTensor, if it is one. Of several the first."""
    size: int
    """The number of elements in all."""
    ratios: Callable[[], Iterator[Tensor]]
    """Gives, in parts, the strength that makes each weight zero under L1."""
    zeros: Callable[[Number], Tensor]
    """Counts what the prox would make zero at a strength, in this process's shard."""
    sample: Callable[[int], Iterator[Tensor]] | None = None
    """Gives about every n-th of the ratios; None where that saves nothing."""


def check_target(target: TargetSparsity, penalty: Penalty, window: float = 1) -> None:
    """Raises ValueError for a penalty or window that a target cannot go with."""
    makes_zeros = penalty.makes_zeros and not penalty.constraint
    if not makes_zeros or not penalty.takes_metric:
        raise ValueError(
            f"penalty must set single weights or groups to zero under target_sparsity, "
            f"and more of them the stronger it is, got {penalty!r}. Pass l1(), or a "
            "number as the strength."
        )
    if penalty.joint and target.scope == "array":
        raise ValueError(
            f"scope must be 'global' with {penalty!r}, got 'array': it couples the "
            "tensors. Pass scope='global' to target_sparsity."
        )
    if window != 1:
        raise ValueError(
            f"window must be 1 under target_sparsity, got {window!r}: what accumulates "
            "would come on top of the strength that meets the target. Pass window=1."
        )


def initial_control(target: TargetSparsity, names: Sequence[str]) -> Control:
    """Makes the control before the first step."""
    zeros = 0.0 if target.scope == "global" else dict.fromkeys(names, 0.0)
    return Control(zeros, target.fraction(0), target.target)


def next_control(
    target: TargetSparsity,
    penalty: Penalty,
    rows: Sequence[Row],
    step: int,
    control: Control,
) -> Control:
    """Gives the strength of this step.

    Args:
      target: the target.
      penalty: the penalty.
      rows: the parameters that take the step.
      step: the number of this step, from 1.
      control: what was kept from the step before.
    """
    frozen = target.snap_step is not None and step >= target.snap_step
    wanted = target.fraction(step)
    if target.scope == "global":
        strength = 0.0 if frozen else control.strength
        if rows and not frozen:
            guess = _entry(strength, "")
            strength = _next(target, penalty, rows, step, guess)
        return Control(strength, wanted, target.target)
    strengths = control.strength if isinstance(control.strength, Mapping) else {}
    found = {}
    for row in rows:
        guess = _entry(control.strength, row.name)
        found[row.name] = 0.0 if frozen else _next(target, penalty, [row], step, guess)
    return Control({**strengths, **found}, wanted, target.target)


def largest_kept(target: TargetSparsity, params: Sequence[Tensor]) -> list[Tensor]:
    """Marks, in this process's shards, what the pruning step keeps: the largest."""

    def kept(params: Sequence[Tensor]) -> list[Tensor]:
        size = sum(param.numel() for param in params)
        dtype = _widest(params)
        sizes = [local(param.detach()).abs().to(dtype) for param in params]
        return k_largest(sizes, size - round(target.target * size), params)

    if target.scope == "global":
        return kept(params) if params else []
    return [mark for param in params for mark in kept([param])]


def count_zeros(x: Tensor) -> Tensor:
    """Counts the zeros in this process's shard."""
    return torch.stack([(part == 0).sum() for (part,) in blocks(x)]).sum()


def _next(
    target: TargetSparsity,
    penalty: Penalty,
    rows: Sequence[Row],
    step: int,
    guess: Number,
) -> Number:
    """Gives the least strength at which the prox makes the zeros that are wanted."""
    wanted = target.count(step, sum(row.size for row in rows))
    if wanted == 0:
        return 0.0
    dtype = _widest([row.param for row in rows])
    if penalty.prox_is_soft_threshold:
        # The threshold is a product and a quotient that were rounded: by this much.
        wide = [compute_dtype(row.param.dtype) for row in rows]
        factor = 1 + 4 * max(torch.finfo(each).eps for each in wide)
        found = _kth_ratio(rows, wanted, guess, dtype) * factor
    else:

        def zeros(strength: float) -> int:
            return int(_total([row.zeros(strength) for row in rows], rows))

        start = float(guess)
        found = torch.tensor(least_strength(zeros, wanted, start, dtype), dtype=dtype)
    # Not to be reached with a learning rate of 0, or so much NaN: as it was.
    return as_number(torch.where(found < math.inf, found, guess))


def _kth_ratio(
    rows: Sequence[Row], k: int, guess: Number, dtype: torch.dtype
) -> Tensor:
    size = sum(row.size for row in rows)

    def passes(every: int) -> Iterator[Tensor]:
        for row in rows:
            if every == 1:
                yield from row.ratios()
            elif row.sample is not None:
                yield from row.sample(every)
            else:
                yield from (sampled(x, every) for x in row.ratios())

    plain = all(
        row.param.device.type == "cpu" and not hasattr(row.param, "to_local")
        for row in rows
    )
    if plain:
        found = kth_smallest(passes, k, float(guess), size, dtype)
        return torch.tensor(found, dtype=dtype, device="cpu")
    # By counts alone, of which nothing is waited for, and which processes add up.
    ratios = [
        torch.cat([x.reshape(-1).to(dtype) for x in row.ratios()]) for row in rows
    ]
    return kth_largest(ratios, size - k + 1, [row.param for row in rows])


def _total(counts: Sequence[Tensor], rows: Sequence[Row]) -> Tensor:
    """Adds up what was counted in the shards."""
    summed = (
        over_shards(count, row.param, "sum")
        for count, row in zip(counts, rows, strict=True)
    )
    return functools.reduce(torch.add, summed)


def _widest(params: Sequence[Tensor]) -> torch.dtype:
    dtypes = [compute_dtype(param.dtype) for param in params]
    return functools.reduce(torch.promote_types, dtypes)


def _entry(value: Any, name: str) -> Number:
    """Reads a number, or what is kept for a name; 0 where there is neither."""
    if isinstance(value, Mapping):
        value = value.get(name, 0.0)
    shaped = isinstance(value, Tensor) and value.dim() > 0
    return 0.0 if value is None or shaped else value
