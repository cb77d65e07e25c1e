"""Steps along the subgradient of a penalty: the textbook way, which makes no zeros."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l1jax.numerics.elementwise import compute_dtype, dtype_of, nonnegative
from l1jax.optimizers.penalised_leaves import (
    check_params,
    penalised_leaves,
)
from l1jax.optimizers.proximal_steps import (
    Move,
    leaf_paths,
    once_compiled,
    require_state,
)
from l1jax.parameters.masks import Mask, weights_only
from l1jax.parameters.trees import is_none
from l1jax.penalties.base import Penalty, require_subgradient
from l1jax.penalties.separable import l1
from l1jax.strengths.values import (
    Strength,
    check_strength,
)


class AddSubgradientState(NamedTuple):
    """State of `add_subgradient`."""

    count: jax.Array
    """Steps taken, int32 of shape (): the argument of a strength schedule."""


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
        require_state(state, AddSubgradientState)
        leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
        rows = penalised_leaves(updates, params, strength, mask, state.count)
        moves = [Move(row.param, leaves[i], row.strength) for i, row in rows.items()]
        add = once_compiled(_with_slopes, penalty)
        for i, sum_ in zip(rows, add(penalty, leaf_paths(rows), moves), strict=True):
            leaves[i] = sum_
        updates = jax.tree.unflatten(treedef, leaves)
        return updates, AddSubgradientState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


# These are compiled once for all steps that are not compiled themselves: by themselves,
# the loops in them would be compiled anew at each step. In others they leave no trace.
@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _with_slopes(
    penalty: Penalty, paths: tuple[str, ...], moves: list[Move]
) -> list[jax.Array]:
    sums = []
    for path, (param, update, strength, *_) in zip(paths, moves, strict=True):
        dtypes = compute_dtype(dtype_of(param)), compute_dtype(dtype_of(update))
        dtype = jnp.promote_types(*dtypes)
        slope = penalty.at(path, jnp.shape(param)).subgradient(
            jnp.asarray(param, dtype), nonnegative(strength, dtype)
        )
        sums.append((jnp.asarray(update, dtype) + slope).astype(dtype_of(update)))
    return sums
