"""Strengths and learning rates: checked when given, read at every step.

A strength is in units of the loss: the objective is `loss + strength * penalty`. Only
concrete Python and numpy numbers can be checked when given. A negative number that
arrives later, inside a compiled step, becomes NaN: visible, never clipped.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.numerics.checks import (
    check_number,
    described,
    number_message,
    require_broadcast,
)
from l1jax.numerics.elementwise import as_float
from l1jax.parameters.trees import PyTree, named_leaves, spread
from l1jax.strengths.targets import TargetSparsity

Schedule = Callable[[ArrayLike], ArrayLike]
"""Maps the step count, from 0, to a number."""

Strength: TypeAlias = (
    ArrayLike | Schedule | Mapping[str, "Strength"] | Sequence["Strength"]
)
"""A number, an array, a schedule, or a tree of these: a prefix of the parameters'."""


def check_strength(strength: Strength) -> None:
    """Raise unless every leaf is a schedule or a finite real number >= 0."""
    leaves = jax.tree.leaves(strength)
    if not leaves:
        raise TypeError(number_message("strength", strength, True))
    for leaf in leaves:
        if isinstance(leaf, TargetSparsity):
            raise TypeError(
                f"strength must be a number or a schedule here, got {leaf!r}. Pass "
                "target_sparsity(...) as the whole strength of proximal or "
                "proximal_step, whose steps make zeros."
            )
        if not callable(leaf):
            check_number("strength", leaf, or_schedule=True)


def check_learning_rate(learning_rate: ArrayLike | Schedule) -> None:
    """Raise unless it is a schedule or a finite real scalar >= 0."""
    if callable(learning_rate):
        return
    check_number("learning_rate", learning_rate, or_schedule=True)
    if jnp.shape(learning_rate) != ():
        raise ValueError(
            f"learning_rate must be a scalar; got shape {jnp.shape(learning_rate)}. "
            "Pass per-parameter weights through strength instead."
        )


def schedule_value(argument: str, schedule: Schedule, count: ArrayLike) -> ArrayLike:
    """Call a schedule; name the argument if it raises TypeError."""
    try:
        return schedule(count)
    except TypeError as error:
        raise TypeError(
            f"{argument} must be a number or a function of the step count, got "
            f"{described(schedule)}, which raised: {error}. Pass one of one argument."
        ) from error


def learning_rate_at(
    learning_rate: ArrayLike | Schedule, count: ArrayLike
) -> ArrayLike:
    """Read the learning rate at step `count`."""
    if not callable(learning_rate):
        return as_float(learning_rate)
    value = schedule_value("learning_rate", learning_rate, count)
    check_number("learning_rate", value)
    if jnp.shape(value) != ():
        raise ValueError(
            "learning_rate must be a scalar; the schedule returned shape "
            f"{jnp.shape(value)}. Return one number for the step."
        )
    return as_float(value)


def strengths_at(
    strength: Strength, count: ArrayLike, params: PyTree
) -> list[ArrayLike]:
    """Read the strength of each leaf of `named_leaves(params)` at step `count`.

    Raises:
      ValueError: a strength, or what its schedule returns, does not broadcast to its
        parameter, or the tree of strengths is no prefix of the parameters'.
    """
    values = spread(strength, params, "strength")
    cache: dict[int, ArrayLike] = {}
    for i, (path, leaf) in enumerate(named_leaves(params)):
        given = values[i]
        if callable(given):
            if id(given) not in cache:
                cache[id(given)] = schedule_value("strength", given, count)
            values[i] = cache[id(given)]
        if leaf is None:
            continue
        check_number("strength", values[i])
        values[i] = as_float(values[i])
        require_broadcast("strength", values[i], path, jnp.shape(leaf))
    return values


def check_schedules(
    strength: Strength, learning_rate: ArrayLike | Schedule | None, params: PyTree
) -> list[jax.ShapeDtypeStruct]:
    """Raise at `init` what the schedules would raise at the first step.

    Returns:
      For each leaf of `named_leaves(params)`, the shape and dtype of its strength.
    """

    def probe(count: jax.Array) -> list[jax.Array]:
        if learning_rate is not None:
            learning_rate_at(learning_rate, count)
        strengths = strengths_at(strength, count, params)
        return [() if s is None else jnp.asarray(s) for s in strengths]

    return jax.eval_shape(probe, jax.ShapeDtypeStruct((), jnp.int32))
