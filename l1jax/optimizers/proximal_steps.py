"""Gradient transformations for optax chains: subgradients and proximal steps."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l1jax.numerics.checks import described
from l1jax.numerics.elementwise import compute_dtype, dtype_of
from l1jax.optimizers.penalised_leaves import (
    Penalised,
    check_params,
    penalised_leaves,
    split_target,
)
from l1jax.parameters.masks import Mask, weights_only
from l1jax.parameters.sparsity import Control
from l1jax.parameters.trees import is_none
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
from l1jax.thresholds.target_control import Row, follow, initial_control


class ProximalStepState(NamedTuple):
    """State of `proximal_step`."""

    count: jax.Array
    """Steps taken, int32 of shape (): the argument of the schedules."""

    control: Control | None = None
    """Under a target sparsity, its strength and how far the ramp is; else None."""


class Move(NamedTuple):
    """What moves a penalised leaf."""

    param: jax.Array
    update: jax.Array
    strength: Any
    step: EffectiveStep = EffectiveStep(0.0)
    max_ratio: jax.Array | None = None
    """The cap, if it is an array."""
    owed: tuple[jax.Array, jax.Array] | None = None
    """Under a window, what positive weights owe, and negative ones."""


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
    """Turns a step `u` into `prox(w + u, learning_rate * strength) - w`: exact zeros.

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

    Example:
      >>> tx = optax.chain(optax.sgd(0.1), proximal_step(1e-3, learning_rate=0.1))

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
    """
    require_penalty(penalty)
    strength, target = split_target(strength, penalty)
    check_learning_rate(learning_rate)
    rule = Rule(penalty, target)

    def init_fn(params: Any) -> ProximalStepState:
        check_params(params, mask, strength, learning_rate, penalty)
        control = target and initial_control(target, params, mask)
        return ProximalStepState(jnp.zeros([], jnp.int32), control)

    def update_fn(
        updates: Any, state: ProximalStepState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, ProximalStepState]:
        del extra_args
        require_state(state, ProximalStepState)
        _require_control(state, target)
        step_size = learning_rate_at(learning_rate, state.count)
        leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
        rows = penalised_leaves(
            updates, params, strength, mask, state.count, penalty.joint
        )
        moves = {
            i: Move(row.param, leaves[i], row.strength, EffectiveStep(step_size))
            for i, row in rows.items()
        }
        step = optax.safe_increment(state.count)
        leaves, control, _ = proximal_updates(
            rule, leaves, rows, moves, step, state.control
        )
        updates = jax.tree.unflatten(treedef, leaves)
        return updates, ProximalStepState(step, control)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def require_state(state: Any, kind: type) -> None:
    """Raises TypeError for a state of another transformation."""
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


def proximal_updates(
    rule: Rule,
    updates: list[Any],
    rows: dict[int, Penalised],
    moves: dict[int, Move],
    step: jax.Array,
    control: Control | None,
) -> tuple[list[Any], Control | None, list[Any]]:
    """Gives `prox(param + update, threshold) - param` for the rows, the rest as it is.

    As a difference to the parameter, a zero of the prox is a zero of the sum: `w + (0 -
    w)` is exactly 0. Formed from the clipped part it is not.

    Args:
      rule: what is done.
      updates: those of all leaves.
      rows: the penalised leaves, by their position.
      moves: what moves them.
      step: the number of this step, from 1.
      control: under a target, what was kept from the step before; else None.

    Returns:
      The updates, what a target keeps, and what a window keeps of each row.
    """
    places = tuple(zip(rows, leaf_paths(rows), strict=True))
    take = once_compiled(_taken, rule.penalty)
    new, control, owed = take(rule, places, list(moves.values()), step, control)
    updates = list(updates)
    for i, update in zip(rows, new, strict=True):
        updates[i] = update
    return updates, control, owed


def once_compiled(function: Any, penalty: Penalty) -> Any:
    """Gives a compiled function, or what it is made of for a penalty without a hash."""
    try:
        hash(penalty)
    except TypeError:
        return function.__wrapped__
    return function


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _taken(
    rule: Rule,
    places: tuple[tuple[int, str], ...],
    moves: list[Move],
    step: jax.Array,
    control: Control | None,
) -> tuple[list[jax.Array], Control | None, list[Any]]:
    penalty, rows, owed = rule.penalty, {}, []
    for (i, path), move in zip(places, moves, strict=True):
        dtype = compute_dtype(dtype_of(move.param))
        threshold = functools.partial(
            threshold_of,
            move.step,
            metric=rule.metric,
            max_ratio=rule.max_ratio if move.max_ratio is None else move.max_ratio,
            least_slope=penalty.least_slope,
            dtype=dtype,
        )
        x = jnp.asarray(move.param, dtype) + jnp.asarray(move.update, dtype)
        rows[i] = Row(path, jnp.asarray(move.param), x, threshold)
    if rule.target:
        new, control = follow(rule.target, penalty, rows, step, control)
    else:
        strengths = [1.0 if penalty.constraint else move.strength for move in moves]
        shrunk = [
            (row.path, row.x, row.threshold(strength))
            for row, strength in zip(rows.values(), strengths, strict=True)
        ]
        if rule.window == 1:
            new = penalty.tree_prox(shrunk)
        else:
            kept = [
                cumulative_prox(x, threshold, *move.owed, rule.window)
                for (_, x, threshold), move in zip(shrunk, moves, strict=True)
            ]
            new, owed = [x for x, *_ in kept], [budgets for _, *budgets in kept]
    differences = [
        x - jnp.asarray(move.param, x.dtype) for x, move in zip(new, moves, strict=True)
    ]
    return differences, control, owed


def leaf_paths(rows: dict[int, Penalised]) -> tuple[str, ...]:
    """The dotted paths of penalised leaves."""
    return tuple(row.path for row in rows.values())
