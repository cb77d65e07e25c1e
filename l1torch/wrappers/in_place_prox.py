"""The prox behind an optimizer's step: thresholds by its state, applied in place."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from l1torch.numerics.blocks import blocks, joined, sampled
from l1torch.numerics.checks import as_number
from l1torch.numerics.elementwise import Number, compute_dtype, product
from l1torch.numerics.second_moments import ratios_by_root, shrink_by_root_
from l1torch.numerics.sharding import local
from l1torch.parameters.trees import Group
from l1torch.penalties.base import Penalty
from l1torch.thresholds.cumulative import BUDGETS, cumulative_prox_
from l1torch.thresholds.effective_steps import EffectiveStep, step_size_of
from l1torch.thresholds.metrics import Metric, floor_of, threshold_of
from l1torch.wrappers.blockwise_steps import (
    Pack,
    State,
    divides_by_root,
    parts,
    scalar_step,
    tensor_step,
    whole,
)


@dataclasses.dataclass(frozen=True)
class InPlaceProx:
    """How an optimizer's parameters are shrunk."""

    known: type[torch.optim.Optimizer] | None
    """The class that tells of its step; None for the learning rate alone."""
    penalty: Penalty
    metric: Metric
    max_ratio: float
    window: float
    fused: bool

    @property
    def elementwise(self) -> bool:
        """Whether a threshold depends on its own element of the state alone."""
        return self.known is None or self.metric != "tensor"

    def shrink_(self, pack: Pack, strength: Number) -> None:
        """Applies the prox of a separable penalty."""
        keys = BUDGETS if self.window != 1 else ()
        for _, param, _, state, _ in pack.members:
            for key in set(keys) - set(state):
                dtype = compute_dtype(param.dtype)
                state[key] = torch.zeros_like(param, dtype=dtype)
        if self._shrink_by_number(pack, strength):
            return
        param, state = pack.read()
        self._shrink(param, state, strength, pack.group)
        pack.write(param, state, keys)

    def thresholds(self, pack: Pack, strength: Number) -> list[Number]:
        """Gives thresholds for a penalty that needs all of a parameter at once."""
        param, state = pack.read()
        step = self._step_of(param, state, pack.group)
        if step is None:
            step = step_size_of(self.known)(whole(param, state), pack.group)
        return pack.cut(self._threshold(step, strength, param.dtype))

    def _shrink(
        self, param: Tensor, state: State, strength: Number, group: Group
    ) -> None:
        step = self._step_of(param, state, group)
        if step is not None and self.window == 1:
            threshold = self._threshold(step, strength, param.dtype)
            self.penalty.prox_(param, threshold)
            return
        if self._shrink_by_root(param, state, strength, group):
            return
        for x, part, part_strength in parts(param, state, strength):
            part_step = step or step_size_of(self.known)(part, group)
            threshold = self._threshold(part_step, part_strength, param.dtype)
            if self.window == 1:
                self.penalty.prox_(x, threshold)
            else:
                cumulative_prox_(
                    x, threshold, *(part[key] for key in BUDGETS), self.window
                )

    def ratios(self, pack: Pack, every: int = 1) -> Iterator[Tensor]:
        """Yields, in parts, the strength that makes each weight zero under L1.

        Each part is `sampled`.
        """
        (param, state), group = pack.read(), pack.group
        dtype = compute_dtype(param.dtype)
        step = self._step_of(param, state, group)
        if step is not None:
            unit = self._threshold(step, 1.0, param.dtype)
            if not isinstance(unit, Tensor):
                unit = torch.full((), unit, dtype=dtype, device=param.device)
            for (x,) in blocks(param):
                yield (sampled(x, every).to(dtype) / unit).abs_()
            return
        if divides_by_root(step_size_of(self.known), param, state, group):
            root_step = step_size_of(self.known)(state, group)
            quick = ratios_by_root(param, root_step.denominator, root_step.scale, every)
            if quick is not None:
                yield from quick
                return
        for x, part, _ in parts(param, state, 0.0):
            unit = self._threshold(step_size_of(self.known)(part, group), 1.0, x.dtype)
            yield sampled((x.to(dtype) / unit).abs_(), every)

    def zeros(self, pack: Pack, strength: Number) -> Tensor:
        """Counts, in this process's shard, what the prox would make zero."""
        if not self.penalty.separable:
            rows = [
                (member.name, member.param.detach(), threshold)
                for member, threshold in zip(
                    pack.members, self.thresholds(pack, strength), strict=True
                )
            ]
            return (joined(map(local, self.penalty.tree_prox(rows))) == 0).sum()
        (param, state), group = pack.read(), pack.group
        step = self._step_of(param, state, group)
        counts = []
        for x, part, _ in parts(param, state, 0.0):
            part_step = step or step_size_of(self.known)(part, group)
            threshold = self._threshold(part_step, strength, param.dtype)
            counts.append((self.penalty.prox(x, threshold) == 0).sum())
        return torch.stack(counts).sum()

    def _step_of(
        self, param: Tensor, state: State, group: Group
    ) -> EffectiveStep | None:
        """Gives the step that is one for the whole parameter, if there is one."""
        if self.known is None:
            return EffectiveStep(as_number(group["lr"]))
        if self.metric == "coordinate":
            return None
        one_step = tensor_step if self.metric == "tensor" else scalar_step
        return one_step(step_size_of(self.known), param, state, group)

    def _shrink_by_number(self, pack: Pack, strength: Number) -> bool:
        """Takes one kernel for each parameter, which beats copies, if it is enough."""
        if self.window != 1 or not self.penalty.prox_is_soft_threshold:
            return False
        _, param, _, state, group = pack.members[0]
        step = self._step_of(param, state, group)
        if step is None:
            return False
        threshold = self._threshold(step, strength, param.dtype)
        for each in pack.params:
            self.penalty.prox_(each.detach(), threshold)
        return True

    def _shrink_by_root(
        self, param: Tensor, state: State, strength: Number, group: Group
    ) -> bool:
        """Takes the quick way from Adam's second moments to the prox, if it is open."""
        if self.metric != "coordinate" or self.known is None:
            return False
        if self.window != 1 or not self.penalty.prox_is_soft_threshold:
            return False
        if isinstance(strength, Tensor) and strength.dim() > 0:
            return False
        step_size = step_size_of(self.known)
        if not divides_by_root(step_size, param, state, group):
            return False  # other denominators would be worked out whole
        shards = {k: local(v) if isinstance(v, Tensor) else v for k, v in state.items()}
        step = step_size(shards, group)
        dtype = compute_dtype(param.dtype)
        pull = product(step.scale, strength, dtype)
        floor = floor_of(
            strength, step.reach, self.max_ratio, self.penalty.least_slope, dtype
        )
        return shrink_by_root_(local(param), step.denominator, pull, floor, self.fused)

    def _threshold(
        self, step: EffectiveStep, strength: Number, dtype: torch.dtype
    ) -> Number:
        return threshold_of(
            step,
            strength,
            self.metric,
            self.max_ratio,
            self.penalty.least_slope,
            compute_dtype(dtype),
        )
