"""Proximal steps: from an update and a strength to exact zeros."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from l1jax.numerics.checks import described
from l1jax.numerics.elementwise import compute_dtype, dtype_of
from l1jax.optimizers.penalised_leaves import (
    PenalisedLeaf,
    check_params,
    check_updates,
    penalised_leaves,
    split_target,
)
from l1jax.parameters.masks import Mask, weights_only
from l1jax.parameters.sparsity import Control
from l1jax.parameters.trees import replaced, values_at
from l1jax.penalties.base import Penalty, require_penalty
from l1jax.penalties.separable import l1
from l1jax.strengths.targets import TargetSparsity
from l1jax.strengths.values import (
    Strength,
    check_learning_rate,
    learning_rate_at,
)
from l1jax.thresholds.cumulative import cumulative_prox
from l1jax.thresholds.effective_steps import EffectiveStep
from l1jax.thresholds.metrics import Metric, threshold_of
from l1jax.thresholds.target_control import (
    Row,
    at_step,
    initial_control,
    largest_kept,
    next_control,
    without_strength,
)

T = TypeVar("T")


class ProximalStepState(NamedTuple):
    """State of `proximal_step`."""

    count: jax.Array
    """Steps taken, int32 of shape (): the argument of the schedules."""

    control: Control | None = None
    """Under a target sparsity, its strength and how far the ramp is; else None."""


class Rule(NamedTuple):
    """What a proximal step does, known before it is compiled."""

    penalty: Penalty
    target: TargetSparsity | None = None
    metric: Metric = "none"
    max_ratio: float = math.inf
    window: float = 1


def proximal_step(
    strength: Strength | TargetSparsity,
    learning_rate: optax.ScalarOrSchedule,
    *,
    penalty: Penalty = l1(),
    mask: Mask = weights_only,
) -> optax.GradientTransformationExtraArgs:
    """Turn a step `u` into `prox(w + u, learning_rate * strength) - w`: exact zeros.

    Forward-backward splitting (Duchi and Singer, 2009): after `optax.sgd` without
    momentum it minimises `loss + strength * penalty`. The threshold must be the step
    that the optimizer really takes, so give both the same learning rate or schedule.
    After any other optimizer this is a decoupled shrinkage that minimises something
    else: after Adam, loosely, a weighted penalty with the weights `sqrt(v_hat) + eps`;
    after momentum m, a penalty of strength `(1 - m) * strength`.

    It must come last. What scales, clips or averages updates after it destroys the
    zeros::

      optax.chain(optax.sgd(lr), l1jax.proximal_step(1e-3, lr))               # right
      optax.chain(l1jax.proximal_step(1e-3, lr), optax.scale_by_learning_rate(lr))  # no

    Args:
      strength: lambda, per unit of the mean loss: a number >= 0, an array that
        broadcasts to its parameter, a schedule (step count, from 0, to number), or a
        tree of these that is a prefix of the parameters'; or a `target_sparsity`.
      learning_rate: the step size of the optimizer before it, a number >= 0 or its
        schedule.
      penalty: the penalty, of unit strength.
      mask: as in `add_subgradient`.

    Returns:
      A transformation whose updates have the dtype of the parameters, whatever that of
      the incoming updates; float32 for half precision parameters, so that
      `optax.apply_updates` rounds the new parameter once. Where that changes the dtype,
      wrappers that emit either old or new updates (`optax.apply_if_finite`) cannot hold
      it: wrap the optimizer before it instead.

    Raises:
      TypeError: a strength or learning rate that is not a real number; at `init`, a
        penalised parameter that is not real floating.
      ValueError: one that is negative, infinite or NaN; a penalty that cannot go with a
        target sparsity; at `init`, a strength, schedule or mask that does not fit the
        parameters; at `update`, missing parameters or updates of another tree.

    Example:
      >>> tx = optax.chain(optax.sgd(0.1), proximal_step(1e-3, learning_rate=0.1))
    """
    require_penalty(penalty)
    strength, target = split_target(strength, penalty)
    check_learning_rate(learning_rate)
    take_step = chosen_step(Rule(penalty, target))

    def init_fn(params: optax.Params) -> ProximalStepState:
        check_params(params, mask, strength, learning_rate, penalty)
        control = target and initial_control(target, params, mask)
        return ProximalStepState(jnp.zeros([], jnp.int32), control)

    def update_fn(
        updates: optax.Updates,
        state: ProximalStepState,
        params: optax.Params | None = None,
        **extra_args: object,
    ) -> tuple[optax.Updates, ProximalStepState]:
        del extra_args
        require_state(state, ProximalStepState)
        _require_control(state, target)
        step_size = learning_rate_at(learning_rate, state.count)
        check_updates(updates, params)
        leaves = penalised_leaves(
            updates,
            params,
            strength=strength,
            mask=mask,
            count=state.count,
            penalty=penalty,
            step=EffectiveStep(step_size),
        )
        count = optax.safe_increment(state.count)
        new, kept = take_step(leaves, count, Kept(control=state.control))
        return replaced(updates, leaves, new), ProximalStepState(count, kept.control)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


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


class Kept(NamedTuple):
    """What a proximal step keeps for the next one; nothing at a given strength."""

    plus: Any = None
    """Under a window, what positive weights still owe, like the parameters."""
    minus: Any = None
    """The same for negative weights."""
    control: Control | None = None
    """Under a target sparsity, its strength and how far the ramp is."""


TakeStep = Callable[
    [Sequence[PenalisedLeaf], jax.Array, Kept], tuple[list[jax.Array], Kept]
]
"""`take_step(leaves, step, kept)` returns `prox(param + update, threshold) - param` for
each leaf, and what to keep. `step` is the number of this step, from 1."""


def chosen_step(rule: Rule, max_ratio: jax.Array | None = None) -> TakeStep:
    """Choose the kind of step, when a transformation is built.

    Args:
      rule: what is done.
      max_ratio: the cap, if it is an array; else it is `rule.max_ratio`.
    """
    if rule.target is not None:
        kind = _step_to_a_target
    elif rule.window != 1:
        kind = _step_with_a_window
    else:
        kind = _step_at_a_strength
    return functools.partial(kind, rule, max_ratio)


def once_compiled(function: Callable[..., T]) -> Callable[..., T]:
    """Compile a function of a static first argument, once for all uncompiled steps.

    By themselves these would compile the loops in it anew, each time. In compiled ones
    it leaves no trace. A penalty without a hash cannot be told from another: with it
    the function runs as it is written.
    """
    compiled = jax.jit(function, static_argnums=0, inline=True)

    @functools.wraps(function)
    def call(static: object, *arguments: object) -> T:
        try:
            hash(static)
        except TypeError:
            return function(static, *arguments)
        return compiled(static, *arguments)

    return call


@once_compiled
def _step_at_a_strength(
    rule: Rule,
    max_ratio: jax.Array | None,
    leaves: Sequence[PenalisedLeaf],
    step: jax.Array,
    kept: Kept,
) -> tuple[list[jax.Array], Kept]:
    del step
    rows = [
        (leaf.path, leaf.moved, _threshold(rule, max_ratio, leaf, leaf.strength))
        for leaf in leaves
    ]
    return _differences(rule.penalty.tree_prox(rows), leaves), kept


@once_compiled
def _step_with_a_window(
    rule: Rule,
    max_ratio: jax.Array | None,
    leaves: Sequence[PenalisedLeaf],
    step: jax.Array,
    kept: Kept,
) -> tuple[list[jax.Array], Kept]:
    del step
    plus, minus = values_at(kept.plus, leaves), values_at(kept.minus, leaves)
    new = [
        cumulative_prox(
            leaf.moved,
            _threshold(rule, max_ratio, leaf, leaf.strength),
            plus=plus[i],
            minus=minus[i],
            window=rule.window,
        )
        for i, leaf in enumerate(leaves)
    ]
    kept = kept._replace(
        plus=replaced(kept.plus, leaves, [each.plus for each in new]),
        minus=replaced(kept.minus, leaves, [each.minus for each in new]),
    )
    return _differences([each.x for each in new], leaves), kept


@once_compiled
def _step_to_a_target(
    rule: Rule,
    max_ratio: None,
    leaves: Sequence[PenalisedLeaf],
    step: jax.Array,
    kept: Kept,
) -> tuple[list[jax.Array], Kept]:
    target, penalty = rule.target, rule.penalty
    control = at_step(target, step, kept.control)
    rows = [
        Row(
            path=leaf.path,
            index=leaf.index,
            x=leaf.moved,
            threshold=functools.partial(_threshold, rule, max_ratio, leaf),
        )
        for leaf in leaves
    ]

    def shrink() -> tuple[list[jax.Array], Control]:
        at_strength, found = next_control(target, penalty, rows, step, control)
        return penalty.tree_prox(at_strength), found

    def prune() -> tuple[list[jax.Array], Control]:
        marks = largest_kept(target, [row.x for row in rows])
        new = [jnp.where(m, row.x, 0) for m, row in zip(marks, rows, strict=True)]
        return new, without_strength(target, rows, control)

    def freeze() -> tuple[list[jax.Array], Control]:
        zeros = [jnp.asarray(leaf.param) == 0 for leaf in leaves]
        new = [jnp.where(z, 0, row.x) for z, row in zip(zeros, rows, strict=True)]
        return new, without_strength(target, rows, control)

    if not leaves:
        new = []
    elif target.snap_step is None:
        new, control = shrink()
    else:
        due, over = step >= target.snap_step, step > target.snap_step
        phase = due.astype(jnp.int32) + over.astype(jnp.int32)
        new, control = jax.lax.switch(phase, (shrink, prune, freeze))
    return _differences(new, leaves), kept._replace(control=control)


def _threshold(
    rule: Rule, max_ratio: jax.Array | None, leaf: PenalisedLeaf, strength: ArrayLike
) -> jax.Array:
    return threshold_of(
        leaf.step,
        strength,
        metric=rule.metric,
        max_ratio=rule.max_ratio if max_ratio is None else max_ratio,
        least_slope=rule.penalty.least_slope,
        dtype=compute_dtype(dtype_of(leaf.param)),
    )


def _differences(
    new: Sequence[jax.Array], leaves: Sequence[PenalisedLeaf]
) -> list[jax.Array]:
    # As a difference to the parameter, a zero of the prox is a zero of the sum: `w + (0
    # - w)` is exactly 0. Formed from the clipped part it is not.
    return [
        x - jnp.asarray(leaf.param, x.dtype)
        for x, leaf in zip(new, leaves, strict=True)
    ]
