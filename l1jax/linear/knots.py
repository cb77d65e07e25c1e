"""Where along the Lasso's path the features in use change."""

import jax
import numpy as np

from l1jax.linear.design import Design
from l1jax.linear.fitting import LinearSolution
from l1jax.linear.losses import loss_named
from l1jax.linear.penalty_terms import penalty_terms
from l1jax.penalties.base import Penalty


def has_knots(loss: str, penalty: Penalty, features: int) -> bool:
    """Tells whether coefficients are piecewise linear in the strength."""
    if loss != "squared":
        return False
    terms = penalty_terms(penalty, 1.0, (features,))
    return terms.groups is None and not terms.ridge.any()


def next_knot(
    X: jax.Array,
    y: jax.Array,
    strength: float,
    found: LinearSolution,
    past: float,
    *,
    penalty: Penalty,
    fit_intercept: bool,
) -> float:
    """Gives the next strength at which a feature comes in or goes out; 0 if none does.

    Between two such strengths the coefficients of the squared loss are linear in the
    strength (Osborne, Presnell and Turlach, 2000; Efron, Hastie, Johnstone and
    Tibshirani, 2004).

    Args:
      strength: that of the solution found.
      past: how much below the strength to begin.
    """
    design = Design(X)
    targets = loss_named("squared").targets(np.asarray(y, np.float64))
    terms = penalty_terms(penalty, 1.0, (design.p,))
    slopes, floor = terms.slopes[:, 0], terms.floor[:, 0]
    w = np.asarray(found.coef, np.float64)
    scores = design.scores(w[:, None]) + np.asarray(found.intercept, np.float64)
    grad = design.gradient(scores - targets)[:, 0]
    used = np.flatnonzero((w != 0) | (slopes == 0))
    columns = design.columns(used)
    if fit_intercept:
        columns = columns - columns.mean(0)
    pull = slopes[used] * np.sign(w[used])
    # By how much coefficients and gradient rise as the strength falls by one.
    rise = np.linalg.lstsq(columns.T @ columns / design.n, pull, rcond=None)[0]
    turn = design.gradient((columns @ rise)[:, None])[:, 0]
    rest = np.isfinite(slopes)
    rest[used] = False
    a, g, h = slopes[rest], grad[rest], turn[rest]
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = (-w[used] / rise)[slopes[used] > 0]
        up = (strength * a + g) / (a - h)
        down = ((strength * a - g) / (a + h))[floor[rest] < 0]
    falls = np.concatenate([zero, up, down])
    return strength - min(falls[falls > past], default=strength)
