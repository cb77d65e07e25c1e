"""The prox behind an optimizer's step: thresholds by its state, applied in place."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from l1torch.numerics.blocks import joined, sampled
from l1torch.numerics.checks import as_number
from l1torch.numerics.elementwise import Number, compute_dtype, shape_of
from l1torch.numerics.second_moments import (
    SecondMomentRoot,
    ratios_by_root,
    soft_threshold_by_root_,
)
from l1torch.numerics.sharding import local
from l1torch.parameters.trees import Group
from l1torch.penalties.base import Penalty
from l1torch.thresholds.cumulative import BUDGETS, cumulative_prox_
from l1torch.thresholds.effective_steps import (
    EffectiveStep,
    OptimizerClass,
    State,
    effective_step,
    is_lazy,
)
from l1torch.thresholds.metrics import (
    Metric,
    RootThreshold,
    Threshold,
    threshold_blocks,
    threshold_of,
)
from l1torch.wrappers.blockwise_steps import (
    Pack,
    parts,
    scalar_step,
    tensor_step,
    widened,
)


class Piece(NamedTuple):
    """What is thresholded at once: a whole parameter, or a part of one."""

    x: Tensor
    state: State
    step: EffectiveStep
    strength: Number


@dataclasses.dataclass(frozen=True)
class InPlaceProx:
    """How the prox of a penalty is applied to an optimizer's parameters."""

    known: OptimizerClass | None
    """The class whose step is registered; None for the learning rate alone."""
    penalty: Penalty
    metric: Metric
    max_ratio: float
    window: float
    fused: bool

    @property
    def elementwise(self) -> bool:
        """Whether a threshold depends on its own element of the state alone."""
        return self.known is None or self.metric != "tensor"

    def apply_(self, pack: Pack, strength: Number) -> None:
        """Apply the prox of a separable penalty: the step, the threshold, the prox."""
        if self.window != 1:
            self._apply_cumulative_(pack, strength)
            return
        if self._is_one_kernel:
            threshold = self._common_threshold(pack, strength)
            for param in pack.params:
                apply_threshold_(self.penalty, param.detach(), threshold)
            return
        x, state = pack.read()
        for piece in self._pieces(x, state, strength, pack.group):
            threshold = self._threshold(piece.step, piece.strength, x.dtype)
            apply_threshold_(self.penalty, piece.x, threshold, compiled=self.fused)
        pack.write(x, state)

    def thresholds(self, pack: Pack, strength: Number) -> list[Number]:
        """Return the thresholds of a penalty that needs all of a parameter at once."""
        param, state = pack.read()
        step = self._common_step(param, state, pack.group)
        if step is None:
            step = effective_step(self.known, widened(param, state), pack.group)
        threshold = self._threshold(step, strength, param.dtype)
        if isinstance(threshold, RootThreshold):
            threshold = threshold.tensor()
        return pack.cut(threshold)

    def ratios(self, pack: Pack, every: int = 1) -> Iterator[Tensor]:
        """Yield, in parts, the strength that makes each weight zero under L1.

        Each part is `sampled`.
        """
        param, state = pack.read()
        for piece in self._pieces(param, state, strength=1.0, group=pack.group):
            yield from self._ratios(piece, every)

    def zeros(self, pack: Pack, strength: Number) -> Tensor:
        """Count, in this process's shard, what the prox would make zero."""
        if not self.penalty.separable:
            rows = [
                (member.name, member.param.detach(), threshold)
                for member, threshold in zip(
                    pack.members, self.thresholds(pack, strength), strict=True
                )
            ]
            return (joined(map(local, self.penalty.tree_prox(rows))) == 0).sum()
        param, state = pack.read()
        counts = []
        for piece in self._pieces(param, state, strength, pack.group):
            threshold = self._threshold(piece.step, piece.strength, param.dtype)
            for x, part_threshold in threshold_blocks(piece.x, threshold):
                counts.append((self.penalty.prox(x, part_threshold) == 0).sum())
        return torch.stack(counts).sum()

    def _pieces(
        self, param: Tensor, state: State, strength: Number, group: Group
    ) -> Iterator[Piece]:
        """Yield a parameter with its step: at once where that takes no memory."""
        step = self._common_step(param, state, group)
        if self.window == 1 and not shape_of(strength):
            if step is None and is_lazy(self.known, state, group):
                step = effective_step(self.known, state, group)
            if step is not None:
                yield Piece(param, state, step, strength)
                return
        for part in parts(param, state, strength):
            part_step = step or effective_step(self.known, part.state, group)
            yield Piece(part.x, part.state, part_step, part.strength)

    def _common_step(
        self, param: Tensor, state: State, group: Group
    ) -> EffectiveStep | None:
        """Return the step that all elements have in common, if the settings ask so."""
        if self.known is None:
            return EffectiveStep(as_number(group["lr"]))
        if self.metric == "coordinate":
            return None
        one_step = tensor_step if self.metric == "tensor" else scalar_step
        return one_step(self.known, param, state, group)

    @property
    def _is_one_kernel(self) -> bool:
        """Whether a number is all that the soft threshold of joined parameters needs.

        One kernel for each of them is quicker than copies then.
        """
        by_number = self.known is None or self.metric == "none"
        return by_number and self.penalty.prox_is_soft_threshold

    def _common_threshold(self, pack: Pack, strength: Number) -> Threshold:
        member = pack.members[0]
        step = self._common_step(member.param.detach(), member.state, pack.group)
        return self._threshold(step, strength, member.param.dtype)

    def _apply_cumulative_(self, pack: Pack, strength: Number) -> None:
        """Apply the prox by what has accumulated over a window, see `cumulative`."""
        for member in pack.members:
            for key in BUDGETS:
                if key not in member.state:
                    dtype = compute_dtype(member.param.dtype)
                    member.state[key] = torch.zeros_like(member.param, dtype=dtype)
        x, state = pack.read()
        for piece in self._pieces(x, state, strength, pack.group):
            threshold = self._threshold(piece.step, piece.strength, x.dtype)
            if isinstance(threshold, RootThreshold):
                threshold = threshold.tensor()
            plus, minus = (piece.state[key] for key in BUDGETS)
            cumulative_prox_(piece.x, threshold, plus, minus, self.window)
        pack.write(x, state, BUDGETS)

    def _ratios(self, piece: Piece, every: int) -> Iterator[Tensor]:
        step = piece.step
        if isinstance(step.denominator, SecondMomentRoot):
            quick = ratios_by_root(piece.x, step.denominator, step.scale, every)
            if quick is not None:
                yield from quick
                return
        dtype = compute_dtype(piece.x.dtype)
        unit = self._threshold(step, 1.0, piece.x.dtype)
        if not isinstance(unit, Tensor | RootThreshold):
            unit = torch.full((), unit, dtype=dtype, device=piece.x.device)
        for x, part_unit in threshold_blocks(piece.x, unit):
            if shape_of(part_unit):
                yield sampled((x.to(dtype) / part_unit).abs_(), every)
            else:
                yield (sampled(x, every).to(dtype) / part_unit).abs_()

    def _threshold(
        self, step: EffectiveStep, strength: Number, dtype: torch.dtype
    ) -> Threshold:
        return threshold_of(
            step,
            strength,
            metric=self.metric,
            max_ratio=self.max_ratio,
            least_slope=self.penalty.least_slope,
            dtype=compute_dtype(dtype),
        )


def apply_threshold_(
    penalty: Penalty, x: Tensor, threshold: Threshold, *, compiled: bool = False
) -> None:
    """Write the prox of a separable penalty into `x`, by the quickest way there is.

    Args:
      penalty: the penalty.
      x: a parameter, or a part of one.
      threshold: one that is to be worked out never is, as a whole.
      compiled: see `soft_threshold_by_root_`.
    """
    if not isinstance(threshold, RootThreshold):
        penalty.prox_(x, threshold)
        return
    root, pull, floor = threshold.root, threshold.pull, threshold.floor
    if penalty.prox_is_soft_threshold:
        shard = dataclasses.replace(root, second=local(root.second))
        if soft_threshold_by_root_(local(x), shard, pull, floor, compiled):
            return
    for part, part_threshold in threshold_blocks(x, threshold):
        penalty.prox_(part, part_threshold)
