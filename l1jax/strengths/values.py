"""Strengths and learning rates: checked when given, read at every step.

A strength is in units of the loss: the objective is `loss + strength * penalty`. Only
concrete Python and numpy numbers can be checked when given. A negative number that
arrives later, inside a compiled step, becomes NaN: visible, never clipped.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from l1jax.checks import described, is_number
from l1jax.leaves import named_leaves, spread
from l1jax.targets import TargetSparsity

Schedule = Callable[[ArrayLike], ArrayLike]
"""Maps the step count, from 0, to a number."""

Strength = Any
"""A number, an array, a schedule, or a tree of these: a prefix of the parameters'."""


def check_strength(strength: Strength) -> None:
    """Raises unless every leaf is a schedule or a finite real number >= 0."""
    leaves = jax.tree.leaves(strength)
    if not leaves:
        raise TypeError(_message("strength", strength, True))
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
    """Raises unless it is a schedule or a finite real scalar >= 0."""
    if callable(learning_rate):
        return
    check_number("learning_rate", learning_rate, or_schedule=True)
    if jnp.shape(learning_rate) != ():
        raise ValueError(
            f"learning_rate must be a scalar; got shape {jnp.shape(learning_rate)}. "
            "Pass per-parameter weights through strength instead."
        )


def check_number(argument: str, value: ArrayLike, *, or_schedule: bool = False) -> None:
    """Raises unless `value` is a real number or array that is finite and >= 0."""
    if isinstance(value, jax.Array | np.ndarray):
        kinds = jnp.floating, jnp.integer
        if not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
            raise TypeError(_message(argument, value, or_schedule))
    elif not is_number(value, int | float | np.floating | np.integer):
        raise TypeError(_message(argument, value, or_schedule))
    if isinstance(value, jax.Array):
        return  # may be a tracer, and looking into a device array would block
    if not (np.isfinite(as_float(value)).all() and (np.asarray(value) >= 0).all()):
        raise ValueError(_message(argument, value, or_schedule))


def check_scalar(argument: str, value: ArrayLike) -> None:
    """Raises unless `value` is one real number that is finite and >= 0."""
    check_number(argument, value)
    if jnp.shape(value) != ():
        raise ValueError(
            f"{argument} must be a scalar; got shape {jnp.shape(value)}. Pass one "
            "number."
        )


def as_float(value: ArrayLike) -> ArrayLike:
    """Gives an int as a float, infinity if it is too large; anything else as it is."""
    if type(value) is not int:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def schedule_value(argument: str, schedule: Schedule, count: ArrayLike) -> ArrayLike:
    """Calls a schedule; a TypeError says whose it is."""
    try:
        return schedule(count)
    except TypeError as error:
        raise TypeError(
            f"{argument} must be a number or a function of the step count, got "
            f"{described(schedule)}, which raised: {error}. Pass one of one argument."
        ) from error


def learning_rate_at(learning_rate: ArrayLike | Schedule, count: ArrayLike) -> Any:
    """Reads the learning rate at step `count`."""
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


def strengths_at(strength: Strength, count: ArrayLike, params: Any) -> list[Any]:
    """Reads the strength of each leaf of `named_leaves(params)` at step `count`.

    Raises:
      ValueError: a strength, or what its schedule returns, does not broadcast to its
        parameter, or the tree of strengths is no prefix of the parameters'.
    """
    values = spread(strength, params, "strength")
    cache: dict[int, Any] = {}
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


def check_schedules(strength: Strength, learning_rate: Any, params: Any) -> list[Any]:
    """Raises at `init` what the schedules would raise at the first step.

    Gives the shape of the strength of each leaf of `named_leaves(params)`.
    """

    def probe(count: jax.Array) -> list[Any]:
        if learning_rate is not None:
            learning_rate_at(learning_rate, count)
        strengths = strengths_at(strength, count, params)
        return [() if s is None else jnp.asarray(s) for s in strengths]

    return jax.eval_shape(probe, jax.ShapeDtypeStruct((), jnp.int32))


def require_broadcast(
    argument: str, value: ArrayLike, path: str, shape: tuple[int, ...]
) -> None:
    """Raises ValueError unless `value` broadcasts to exactly `shape`."""
    try:
        fits = np.broadcast_shapes(jnp.shape(value), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{argument} of shape {jnp.shape(value)} does not broadcast to the "
            f"parameter '{path}' of shape {shape}. Pass (or return from the schedule) "
            "a scalar or an array of the parameter's shape."
        )


def nonnegative(value: ArrayLike, dtype: Any) -> jax.Array:
    """Casts to `dtype`; what is negative becomes NaN."""
    value = jnp.asarray(as_float(value), dtype)
    # The NaN is numpy's: making one in JAX would set off jax_debug_nans.
    return jnp.where(value >= 0, value, np.full((), np.nan, dtype))


def _message(argument: str, value: Any, or_schedule: bool) -> str:
    wanted = " or a schedule (a function of the step count)" if or_schedule else ""
    return (
        f"{argument} must be a finite real number >= 0{wanted}, got "
        f"{described(value)}. Pass a number such as 1e-3."
    )
