"""Gradient transformations for optax chains: subgradients and proximal steps."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l1jax.controllers import Control, Row, check_target, follow, initial_control
from l1jax.hyperparameters import (
    Strength,
    check_learning_rate,
    check_schedules,
    check_strength,
    learning_rate_at,
    nonnegative,
    strengths_at,
)
from l1jax.leaves import (
    compute_dtype,
    dtype_of,
    named_leaves,
    require_real_floating,
    require_same_tree,
)
from l1jax.masks import Mask, selected, weights_only
from l1jax.penalties import l1
from l1jax.penalty import Penalty, require_penalty, require_subgradient
from l1jax.targets import TargetSparsity


class AddSubgradientState(NamedTuple):
    """State of `add_subgradient`."""

    count: jax.Array
    """Steps taken, int32 of shape (): the argument of a strength schedule."""


class ProximalStepState(NamedTuple):
    """State of `proximal_step`."""

    count: jax.Array
    """Steps taken, int32 of shape (): the argument of the schedules."""

    control: Control | None = None
    """Under a target sparsity, its strength and how far the ramp is; else None."""


def add_subgradient(
    strength: Strength, *, penalty: Penalty = l1(), mask: Mask = weights_only
) -> optax.GradientTransformationExtraArgs:
    """Adds the penalty's subgradient to the gradients: `g + strength * sign(w)`.

    The gradient of `loss + strength * penalty`, with 0 at a weight of 0, where JAX's
    own derivative of `abs` is 1. Place it before the optimizer. Like any subgradient
    method it oscillates around zero and finds no exact zeros: use `proximal_step` for
    these.

    Example:
      >>> tx = optax.chain(add_subgradient(1e-3), optax.adam(1e-3))

    Args:
      strength: lambda, per unit of the mean loss that the gradients belong to: a number
        >= 0, an array that broadcasts to its parameter, a schedule (step count, from 0,
        to number), or a tree of these that is a prefix of the parameters'.
      penalty: the penalty, of unit strength; one with a constraint is refused.
      mask: the leaves to penalise: a tree of booleans, a function from the parameters
        to one, or `None` for all. The default leaves out biases and normalisation.

    Returns:
      A transformation whose updates keep the dtype of the gradients.

    Raises:
      TypeError: a strength that is not a real number; at `init`, a penalised parameter
        that is not real floating.
      ValueError: a strength that is negative, infinite or NaN; a penalty with a
        constraint; at `init`, a strength or mask that does not fit the parameters; at
        `update`, missing parameters or gradients of another tree.
    """
    check_strength(strength)
    require_subgradient(penalty)

    def init_fn(params: Any) -> AddSubgradientState:
        check_params(params, mask, strength, None, penalty)
        return AddSubgradientState(count=jnp.zeros([], jnp.int32))

    def update_fn(
        updates: Any, state: AddSubgradientState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, AddSubgradientState]:
        del extra_args

        leaves, treedef = jax.tree.flatten(updates, is_leaf=_is_none)
        rows = penalised_leaves(updates, params, strength, mask, state.count)
        for i, (path, param, leaf_strength) in rows.items():
            dtype = jnp.promote_types(
                compute_dtype(dtype_of(param)), compute_dtype(dtype_of(leaves[i]))
            )
            slope = penalty.at(path, jnp.shape(param)).subgradient(
                jnp.asarray(param, dtype), nonnegative(leaf_strength, dtype)
            )
            sum_ = jnp.asarray(leaves[i], dtype) + slope
            leaves[i] = sum_.astype(dtype_of(leaves[i]))
        updates = jax.tree.unflatten(treedef, leaves)
        return updates, AddSubgradientState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


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

    def init_fn(params: Any) -> ProximalStepState:
        check_params(params, mask, strength, learning_rate, penalty)
        control = target and initial_control(target, params, mask)
        return ProximalStepState(jnp.zeros([], jnp.int32), control)

    def update_fn(
        updates: Any, state: ProximalStepState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, ProximalStepState]:
        del extra_args
        step_size = learning_rate_at(learning_rate, state.count)
        leaves, treedef = jax.tree.flatten(updates, is_leaf=_is_none)
        rows = penalised_leaves(
            updates, params, strength, mask, state.count, penalty.joint
        )
        rates = {
            i: nonnegative(step_size, compute_dtype(dtype_of(param)))
            for i, (_, param, _) in rows.items()
        }

        def threshold(i: int, leaf_strength: Any) -> jax.Array:
            strength_ = 1.0 if penalty.constraint else leaf_strength
            return rates[i] * nonnegative(strength_, rates[i].dtype)

        if target:
            step = optax.safe_increment(state.count)
            leaves, control = followed_updates(
                target, penalty, leaves, rows, threshold, step, state.control
            )
        else:
            thresholds = {i: threshold(i, row[2]) for i, row in rows.items()}
            leaves, control = shrunk_updates(penalty, leaves, rows, thresholds), None
        updates = jax.tree.unflatten(treedef, leaves)
        return updates, ProximalStepState(optax.safe_increment(state.count), control)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def split_target(
    strength: Strength | TargetSparsity, penalty: Penalty, window: float = 1
) -> tuple[Strength, TargetSparsity | None]:
    """Checks a strength, and tells a target from a number, which is 0 then."""
    if isinstance(strength, TargetSparsity):
        check_target(strength, penalty, window)
        return 0.0, strength
    check_strength(strength)
    return strength, None


def check_params(
    params: Any, mask: Mask, strength: Any, learning_rate: Any, penalty: Penalty
) -> None:
    """Raises at `init` what does not fit the parameters, or could not be penalised."""
    leaves, flags = named_leaves(params), selected(mask, params)
    for path, leaf in itertools.compress(leaves, flags):
        require_real_floating(path, leaf)
    shapes = [jnp.shape(s) for s in check_schedules(strength, learning_rate, params)]
    for (path, leaf), shape in itertools.compress(
        zip(leaves, shapes, strict=True), flags
    ):
        penalty.at(path, jnp.shape(leaf)).require_fit(path, jnp.shape(leaf), shape)


def penalised_leaves(
    updates: Any,
    params: Any,
    strength: Strength,
    mask: Mask,
    count: jax.Array,
    joint: bool = False,
) -> dict[int, tuple[str, jax.Array, Any]]:
    """Gives path, parameter and strength of each penalised leaf, by its position.

    The position is that in `jax.tree.leaves` with `None` as a leaf. A leaf whose update
    is `None` takes no step and counts as not penalised.

    Raises:
      ValueError: missing parameters, updates of another tree, or of some leaves only
        under a joint penalty.
    """
    if params is None:
        raise ValueError(
            "params must be given, got None. Call update(updates, state, params)."
        )
    require_same_tree(updates, params)
    rows = zip(
        jax.tree.leaves(updates, is_leaf=_is_none),
        named_leaves(params),
        selected(mask, params),
        strengths_at(strength, count, params),
        strict=True,
    )
    found, still = {}, []
    for i, (update, (path, param), penalised, leaf_strength) in enumerate(rows):
        if penalised and update is not None:
            require_real_floating(path, param)
            found[i] = path, param, leaf_strength
        elif penalised and joint:
            still.append(path)
    if found and still:
        raise ValueError(
            f"updates of {still} are None, but the penalty holds for all penalised "
            "arrays together. Leave those that do not move out with mask=."
        )
    return found


def shrunk_updates(
    penalty: Penalty,
    updates: list[Any],
    rows: dict[int, tuple[str, jax.Array, Any]],
    thresholds: dict[int, Any],
) -> list[Any]:
    """Gives `prox(param + update, threshold) - param` for the rows, the rest as it is.

    As a difference to the parameter, a zero of the prox is a zero of the sum: `w + (0 -
    w)` is exactly 0. Formed from the clipped part it is not.
    """
    updates, moved = list(updates), []
    for i, (path, param, _) in rows.items():
        moved.append((path, _moved(param, updates[i]), thresholds[i]))
    return _differences(updates, rows, penalty.tree_prox(moved))


def followed_updates(
    target: TargetSparsity,
    penalty: Penalty,
    updates: list[Any],
    rows: dict[int, tuple[str, jax.Array, Any]],
    threshold: Callable[[int, Any], jax.Array],
    step: jax.Array,
    control: Control,
) -> tuple[list[Any], Control]:
    """Gives `shrunk_updates` at the strength of a target, and the strength."""
    moved = {
        i: Row(
            path,
            jnp.asarray(param),
            _moved(param, updates[i]),
            functools.partial(threshold, i),
        )
        for i, (path, param, _) in rows.items()
    }
    new, control = follow(target, penalty, moved, step, control)
    return _differences(list(updates), rows, new), control


def _moved(param: Any, update: Any) -> jax.Array:
    dtype = compute_dtype(dtype_of(param))
    return jnp.asarray(param, dtype) + jnp.asarray(update, dtype)


def _differences(
    updates: list[Any], rows: dict[int, tuple[str, jax.Array, Any]], new: list[Any]
) -> list[Any]:
    for (i, (_, param, _)), x in zip(rows.items(), new, strict=True):
        updates[i] = x - jnp.asarray(param, x.dtype)
    return updates


def _is_none(x: Any) -> bool:
    return x is None
