"""The leaves that a transformation penalises, with their strengths."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from l1jax.parameters.masks import Mask, selected
from l1jax.parameters.trees import (
    is_none,
    named_leaves,
    require_real_floating,
    require_same_tree,
)
from l1jax.penalties.base import Penalty
from l1jax.strengths.targets import TargetSparsity
from l1jax.strengths.values import (
    Strength,
    check_schedules,
    check_strength,
    strengths_at,
)
from l1jax.thresholds.target_control import check_target


class Penalised(NamedTuple):
    """A penalised leaf."""

    path: str
    param: jax.Array
    strength: Any


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
) -> dict[int, Penalised]:
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
        jax.tree.leaves(updates, is_leaf=is_none),
        named_leaves(params),
        selected(mask, params),
        strengths_at(strength, count, params),
        strict=True,
    )
    found, still = {}, []
    for i, (update, (path, param), penalised, leaf_strength) in enumerate(rows):
        if penalised and update is not None:
            require_real_floating(path, param)
            found[i] = Penalised(path, param, leaf_strength)
        elif penalised and joint:
            still.append(path)
    if found and still:
        raise ValueError(
            f"updates of {still} are None, but the penalty holds for all penalised "
            "arrays together. Leave those that do not move out with mask=."
        )
    return found
