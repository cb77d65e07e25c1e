"""The leaves that a transformation penalises, with their strengths."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from l1jax.numerics.elementwise import compute_dtype, dtype_of
from l1jax.parameters.masks import Mask, selected
from l1jax.parameters.trees import (
    is_none,
    named_leaves,
    require_real_floating,
    require_same_tree,
    spread,
)
from l1jax.penalties.base import Penalty
from l1jax.strengths.targets import TargetSparsity
from l1jax.strengths.values import (
    Schedule,
    Strength,
    check_schedules,
    check_strength,
    strengths_at,
)
from l1jax.thresholds.effective_steps import EffectiveStep
from l1jax.thresholds.target_control import check_target

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PenalisedLeaf:
    """A penalised leaf, and what it is changed by in this step."""

    path: str = dataclasses.field(metadata=_STATIC)
    """Its dotted path."""
    index: int = dataclasses.field(metadata=_STATIC)
    """Its position in `jax.tree.leaves`, with `None` as a leaf."""
    param: jax.Array
    update: jax.Array
    """What is added to it: the optimizer's step, or its gradient."""
    strength: ArrayLike
    """That of this step, which broadcasts to the parameter."""
    step: EffectiveStep
    """The optimizer's effective step for this leaf."""

    @property
    def moved(self) -> jax.Array:
        """The parameter after the optimizer's own step, in the dtype to compute in."""
        dtype = compute_dtype(dtype_of(self.param))
        return jnp.asarray(self.param, dtype) + jnp.asarray(self.update, dtype)


def split_target(
    strength: Strength | TargetSparsity, penalty: Penalty, window: float = 1
) -> tuple[Strength, TargetSparsity | None]:
    """Check a strength, and return a number and the target: 0, if there is one."""
    if isinstance(strength, TargetSparsity):
        check_target(strength, penalty, window)
        return 0.0, strength
    check_strength(strength)
    return strength, None


def check_params(
    params: optax.Params,
    mask: Mask,
    strength: Strength,
    learning_rate: ArrayLike | Schedule | None,
    penalty: Penalty,
) -> None:
    """Raise at `init` for what does not fit the parameters, or cannot be penalised."""
    leaves, flags = named_leaves(params), selected(mask, params)
    for path, leaf in itertools.compress(leaves, flags):
        require_real_floating(path, leaf)
    shapes = [jnp.shape(s) for s in check_schedules(strength, learning_rate, params)]
    for (path, leaf), shape in itertools.compress(
        zip(leaves, shapes, strict=True), flags
    ):
        penalty.at(path, jnp.shape(leaf)).require_fit(path, jnp.shape(leaf), shape)


def check_updates(updates: optax.Updates, params: optax.Params | None) -> None:
    """Raise for missing parameters, or updates of another tree."""
    if params is None:
        raise ValueError(
            "params must be given, got None. Call update(updates, state, params)."
        )
    require_same_tree(updates, params)


def penalised_leaves(
    updates: optax.Updates,
    params: optax.Params,
    *,
    strength: Strength,
    mask: Mask,
    count: jax.Array,
    penalty: Penalty,
    step: EffectiveStep,
) -> list[PenalisedLeaf]:
    """Return the leaves that take a step, with the strengths of step `count`.

    A leaf whose update is `None` takes no step and counts as not penalised. A
    constraint has the strength 1, since it has none.

    Raises:
      ValueError: a strength or an effective step that does not fit the parameters, or
        updates of some leaves only under a joint penalty.
    """
    rows = zip(
        named_leaves(params),
        jax.tree.leaves(updates, is_leaf=is_none),
        selected(mask, params),
        strengths_at(strength, count, params),
        *(spread(part, params, "EffectiveStep") for part in step),
        strict=True,
    )
    found, still = [], []
    for index, ((path, param), update, penalised, value, *parts) in enumerate(rows):
        if penalised and update is not None:
            require_real_floating(path, param)
            leaf = PenalisedLeaf(
                path=path,
                index=index,
                param=param,
                update=update,
                strength=1.0 if penalty.constraint else value,
                step=EffectiveStep(*parts),
            )
            found.append(leaf)
        elif penalised and penalty.joint:
            still.append(path)
    if found and still:
        raise ValueError(
            f"updates of {still} are None, but the penalty holds for all penalised "
            "arrays together. Leave those that do not move out with mask=."
        )
    return found
