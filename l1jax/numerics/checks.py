"""Checks of single numbers, choices and flags; their errors say what would be right.

Numbers are Python's and numpy's, a 0-d array of numpy among them. An array of JAX is
refused here: where one may be traced, `strengths.values` checks what can be checked.
"""

import math
import numbers
import reprlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import DTypeLike

from l1jax.numerics.elementwise import as_float, dtype_of, is_array, is_real_floating

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


def require_known_float(name: str, dtype: DTypeLike) -> None:
    """Raise TypeError for floats of 8 bits or less."""
    if jnp.issubdtype(dtype, jnp.floating) and not is_real_floating(dtype):
        raise TypeError(
            f"{name} must have 16 bits or more, got dtype {jnp.dtype(dtype).name}. "
            "Convert it to bfloat16 or float32, or leave it out with mask=."
        )


def check_number(argument: str, value: ArrayLike, *, or_schedule: bool = False) -> None:
    """Raise unless `value` is a real number or array that is finite and >= 0."""
    if isinstance(value, jax.Array | np.ndarray):
        kinds = jnp.floating, jnp.integer
        if not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
            raise TypeError(number_message(argument, value, or_schedule))
    elif not is_number(value, int | float | np.floating | np.integer):
        raise TypeError(number_message(argument, value, or_schedule))
    if isinstance(value, jax.Array):
        return  # may be a tracer, and looking into a device array would block
    if not (np.isfinite(as_float(value)).all() and (np.asarray(value) >= 0).all()):
        raise ValueError(number_message(argument, value, or_schedule))


def check_scalar(argument: str, value: ArrayLike) -> None:
    """Raise unless `value` is one real number that is finite and >= 0."""
    check_number(argument, value)
    if jnp.shape(value) != ():
        raise ValueError(
            f"{argument} must be a scalar; got shape {jnp.shape(value)}. Pass one "
            "number."
        )


def broadcasts_to(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Return whether one shape broadcasts to exactly the other."""
    try:
        return np.broadcast_shapes(shape, wanted) == wanted
    except ValueError:
        return False


def require_broadcast(
    argument: str, value: ArrayLike, path: str, shape: tuple[int, ...]
) -> None:
    """Raise ValueError unless `value` broadcasts to exactly `shape`."""
    if not broadcasts_to(jnp.shape(value), shape):
        raise ValueError(
            f"{argument} of shape {jnp.shape(value)} does not broadcast to the "
            f"parameter '{path}' of shape {shape}. Pass (or return from the schedule) "
            "a scalar or an array of the parameter's shape."
        )


def number_message(argument: str, value: object, or_schedule: bool) -> str:
    """Return the message about an argument that is not what it must be."""
    wanted = " or a schedule (a function of the step count)" if or_schedule else ""
    return (
        f"{argument} must be a finite real number >= 0{wanted}, got "
        f"{described(value)}. Pass a number such as 1e-3."
    )


def real_array(argument: str, value: ArrayLike) -> jax.Array:
    """Return an argument as an array.

    Raises:
      TypeError: it is not real floating point of 16 bits or more.
    """
    if not is_array(value) or not is_real_floating(dtype_of(value)):
        got = f"dtype {value.dtype}" if is_array(value, False) else described(value)
        raise TypeError(
            f"{argument} must be real floating point, an array of 16 bits at least, "
            f"got {got}. Pass one such as jnp.ones(3)."
        )
    return jnp.asarray(value)


def as_numbers(
    argument: str, value: object, labels: bool = False
) -> jax.Array | np.ndarray:
    """Return real numbers as an array; numpy converts lists and tables.

    Args:
      argument: what the user calls it.
      value: an array, a number, or what numpy makes an array of; not traced.
      labels: whether it may be bool.
    """
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{argument} must be known, got a traced array: the sizes of working sets "
            "depend on it. Call this function outside of jit and vmap, or use solve."
        )
    array = value
    if not isinstance(value, jax.Array):
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError):  # such as rows of unequal length
            array = np.array(None)
    if labels and array.dtype == bool:
        return array.astype(np.int32)
    if not any(
        jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer)
    ):
        raise TypeError(
            f"{argument} must be a dense array of real numbers, got "
            f"{type(value).__name__} of dtype {array.dtype}. {_remedy(value, array)}"
        )
    return array


def _remedy(value: object, array: jax.Array | np.ndarray) -> str:
    """Return what to pass in place of data that are not numbers."""
    if hasattr(value, "toarray"):
        return "Pass a dense array: value.toarray()."
    if array.dtype.kind in "OSU":
        return "Encode words and labels as numbers first: 0, 1, ... for each class."
    return "Pass a JAX or numpy array."
