"""Strengths and learning rates: checked when given, read at every step.

A strength is in units of the loss: the objective is `loss + strength * penalty`. Only
Python numbers are checked. A negative number in a tensor becomes NaN: visible, never
clipped, and without waiting for the device.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l1torch.checks import described, is_number
from l1torch.leaves import named_leaves, spread
from l1torch.targets import TargetSparsity

Number = float | Tensor
"""A real number or tensor."""

Schedule = Callable[[int], Number]
"""Maps the step count, from 0, to a number."""

Strength = Number | Schedule | Mapping[str, Number | Schedule]
"""A number, a tensor, a schedule, or a mapping from parameter names to these."""


def check_strength(strength: Strength) -> None:
    """Raises unless every leaf is a schedule or a finite real number >= 0."""
    leaves = [strength]
    if isinstance(strength, Mapping):
        leaves = list(strength.values())
    if not leaves:
        raise TypeError(_message("strength", strength, True))
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
    """Raises unless it is a schedule or a finite real scalar >= 0."""
    if is_schedule(learning_rate):
        return
    check_number("learning_rate", learning_rate, or_schedule=True)
    if isinstance(learning_rate, Tensor) and learning_rate.dim() > 0:
        raise ValueError(
            "learning_rate must be a scalar; got shape "
            f"{tuple(learning_rate.shape)}. Pass per-parameter weights through "
            "strength instead."
        )


def check_number(argument: str, value: Number, *, or_schedule: bool = False) -> None:
    """Raises unless `value` is a real number or tensor, a number finite and >= 0."""
    if isinstance(value, Tensor):
        if value.dtype.is_complex or value.dtype == torch.bool:
            raise TypeError(_message(argument, value, or_schedule))
        return  # looking into it would wait for the device
    if not is_number(value, int | float | np.floating | np.integer):
        raise TypeError(_message(argument, value, or_schedule))
    if not 0 <= as_float(value) < math.inf:
        raise ValueError(_message(argument, value, or_schedule))


def check_scalar(argument: str, value: Number) -> None:
    """Raises unless `value` is one real number that is finite and >= 0."""
    check_number(argument, value)
    if shape_of(value) != ():
        raise ValueError(
            f"{argument} must be a scalar; got shape {shape_of(value)}. Pass one "
            "number."
        )


def as_float(value: Number) -> Number:
    """Gives an int as a float, infinity if it is too large; anything else as it is."""
    if type(value) is not int:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def is_schedule(value: Any) -> bool:
    """Tells a function of the step count from a number or tensor."""
    return callable(value) and not isinstance(value, Tensor)


def schedule_value(argument: str, schedule: Schedule, count: int) -> Number:
    """Calls a schedule; a TypeError says whose it is."""
    try:
        return schedule(count)
    except TypeError as error:
        raise TypeError(
            f"{argument} must be a number or a function of the step count, got "
            f"{described(schedule)}, which raised: {error}. Pass one of one argument."
        ) from error


def learning_rate_at(learning_rate: Number | Schedule, count: int) -> Number:
    """Reads the learning rate at step `count`."""
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


def strengths_at(strength: Strength, count: int, params: Any) -> list[Number]:
    """Reads the strength of each leaf of `named_leaves(params)` at step `count`.

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
    strength: Strength, learning_rate: Any, params: Any
) -> list[Number]:
    """Raises at `init` what the schedules would raise at the first step.

    Gives the first strength of each leaf of `named_leaves(params)`.
    """
    if learning_rate is not None:
        learning_rate_at(learning_rate, 0)
    return strengths_at(strength, 0, params)


def shape_of(value: Number) -> tuple[int, ...]:
    """The shape of a number or tensor."""
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def require_broadcast(
    argument: str, value: Number, name: str, shape: torch.Size
) -> None:
    """Raises ValueError unless `value` broadcasts to exactly `shape`."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return
    try:
        fits = torch.broadcast_shapes(value.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{argument} of shape {tuple(value.shape)} does not broadcast to the "
            f"parameter '{name}' of shape {tuple(shape)}. Pass (or return from the "
            "schedule) a scalar or a tensor of the parameter's shape."
        )


def nonnegative(value: Number, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Makes a tensor of `dtype` on `device`; what is negative becomes NaN."""
    if not isinstance(value, Tensor):
        return torch.full((), float(value), dtype=dtype, device=device)
    value = value.to(device=device, dtype=dtype)
    return value.masked_fill(~(value >= 0), math.nan)


def product(step_size: Number, strength: Number, dtype: torch.dtype) -> Number:
    """Multiplies in `dtype`, as JAX does; a float for floats, else a tensor."""
    tensors = [x for x in (step_size, strength) if isinstance(x, Tensor)]
    if not tensors:
        return _product_of_numbers(step_size, strength, dtype)
    device = tensors[0].device
    return nonnegative(step_size, dtype, device) * nonnegative(strength, dtype, device)


@functools.lru_cache
def _product_of_numbers(a: float, b: float, dtype: torch.dtype) -> float:
    # Kept, since all parameters of a group ask for the same. Under torch.compile this
    # breaks the graph; a graph of the whole step, base and prox, came out wrong.
    x, y = (torch.full((), value, dtype=dtype, device="cpu") for value in (a, b))
    return (x * y).item()


def _message(argument: str, value: Any, or_schedule: bool) -> str:
    wanted = " or a schedule (a function of the step count)" if or_schedule else ""
    return (
        f"{argument} must be a finite real number >= 0{wanted}, got "
        f"{described(value)}. Pass a number such as 1e-3."
    )
