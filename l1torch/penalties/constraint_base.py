"""What a constraint is: a penalty that is 0 inside a set and infinite outside it."""

import abc
import functools
import itertools
import math
import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l1torch.numerics.blocks import cut, is_small, joined
from l1torch.numerics.checks import check_number, require_broadcast, require_real_tensor
from l1torch.numerics.elementwise import Number, compute_dtype, nonnegative
from l1torch.numerics.l1_projection import relative
from l1torch.numerics.order_statistics import any_of, shard_slices
from l1torch.numerics.sharding import local
from l1torch.penalties.base import DistanceRow, Penalty, PenaltyRow, require_gradient


class Constraint(Penalty):
    """A set: it says what is inside, projects, and knows its normal cone.

    The three methods that a set defines take tensors of one dtype, to be computed in:
    one tensor, or, if the set is joint, all tensors of a tree. Where `wholes`, the
    parameters, are DTensors, these are the shards of this process.
    """

    finite = False
    constraint = True
    takes_metric = True  # type: ignore[assignment]

    @abc.abstractmethod
    def inside(
        self, arrays: Sequence[Tensor], slack: float, wholes: Sequence[Tensor]
    ) -> Tensor:
        """Return whether arrays are in the set, up to a relative error `slack`."""

    @abc.abstractmethod
    def project(
        self,
        arrays: Sequence[Tensor],
        metrics: Sequence[Tensor],
        wholes: Sequence[Tensor],
    ) -> list[Tensor]:
        """Return the nearest point of the set."""

    @abc.abstractmethod
    def distances(
        self,
        arrays: Sequence[Tensor],
        grads: Sequence[Tensor],
        slack: float,
        wholes: Sequence[Tensor],
    ) -> list[Tensor]:
        """Return the distance of `-grads` to the normal cone at arrays inside."""

    def value(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        """Return 0 inside and infinity outside."""
        return self._value([PenaltyRow("x", x, strength)])

    def subgradient(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        """Return 0 inside and NaN outside."""
        slope = torch.zeros_like(local(x).detach())
        return _like(x, torch.where(self.value(x, strength) == 0, slope, math.nan))

    def prox(self, x: Tensor, threshold: Number) -> Tensor:
        """Project onto the set, in the metric of the thresholds."""
        return self._prox([PenaltyRow("x", x, threshold)])[0]

    def optimality_distance(
        self, x: Tensor, grad: Tensor, strength: Number = 1.0
    ) -> Tensor:
        """Return, per element, the distance of `-grad` to the set's normal cone."""
        return self._distances([PenaltyRow("x", x, strength)], [grad])[0]

    def tree_value(self, rows: Sequence[PenaltyRow]) -> Tensor | float:
        """Sum the value over arrays with their strengths."""
        return self._value(rows) if self.joint and rows else super().tree_value(rows)

    def tree_prox(self, rows: Sequence[PenaltyRow]) -> list[Tensor]:
        """Project arrays, in the metric of their thresholds."""
        if not (self.joint and rows):
            return super().tree_prox(rows)
        runs = [list(run) for _, run in itertools.groupby(rows, _kind)]
        found = self._prox([_joined(run) for run in runs])
        pieces = [
            cut(u, [x for _, x, _ in run]) if len(run) > 1 else [u]
            for u, run in zip(found, runs, strict=True)
        ]
        return list(itertools.chain.from_iterable(pieces))

    def tree_optimality_distance(self, rows: Sequence[DistanceRow]) -> list[Tensor]:
        """Return the distances of arrays with their gradients and strengths."""
        if not (self.joint and rows):
            return super().tree_optimality_distance(rows)
        grads = [grad for _, _, grad, _ in rows]
        plain = [PenaltyRow(path, x, s) for path, x, _, s in rows]
        return self._distances(plain, grads)

    @torch.no_grad()
    def _value(self, rows: Sequence[PenaltyRow]) -> Tensor:
        wholes = [x for _, x, _ in rows]
        arrays, _ = self._operands("strength", rows)
        inside = self.inside(arrays, _slack(rows), wholes)
        nan = any_of([x.isnan() for x in arrays], wholes)
        outside = torch.where(nan, math.nan, math.inf)
        return torch.where(inside & ~nan, 0, outside).to(arrays[0].dtype)

    def _prox(self, rows: Sequence[PenaltyRow]) -> list[Tensor]:
        wholes = [x for _, x, _ in rows]
        arrays, thresholds = self._operands("threshold", rows)
        projected = self.project(arrays, relative(thresholds, wholes), wholes)
        # Adding +0.0 makes -0.0 positive.
        return [
            _like(x, u.to(x.dtype) + 0.0)
            for u, x in zip(projected, wholes, strict=True)
        ]

    @torch.no_grad()
    def _distances(
        self, rows: Sequence[PenaltyRow], grads: Sequence[Tensor]
    ) -> list[Tensor]:
        wholes = [x for _, x, _ in rows]
        arrays, _ = self._operands("strength", rows)
        for grad, x in zip(grads, wholes, strict=True):
            require_gradient(grad, x)
        grads = [
            _part(grad, x).to(arrays[0].dtype)
            for grad, x in zip(grads, wholes, strict=True)
        ]
        slack = _slack(rows)
        inside = self.inside(arrays, slack, wholes)
        found = []
        for x, d, given in zip(
            arrays, self.distances(arrays, grads, slack, wholes), wholes, strict=True
        ):
            d = torch.where(x.isnan(), x, torch.where(inside, d, math.inf))
            found.append(_like(given, d.to(compute_dtype(given.dtype))))
        return found

    def _operands(
        self, argument: str, rows: Sequence[PenaltyRow]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Check rows, and cast arrays and thresholds to the widest dtype.

        An element becomes NaN where its threshold is NaN, which most projections would
        hide.
        """
        for path, x, t in rows:
            require_real_tensor(path, x)
            self.require_fit(path, tuple(x.shape))
            infinite = isinstance(t, numbers.Real) and t == math.inf
            if argument == "strength" or not infinite:
                check_number(argument, t)
            require_broadcast(argument, t, path, x.shape)
        dtype = compute_dtype(
            functools.reduce(torch.promote_types, (x.dtype for _, x, _ in rows))
        )
        thresholds = [nonnegative(_part(t, x), dtype, x.device) for _, x, t in rows]
        arrays = [local(x).to(dtype) for _, x, _ in rows]
        # A Python number is checked already.
        arrays = [
            torch.where(t.isnan(), t, x) if isinstance(given, Tensor) else x
            for x, t, (_, _, given) in zip(arrays, thresholds, rows, strict=True)
        ]
        return arrays, thresholds


def _kind(row: PenaltyRow) -> Any:
    """Return what neighbouring rows must share to be joined; only small arrays do."""
    _, x, t = row
    own = t.dtype if isinstance(t, Tensor) else t
    if is_small(x) and (not isinstance(t, Tensor) or t.shape == x.shape):
        return x.dtype, x.device, own
    return object()  # like no other


def _joined(run: Sequence[PenaltyRow]) -> PenaltyRow:
    path, _, t = run[0]
    if len(run) == 1:
        return run[0]
    if isinstance(t, Tensor):
        t = joined(t for _, _, t in run)
    return PenaltyRow(path, joined(x for _, x, _ in run), t)


def _slack(rows: Sequence[PenaltyRow]) -> float:
    """Return the relative error of a sum, or of its elements if that is larger."""
    eps = [torch.finfo(x.dtype).eps for _, x, _ in rows]
    return max(*eps, 64 * min(*eps, torch.finfo(torch.float32).eps))


def _part(value: Number, x: Tensor) -> Number:
    """Return the part of a value that belongs to this process's shard of `x`."""
    if not isinstance(value, Tensor) or not hasattr(x, "to_local"):
        return value
    if hasattr(value, "to_local"):
        if value.shape == x.shape and value.placements == x.placements:
            return value.to_local()
        value = value.full_tensor()
    return value.expand(x.shape)[shard_slices(x)] if value.dim() else value


def _like(x: Tensor, part: Tensor) -> Tensor:
    """Return the DTensor that this process's shard belongs to, if `x` is one."""
    if not hasattr(x, "to_local"):
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part,
        x.device_mesh,
        x.placements,
        run_check=False,
        shape=x.shape,
        stride=x.stride(),
    )
