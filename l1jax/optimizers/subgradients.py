"""Steps along the subgradient of a penalty: the textbook way, which makes no zeros."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from l1jax.numerics.elementwise import compute_dtype, dtype_of, nonnegative
from l1jax.optimizers.penalised_leaves import (
    PenalisedLeaf,
    check_params,
    check_updates,
    penalised_leaves,
)
from l1jax.optimizers.proximal_steps import once_compiled, require_state
from l1jax.parameters.masks import Mask, weights_only
from l1jax.parameters.trees import replaced
from l1jax.penalties.base import Penalty, require_subgradient
from l1jax.penalties.separable import l1
from l1jax.strengths.values import (
    Strength,
    check_strength,
)
from l1jax.thresholds.effective_steps import EffectiveStep


class AddSubgradientState(NamedTuple):
    """State of `add_subgradient`."""

    count: jax.Array
    """Steps taken, int32 of shape (): the argument of a strength schedule."""


def add_subgradient(
    strength: Strength, *, penalty: Penalty = l1(), mask: Mask = weights_only
) -> optax.GradientTransformationExtraArgs:
    """Add the penalty's subgradient to the gradients: `g + strength * sign(w)`.

    The gradient of `loss + strength * penalty`, with 0 at a weight of 0, where JAX's
    own derivative of `abs` is 1. Place it before the optimizer. Like any subgradient
    method it oscillates around zero and finds no exact zeros: use `proximal_step` for
    these.

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

    Example:
      >>> tx = optax.chain(add_subgradient(1e-3), optax.adam(1e-3))
    """
    check_strength(strength)
    require_subgradient(penalty)

    def init_fn(params: optax.Params) -> AddSubgradientState:
        check_params(params, mask, strength, None, penalty)
        return AddSubgradientState(count=jnp.zeros([], jnp.int32))

    def update_fn(
        updates: optax.Updates,
        state: AddSubgradientState,
        params: optax.Params | None = None,
        **extra_args: object,
    ) -> tuple[optax.Updates, AddSubgradientState]:
        del extra_args
        require_state(state, AddSubgradientState)
        check_updates(updates, params)
        leaves = penalised_leaves(
            updates,
            params,
            strength=strength,
            mask=mask,
            count=state.count,
            penalty=penalty,
            step=EffectiveStep(1.0),
        )
        updates = replaced(updates, leaves, _with_slopes(penalty, leaves))
        return updates, AddSubgradientState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@once_compiled
def _with_slopes(penalty: Penalty, leaves: Sequence[PenalisedLeaf]) -> list[jax.Array]:
    sums = []
    for leaf in leaves:
        kind = dtype_of(leaf.update)
        dtype = jnp.promote_types(
            compute_dtype(dtype_of(leaf.param)), compute_dtype(kind)
        )
        slope = penalty.at(leaf.path, jnp.shape(leaf.param)).subgradient(
            jnp.asarray(leaf.param, dtype), nonnegative(leaf.strength, dtype)
        )
        sums.append((jnp.asarray(leaf.update, dtype) + slope).astype(kind))
    return sums
