"""Strengths and learning rates: checked when given, read at every step.

A strength is in units of the loss: the objective is `loss + strength * penalty`. Only
Python numbers are checked. A negative number in a tensor becomes NaN: visible, never
clipped, and without waiting for the device.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeGuard

from torch import Tensor

from l1torch.numerics.checks import (
    check_number,
    described,
    number_message,
    require_broadcast,
)
from l1torch.numerics.elementwise import Number, as_float
from l1torch.parameters.trees import Params, named_leaves, spread
from l1torch.strengths.targets import TargetSparsity

Schedule = Callable[[int], Number]
"""Maps the step count, from 0, to a number."""

Strength = Number | Schedule | Mapping[str, Number | Schedule]
"""A number, a tensor, a schedule, or a mapping from parameter names to these."""


class PenalisedLeaf(NamedTuple):
    """A penalised parameter, with its strength at this step."""

    path: str
    """Its dotted name."""
    param: Tensor
    strength: Number


def check_strength(strength: Strength) -> None:
    """Raise unless every leaf is a schedule or a finite real number >= 0."""
    leaves = [strength]
    if isinstance(strength, Mapping):
        leaves = list(strength.values())
    if not leaves:
        raise TypeError(number_message("strength", strength, True))
    for leaf in leaves:
        if isinstance(leaf, TargetSparsity):
            raise TypeError(
                f"strength must be a number or a schedule here, got {leaf!r}. Pass "
                "target_sparsity(...) as the whole strength of Proximal or "
                "proximal_step, whose steps make zeros."
            )
        if not is_schedule(leaf):
            check_number("strength", leaf, or_schedule=True)


def check_learning_rate(learning_rate: Number | Schedule) -> None:
    """Raise unless it is a schedule or a finite real scalar >= 0."""
    if is_schedule(learning_rate):
        return
    check_number("learning_rate", learning_rate, or_schedule=True)
    if isinstance(learning_rate, Tensor) and learning_rate.dim() > 0:
        raise ValueError(
            "learning_rate must be a scalar; got shape "
            f"{tuple(learning_rate.shape)}. Pass per-parameter weights through "
            "strength instead."
        )


def is_schedule(value: object) -> TypeGuard[Schedule]:
    """Return whether a value is a function of the step count, no number or tensor."""
    return callable(value) and not isinstance(value, Tensor)


def schedule_value(argument: str, schedule: Schedule, count: int) -> Number:
    """Call a schedule; name the argument if it raises TypeError."""
    try:
        return schedule(count)
    except TypeError as error:
        raise TypeError(
            f"{argument} must be a number or a function of the step count, got "
            f"{described(schedule)}, which raised: {error}. Pass one of one argument."
        ) from error


def learning_rate_at(learning_rate: Number | Schedule, count: int) -> Number:
    """Read the learning rate at step `count`."""
    if not is_schedule(learning_rate):
        return as_float(learning_rate)
    value = schedule_value("learning_rate", learning_rate, count)
    check_number("learning_rate", value)
    if isinstance(value, Tensor) and value.dim() > 0:
        raise ValueError(
            "learning_rate must be a scalar; the schedule returned shape "
            f"{tuple(value.shape)}. Return one number for the step."
        )
    return as_float(value)


def strengths_at(strength: Strength, count: int, params: Params) -> list[Number]:
    """Read the strength of each leaf of `named_leaves(params)` at step `count`.

    Raises:
      ValueError: a strength, or what its schedule returns, does not broadcast to its
        parameter, or the mapping of strengths has other names than the parameters.
    """
    values = spread(strength, params, "strength")
    cache: dict[int, Number] = {}
    for i, (name, leaf) in enumerate(named_leaves(params)):
        given = values[i]
        if is_schedule(given):
            if id(given) not in cache:
                cache[id(given)] = schedule_value("strength", given, count)
            values[i] = cache[id(given)]
        if leaf is None:
            continue
        check_number("strength", values[i])
        values[i] = as_float(values[i])
        require_broadcast("strength", values[i], name, leaf.shape)
    return values


def check_schedules(
    strength: Strength, learning_rate: Number | Schedule | None, params: Params
) -> list[Number]:
    """Raise at `init` what the schedules would raise at the first step.

    Returns:
      The first strength of each leaf of `named_leaves(params)`.
    """
    if learning_rate is not None:
        learning_rate_at(learning_rate, 0)
    return strengths_at(strength, 0, params)
