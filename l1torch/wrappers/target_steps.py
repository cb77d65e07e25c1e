"""A step of `Proximal` towards a target sparsity."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from l1torch.numerics.elementwise import Number
from l1torch.numerics.sharding import local
from l1torch.parameters.sparsity import Control
from l1torch.parameters.trees import Group
from l1torch.strengths.targets import TargetSparsity
from l1torch.thresholds.target_control import (
    Row,
    initial_control,
    largest_kept,
    next_control,
)
from l1torch.wrappers.blockwise_steps import Member, Pack, packs
from l1torch.wrappers.in_place_prox import InPlaceProx
from l1torch.wrappers.param_groups import by_plain_name, plain_name
from l1torch.wrappers.penalised import Targets


def control_of(target: TargetSparsity, groups: Sequence[Group]) -> Control:
    """Gathers from the groups where the target stands.

    Groups that have a strength of their own have no count, and do not follow.
    """
    led = [group for group in groups if "l1_count" in group]
    if not led:
        return initial_control(target, [])
    strengths = [group["l1"] for group in led]
    strength = strengths[0]
    if all(isinstance(each, Mapping) for each in strengths):
        strength = {k: x for each in strengths for k, x in by_plain_name(each).items()}
    step = max(group["l1_count"] for group in led)
    return Control(strength, target.fraction(step), target.target)


class TargetStep:
    """Holds what a step must know of the parameters before it."""

    def __init__(self, target: TargetSparsity, targets: Targets) -> None:
        self.target = target
        self.fixed = [row for row in targets if "l1_count" not in row[0]]
        self.led = [row for row in targets if "l1_count" in row[0]]
        self.step = 1 + max((group["l1_count"] for group, _ in self.led), default=0)
        self.snap = target.snap_step or math.inf
        self.before: dict[Tensor, Tensor] = {}
        for _, chosen in self.led:
            for _, param, _ in chosen:
                if self.step > self.snap:
                    self.before[param] = local(param.detach()) == 0

    def take(
        self, shrinking: InPlaceProx, states: Any
    ) -> tuple[InPlaceProx, list[tuple[Pack, Number]]]:
        """Finds the strength after the optimizer's own step; prunes and freezes.

        Gives what is left to be shrunk, and how.
        """
        shrinking = dataclasses.replace(shrinking, max_ratio=math.inf)
        members = [
            Member(name, param, 0.0, states.get(param, {}), group)
            for group, chosen in self.led
            for name, param, _ in chosen
            if param.grad is not None
        ]
        together = shrinking.elementwise and self.target.scope == "global"
        found = packs(members, join=together)
        rows = [_row(shrinking, pack) for pack in found]
        control = control_of(self.target, [group for group, _ in self.led])
        control = next_control(self.target, shrinking.penalty, rows, self.step, control)
        params = [member.param for member in members]
        if self.step == self.snap:
            marks = largest_kept(self.target, params)
            for param, mark in zip(params, marks, strict=True):
                local(param.detach()).masked_fill_(~mark, 0)
        elif self.step > self.snap:
            for param in params:
                local(param.detach()).masked_fill_(self.before[param], 0)
        for group, _ in self.led:
            group["l1"] = _part(control.strength, group)
        if self.step >= self.snap:
            return shrinking, []
        return shrinking, [
            (pack, _entry(pack.group["l1"], pack.members[0].name)) for pack in found
        ]


def _row(shrinking: InPlaceProx, pack: Pack) -> Row:
    ratios = functools.partial(shrinking.ratios, pack)
    return Row(
        name=plain_name(pack.members[0].name),
        param=pack.params[0].detach(),
        size=sum(param.numel() for param in pack.params),
        ratios=ratios,
        zeros=functools.partial(shrinking.zeros, pack),
        sample=ratios,
    )


def _part(value: Any, group: Group) -> Any:
    """Gives a group its part: of a mapping, the entries of its names."""
    if not isinstance(value, Mapping):
        return value
    names = map(plain_name, group["param_names"])
    return {name: value.get(name, 0.0) for name in names}


def _entry(value: Any, name: str) -> Number:
    return value[plain_name(name)] if isinstance(value, Mapping) else value
