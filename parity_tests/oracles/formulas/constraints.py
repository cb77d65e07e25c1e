"""Constraints as formulas: 0 inside, infinity outside, but for 1e-9 of rounding."""

import math
from collections.abc import Callable

import numpy as np

from parity_tests.oracles.formulas.entry import Entry

Value = Callable[[np.ndarray], float]


def l1_ball(radius: float) -> Value:
    """Sum absolute values."""
    return lambda x: 0.0 if np.abs(x).sum() <= radius * (1 + 1e-9) else math.inf


def top_k(k: int) -> Value:
    """Count."""
    return lambda x: 0.0 if np.count_nonzero(x) <= k else math.inf


def n_of_m(n: int, m: int) -> Value:
    """Count in blocks of the last axis."""

    def value(x: np.ndarray) -> float:
        counts = np.count_nonzero(x.reshape(-1, m), axis=1)
        return 0.0 if (counts <= n).all() else math.inf

    return value


PENALTIES: dict[str, Entry] = {
    "l1_ball(1.5)": Entry(lambda lib: lib.l1_ball(1.5), l1_ball(1.5)),
    "l1_ball(0)": Entry(lambda lib: lib.l1_ball(0), l1_ball(0)),
    'l1_ball(2.0, scope="tree")': Entry(
        lambda lib: lib.l1_ball(2.0, scope="tree"),
        l1_ball(2.0),
    ),
    "top_k(2)": Entry(lambda lib: lib.top_k(2), top_k(2)),
    "top_k(0)": Entry(lambda lib: lib.top_k(0), top_k(0)),
    'top_k(3, scope="tree")': Entry(lambda lib: lib.top_k(3, scope="tree"), top_k(3)),
    "n_of_m(1, 3)": Entry(lambda lib: lib.n_of_m(1, 3), n_of_m(1, 3)),
    "n_of_m(2, 3)": Entry(lambda lib: lib.n_of_m(2, 3), n_of_m(2, 3)),
}
