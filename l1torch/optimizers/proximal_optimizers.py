"""Proximal optimizers: the optimizer you have, with the threshold that is its own."""

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
    check_momentum,
    check_rate,
    check_state_dict,
    known_class,
)
from l1torch.thresholds.metrics import Metric, check_max_ratio, check_metric
from l1torch.thresholds.target_control import check_target
from l1torch.wrappers.blockwise_steps import Member, Pack, packs
from l1torch.wrappers.delegating import (
    eager,
    require_closure,
    require_optimizer,
    require_state_dict,
)
from l1torch.wrappers.in_place_prox import InPlaceProx
from l1torch.wrappers.penalised import PenalisedOptimizer, Targets
from l1torch.wrappers.target_steps import TargetStep, control_of

Closure = Callable[[], Any]


class Proximal(PenalisedOptimizer):
    """Makes an optimizer minimise `loss + strength * penalty`, with exact zeros.

    It steps the base optimizer, then applies the penalty's prox in place, `w <- prox(w,
    threshold)`, where the threshold follows the step that this optimizer really takes,
    coordinate by coordinate::

      threshold = scale * min(strength / D, max_ratio)

    For Adam `scale` is the learning rate of this step and `D = sqrt(v_hat) + eps`
    (ProxGen: Yun, Lozano and Yang, 2021); for SGD with momentum m and dampening d it is
    `lr * strength * (1 - d) / (1 - m)`; `register_step_size` tells for others. Known
    are SGD, Adam, AdamW, NAdam, RMSprop, Adagrad, Adadelta, Adamax and RAdam of
    `torch.optim`, their options included, and classes derived from them that keep
    their `step`.

    What scales, clips or averages the parameters' change after the step destroys the
    zeros, and cannot be noticed from inside::

      torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0); optimizer.step()  # right
      optimizer.step(); swa_model.update_parameters(model)  # wrong: averages lose zeros

    Clipping gradients changes the gradient of the loss, and so what is minimised: the
    gradient of the loss does not vanish at the solution, since it balances the penalty
    there. If it is scaled by s < 1 at the solution, this is the one for `strength / s`.

    What is minimised, by `metric`:

    - `"coordinate"`: `loss + strength * penalty`. L2 regularisation by the optimizer's
      `weight_decay`, where it is not decoupled, is part of the loss.
    - `"tensor"`: one step for each parameter, the root mean square of D in place of D:
      `loss + strength * sum_j D_j / rms(D) * |w_j|`, a weighted L1 that spares weights
      of small gradients. It often keeps networks at 80 to 95 % zeros more accurate.
    - `"none"`: decoupled, as AdamW's decay is: the threshold `scale * strength`. For
      Adam its fixed points satisfy `g_j / D_j = -strength * sign(w_j)`: a threshold on
      the normalised gradient, no objective in loss units. On a full batch `D_j` tends
      to `|g_j|`, so that any strength below 1 ends at the minimum of the loss alone and
      one above 1 at zero; under noise it is a cut, in (0, 1), on signal to noise.

    `step_size="learning_rate"` is the decoupled form for any optimizer whatever, with
    the threshold `lr * strength`; after momentum m it has the effect of a penalty of
    strength `(1 - m) * strength`. Neither is the Lasso. For the loss `1/2 (w - 1)^2` at
    strength 0.5 the Lasso has `w = 0.5`:

      >>> import torch
      >>> def solve(**kwargs):
      ...     w = torch.nn.Parameter(torch.zeros(1))
      ...     base = torch.optim.Adam([("w", w)], lr=0.01, betas=(0.9, 0.9))
      ...     optimizer = Proximal(base, 0.5, **kwargs)
      ...     for _ in range(2000):
      ...         w.grad = w.detach() - 1
      ...         optimizer.step()
      ...     return round(w.item(), 2)
      >>> solve(), solve(metric="none"), solve(step_size="learning_rate")
      (0.5, 1.0, 1.0)

    Decoupled weight decay (AdamW) adds `1/2 weight_decay * sum_j D_j w_j^2` to the
    objective, in Adam's metric; for the textbook elastic net set it to 0 and pass
    `penalty=elastic_net(...)`.

    The first steps: right after initialisation `v_hat` is the square of one gradient,
    and 0 for a weight that never had any. There `max_ratio` keeps the threshold below
    `max_ratio` times the largest step the optimizer could take; every value above 1 has
    the same stationary points. A strength that warms up over the first tenth of the
    training, as `lambda t: strength * min(1, t / (steps / 10))`, goes well with it.

    Momentum takes its gain `1 / (1 - m)` at the present learning rate, which a schedule
    that changes little within `1 / (1 - m)` steps justifies.

    Noise: in minibatches a zero stays zero only while the averaged gradient is below
    the strength. Momentum of 0.9 to 0.99 keeps zeros, and so does `window`; a learning
    rate that decays to 0 leaves fewer small weights beside them. Averaging the weights
    (`torch.optim.swa_utils`) loses them.

    Learning rate and hyperparameters are read at every step, so that schedulers act on
    both. A learning rate of 0 moves nothing, but into a constraint. For penalties of
    single weights the thresholds are worked out in blocks on CPU, no tensor of a large
    parameter's size is made, and on accelerators no value is waited for. Small
    parameters are joined for a moment, so that thousands of them cost few calls.

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
      metric: `"coordinate"`, `"tensor"` or `"none"`, see above.
      max_ratio: the cap, a number above 1; `math.inf` for none. It does not act on
        optimizers without a denominator, nor under `metric="none"` or a target.
      window: the steps over which the penalty may accumulate, a whole number >= 1, or
        `math.inf`; 1 is the ordinary prox. The windowed cumulative penalty (after
        Tsuruoka, Tsujii and Ananiadou, 2009) keeps more exact zeros under minibatch
        noise and costs two tensors of the parameters' size, in the optimizer's state;
        `l1()` only. Between 10 and 100 is a useful range; without end, dead weights do
        not come back.
      step_size: `"optimizer"`, or `"learning_rate"`, see above; `max_ratio` then has no
        effect.
      fused: compile the prox of `l1()` under `metric="coordinate"` to one kernel by
        `torch.compile`, where the optimizer's denominator is a root of its second
        moments (Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad). It needs a C++ compiler
        on CPU or Triton on a GPU and some seconds at the first step; where it does not
        apply, it changes nothing.

    Raises:
      TypeError: not an optimizer, or already wrapped, or one whose step is not known; a
        strength or learning rate that is not a number; a window that is no whole
        number; a complex or integer parameter; at `step`, a sparse gradient.
      ValueError: a strength or learning rate that is negative, infinite or NaN, or does
        not fit; a mask that does not fit, or selects nothing; momentum or dampening
        outside [0, 1) under `step_size="optimizer"`; an unknown `metric` or
        `step_size`, `max_ratio <= 1`, `window < 1`, a penalty that metric or window
        cannot take, or one in a parameter group; at `load_state_dict`, a checkpoint of
        another kind of optimizer.

    Example:
      >>> model = torch.nn.Linear(3, 1)
      >>> base = torch.optim.Adam(model.named_parameters(), lr=1e-3)
      >>> optimizer = Proximal(base, strength=1e-4)
    """

    _kept = (
        *PenalisedOptimizer._kept,
        *("metric", "max_ratio", "window", "step_size", "fused", "_known"),
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
        """Loads a state dict of this optimizer, or one of the base saved without it.

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

        # After the hooks that may rearrange it, before anything is loaded.
        handle = self.optimizer.register_load_state_dict_pre_hook(look)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        # torch casts what it loads to the parameter's dtype.
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
    def step(self, closure: Closure | None = None) -> Any:
        """Takes one step; returns the closure's loss, if there is a closure."""
        require_closure(closure)
        targets, following = self._begin(with_gradients=closure is None)
        if closure is None:
            loss = self._step_base()
        else:

            def checked() -> Any:
                with torch.enable_grad():
                    loss = closure()
                self._check_gradients(targets)
                return loss

            loss = self._step_base(checked)
        self._finish(targets, following)
        return loss

    @eager
    def _begin(self, with_gradients: bool) -> tuple[Targets, TargetStep | None]:
        targets = self._targets()
        for group, _ in targets:
            self._check_group(group)
        following = None
        if isinstance(self._strength, TargetSparsity):
            following = TargetStep(self._strength, targets)
        if with_gradients:
            self._require_gradients_of_all(targets)
        return targets, following

    @eager
    def _check_gradients(self, targets: Targets) -> None:
        self._require_dense_gradients()
        self._require_gradients_of_all(targets)

    @eager
    def _finish(self, targets: Targets, following: TargetStep | None) -> None:
        shrinking = InPlaceProx(
            *(self._known, self.penalty, self.metric),
            *(self.max_ratio, self.window, self.fused),
        )
        if following:
            self._shrink(*following.take(shrinking, self.state))
            targets = following.fixed
        members = self._members(targets)
        found = packs(members, join=shrinking.elementwise)
        self._shrink(shrinking, [(pack, pack.members[0].strength) for pack in found])
        self._count_step()

    def _shrink(self, shrinking: InPlaceProx, found: list[tuple[Pack, Number]]) -> None:
        if self.penalty.separable:
            for pack, strength in found:
                shrinking.shrink_(pack, strength)
            return
        rows = []
        for pack, strength in found:
            thresholds = shrinking.thresholds(pack, strength)
            of_pack = [
                (member.name, member.param, threshold)
                for member, threshold in zip(pack.members, thresholds, strict=True)
            ]
            if self.penalty.joint:
                rows += of_pack
            else:
                self._solve(of_pack)
        if rows:
            self._solve(rows)

    def _members(self, targets: Targets) -> list[Member]:
        """Lists the penalised parameters that take the step."""
        members = []
        for group, chosen in targets:
            for name, param, strength in chosen:
                if param.grad is None:
                    continue
                # A state to add to, if there is a window.
                windowed = self.window != 1
                state = self.state[param] if windowed else self.state.get(param, {})
                strength = 1.0 if self.penalty.constraint else strength
                members.append(Member(name, param, strength, state, group))
        return members

    def _solve(self, rows: list[tuple[str, Tensor, Number]]) -> None:
        for (_, param, _), new in zip(rows, self.penalty.tree_prox(rows), strict=True):
            param.copy_(new)

    def _require_gradients_of_all(self, targets: Targets) -> None:
        rows = [row for _, chosen in targets for row in chosen]
        still = [name for name, param, _ in rows if param.grad is None]
        if self.penalty.joint and 0 < len(still) < len(rows):
            raise ValueError(
                f"the gradients of {still} are None, but the penalty holds for all "
                "penalised tensors together. Leave those that do not move out with "
                "mask=."
            )
