"""A step of `Proximal` towards a target sparsity."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from l1torch.numerics.elementwise import Number
from l1torch.numerics.sharding import local
from l1torch.parameters.sparsity import Control
from l1torch.parameters.trees import Group
from l1torch.strengths.targets import TargetSparsity
from l1torch.thresholds.effective_steps import State
from l1torch.thresholds.target_control import (
    Row,
    initial_control,
    largest_kept,
    next_control,
)
from l1torch.wrappers.blockwise_steps import Member, Pack, packs
from l1torch.wrappers.in_place_prox import InPlaceProx
from l1torch.wrappers.param_groups import (
    StrengthOfGroup,
    by_plain_name,
    group_strength,
    is_counted,
    plain_name,
    set_group_strength,
    steps_taken,
)
from l1torch.wrappers.penalised import PenalisedGroup, penalised_leaves


def control_of(target: TargetSparsity, groups: Sequence[Group]) -> Control:
    """Gather from the groups where the target stands.

    Groups that have a strength of their own have no count, and do not follow.
    """
    following = [group for group in groups if is_counted(group)]
    if not following:
        return initial_control(target, [])
    strengths = [group_strength(group) for group in following]
    strength = strengths[0]
    if all(isinstance(each, Mapping) for each in strengths):
        strength = {k: x for each in strengths for k, x in by_plain_name(each).items()}
    wanted = target.fraction(steps_taken(following))
    return Control(strength, wanted, target.target)


class PackStrength(NamedTuple):
    """Parameters that are treated as one, and the strength that the target asks of."""

    pack: Pack
    strength: Number


class TargetStep:
    """A step towards a target: made before the optimizer's own, applied after it."""

    def __init__(
        self, target: TargetSparsity, groups: Sequence[PenalisedGroup]
    ) -> None:
        self.target = target
        self.following = [each for each in groups if is_counted(each.group)]
        self.others = [each for each in groups if not is_counted(each.group)]
        """Groups with a strength of their own."""
        self.step = 1 + steps_taken([each.group for each in self.following])
        self.frozen: dict[Tensor, Tensor] = {}
        """Where each parameter is zero and stays so, once the target has pruned."""
        if target.snap_step is not None and self.step > target.snap_step:
            for leaf in penalised_leaves(self.following):
                self.frozen[leaf.param] = local(leaf.param.detach()) == 0

    def apply_(
        self, prox: InPlaceProx, states: Mapping[Tensor, State]
    ) -> list[PackStrength]:
        """Find the strength and keep it in the groups; prune or freeze, if it is time.

        Args:
          prox: how the prox is applied, without a cap: the ramp does its work.
          states: the optimizer's state, after its own step.

        Returns:
          What the prox is to be applied to: nothing once the target has pruned.
        """
        members = [
            Member(leaf.path, leaf.param, 0.0, states.get(leaf.param, {}), each.group)
            for each in self.following
            for leaf in each.leaves
            if leaf.param.grad is not None
        ]
        together = prox.elementwise and self.target.scope == "global"
        found = packs(members, join=together)
        control = next_control(
            self.target,
            prox.penalty,
            rows=[_row(prox, pack) for pack in found],
            step=self.step,
            control=control_of(self.target, [each.group for each in self.following]),
        )
        for group, _ in self.following:
            set_group_strength(group, _part(control.strength, group))
        snap_step = self.target.snap_step
        if snap_step is not None and self.step >= snap_step:
            self._hold_zeros([member.param for member in members])
            return []
        return [
            PackStrength(pack, _entry(group_strength(pack.group), pack.members[0].name))
            for pack in found
        ]

    def _hold_zeros(self, params: Sequence[Tensor]) -> None:
        """Prune to the target, or set to zero again what was zero before the step."""
        if self.step == self.target.snap_step:
            zeros = [~mark for mark in largest_kept(self.target, params)]
        else:
            zeros = [self.frozen[param] for param in params]
        for param, zero in zip(params, zeros, strict=True):
            local(param.detach()).masked_fill_(zero, 0)


def _row(prox: InPlaceProx, pack: Pack) -> Row:
    ratios = functools.partial(prox.ratios, pack)
    return Row(
        path=plain_name(pack.members[0].name),
        x=pack.params[0].detach(),
        size=sum(param.numel() for param in pack.params),
        ratios=ratios,
        zeros=functools.partial(prox.zeros, pack),
        sample=ratios,
    )


def _part(strength: StrengthOfGroup, group: Group) -> StrengthOfGroup:
    """Return a group's part: of a mapping, the entries of its names."""
    if not isinstance(strength, Mapping):
        return strength
    names = map(plain_name, group["param_names"])
    return {name: strength.get(name, 0.0) for name in names}


def _entry(strength: StrengthOfGroup, name: str) -> Number:
    if isinstance(strength, Mapping):
        return strength[plain_name(name)]
    return strength
