"""The coupled subgradient: a wrapper that adds it to the gradients."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l1torch.numerics.blocks import blocks_with
from l1torch.numerics.elementwise import Number, compute_dtype
from l1torch.numerics.sharding import whole
from l1torch.optimizers.penalised_leaves import (
    check_params,
    penalised_leaves,
)
from l1torch.optimizers.proximal_steps import require_state
from l1torch.optimizers.transformations import GradientTransformation
from l1torch.parameters.masks import Mask, weights_only
from l1torch.penalties.base import (
    Penalty,
    require_subgradient,
)
from l1torch.penalties.separable import l1
from l1torch.strengths.values import (
    PenalisedLeaf,
    Schedule,
    Strength,
    check_strength,
)
from l1torch.wrappers.delegating import eager, require_closure
from l1torch.wrappers.penalised import PenalisedGroup, PenalisedOptimizer

Closure = Callable[[], Tensor | float]


class Subgradient(PenalisedOptimizer):
    """Add the penalty's subgradient to the gradients, then step the base optimizer.

    `g + strength * sign(w)`, the gradient of `loss + strength * penalty`, with 0 at a
    weight of 0: for any optimizer, and without touching the loss. Like any subgradient
    method it finds no exact zeros; `Proximal` does.

    It adds to `.grad` in place, as `clip_grad_norm_` does, and after unscaling under
    `GradScaler`. Clip before `step` to clip the gradient of the loss alone. With a
    closure, the base optimizer sees `loss + strength * penalty` (the line search of
    LBFGS needs the function that belongs to the gradient); `step` returns the loss.

    Args:
      optimizer: the base, built from `model.named_parameters()`; from bare parameters
        the default mask takes those of two or more dimensions. Use the wrapper in its
        place from here on: a step that the base takes alone is warned of. A parameter
        whose gradient is `None` is skipped.
      strength: lambda, per unit of the loss: a number or tensor >= 0, a schedule (step
        count, from 0, to number), or a mapping from parameter names to numbers. It is
        kept in `param_groups[i]["l1"]`, where it may differ between groups and, unless
        it follows a schedule, be changed at any time; the state dict saves it. A group
        that has the key already keeps its own. Names are kept as in `Proximal`, without
        what wrappers of the model add to them.
      penalty: the penalty, of unit strength; one with a constraint is refused.
      mask: the parameters to penalise, see `weights_only`; `None` for all.

    Raises:
      TypeError: not an optimizer, or already wrapped; a strength that is not a number;
        a complex or integer parameter; at `step`, a sparse gradient.
      ValueError: a strength that is negative, infinite or NaN, or does not fit; a mask
        that does not fit, or selects nothing; a penalty with a constraint.

    Example:
      >>> import torch
      >>> model = torch.nn.Linear(3, 1)
      >>> base = torch.optim.Adam(model.named_parameters(), lr=1e-3)
      >>> optimizer = Subgradient(base, strength=1e-4)
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        strength: Number | Schedule | Mapping[str, Number],
        *,
        penalty: Penalty = l1(),
        mask: Mask = weights_only,
    ) -> None:
        check_strength(strength)
        require_subgradient(penalty)
        super().__init__(optimizer, strength, penalty, mask)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor | float | None:
        """Take one step; return the closure's loss, if there is a closure."""
        require_closure(closure)
        groups = self._begin(with_gradients=closure is None)
        if closure is None:
            loss = self._step_base()
        else:
            losses = []

            def objective() -> Any:
                with torch.enable_grad():
                    losses.append(closure())
                return self._objective(losses[-1], groups)

            self._step_base(objective)
            loss = losses[0] if losses else None
        self._count_step()
        return loss

    @eager
    def _begin(self, with_gradients: bool) -> list[PenalisedGroup]:
        groups = self._penalised_groups()
        if with_gradients:
            self._add_subgradient_(groups)
        return groups

    @eager
    @torch.no_grad()  # the base calls it with gradients enabled
    def _objective(self, loss: Any, groups: list[PenalisedGroup]) -> Any:
        self._require_dense_gradients()
        self._add_subgradient_(groups)
        return None if loss is None else self._with_penalty(loss, groups)

    def _add_subgradient_(self, groups: list[PenalisedGroup]) -> None:
        """Add the penalty's subgradient to the gradients, in place."""
        for group, leaves in groups:
            sign = -1 if group.get("maximize") else 1
            for leaf in leaves:
                if leaf.param.grad is None:
                    continue
                penalty = self.penalty.at(leaf.path, tuple(leaf.param.shape))
                for part in self._parts(leaf):
                    grad = part.grad
                    dtype = torch.promote_types(
                        compute_dtype(grad.dtype), compute_dtype(part.x.dtype)
                    )
                    slope = penalty.subgradient(part.x.to(dtype), part.strength)
                    if grad.dtype == dtype:
                        grad.add_(slope, alpha=sign)
                    else:
                        grad.copy_(grad.to(dtype) + sign * slope)

    def _parts(self, leaf: PenalisedLeaf) -> Iterable["_GradientPart"]:
        """Yield a parameter with its gradient, cut up if the penalty allows it."""
        param, strength = leaf.param, leaf.strength
        if not self.penalty.separable:
            return [_GradientPart(param.grad, param, strength)]
        cut = blocks_with(strength, param.grad, param)
        return (_GradientPart(grad, x, part) for grad, x, part in cut)

    def _with_penalty(self, loss: Any, groups: list[PenalisedGroup]) -> Any:
        for group, leaves in groups:
            sign = -1 if group.get("maximize") else 1
            for leaf in leaves:
                penalty = self.penalty.at(leaf.path, tuple(leaf.param.shape))
                value = whole(penalty.value(leaf.param.detach(), leaf.strength))
                device = loss.device if isinstance(loss, Tensor) else value.device
                loss = loss + sign * value.to(device)
        return loss


class _GradientPart(NamedTuple):
    """A part of a parameter, with the same part of its gradient and strength."""

    grad: Tensor
    x: Tensor
    strength: Number


class AddSubgradientState(NamedTuple):
    """State of `add_subgradient`.

    `torch.load(..., weights_only=True)` takes it after
    `torch.serialization.add_safe_globals([AddSubgradientState])`.
    """

    count: int
    """Steps taken: the argument of a strength schedule."""


def add_subgradient(
    strength: Strength, *, penalty: Penalty = l1(), mask: Mask = weights_only
) -> GradientTransformation:
    """Add the penalty's subgradient to the gradients: `g + strength * sign(w)`.

    The gradient of `loss + strength * penalty`, with 0 at a weight of 0. Apply it
    before the optimizer's own arithmetic. Like any subgradient method it oscillates
    around zero and finds no exact zeros: use `proximal_step` for these.

    Args:
      strength: lambda, per unit of the mean loss that the gradients belong to: a number
        >= 0, a tensor that broadcasts to its parameter, a schedule (step count, from 0,
        to number), or a mapping from parameter names to these.
      penalty: the penalty, of unit strength; one with a constraint is refused.
      mask: the parameters to penalise: a mapping from names to booleans, a function
        from the parameters to one, or `None` for all. The default leaves out biases and
        normalisation.

    Returns:
      A transformation whose updates keep the dtype of the gradients.

    Raises:
      TypeError: a strength that is not a real number; at `init`, a penalised parameter
        that is not real floating; at `update`, a sparse gradient.
      ValueError: a strength that is negative, infinite or NaN; a penalty with a
        constraint; at `init`, a strength or mask that does not fit the parameters; at
        `update`, missing parameters or gradients of other names.

    Example:
      >>> tx = add_subgradient(1e-3)
      >>> params, grads = {"w": torch.tensor([2.0, 0.0])}, {"w": torch.zeros(2)}
      >>> tx.update(grads, tx.init(params), params)[0]
      {'w': tensor([0.0010, 0.0000])}
    """
    check_strength(strength)
    require_subgradient(penalty)

    def init_fn(params: Mapping[str, Tensor]) -> AddSubgradientState:
        check_params(params, mask, strength, None, penalty)
        return AddSubgradientState(count=0)

    def update_fn(
        updates: Mapping[str, Tensor],
        state: AddSubgradientState,
        params: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], AddSubgradientState]:
        require_state(state, AddSubgradientState)
        leaves = penalised_leaves(updates, params, strength, mask, state.count)
        new_updates = dict(updates)
        for path, param, leaf_strength in leaves:
            update = updates[path]
            dtype = torch.promote_types(
                compute_dtype(param.dtype), compute_dtype(update.dtype)
            )
            slope = penalty.at(path, tuple(param.shape)).subgradient(
                param.to(dtype), leaf_strength
            )
            new_updates[path] = (update.to(dtype) + slope).to(update.dtype)
        return new_updates, AddSubgradientState(state.count + 1)

    return GradientTransformation(init_fn, update_fn)
