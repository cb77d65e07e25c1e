"""The value of a penalty on a whole tree of parameters, for reports and losses."""

import jax
import jax.numpy as jnp

from l1jax.parameters.masks import Mask, selected, weights_only
from l1jax.parameters.trees import (
    PyTree,
    named_leaves,
    parameters_of,
    require_real_floating,
)
from l1jax.penalties.base import Penalty, PenaltyRow, require_penalty
from l1jax.penalties.separable import l1
from l1jax.strengths.values import Strength, check_strength, strengths_at


def penalty_value(
    params: PyTree,
    strength: Strength,
    penalty: Penalty = l1(),
    mask: Mask = weights_only,
) -> jax.Array:
    """Sum `strength * penalty` over the penalised leaves: to report, or for a loss.

    Differentiated, it gives the penalty's subgradient: 0 at a weight of 0, where
    `jax.grad(jnp.abs)` gives 1. Added to a loss it finds no exact zeros; for these use
    `proximal_step`.

    Args:
      params: tree of arrays, or a flax `nnx.Module`: its `nnx.Param` leaves.
      strength: number, array, or tree of these that is a prefix of `params`; in units
        of the loss.
      penalty: the penalty, of unit strength.
      mask: the leaves to count, see `weights_only`; `None` counts all.

    Returns:
      Scalar in the widest dtype of the penalised leaves, at least float32.

    Raises:
      TypeError: no penalty; a strength that is no number (a schedule: call it with
        your step count); a penalised leaf that is not real floating.
      ValueError: negative or NaN strength; a strength or mask that does not fit.

    Example:
      >>> params = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(5.0)}
      >>> print(penalty_value(params, 0.5))
      1.5
    """
    if any(callable(leaf) for leaf in jax.tree.leaves(strength)):
        raise TypeError(
            f"strength must be a number here, got the schedule {strength!r}. Call it "
            "with your step count and pass the result."
        )
    check_strength(strength)
    require_penalty(penalty)
    params = parameters_of(params)
    rows = zip(
        named_leaves(params),
        selected(mask, params),
        strengths_at(strength, 0, params),
        strict=True,
    )
    chosen = []
    for (path, leaf), penalised, leaf_strength in rows:
        if penalised:
            require_real_floating(path, leaf)
            chosen.append(PenaltyRow(path, leaf, leaf_strength))
    return jnp.asarray(penalty.tree_value(chosen), None if chosen else jnp.float32)
