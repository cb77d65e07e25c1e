"""Optimizers that penalise: wrappers around any `torch.optim` optimizer."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from l1torch.delegation import DelegatingOptimizer, require_optimizer
from l1torch.groups import (
    Group,
    all_params,
    as_number,
    named_params,
    strengths_of,
)
from l1torch.hyperparameters import (
    Number,
    Schedule,
    check_number,
    check_strength,
    is_schedule,
    product,
)
from l1torch.leaves import (
    blocks,
    compute_dtype,
    describe,
    named_leaves,
    require_dense,
    require_real_floating,
)
from l1torch.masks import Mask, selected, weights_only
from l1torch.penalties import Penalty, l1
from l1torch.transforms import require_penalty, require_subgradient

Closure = Callable[[], Any]

Targets = list[tuple[Group, list[tuple[Tensor, Number]]]]
"""By group, the penalised parameters with their strengths."""


class _Penalised(DelegatingOptimizer):
    """Adds to a base optimizer a strength in its groups, a penalty and a mask."""

    _kept = (
        *DelegatingOptimizer._kept,
        *("penalty", "mask", "_strength", "_penalised", "_initial"),
    )

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        strength: Number | Schedule | Mapping[str, Number],
        penalty: Penalty,
        mask: Mask,
    ) -> None:
        super().__init__(optimizer)
        check_strength(strength)
        if isinstance(strength, Mapping) and any(map(is_schedule, strength.values())):
            raise TypeError(
                f"strength must map names to numbers, got a schedule in {strength!r}. "
                "Pass one schedule, or change param_groups[i]['l1'] as you go."
            )
        self.penalty = penalty
        self.mask = mask
        self._strength = strength
        if isinstance(strength, Mapping):
            params = dict(named_leaves(all_params(self.param_groups)))
            if unknown := sorted(set(strength) - set(params)):
                raise ValueError(
                    f"strength names {unknown}, which the optimizer does not have; it "
                    f"has {describe(list(params.items()))}. Build it from "
                    "model.named_parameters() and use these names."
                )
        self._penalised = self._select()
        settings = [self._settings(group) for group in self.param_groups]
        for group, setting in zip(self.param_groups, settings, strict=True):
            group.update(setting)
        self._initial = settings

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.optimizer!r}, penalty={self.penalty!r})"

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group to the base optimizer; its key `l1` overrides the strength."""
        self.optimizer.add_param_group(param_group)
        try:
            penalised = self._select()
            setting = self._settings(self.param_groups[-1])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self.param_groups[-1].update(setting)
        self._penalised = penalised
        self._initial.append(setting)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state dict of this optimizer, or one of the base saved without it.

        The strengths saved in it are taken over; where it has none, those of the
        constructor come back.
        """
        super().load_state_dict(state_dict)
        for group, setting in zip(self.param_groups, self._initial, strict=True):
            for key, value in setting.items():
                group.setdefault(key, value)

    def _select(self) -> list[list[bool]]:
        """Evaluates the mask: a bool for each parameter of each group."""
        params = all_params(self.param_groups)
        flags = selected(self.mask, params)
        for (name, param), penalised in zip(named_leaves(params), flags, strict=True):
            if penalised:
                require_real_floating(name, param)
        rest = iter(flags)
        return [[next(rest) for _ in group["params"]] for group in self.param_groups]

    def _settings(self, group: Group) -> Group:
        """Gives what a group lacks: the constructor's strength, or its own, checked."""
        if "l1" in group:
            settings = {"l1": group["l1"]}
        elif isinstance(self._strength, Mapping):
            names = [name for name, _ in named_params(group)]
            settings = {"l1": {n: v for n, v in self._strength.items() if n in names}}
        elif is_schedule(self._strength):
            settings = {"l1": self._strength(0), "l1_count": 0}
        else:
            settings = {"l1": self._strength}
        strengths_of(group | settings)
        return settings

    def _targets(self) -> Targets:
        """Lists, by group, the penalised parameters with their strengths at this step.

        All that can be wrong with a step raises here, before anything moves.
        """
        targets = []
        for group, flags in zip(self.param_groups, self._penalised, strict=True):
            if "l1_count" in group and is_schedule(self._strength):
                group["l1"] = self._strength(group["l1_count"])
            rows = zip(group["params"], strengths_of(group), strict=True)
            targets.append((group, list(itertools.compress(rows, flags))))
        self._require_dense_gradients()
        return targets

    def _require_dense_gradients(self) -> None:
        for group, flags in zip(self.param_groups, self._penalised, strict=True):
            for param in itertools.compress(group["params"], flags):
                grad = param.grad
                if grad is not None and grad.layout is not torch.strided:
                    names = [name for name, p in named_params(group) if p is param]
                    require_dense(f"the gradient of '{names[0]}'", grad)

    def _count_step(self) -> None:
        for group in self.param_groups:
            if "l1_count" in group:
                group["l1_count"] += 1


class Subgradient(_Penalised):
    """Adds the penalty's subgradient to the gradients, then steps the base optimizer.

    `g + strength * sign(w)`, the gradient of `loss + strength * penalty`, with 0 at a
    weight of 0: for any optimizer, and without touching the loss. Like any subgradient
    method it finds no exact zeros; `Proximal` does.

    It adds to `.grad` in place, as `clip_grad_norm_` does, and after unscaling under
    `GradScaler`. Clip before `step` to clip the gradient of the loss alone. With a
    closure, the base optimizer sees `loss + strength * penalty` (the line search of
    LBFGS needs the function that belongs to the gradient); `step` returns the loss.

    Example:
      >>> import torch
      >>> model = torch.nn.Linear(3, 1)
      >>> base = torch.optim.Adam(model.named_parameters(), lr=1e-3)
      >>> optimizer = Subgradient(base, strength=1e-4)

    Args:
      optimizer: the base, built from `model.named_parameters()`; from bare parameters
        the default mask takes those of two or more dimensions. Use the wrapper in its
        place from here on. A parameter whose gradient is `None` is skipped.
      strength: lambda, per unit of the loss: a number or tensor >= 0, a schedule (step
        count, from 0, to number), or a mapping from parameter names to numbers. It is
        kept in `param_groups[i]["l1"]`, where it may be changed at any time and differ
        between groups, and is saved in the state dict.
      penalty: the penalty, of unit strength; one with a constraint is refused.
      mask: the parameters to penalise, see `weights_only`; `None` for all.

    Raises:
      TypeError: not an optimizer, or already wrapped; a strength that is not a number;
        a complex or integer parameter; at `step`, a sparse gradient.
      ValueError: a strength that is negative, infinite or NaN, or does not fit; a mask
        that does not fit, or selects nothing; a penalty with a constraint.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        strength: Number | Schedule | Mapping[str, Number],
        *,
        penalty: Penalty = l1(),
        mask: Mask = weights_only,
    ) -> None:
        require_subgradient(penalty)
        super().__init__(optimizer, strength, penalty, mask)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """Takes one step; returns the closure's loss, if there is a closure."""
        targets = self._targets()
        if closure is None:
            self._add(targets)
            loss = self.optimizer.step()
        else:
            losses = []

            def objective() -> Any:
                with torch.enable_grad():
                    losses.append(closure())
                self._require_dense_gradients()
                self._add(targets)
                return None if losses[-1] is None else self._plus(losses[-1], targets)

            self.optimizer.step(objective)
            loss = losses[0] if losses else None
        self._count_step()
        return loss

    def _add(self, targets: Targets) -> None:
        for group, chosen in targets:
            sign = -1 if group.get("maximize") else 1
            for param, strength in chosen:
                if param.grad is None:
                    continue
                for grad, weight, weights in _blocks(param.grad, param, strength):
                    dtype = torch.promote_types(
                        compute_dtype(grad.dtype), compute_dtype(weight.dtype)
                    )
                    slope = self.penalty.subgradient(weight.to(dtype), weights)
                    if grad.dtype == dtype:
                        grad.add_(slope, alpha=sign)
                    else:
                        grad.copy_(grad.to(dtype) + sign * slope)

    def _plus(self, loss: Any, targets: Targets) -> Any:
        for group, chosen in targets:
            sign = -1 if group.get("maximize") else 1
            for param, strength in chosen:
                value = self.penalty.value(param.detach(), strength)
                value = value.full_tensor() if hasattr(value, "full_tensor") else value
                device = loss.device if isinstance(loss, Tensor) else value.device
                loss = loss + sign * value.to(device)
        return loss


class Proximal(_Penalised):
    """Steps the base optimizer, then applies the penalty's prox in place: exact zeros.

    `w <- prox(w, threshold)` with `threshold = step size * strength`, where the step
    size is the one that the base optimizer takes:

    - `step_size="optimizer"` minimises `loss + strength * penalty`. It knows
      `torch.optim.SGD` without momentum (its `weight_decay` is part of the loss, as
      `weight_decay/2 |w|^2`): forward-backward splitting (Duchi and Singer, 2009).
    - `step_size="learning_rate"` takes `lr * strength` under any optimizer: a decoupled
      shrinkage, as AdamW's weight decay is. It minimises something else: after Adam,
      loosely, a weighted penalty with the weights `sqrt(v_hat) + eps`, so that strength
      is a cut on the normalised gradient and a full batch ends without any zeros; after
      momentum m, a penalty of strength `(1 - m) * strength`.

    The learning rate is read at every step, so that schedulers act on both. The prox of
    `l1()` in single and double precision is one kernel without temporaries.

    Example:
      >>> import torch
      >>> model = torch.nn.Linear(3, 1)
      >>> base = torch.optim.SGD(model.named_parameters(), lr=0.1)
      >>> optimizer = Proximal(base, strength=1e-2)

    Args:
      optimizer: the base, built from `model.named_parameters()`; from bare parameters
        the default mask takes those of two or more dimensions. Use the wrapper in its
        place from here on. A parameter whose gradient is `None` is skipped.
      strength: lambda, per unit of the loss: a number or tensor >= 0, a schedule (step
        count, from 0, to number), or a mapping from parameter names to numbers. It is
        kept in `param_groups[i]["l1"]`, where it may be changed at any time and differ
        between groups, and is saved in the state dict.
      penalty: the penalty, of unit strength.
      mask: the parameters to penalise, see `weights_only`; `None` for all.
      step_size: `"optimizer"` or `"learning_rate"`, see above.

    Raises:
      TypeError: not an optimizer, or already wrapped, or one whose step is not known; a
        strength or learning rate that is not a number; a complex or integer parameter;
        at `step`, a sparse gradient.
      ValueError: a strength or learning rate that is negative, infinite or NaN, or does
        not fit; a mask that does not fit, or selects nothing; momentum under
        `step_size="optimizer"`; an unknown `step_size`.
    """

    _kept = (*_Penalised._kept, "step_size")

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        strength: Number | Schedule | Mapping[str, Number],
        *,
        penalty: Penalty = l1(),
        mask: Mask = weights_only,
        step_size: Literal["optimizer", "learning_rate"] = "optimizer",
    ) -> None:
        require_penalty(penalty)
        require_optimizer(optimizer)
        if step_size not in ("optimizer", "learning_rate"):
            raise ValueError(
                "step_size must be 'optimizer' or 'learning_rate', got "
                f"{step_size!r}. Pass 'optimizer' for the objective as written."
            )
        if (
            step_size == "optimizer"
            and type(optimizer).step is not torch.optim.SGD.step
        ):
            raise TypeError(
                "optimizer must be torch.optim.SGD for step_size='optimizer', got "
                f"{type(optimizer).__name__}, whose effective step is not known. Pass "
                "step_size='learning_rate' for the decoupled form, which thresholds by "
                "lr * strength and solves another problem."
            )
        self.step_size = step_size
        for group in optimizer.param_groups:
            self._step_size_of(group)
        super().__init__(optimizer, strength, penalty, mask)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """Takes one step; returns the closure's loss, if there is a closure."""
        targets = self._targets()
        step_sizes = [self._step_size_of(group) for group, _ in targets]
        if closure is None:
            loss = self.optimizer.step()
        else:

            def checked() -> Any:
                with torch.enable_grad():
                    loss = closure()
                self._require_dense_gradients()
                return loss

            loss = self.optimizer.step(checked)
        for (_, chosen), step_size in zip(targets, step_sizes, strict=True):
            thresholds: dict[tuple[int, torch.dtype], Number] = {}
            for param, strength in chosen:
                if param.grad is None:
                    continue
                key = (id(strength), param.dtype)
                if key not in thresholds:
                    dtype = compute_dtype(param.dtype)
                    thresholds[key] = product(step_size, strength, dtype)
                self.penalty.prox_(param, thresholds[key])
        self._count_step()
        return loss

    def _step_size_of(self, group: Group) -> Number:
        if "lr" not in group:
            raise ValueError(
                "optimizer must have a learning rate, got a parameter group with "
                f"{sorted(group)}. Use proximal_step with a learning rate of your own."
            )
        if self.step_size == "optimizer" and group["momentum"] != 0:
            raise ValueError(
                f"optimizer must have momentum=0, got {group['momentum']!r}: with "
                "momentum the effective step is not the learning rate. Set it to 0, or "
                "pass step_size='learning_rate' for the decoupled form."
            )
        lr = as_number(group["lr"])
        check_number("lr", lr)
        return lr


def _blocks(grad: Tensor, param: Tensor, strength: Number) -> Any:
    if isinstance(strength, Tensor) and strength.dim() > 0:
        yield from blocks(grad, param, strength.expand(param.shape))
    else:
        for grad_block, param_block in blocks(grad, param):
            yield grad_block, param_block, strength
