"""Optimizers that penalise: wrappers around any `torch.optim` optimizer."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from l1torch.delegation import require_optimizer
from l1torch.groups import Group, as_number
from l1torch.hyperparameters import Number, Schedule, check_number, product
from l1torch.leaves import blocks_with, compute_dtype
from l1torch.masks import Mask, weights_only
from l1torch.penalised import PenalisedOptimizer, Targets
from l1torch.penalties import Penalty, l1, require_penalty
from l1torch.transforms import require_subgradient

Closure = Callable[[], Any]


class Subgradient(PenalisedOptimizer):
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
        kept in `param_groups[i]["l1"]`, where it may differ between groups and, unless
        it follows a schedule, be changed at any time; the state dict saves it. A group
        that has the key already keeps its own.
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
                # The base calls this with gradients enabled.
                with torch.no_grad():
                    self._require_dense_gradients()
                    self._add(targets)
                    loss = losses[-1]
                    return None if loss is None else self._plus(loss, targets)

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
                for grad, weight, strengths in self._parts(param, strength):
                    dtype = torch.promote_types(
                        compute_dtype(grad.dtype), compute_dtype(weight.dtype)
                    )
                    slope = self.penalty.subgradient(weight.to(dtype), strengths)
                    if grad.dtype == dtype:
                        grad.add_(slope, alpha=sign)
                    else:
                        grad.copy_(grad.to(dtype) + sign * slope)

    def _parts(
        self, param: Tensor, strength: Number
    ) -> Iterable[tuple[Tensor, Tensor, Number]]:
        """Gives gradient, parameter and strength, cut up if the penalty allows it."""
        if self.penalty.separable:
            return blocks_with(strength, param.grad, param)
        return [(param.grad, param, strength)]

    def _plus(self, loss: Any, targets: Targets) -> Any:
        for group, chosen in targets:
            sign = -1 if group.get("maximize") else 1
            for param, strength in chosen:
                value = self.penalty.value(param.detach(), strength)
                value = value.full_tensor() if hasattr(value, "full_tensor") else value
                device = loss.device if isinstance(loss, Tensor) else value.device
                loss = loss + sign * value.to(device)
        return loss


class Proximal(PenalisedOptimizer):
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
        kept in `param_groups[i]["l1"]`, where it may differ between groups and, unless
        it follows a schedule, be changed at any time; the state dict saves it. A group
        that has the key already keeps its own.
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

    _kept = (*PenalisedOptimizer._kept, "step_size")

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
        super().__init__(optimizer, strength, penalty, mask)

    def _settings(self, group: Group) -> Group:
        self._step_size_of(group)
        return super()._settings(group)

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
