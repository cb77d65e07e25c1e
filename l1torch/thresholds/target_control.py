"""From a target sparsity to the strength of each step, which others apply."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

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

    path: str
    x: Tensor
    """The parameter after the optimizer's own step; a DTensor, if it is one. Of several
    the first."""
    size: int
    """The number of elements in all."""
    ratios: Callable[[], Iterator[Tensor]]
    """Yield, in parts, the strength that makes each weight zero under L1."""
    zeros: Callable[[Number], Tensor]
    """Count what the prox would make zero at a strength, in this process's shard."""
    sample: Callable[[int], Iterator[Tensor]] | None = None
    """Yield about every n-th of the ratios; None where that saves nothing."""


def check_target(target: TargetSparsity, penalty: Penalty, window: float = 1) -> None:
    """Raise ValueError for a penalty or window that a target cannot go with."""
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
    """Return the control before the first step."""
    zeros = 0.0 if target.scope == "global" else dict.fromkeys(names, 0.0)
    return Control(zeros, target.fraction(0), target.target)


def next_control(
    target: TargetSparsity,
    penalty: Penalty,
    rows: Sequence[Row],
    step: int,
    control: Control,
) -> Control:
    """Find the strength of this step, the least whose prox makes the zeros wanted.

    Args:
      target: the target.
      penalty: the penalty.
      rows: the parameters that take the step.
      step: the number of this step, from 1.
      control: that of the step before, whose strength is the guess to start from.

    Returns:
      The control, with the strength to apply: 0 where none takes part in the prox, in
      the step that prunes and in those after it.
    """
    frozen = target.snap_step is not None and step >= target.snap_step

    def strength(rows: Sequence[Row], path: str) -> Number:
        if frozen:
            return 0.0
        return _strength(target, penalty, rows, step, _entry(control.strength, path))

    if target.scope == "global":
        found = strength(rows, "") if rows or frozen else control.strength
    else:
        before = control.strength if isinstance(control.strength, Mapping) else {}
        found = {**before, **{row.path: strength([row], row.path) for row in rows}}
    return Control(found, target.fraction(step), target.target)


def largest_kept(target: TargetSparsity, arrays: Sequence[Tensor]) -> list[Tensor]:
    """Mark, in this process's shards, what the pruning step keeps: the largest."""

    def kept(arrays: Sequence[Tensor]) -> list[Tensor]:
        size = sum(x.numel() for x in arrays)
        dtype = _widest(arrays)
        sizes = [local(x.detach()).abs().to(dtype) for x in arrays]
        return k_largest(sizes, size - round(target.target * size), arrays)

    if target.scope == "global":
        return kept(arrays) if arrays else []
    return [mark for x in arrays for mark in kept([x])]


def count_zeros(x: Tensor) -> Tensor:
    """Count the zeros in this process's shard."""
    return torch.stack([(part == 0).sum() for (part,) in blocks(x)]).sum()


def _strength(
    target: TargetSparsity,
    penalty: Penalty,
    rows: Sequence[Row],
    step: int,
    guess: Number,
) -> Number:
    """Return the least strength at which the prox makes the zeros that are wanted."""
    wanted = target.count(step, sum(row.size for row in rows))
    if wanted == 0:
        return 0.0
    dtype = _widest([row.x for row in rows])
    if penalty.prox_is_soft_threshold:
        # The threshold comes of a rounded product and a rounded quotient: the strength
        # that reaches the k-th ratio must make up for this.
        wide = [compute_dtype(row.x.dtype) for row in rows]
        factor = 1 + 4 * max(torch.finfo(each).eps for each in wide)
        found = _kth_ratio(rows, wanted, guess, dtype) * factor
    else:

        def zeros(strength: float) -> int:
            return int(_total([row.zeros(strength) for row in rows], rows))

        start = float(guess)
        found = torch.tensor(least_strength(zeros, wanted, start, dtype), dtype=dtype)
    # With a learning rate of 0, or too much NaN, no strength makes so many zeros: then
    # that of the step before stays.
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
        row.x.device.type == "cpu" and not hasattr(row.x, "to_local") for row in rows
    )
    if plain:
        found = kth_smallest(passes, k, float(guess), size, dtype)
        return torch.tensor(found, dtype=dtype, device="cpu")
    # Elsewhere by counting: counts need no value of the device on the host, and those
    # of several processes can be added up.
    ratios = [
        torch.cat([x.reshape(-1).to(dtype) for x in row.ratios()]) for row in rows
    ]
    return kth_largest(ratios, size - k + 1, [row.x for row in rows])


def _total(counts: Sequence[Tensor], rows: Sequence[Row]) -> Tensor:
    """Add up what was counted in the shards."""
    summed = (
        over_shards(count, row.x, "sum")
        for count, row in zip(counts, rows, strict=True)
    )
    return functools.reduce(torch.add, summed)


def _widest(arrays: Sequence[Tensor]) -> torch.dtype:
    dtypes = [compute_dtype(x.dtype) for x in arrays]
    return functools.reduce(torch.promote_types, dtypes)


def _entry(value: Number | Mapping[str, Number] | None, path: str) -> Number:
    """Read a number, or what is kept for a path; 0 where there is neither."""
    if isinstance(value, Mapping):
        value = value.get(path, 0.0)
    shaped = isinstance(value, Tensor) and value.dim() > 0
    return 0.0 if value is None or shaped else value
