"""Constraints: the L1 ball, the k largest weights, n weights of every m.

They are penalties that are 0 inside a set and infinite outside it. Their prox is the
projection onto the set, which no strength and no learning rate changes: only the
ratios of thresholds count, as a metric. `numerics.order_statistics` finds it without
sorting.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from l1torch.numerics.checks import check_choice, check_int
from l1torch.numerics.order_statistics import (
    any_of,
    count,
    k_largest,
    order_keys,
    total,
)
from l1torch.penalties.base import Penalty
from l1torch.penalties.constraint_base import Constraint

SCOPES = ("array", "tree")


@dataclasses.dataclass(frozen=True)
class _TopK(Constraint):
    k: int
    scope: str

    @property
    def joint(self) -> bool:  # type: ignore[override]
        """Whether it counts over all arrays."""
        return self.scope == "tree"

    def inside(
        self, arrays: Sequence[Tensor], slack: float, wholes: Sequence[Tensor]
    ) -> Tensor:
        del slack
        return total([count(x != 0) for x in arrays], wholes) <= self._most(wholes)

    def project(
        self,
        arrays: Sequence[Tensor],
        metrics: Sequence[Tensor],
        wholes: Sequence[Tensor],
    ) -> list[Tensor]:
        marks = k_largest(_scores(arrays, metrics), self._most(wholes), wholes)
        return [_kept(x, mark) for x, mark in zip(arrays, marks, strict=True)]

    def distances(
        self,
        arrays: Sequence[Tensor],
        grads: Sequence[Tensor],
        slack: float,
        wholes: Sequence[Tensor],
    ) -> list[Tensor]:
        del slack
        full = total([count(x != 0) for x in arrays], wholes) >= self._most(wholes)
        return [
            torch.where((x == 0) & full, 0, grad.abs())
            for x, grad in zip(arrays, grads, strict=True)
        ]

    def _most(self, wholes: Sequence[Tensor]) -> int:
        # A larger k might not fit into 64 bits.
        return min(self.k, sum(x.numel() for x in wholes))


@dataclasses.dataclass(frozen=True)
class _NOfM(Constraint):
    n: int
    m: int
    axis: int

    def require_fit(
        self, path: str, shape: tuple[int, ...], strength_shape: tuple[int, ...] = ()
    ) -> None:
        del strength_shape
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(
                f"axis {self.axis} does not exist in the parameter '{path}' of shape "
                f"{shape}. Choose an axis that it has, or leave it out with mask=."
            )
        if shape[self.axis] % self.m:
            raise ValueError(
                f"m must divide the axis, got m={self.m} for axis {self.axis} of the "
                f"parameter '{path}' of shape {shape}. Choose another axis or m, or "
                "leave it out with mask=."
            )

    def inside(
        self, arrays: Sequence[Tensor], slack: float, wholes: Sequence[Tensor]
    ) -> Tensor:
        del slack
        self._require_whole_blocks(wholes)
        return ~any_of([self._counts(x) > self.n for x in arrays], wholes)

    def project(
        self,
        arrays: Sequence[Tensor],
        metrics: Sequence[Tensor],
        wholes: Sequence[Tensor],
    ) -> list[Tensor]:
        self._require_whole_blocks(wholes)
        marks = [self._largest(score) for score in _scores(arrays, metrics)]
        return [_kept(x, mark) for x, mark in zip(arrays, marks, strict=True)]

    def distances(
        self,
        arrays: Sequence[Tensor],
        grads: Sequence[Tensor],
        slack: float,
        wholes: Sequence[Tensor],
    ) -> list[Tensor]:
        del slack, wholes
        distances = []
        for x, grad in zip(arrays, grads, strict=True):
            blocks = self._blocks(x)
            full = self._counts(x) >= self.n
            off = ((blocks == 0) & full).reshape(x.shape)
            distances.append(torch.where(off, 0, grad.abs()))
        return distances

    def _largest(self, score: Tensor) -> Tensor:
        """Mark the n largest of each block, comparing each with the others."""
        keys, axis = self._blocks(order_keys(score)), self._axis(score)
        place = torch.arange(self.m, device=keys.device)
        place = place.view(-1, *[1] * (keys.dim() - axis - 1))
        rank = torch.zeros_like(keys, dtype=torch.int32)
        for turn in range(1, self.m):
            other = keys.roll(-turn, axis)
            # Of equals the first wins: of those compared, the ones that wrap round.
            rank += (other > keys) | ((other == keys) & (place + turn >= self.m))
        return (rank < self.n).reshape(score.shape)

    def _counts(self, x: Tensor) -> Tensor:
        return torch.sum(self._blocks(x) != 0, dim=self._axis(x), keepdim=True)

    def _blocks(self, x: Tensor) -> Tensor:
        before, after = x.shape[: self._axis(x)], x.shape[self._axis(x) :]
        return x.reshape(*before[:-1], before[-1] // self.m, self.m, *after)

    def _axis(self, x: Tensor) -> int:
        """Return the axis of the members of a block, next to that of the blocks."""
        return self.axis % x.dim() + 1

    def _require_whole_blocks(self, wholes: Sequence[Tensor]) -> None:
        for x in wholes:
            axis = self.axis % x.dim()
            size = x.shape[axis]
            for i, placement in enumerate(getattr(x, "placements", ())):
                if not placement.is_shard(axis):
                    continue
                size = math.ceil(size / x.device_mesh.size(i))
                if size % self.m:
                    raise ValueError(
                        f"m={self.m} must divide the shards of axis {self.axis}, got a "
                        f"DTensor of shape {tuple(x.shape)} with placements "
                        f"{x.placements}. Shard another axis, or leave the parameter "
                        "out with mask=."
                    )


def top_k(k: int, *, scope: str = "array") -> Penalty:
    """Return the constraint that at most `k` elements are not zero.

    Its prox keeps the `k` largest `|x_i|` as they are and makes the others 0; with an
    array of thresholds t, the largest `x_i^2 / t_i`, compared as rounded numbers
    `|x_i| / sqrt(t_i)`. Of equals the first are kept, in both frameworks: leaves in
    their order, elements in C order. NaN counts as the largest and stays NaN.

    The set is not convex. Followed by gradient steps this is iterative hard
    thresholding (Blumensath and Davies, 2009), whose fixed points depend on the step
    size. The optimality distance is that of the limiting normal cone: `|grad|` on the
    support, and 0 off it once `k` elements are in use.

    The k-th largest is found exactly by counting, in 31 passes for single precision and
    63 for double; equal numbers cost one more for each bit of the number of elements.

    Args:
      k: how many to keep, a Python int >= 0; beyond the size all are kept.
      scope: "array": `k` of each array. "tree": `k` of all together.

    Raises:
      TypeError: `k` is not an int.
      ValueError: `k` is negative; `scope` is neither of the two.

    Example:
      >>> top_k(2).prox(torch.tensor([3.0, -0.5, -2.0]), 1.0)
      tensor([ 3.,  0., -2.])
    """
    return _TopK(
        check_int("k", k, "one such as 2", least=0),
        check_choice("scope", scope, SCOPES),
    )


def n_of_m(n: int = 2, m: int = 4, axis: int = -1) -> Penalty:
    """Return the constraint that at most `n` of every `m` neighbours are not zero.

    2:4 is the pattern that GPUs multiply faster (Mishra et al., 2021); they want it
    along the inputs: the last axis of a torch kernel, `axis=-2` of a JAX one.

    Its prox keeps the `n` largest `|x_i|` of each block of `m` consecutive elements, by
    comparing each with the others: `m` passes. Metric, equals, NaN and optimality
    distance are those of `top_k`, within each block. The set is not convex.

    Args:
      n: how many to keep, from 0 to `m`.
      m: the size of a block, >= 1. It must divide the axis.
      axis: the axis along which blocks lie.

    Raises:
      TypeError: an argument is not an int.
      ValueError: `n` or `m` is out of range; later, an array has no such axis or `m`
        does not divide it.

    Example:
      >>> n_of_m(1, 2).prox(torch.tensor([3.0, -0.5, -2.0, 2.0]), 1.0)
      tensor([ 3.,  0., -2.,  0.])
    """
    m = check_int("m", m, "one such as 4")
    n = check_int("n", n, "one such as 2", least=0)
    if n > m:
        raise ValueError(
            f"n must be at most m, got n={n} of m={m}. Pass n_of_m(2, 4) to keep two "
            "of every four."
        )
    axis = check_int("axis", axis, "an axis such as -1", least=None)
    return _NOfM(n, m, axis)


def _scores(arrays: Sequence[Tensor], metrics: Sequence[Tensor]) -> list[Tensor]:
    """Return what a zero would cost, as a root: squares would underflow."""
    return [x.abs() / t.sqrt() for x, t in zip(arrays, metrics, strict=True)]


def _kept(x: Tensor, mark: Tensor) -> Tensor:
    return torch.where(mark | x.isnan(), x, 0)
