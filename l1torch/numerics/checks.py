"""Checks of single numbers, choices and flags; their errors say what would be right.

Numbers are Python's and numpy's, a 0-d array of numpy among them. A tensor is
refused here: where one is allowed, `strengths.values` checks what can be checked.
"""

import math
import numbers
import reprlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from l1torch.numerics.elementwise import Number, as_float, is_real_floating, shape_of

_T = TypeVar("_T")

LARGEST = 2**31 - 1
"""The largest number of steps or iterations, which are counted in 32 bits."""

_repr = reprlib.Repr()
_repr.maxother = _repr.maxstring = _repr.maxlong = 120


def check_real(argument: str, value: object, interval: str, example: str) -> float:
    """Return a number as a float, if it lies in an interval.

    Args:
      argument: its name, for the message.
      value: what was given.
      interval: as mathematics writes it: `"[0, 1)"`, or `"(0, inf)"` for what must be
        positive and finite.
      example: what to pass instead.

    Raises:
      TypeError: not a real number: a bool, an array with an axis, a string.
      ValueError: outside of the interval, or NaN.
    """
    number = scalar(value)
    error = ValueError if is_number(number, numbers.Real) else TypeError
    if error is ValueError:
        try:
            number = float(number)
        except OverflowError:  # a large int
            number = math.inf if number > 0 else -math.inf
        low, high = (float(end) for end in interval[1:-1].split(","))
        above = low < number or (interval[0] == "[" and number == low)
        if above and (number < high or (interval[-1] == "]" and number == high)):
            return number
    raise error(
        f"{argument} must be a Python number in {interval}, got {described(value)}. "
        f"Pass {example}."
    )


def check_int(
    argument: str,
    value: object,
    example: str,
    *,
    least: int | None = 1,
    most: int | None = None,
) -> int:
    """Return an integer from `least` to `most` as an int; `None` is no bound.

    Raises:
      TypeError: not an integer: a bool, a float, an array with an axis.
      ValueError: smaller or larger.
    """
    limits = {">=": least, "<=": most}
    bounds = [f"{sign} {n}" for sign, n in limits.items() if n is not None]
    message = (
        f"{argument} must be a Python int {' and '.join(bounds)}".rstrip()
        + f", got {described(value)}. Pass {example}."
    )
    value = scalar(value)
    if not is_number(value, numbers.Integral):
        raise TypeError(message)
    value = int(value)
    if (least is not None and value < least) or (most is not None and value > most):
        raise ValueError(message)
    return value


def check_choice(argument: str, value: object, choices: Sequence[str]) -> str:
    """Return a string, if it is one of a few.

    Raises:
      TypeError: not a string.
      ValueError: another string.
    """
    if isinstance(value, str) and value in choices:
        return str(value)
    raise (ValueError if isinstance(value, str) else TypeError)(
        f"{argument} must be one of {', '.join(map(repr, choices))}, got "
        f"{described(value)}. Pass {choices[0]!r} if in doubt."
    )


def check_flag(argument: str, value: object) -> bool:
    """Return True or False; anything else, 0 and 1 too, raises TypeError."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(
        f"{argument} must be True or False, got {described(value)}. Pass a bool."
    )


def is_number(value: object, kind: type = numbers.Real) -> bool:
    """Return whether a value is a Python or numpy number of a kind, and no bool.

    numpy registers its durations as integers; they do not count here.
    """
    odd = isinstance(value, bool | np.timedelta64)
    return isinstance(value, kind) and not odd


def scalar(value: object) -> object:
    """Return the number in a 0-d array of numpy, or anything else as it is."""
    return value[()] if isinstance(value, np.ndarray) and not value.ndim else value


def described(value: object) -> str:
    """Return a value, shortened, and its type, for a message."""
    return f"{_repr.repr(value)} of type {type(value).__name__}"


def require_known_float(name: str, dtype: torch.dtype) -> None:
    """Raise TypeError for floats of 8 bits or less."""
    if dtype.is_floating_point and not is_real_floating(dtype):
        raise TypeError(
            f"{name} must have 16 bits or more, got dtype {str(dtype).split('.')[-1]}. "
            "Convert it to bfloat16 or float32, or leave it out with mask=."
        )


def check_number(argument: str, value: Number, *, or_schedule: bool = False) -> None:
    """Raise unless `value` is a real number or tensor, a number finite and >= 0."""
    if isinstance(value, Tensor):
        if value.dtype.is_complex or value.dtype == torch.bool:
            raise TypeError(number_message(argument, value, or_schedule))
        return  # looking into it would wait for the device
    if not is_number(value, int | float | np.floating | np.integer):
        raise TypeError(number_message(argument, value, or_schedule))
    if not 0 <= as_float(value) < math.inf:
        raise ValueError(number_message(argument, value, or_schedule))


def check_scalar(argument: str, value: Number) -> None:
    """Raise unless `value` is one real number that is finite and >= 0."""
    check_number(argument, value)
    if shape_of(value) != ():
        raise ValueError(
            f"{argument} must be a scalar; got shape {shape_of(value)}. Pass one "
            "number."
        )


def broadcasts_to(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Return whether one shape broadcasts to exactly the other."""
    try:
        return torch.broadcast_shapes(shape, wanted) == wanted
    except RuntimeError:
        return False


def require_broadcast(
    argument: str, value: Number, name: str, shape: torch.Size
) -> None:
    """Raise ValueError unless `value` broadcasts to exactly `shape`."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return
    if not broadcasts_to(value.shape, shape):
        raise ValueError(
            f"{argument} of shape {tuple(value.shape)} does not broadcast to the "
            f"parameter '{name}' of shape {tuple(shape)}. Pass (or return from the "
            "schedule) a scalar or a tensor of the parameter's shape."
        )


def number_message(argument: str, value: object, or_schedule: bool) -> str:
    """Return the message about an argument that is not what it must be."""
    wanted = " or a schedule (a function of the step count)" if or_schedule else ""
    return (
        f"{argument} must be a finite real number >= 0{wanted}, got "
        f"{described(value)}. Pass a number such as 1e-3."
    )


def require_real_tensor(argument: str, value: Tensor) -> None:
    """Raise TypeError unless an argument is real floating point of 16 bits or more."""
    if not isinstance(value, Tensor) or not is_real_floating(value.dtype):
        known = isinstance(value, Tensor)
        got = f"dtype {value.dtype}" if known else described(value)
        raise TypeError(
            f"{argument} must be real floating point, a tensor of 16 bits at least, "
            f"got {got}. Pass one such as torch.ones(3)."
        )


def as_numbers(argument: str, value: object, labels: bool = False) -> Tensor:
    """Return real numbers as a dense tensor; numpy converts lists and tables.

    Args:
      argument: what the user calls it.
      value: a tensor, a number, or what numpy makes an array of.
      labels: whether it may be bool.
    """
    tensor = value
    if not isinstance(value, Tensor):
        try:
            # Not by torch, which rounds Python's numbers to single precision.
            tensor = torch.from_numpy(np.array(value, order="C"))
        except (TypeError, ValueError, RuntimeError):  # such as rows of unequal length
            tensor = None
    if labels and tensor is not None and tensor.dtype == torch.bool:
        return tensor.int()
    if (
        tensor is None
        or tensor.is_complex()
        or tensor.dtype == torch.bool
        or tensor.layout != torch.strided
    ):
        dtype = getattr(value, "dtype", None)
        raise TypeError(
            f"{argument} must be a dense tensor of real numbers, got "
            f"{type(value).__name__} of dtype {dtype}. {_remedy(value)}"
        )
    return tensor


def _remedy(value: object) -> str:
    """Return what to pass in place of data that are not numbers."""
    if isinstance(value, Tensor) and value.layout != torch.strided:
        return "Pass a dense tensor: value.to_dense()."
    if hasattr(value, "toarray"):
        return "Pass a dense array: value.toarray()."
    if isinstance(value, Tensor):
        return "Pass a tensor of floats."
    return "Encode words and labels as numbers first: 0, 1, ... for each class."


def as_number(value: _T) -> _T | float:
    """Return scalar tensors on the CPU and numpy's numbers as a float.

    A float can be checked, needs no tensor operations, and loads from any checkpoint.
    Anything else is returned as it is.
    """
    if is_number(value, int | float | np.floating | np.integer):
        return float(as_float(value))
    readable = isinstance(value, Tensor) and value.numel() == 1
    if readable and value.device.type == "cpu" and not torch.compiler.is_compiling():
        return value.item()
    return value
