"""Checks of single numbers, choices and flags; their errors say what would be right.

Numbers are Python's and numpy's, a 0-d array of numpy among them. A tensor is
refused here: where one may stand, `hyperparameters` checks what can be checked.
"""

import math
import numbers
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

LARGEST = 2**31 - 1
"""The largest number of steps or iterations, which are counted in 32 bits."""

_repr = reprlib.Repr()
_repr.maxother = _repr.maxstring = _repr.maxlong = 120


def check_real(argument: str, value: Any, interval: str, example: str) -> float:
    """Gives a number of an interval as a float.

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
    value: Any,
    example: str,
    *,
    least: int | None = 1,
    most: int | None = None,
) -> int:
    """Gives an integer of `least` to `most` as an int; `None` is no bound.

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


def check_choice(argument: str, value: Any, choices: Sequence[str]) -> str:
    """Gives one of a few strings.

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


def check_flag(argument: str, value: Any) -> bool:
    """Gives True or False; anything else, 0 and 1 too, raises TypeError."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(
        f"{argument} must be True or False, got {described(value)}. Pass a bool."
    )


def is_number(value: Any, kind: type = numbers.Real) -> bool:
    """Tells a Python or numpy number of a kind of `numbers` from all else, and bools.

    A duration of numpy counts as an integer there, but not here.
    """
    odd = isinstance(value, bool | np.timedelta64)
    return isinstance(value, kind) and not odd


def scalar(value: Any) -> Any:
    """Takes the number out of a 0-d array of numpy; gives anything else back."""
    return value[()] if isinstance(value, np.ndarray) and not value.ndim else value


def described(value: Any) -> str:
    """Writes a value, shortened, and its type for a message."""
    return f"{_repr.repr(value)} of type {type(value).__name__}"
