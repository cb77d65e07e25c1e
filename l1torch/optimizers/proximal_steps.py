"""The proximal step, as a gradient transformation on dicts of tensors."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from l1torch.numerics.checks import described
from l1torch.numerics.elementwise import Number, compute_dtype, product
from l1torch.optimizers.penalised_leaves import (
    check_params,
    penalised_leaves,
)
from l1torch.optimizers.transformations import GradientTransformation
from l1torch.parameters.masks import Mask, weights_only
from l1torch.parameters.sparsity import Control
from l1torch.parameters.trees import named_leaves
from l1torch.penalties.base import (
    Penalty,
    require_penalty,
)
from l1torch.penalties.separable import l1
from l1torch.strengths.targets import TargetSparsity
from l1torch.strengths.values import (
    PenalisedLeaf,
    Schedule,
    Strength,
    check_learning_rate,
    check_strength,
    learning_rate_at,
)
from l1torch.thresholds.target_control import (
    Row,
    check_target,
    count_zeros,
    initial_control,
    largest_kept,
    next_control,
)


class ProximalStepState(NamedTuple):
    """State of `proximal_step`.

    `torch.load(..., weights_only=True)` takes it after
    `torch.serialization.add_safe_globals([Control, ProximalStepState])`.
    """

    count: int
    """Steps taken: the argument of the schedules."""

    control: Control | None = None
    """Under a target sparsity, the strength in use, `control.strength`: a number, or
    with `scope="array"` a mapping from names; and how far the ramp is. Else None."""


def proximal_step(
    strength: Strength | TargetSparsity,
    learning_rate: Number | Schedule,
    *,
    penalty: Penalty = l1(),
    mask: Mask = weights_only,
) -> GradientTransformation:
    """Turn a step `u` into `prox(w + u, learning_rate * strength) - w`: exact zeros.

    Forward-backward splitting (Duchi and Singer, 2009): with `u = -learning_rate * g`
    it minimises `loss + strength * penalty`. The threshold must be the step that the
    updates really take, so use the same learning rate or schedule for both. After any
    other optimizer's updates this is a decoupled shrinkage that minimises something
    else: after Adam, loosely, a weighted penalty with the weights `sqrt(v_hat) + eps`;
    after momentum m, a penalty of strength `(1 - m) * strength`.

    It must come last. What scales, clips or averages updates after it destroys the
    zeros.

    Args:
      strength: lambda, per unit of the mean loss: a number >= 0, a tensor that
        broadcasts to its parameter, a schedule (step count, from 0, to number), or a
        mapping from parameter names to these; or a `target_sparsity`.
      learning_rate: the step size of the updates given, a number >= 0 or its schedule.
      penalty: the penalty, of unit strength.
      mask: as in `add_subgradient`.

    Returns:
      A transformation whose updates have the dtype of the parameters, whatever that of
      the incoming updates; float32 for half precision parameters, so that
      `apply_updates` rounds the new parameter once.

    Raises:
      TypeError: a strength or learning rate that is not a real number; at `init`, a
        penalised parameter that is not real floating; at `update`, a sparse update.
      ValueError: one that is negative, infinite or NaN; a penalty that cannot go with a
        target sparsity; at `init`, a strength, schedule or mask that does not fit the
        parameters; at `update`, missing parameters or updates of other names.

    Example:
      >>> import l1torch, torch
      >>> tx = proximal_step(1.0, learning_rate=0.1)
      >>> params, grads = {"w": torch.tensor([2.0, 0.05])}, {"w": torch.zeros(2)}
      >>> updates = {name: -0.1 * grad for name, grad in grads.items()}
      >>> updates, state = tx.update(updates, tx.init(params), params)
      >>> l1torch.apply_updates(params, updates)
      {'w': tensor([1.9000, 0.0000])}
    """
    require_penalty(penalty)
    target = None
    if isinstance(strength, TargetSparsity):
        check_target(strength, penalty)
        strength, target = 0.0, strength
    check_strength(strength)
    check_learning_rate(learning_rate)

    def init_fn(params: Mapping[str, Tensor]) -> ProximalStepState:
        check_params(params, mask, strength, learning_rate, penalty)
        names = [name for name, _ in named_leaves(params)]
        return ProximalStepState(0, target and initial_control(target, names))

    def update_fn(
        updates: Mapping[str, Tensor],
        state: ProximalStepState,
        params: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], ProximalStepState]:
        require_state(state, ProximalStepState)
        _require_control(state, target)
        step_size = learning_rate_at(learning_rate, state.count)

        def threshold(param: Tensor, param_strength: Number) -> Number:
            if penalty.constraint:
                param_strength = 1.0
            return product(step_size, param_strength, compute_dtype(param.dtype))

        moved = {}
        leaves = penalised_leaves(
            updates, params, strength, mask, state.count, penalty.joint
        )
        for leaf in leaves:
            dtype = compute_dtype(leaf.param.dtype)
            moved[leaf.path] = leaf.param.to(dtype) + updates[leaf.path].to(dtype)
        control = None
        if target:
            new, control = _step_to_a_target(
                target, penalty, leaves, moved, threshold, state
            )
        else:
            new = penalty.tree_prox(
                [
                    (leaf.path, moved[leaf.path], threshold(leaf.param, leaf.strength))
                    for leaf in leaves
                ]
            )
        # The update is the difference of the new parameter and the old one. Where the
        # prox is 0 their sum, w + (0 - w), is exactly 0. An update that is formed from
        # the clipped part, u - clip(w + u), does not keep the zeros.
        new_updates = dict(updates)
        for leaf, x in zip(leaves, new, strict=True):
            new_updates[leaf.path] = x - leaf.param.to(x.dtype)
        return new_updates, ProximalStepState(state.count + 1, control)

    return GradientTransformation(init_fn, update_fn)


def require_state(state: object, kind: type) -> None:
    """Raise TypeError for a state of another transformation."""
    if not isinstance(state, kind):
        raise TypeError(
            f"state must be the {kind.__name__} that init(params) gives, got "
            f"{described(state)}. Pass what init or the last update returned."
        )


def _require_control(state: ProximalStepState, target: TargetSparsity | None) -> None:
    if target and state.control is None:
        raise ValueError(
            "state must be that of a target_sparsity, got one of a fixed strength. "
            "Make it by init(params)."
        )


def _step_to_a_target(
    target: TargetSparsity,
    penalty: Penalty,
    leaves: list[PenalisedLeaf],
    moved: Mapping[str, Tensor],
    threshold: Callable[[Tensor, Number], Number],
    state: ProximalStepState,
) -> tuple[list[Tensor], Control]:
    """Return the parameters after the step that a target asks for, and its control."""

    def as_row(leaf: PenalisedLeaf) -> Row:
        x = moved[leaf.path]

        def ratios() -> Iterator[Tensor]:
            unit = torch.as_tensor(threshold(leaf.param, 1.0), dtype=x.dtype)
            yield (x / unit).abs_()

        def zeros(strength: Number) -> Tensor:
            row = leaf.path, x, threshold(leaf.param, strength)
            return count_zeros(penalty.tree_prox([row])[0])

        return Row(leaf.path, x, x.numel(), ratios, zeros)

    step = state.count + 1
    rows = [as_row(leaf) for leaf in leaves]
    control = next_control(target, penalty, rows, step, state.control)
    if target.snap_step is None or step < target.snap_step:
        now = control.strength
        strengths = now if isinstance(now, Mapping) else dict.fromkeys(moved, now)
        return penalty.tree_prox(
            [
                (
                    leaf.path,
                    moved[leaf.path],
                    threshold(leaf.param, strengths[leaf.path]),
                )
                for leaf in leaves
            ]
        ), control
    if step == target.snap_step:
        kept = largest_kept(target, [row.x for row in rows])
    else:
        kept = [leaf.param != 0 for leaf in leaves]
    return [
        row.x.masked_fill(~mark, 0) for row, mark in zip(rows, kept, strict=True)
    ], control
