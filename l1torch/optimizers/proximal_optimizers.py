"""Proximal optimizers: the optimizer you have, with the threshold that is its own."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from l1torch.numerics.checks import check_choice, check_flag
from l1torch.numerics.elementwise import Number, compute_dtype
from l1torch.parameters.masks import Mask, weights_only
from l1torch.parameters.sparsity import Control
from l1torch.parameters.trees import Group
from l1torch.penalties.base import Penalty, require_penalty
from l1torch.penalties.separable import l1
from l1torch.strengths.targets import TargetSparsity
from l1torch.strengths.values import Schedule
from l1torch.thresholds.cumulative import BUDGETS, check_window
from l1torch.thresholds.effective_steps import (
    State,
    check_momentum,
    check_rate,
    check_state_dict,
    known_class,
)
from l1torch.thresholds.metrics import Metric, check_max_ratio, check_metric
from l1torch.thresholds.target_control import check_target
from l1torch.wrappers.blockwise_steps import Member, packs
from l1torch.wrappers.delegating import (
    eager,
    require_closure,
    require_optimizer,
    require_state_dict,
)
from l1torch.wrappers.in_place_prox import InPlaceProx
from l1torch.wrappers.penalised import (
    PenalisedGroup,
    PenalisedOptimizer,
    penalised_leaves,
)
from l1torch.wrappers.target_steps import PackStrength, TargetStep, control_of

Closure = Callable[[], Tensor | float]


class Proximal(PenalisedOptimizer):
    """Make an optimizer minimise `loss + strength * penalty`, with exact zeros.

    After each step of the base it applies the penalty's prox to the parameters, in
    place. The threshold is the step that this optimizer really takes, weight by weight,
    times the strength: `lr * min(strength / (sqrt(v_hat) + eps), max_ratio)` for Adam,
    `lr * strength * (1 - dampening) / (1 - momentum)` for SGD. Known are SGD, Adam,
    AdamW, NAdam, RMSprop, Adagrad, Adadelta, Adamax and RAdam of `torch.optim`, and
    classes derived from them that keep their `step`; tell `register_step_size` of
    others. Let nothing scale, clip or average the parameters afterwards, as
    `torch.optim.swa_utils` does: the zeros would be lost. Clip gradients before `step`.

    Learning rates and hyperparameters are read at every step, so that schedulers act on
    both. What each metric minimises, the first steps, momentum and minibatch noise are
    explained in `l1jax/optimizers/README.md`, for both libraries.

    Args:
      optimizer: the base, built from `model.named_parameters()`; from bare parameters
        the default mask takes those of two or more dimensions. Use the wrapper in its
        place from here on: a step that the base takes alone is warned of. A parameter
        whose gradient is `None` is skipped.
      strength: lambda, per unit of the loss: a number or tensor >= 0, a schedule (step
        count, from 0, to number), a mapping from parameter names to numbers, or a
        `target_sparsity`, which finds the strength. It is kept in
        `param_groups[i]["l1"]`, where it may differ between groups and, unless it
        follows a schedule or target, be changed at any time; the state dict saves it. A
        group that has the key already keeps its own. Names are kept without what
        wrappers of the model add to them, such as `module.` of DDP and `_orig_mod.` of
        compile: a checkpoint fits the bare model and the wrapped one.
      penalty: the penalty, of unit strength, one for all groups; `metric="coordinate"`
        needs one whose prox takes a threshold for each weight, see
        `Penalty.takes_metric`.
      mask: the parameters to penalise, see `weights_only`; `None` for all.
      metric: `"coordinate"` for the objective as written, `"tensor"` for one step size
        in each parameter, `"none"` for a decoupled threshold `lr * strength`, times the
        gain of the momentum.
      max_ratio: a cap for the first steps, a number above 1; `math.inf` for none. It
        does not act on optimizers without a denominator, nor under `metric="none"` or a
        target.
      window: the steps over which the penalty may accumulate, a whole number >= 1, or
        `math.inf`; 1 is the ordinary prox. 10 to 100 keep more zeros under minibatch
        noise, at the price of two tensors of the parameters' size; `l1()` only.
      step_size: `"optimizer"`, or `"learning_rate"` for the decoupled form of any
        optimizer whatever: the threshold is `lr * strength`, which after momentum m has
        the effect of a penalty of strength `(1 - m) * strength`, and after Adam is not
        the Lasso. `max_ratio` then has no effect.
      fused: compile the prox of `l1()` under `metric="coordinate"` to one kernel by
        `torch.compile`, where the optimizer's denominator is a root of its second
        moments (Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad). It needs a C++ compiler
        on CPU or Triton on a GPU and some seconds at the first step; where it does not
        apply, it changes nothing.

    Raises:
      TypeError: not an optimizer, or already wrapped, or one whose step is not known; a
        strength or learning rate that is not a number; a window that is no whole
        number; a complex or integer parameter; at `step`, a sparse gradient.
      ValueError: a number outside its range, such as momentum outside [0, 1); a
        strength or mask that does not fit, or selects nothing; an unknown `metric` or
        `step_size`; a penalty that metric or window cannot take, or one in a parameter
        group; at `load_state_dict`, a checkpoint of another kind of optimizer.

    Example:
      >>> model = torch.nn.Linear(3, 1)
      >>> base = torch.optim.Adam(model.named_parameters(), lr=1e-3)
      >>> optimizer = Proximal(base, strength=1e-4)
    """

    _kept = (
        *PenalisedOptimizer._kept,
        "metric",
        "max_ratio",
        "window",
        "step_size",
        "fused",
        "_known",
    )

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        strength: Number | Schedule | Mapping[str, Number] | TargetSparsity,
        *,
        penalty: Penalty = l1(),
        mask: Mask = weights_only,
        metric: Metric = "coordinate",
        max_ratio: float = 10.0,
        window: float = 1,
        step_size: Literal["optimizer", "learning_rate"] = "optimizer",
        fused: bool = False,
    ) -> None:
        require_penalty(penalty)
        require_optimizer(optimizer)
        check_choice("step_size", step_size, ("optimizer", "learning_rate"))
        check_flag("fused", fused)
        max_ratio = check_max_ratio(max_ratio)
        window = check_window(window, penalty)
        if isinstance(strength, TargetSparsity):
            check_target(strength, penalty, window)
        self._known = None
        if step_size == "optimizer":
            check_metric(metric, penalty)
            self._known = known_class(optimizer)
        elif metric != "coordinate":
            raise ValueError(
                f"metric must not be given with step_size='learning_rate', got "
                f"{metric!r}. Pass one of the two."
            )
        self.metric = metric
        self.max_ratio = max_ratio
        self.window = window
        self.step_size = step_size
        self.fused = fused
        super().__init__(optimizer, strength, penalty, mask)

    @property
    def control(self) -> Control | None:
        """Where a target sparsity stands, see `Control`; None without one."""
        if not isinstance(self._strength, TargetSparsity):
            return None
        return control_of(self._strength, self.param_groups)

    def __repr__(self) -> str:
        text, control = super().__repr__(), self.control
        return f"{text[:-1]}, control={control!r})" if control else text

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this optimizer, or one of the base saved without it.

        The strengths saved in it are taken over; where it has none, those of the
        constructor come back. A schedule goes on from the count saved in it, or from 0.

        Raises:
          ValueError: a state dict of another kind of optimizer, before it is loaded.
        """
        loaded = state_dict

        def look(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
            nonlocal loaded
            loaded = state_dict
            require_state_dict(state_dict)
            if self._known is not None:
                check_state_dict(optimizer, self._known, state_dict)

        # A hook that is registered last sees what the user's own hooks have made of the
        # state dict, before anything is loaded.
        handle = self.optimizer.register_load_state_dict_pre_hook(look)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        # torch has cast the budgets to the parameter's dtype: take them anew.
        for group, saved in zip(self.param_groups, loaded["param_groups"], strict=True):
            for param, index in zip(group["params"], saved["params"], strict=True):
                state = loaded["state"].get(index, {})
                for key in set(BUDGETS) & set(state):
                    dtype = compute_dtype(param.dtype)
                    self.state[param][key] = state[key].to(
                        param.device, dtype, copy=True
                    )

    def _settings(self, group: Group) -> Group:
        self._check_group(group)
        return super()._settings(group)

    def _check_group(self, group: Group) -> None:
        if group.get("penalty", self.penalty) != self.penalty:
            raise ValueError(
                f"penalty must be one for all parameter groups, got "
                f"{group['penalty']!r} in a group and {self.penalty!r}. Wrap one "
                "optimizer for each penalty."
            )
        check_rate(group)
        if self._known is not None:
            check_momentum(group)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor | float | None:
        """Take one step; return the closure's loss, if there is a closure."""
        require_closure(closure)
        groups, target_step = self._begin(with_gradients=closure is None)
        if closure is None:
            loss = self._step_base()
        else:

            def checked() -> Any:
                with torch.enable_grad():
                    loss = closure()
                self._check_gradients(groups)
                return loss

            loss = self._step_base(checked)
        self._finish(groups, target_step)
        return loss

    @eager
    def _begin(
        self, with_gradients: bool
    ) -> tuple[list[PenalisedGroup], TargetStep | None]:
        """Read the strengths, and raise what can be wrong, before anything moves."""
        groups = self._penalised_groups()
        for group, _ in groups:
            self._check_group(group)
        target_step = None
        if isinstance(self._strength, TargetSparsity):
            target_step = TargetStep(self._strength, groups)
        if with_gradients:
            self._require_gradients_of_all(groups)
        return groups, target_step

    @eager
    def _check_gradients(self, groups: list[PenalisedGroup]) -> None:
        self._require_dense_gradients()
        self._require_gradients_of_all(groups)

    @eager
    def _finish(
        self, groups: list[PenalisedGroup], target_step: TargetStep | None
    ) -> None:
        """Apply the prox, after the step of the base."""
        prox = InPlaceProx(
            known=self._known,
            penalty=self.penalty,
            metric=self.metric,
            max_ratio=self.max_ratio,
            window=self.window,
            fused=self.fused,
        )
        if target_step:
            uncapped = dataclasses.replace(prox, max_ratio=math.inf)
            self._apply_(uncapped, target_step.apply_(uncapped, self.state))
            groups = target_step.others
        found = packs(self._members(groups), join=prox.elementwise)
        self._apply_(prox, [PackStrength(pack, pack.strength) for pack in found])
        self._count_step()

    def _apply_(self, prox: InPlaceProx, found: list[PackStrength]) -> None:
        if self.penalty.separable:
            for pack, strength in found:
                prox.apply_(pack, strength)
            return
        rows = []
        for pack, strength in found:
            thresholds = prox.thresholds(pack, strength)
            of_pack = [
                (member.name, member.param, threshold)
                for member, threshold in zip(pack.members, thresholds, strict=True)
            ]
            if self.penalty.joint:
                rows += of_pack
            else:
                self._apply_tree_prox_(of_pack)
        if rows:
            self._apply_tree_prox_(rows)

    def _members(self, groups: list[PenalisedGroup]) -> list[Member]:
        """List the penalised parameters that take the step."""
        members = []
        for group, leaves in groups:
            for leaf in leaves:
                if leaf.param.grad is None:
                    continue
                members.append(
                    Member(
                        name=leaf.path,
                        param=leaf.param,
                        strength=1.0 if self.penalty.constraint else leaf.strength,
                        state=self._state_of(leaf.param),
                        group=group,
                    )
                )
        return members

    def _state_of(self, param: Tensor) -> State:
        if self.window != 1:
            return self.state[param]  # makes one for the budgets, if there is none
        return self.state.get(param, {})

    def _apply_tree_prox_(self, rows: list[tuple[str, Tensor, Number]]) -> None:
        for (_, param, _), new in zip(rows, self.penalty.tree_prox(rows), strict=True):
            param.copy_(new)

    def _require_gradients_of_all(self, groups: list[PenalisedGroup]) -> None:
        if not self.penalty.joint:
            return
        leaves = list(penalised_leaves(groups))
        still = [leaf.path for leaf in leaves if leaf.param.grad is None]
        if 0 < len(still) < len(leaves):
            raise ValueError(
                f"the gradients of {still} are None, but the penalty holds for all "
                "penalised tensors together. Leave those that do not move out with "
                "mask=."
            )
