"""The nuclear norm, ordered and fused penalties, in numpy."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import nnls
from scipy.special import ndtri

from parity_tests.oracles.formulas.entry import Entry

WEIGHTS = (2.0, 1.5, 1.0, 1.0, 0.5, 0.0)


def slope_weights(q: float, n: int) -> np.ndarray:
    """Benjamini and Hochberg's weights."""
    return ndtri(1 - np.arange(1, n + 1) * q / (2 * n))


def owl_value(weights: Any) -> Callable[[np.ndarray], float]:
    """The sum of the sorted sizes times the weights."""
    return lambda x: float(np.sort(np.abs(x), None)[::-1] @ np.asarray(weights))


def slope_value(q: float) -> Callable[[np.ndarray], float]:
    """SLOPE."""
    return lambda x: owl_value(slope_weights(q, x.size))(x)


def fused_lasso_value(l1_ratio: float) -> Callable[[np.ndarray], float]:
    """L1 and total variation along the last axis."""
    return lambda x: float(
        l1_ratio * np.abs(x).sum() + (1 - l1_ratio) * np.abs(np.diff(x, axis=-1)).sum()
    )


def nuclear_value(x: np.ndarray) -> float:
    """The sum of the singular values of the last two axes."""
    return float(np.linalg.svd(x, compute_uv=False).sum())


PENALTIES: dict[str, Entry] = {
    "nuclear()": Entry(lambda lib: lib.nuclear(), nuclear_value, (2, 3)),
    "owl((2.0, 1.5, ...))": Entry(
        lambda lib: lib.owl(WEIGHTS), owl_value(WEIGHTS), (6,)
    ),
    "slope(0.3)": Entry(lambda lib: lib.slope(0.3), slope_value(0.3), (6,)),
    "total_variation()": Entry(
        lambda lib: lib.total_variation(),
        fused_lasso_value(0.0),
        (6,),
    ),
    "fused_lasso(0.4)": Entry(
        lambda lib: lib.fused_lasso(0.4),
        fused_lasso_value(0.4),
        (6,),
    ),
}


def owl_vertices(weights: Any) -> np.ndarray:
    """The dual ball's vertices: the weights in every order with every sign."""
    orders = np.array(list(itertools.permutations(weights)))
    signs = np.array(list(itertools.product((-1, 1), repeat=len(weights))))
    return np.unique((orders[:, None] * signs).reshape(-1, len(weights)), axis=0)


def fused_lasso_vertices(l1_ratio: float, n: int) -> np.ndarray:
    """The dual ball's vertices, and some points of it that are none."""
    jumps = np.array(list(itertools.product((-1, 1), repeat=n - 1)))
    signs = np.array(list(itertools.product((-1, 1), repeat=n)))
    if l1_ratio == 0:
        signs = signs[:1]
    slopes = (1 - l1_ratio) * jumps @ np.diff(np.eye(n), axis=0)
    return (l1_ratio * signs[:, None] + slopes).reshape(-1, n)


def left_of_projection(vertices: np.ndarray, x: np.ndarray, v: np.ndarray) -> Any:
    """`v` less its projection onto the subdifferential, at `x`, of a polyhedral norm.

    The subdifferential is the hull of those vertices of the dual ball that reach the
    norm at `x`. The nearest point of a hull is a non-negative least squares problem.
    """
    reached = vertices @ x
    beyond = vertices[reached >= reached.max() - 1e-9] - v
    stacked = np.r_[beyond.T, np.ones((1, len(beyond)))]
    shares = nnls(stacked, np.append(np.zeros(len(v)), 1.0), maxiter=10_000)[0]
    return -beyond.T @ shares / shares.sum()
