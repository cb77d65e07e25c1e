"""Constraints as formulas: 0 inside, infinity outside, but for 1e-9 of rounding."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Value = Callable[[np.ndarray], float]


def l1_ball(radius: float) -> Value:
    """Sums absolute values."""
    return lambda x: 0.0 if np.abs(x).sum() <= radius * (1 + 1e-9) else math.inf


def top_k(k: int) -> Value:
    """Counts."""
    return lambda x: 0.0 if np.count_nonzero(x) <= k else math.inf


def n_of_m(n: int, m: int) -> Value:
    """Counts in blocks of the last axis."""

    def value(x: np.ndarray) -> float:
        counts = np.count_nonzero(x.reshape(-1, m), axis=1)
        return 0.0 if (counts <= n).all() else math.inf

    return value


PENALTIES: dict[str, tuple[Callable[[Any], Any], Value]] = {
    "l1_ball(1.5)": (lambda lib: lib.l1_ball(1.5), l1_ball(1.5)),
    "l1_ball(0)": (lambda lib: lib.l1_ball(0), l1_ball(0)),
    'l1_ball(2.0, scope="tree")': (
        lambda lib: lib.l1_ball(2.0, scope="tree"),
        l1_ball(2.0),
    ),
    "top_k(2)": (lambda lib: lib.top_k(2), top_k(2)),
    "top_k(0)": (lambda lib: lib.top_k(0), top_k(0)),
    'top_k(3, scope="tree")': (lambda lib: lib.top_k(3, scope="tree"), top_k(3)),
    "n_of_m(1, 3)": (lambda lib: lib.n_of_m(1, 3), n_of_m(1, 3)),
    "n_of_m(2, 3)": (lambda lib: lib.n_of_m(2, 3), n_of_m(2, 3)),
}
"""By name: what makes it of a library, and its value of an array of shape (6,)."""
