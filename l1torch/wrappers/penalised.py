"""What the penalised optimizers share: strengths in the groups, a penalty, a mask."""

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from l1torch.numerics.checks import as_number
from l1torch.numerics.elementwise import Number, shape_of
from l1torch.parameters.masks import Mask, selected
from l1torch.parameters.trees import (
    Group,
    describe,
    named_leaves,
    require_dense,
    require_real_floating,
)
from l1torch.penalties.base import Penalty, require_fit
from l1torch.strengths.targets import TargetSparsity
from l1torch.strengths.values import (
    PenalisedLeaf,
    Schedule,
    check_strength,
    is_schedule,
    schedule_value,
)
from l1torch.thresholds.target_control import initial_control
from l1torch.wrappers.delegating import DelegatingOptimizer, eager, require_param_group
from l1torch.wrappers.param_groups import (
    all_params,
    by_plain_name,
    count_step,
    group_strength,
    has_own_strength,
    is_counted,
    named_params,
    set_group_strength,
    set_steps_taken,
    steps_taken,
    strength_settings,
    strengths_of,
)


class PenalisedGroup(NamedTuple):
    """The penalised parameters of a group, with their strengths at this step."""

    group: Group
    leaves: list[PenalisedLeaf]


def penalised_leaves(groups: Iterable[PenalisedGroup]) -> Iterator[PenalisedLeaf]:
    """Iterate over the penalised parameters of all groups."""
    return (leaf for group in groups for leaf in group.leaves)


class PenalisedOptimizer(DelegatingOptimizer):
    """Add to a base optimizer a strength in its groups, a penalty and a mask."""

    _kept = (
        *DelegatingOptimizer._kept,
        "penalty",
        "mask",
        "_strength",
        "_penalised",
        "_initial",
    )

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        strength: Number | Schedule | Mapping[str, Number] | TargetSparsity,
        penalty: Penalty,
        mask: Mask,
    ) -> None:
        super().__init__(optimizer)
        if not isinstance(strength, TargetSparsity):
            check_strength(strength)
        if isinstance(strength, Mapping) and any(map(is_schedule, strength.values())):
            raise TypeError(
                f"strength must map names to numbers, got a schedule in {strength!r}. "
                "Pass one schedule, or change param_groups[i]['l1'] as you go."
            )
        self.penalty = penalty
        self.mask = mask
        self._strength = strength
        params = dict(named_leaves(all_params(self.param_groups)))
        if isinstance(strength, TargetSparsity) and strength.scope == "array":
            by_plain_name(params)  # raises if two of them would be one
        if isinstance(strength, Mapping):
            strength = self._strength = by_plain_name(strength)
            if unknown := sorted(strength.keys() - by_plain_name(params).keys()):
                raise ValueError(
                    f"strength names {unknown}, which the optimizer does not have; it "
                    f"has {describe(list(params.items()))}. Build it from "
                    "model.named_parameters() and use these names."
                )
        self._penalised = self._select()
        self._initial = [self._settings(group) for group in self.param_groups]
        for group, settings, flags in zip(
            self.param_groups, self._initial, self._penalised, strict=True
        ):
            self._require_fit(group | settings, flags)
        for group, settings in zip(self.param_groups, self._initial, strict=True):
            set_steps_taken(group, None)  # those of an earlier wrapper
            group.update(copy.deepcopy(settings))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.optimizer!r}, penalty={self.penalty!r})"

    def add_param_group(self, param_group: Group) -> None:
        """Add a group to the base optimizer; its key `l1` overrides the strength."""
        require_param_group(param_group)
        self.optimizer.add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            penalised = self._select()
            settings = self._settings(group)
            self._require_fit(group | settings, penalised[-1])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        group.update(copy.deepcopy(settings))
        if is_counted(group):  # later groups join the schedule where it is now
            set_steps_taken(group, steps_taken(self.param_groups))
        self._penalised = penalised
        self._initial.append(settings)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this optimizer, or one of the base saved without it.

        The strengths saved in it are taken over; where it has none, those of the
        constructor come back. A schedule goes on from the count saved in it, or from 0.
        """
        super().load_state_dict(state_dict)
        for group, settings in zip(self.param_groups, self._initial, strict=True):
            for key, value in copy.deepcopy(settings).items():
                group.setdefault(key, value)

    def _select(self) -> list[list[bool]]:
        """Evaluate the mask: a bool for each parameter of each group."""
        params = all_params(self.param_groups)
        flags = selected(self.mask, params)
        for (name, param), penalised in zip(named_leaves(params), flags, strict=True):
            if penalised:
                require_real_floating(name, param)
        rest = iter(flags)
        return [[next(rest) for _ in group["params"]] for group in self.param_groups]

    def _settings(self, group: Group) -> Group:
        """Return what a group lacks: its own strength or the constructor's, checked."""
        if has_own_strength(group):
            settings = strength_settings(group_strength(group), default=False)
        elif isinstance(self._strength, Mapping):
            names = by_plain_name(dict(named_params(group)))
            own = {n: as_number(v) for n, v in self._strength.items() if n in names}
            settings = strength_settings(own)
        elif isinstance(self._strength, TargetSparsity):
            names = by_plain_name(dict(named_params(group)))
            first = initial_control(self._strength, list(names)).strength
            settings = strength_settings(first, counted=True)
        elif is_schedule(self._strength):
            first = as_number(schedule_value("strength", self._strength, 0))
            settings = strength_settings(first, counted=True)
        else:
            settings = strength_settings(as_number(self._strength))
        strengths_of(group | settings)
        return settings

    def _require_fit(self, group: Group, flags: list[bool]) -> None:
        rows = zip(named_params(group), strengths_of(group), strict=True)
        for (name, param), strength in itertools.compress(rows, flags):
            require_fit(self.penalty, name, param, strength)

    def _penalised_groups(self) -> list[PenalisedGroup]:
        """Read the strengths of this step, and list what they penalise, by group.

        All that can be wrong with a step raises here, before anything moves.
        """
        sizes = [len(group["params"]) for group in self.param_groups]
        if sizes != [len(flags) for flags in self._penalised]:
            raise ValueError(
                f"param_groups must be those that the wrapper knows, got {sizes} "
                f"parameters instead of {[len(flags) for flags in self._penalised]}. "
                "Add groups through the wrapper's add_param_group."
            )
        scheduled = self._scheduled()
        found = []
        for i, (group, flags) in enumerate(
            zip(self.param_groups, self._penalised, strict=True)
        ):
            now = dict(group)
            if i in scheduled:
                set_group_strength(now, scheduled[i])
            rows = zip(named_params(group), strengths_of(now), strict=True)
            leaves = [
                PenalisedLeaf(name, param, strength)
                for (name, param), strength in itertools.compress(rows, flags)
            ]
            found.append(PenalisedGroup(group, leaves))
        for leaf in penalised_leaves(found):
            if shape_of(leaf.strength):  # scalars were checked when built
                require_fit(self.penalty, leaf.path, leaf.param, leaf.strength)
        self._require_dense_gradients()
        for i, strength in scheduled.items():
            set_group_strength(self.param_groups[i], strength)
        return found

    def _scheduled(self) -> dict[int, Number]:
        """Return what a schedule says now, by the position of the groups that follow.

        It is called once for each count that the groups are at.
        """
        if not is_schedule(self._strength):
            return {}
        counts = {
            i: steps_taken([group])
            for i, group in enumerate(self.param_groups)
            if is_counted(group)
        }
        values = {
            count: as_number(schedule_value("strength", self._strength, count))
            for count in {*counts.values()}
        }
        return {i: values[count] for i, count in counts.items()}

    def _require_dense_gradients(self) -> None:
        for group, flags in zip(self.param_groups, self._penalised, strict=True):
            for param in itertools.compress(group["params"], flags):
                grad = param.grad
                if grad is not None and grad.layout is not torch.strided:
                    names = [name for name, p in named_params(group) if p is param]
                    require_dense(f"the gradient of '{names[0]}'", grad)

    @eager
    def _count_step(self) -> None:
        for group in self.param_groups:
            count_step(group)
