"""One row of the tables of penalties."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Entry(NamedTuple):
    """A penalty, how a library makes it, and its value by a formula of numpy."""

    make: Callable[[Any], Any]
    """From `l1jax` or `l1torch` to the penalty."""
    value: Callable[[np.ndarray], float]
    """The penalty of a whole array in float64; infinity outside its domain."""
    shape: tuple[int, ...] = (6,)
    """Of an array that it can take."""


class Element(NamedTuple):
    """A penalty that is a sum over the elements."""

    make: Callable[[Any], Any]
    """From `l1jax` or `l1torch` to the penalty."""
    value: Callable[[np.ndarray], np.ndarray]
    """The penalty of each element of an array."""
