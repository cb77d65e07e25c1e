"""Where along the Lasso's path the features in use change."""

import torch
from torch import Tensor

from l1torch.linear.design import Design
from l1torch.linear.fitting import LinearSolution
from l1torch.linear.losses import loss_named
from l1torch.linear.penalty_terms import penalty_terms
from l1torch.penalties.base import Penalty


def has_knots(loss: str, penalty: Penalty, features: int) -> bool:
    """Tells whether coefficients are piecewise linear in the strength."""
    if loss != "squared":
        return False
    terms = penalty_terms(penalty, 1.0, (features,))
    return terms.groups is None and not terms.ridge.any()


def next_knot(
    X: Tensor,
    y: Tensor,
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
    targets = loss_named("squared").targets(y.detach().cpu().double())
    terms = penalty_terms(penalty, 1.0, (design.p,))
    slopes, floor = terms.slopes[:, 0], terms.floor[:, 0]
    w = found.coef.cpu().double()
    scores = design.scores(w[:, None]) + found.intercept.cpu().double()
    grad = design.gradient(scores - targets)[:, 0]
    used = torch.nonzero((w != 0) | (slopes == 0)).flatten()
    columns = design.columns(used)
    if fit_intercept:
        columns = columns - columns.mean(0)
    pull = slopes[used] * torch.sign(w[used])
    # By how much coefficients and gradient rise as the strength falls by one.
    gram = columns.T @ columns / design.n
    rise = torch.linalg.lstsq(gram, pull[:, None], driver="gelsd").solution[:, 0]
    turn = design.gradient((columns @ rise)[:, None])[:, 0]
    rest = slopes.isfinite()
    rest[used] = False
    a, g, h = slopes[rest], grad[rest], turn[rest]
    zero = (-w[used] / rise)[slopes[used] > 0]
    up = (strength * a + g) / (a - h)
    down = ((strength * a - g) / (a + h))[floor[rest] < 0]
    falls = torch.cat([zero, up, down])
    return strength - min(falls[falls > past].tolist(), default=strength)
