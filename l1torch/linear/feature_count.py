"""The strength that keeps a wished number of features."""

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from l1torch.linear.paths import linear_strengths
from l1torch.linear.problem import LinearProblem, LinearSolution, scores_of
from l1torch.numerics.checks import check_int
from l1torch.penalties.base import Penalty
from l1torch.penalties.separable import l1

_SURE = 1e-12
"""The relative gap at which a support is nearly the optimum's, and how far apart
strengths are, as a share of the largest, for their supports to be told apart."""


class KeptFeatures(NamedTuple):
    """What `keep_features` found."""

    features: np.ndarray
    """The indices of the features kept, rising."""
    exact: bool
    """Whether they are as many as asked for; else they are fewer."""
    strength: float
    """The strength that keeps them, in units of the loss."""
    solution: LinearSolution
    """The solution at this strength."""


def keep_features(
    X: Tensor,
    y: Tensor,
    k: int,
    *,
    count: int = 100,
    ratio: float = 1e-3,
    loss: str = "squared",
    penalty: Penalty = l1(),
    fit_intercept: bool = True,
    method: str = "auto",
    tol: float = 1e-6,
    max_iterations: int = 10_000,
) -> KeptFeatures:
    """Find a linear model that uses k of the features.

    It walks down the path, as `linear_path` does, until more than k features have
    weights that are not zero, and takes the last strength before: if it keeps k, the
    weakest that does on the grid of `count` strengths. If it keeps fewer, the strengths
    between the two are bisected. Where no strength of the grid keeps more than k, and
    the last keeps fewer, the number may rise to k and fall again in between: with the
    squared loss under a penalty without ridge and groups, every strength at which a
    feature comes in or goes out is then visited. Where a path jumps over k, as it does
    if features are equal, or ends before, fewer than k are kept, and the result says
    so.

    Args:
      X: of shape (n, p).
      y: of shape (n,): numbers, labels 0 and 1, or classes, see `solve_linear`.
      k: how many features to keep, in 0..p.
      count: how many strengths to walk down at most.
      ratio: the smallest strength over the largest.
      loss: "squared", "logistic" or "multinomial", where a feature counts if the
        weight of any class is not zero; see `solve_linear`.
      penalty: the penalty, of unit strength.
      fit_intercept: whether there is an intercept, which is not penalised.
      method: of `solve_linear`.
      tol: of `solve_linear`, in [0, 1). Where the number changes Newton's methods go
        on until optimality is violated by 1e-13 of the largest strength at most, or by
        rounding, because even a small gap may leave a feature too many or too few.
      max_iterations: of `solve_linear`, for each strength.

    Returns:
      A `KeptFeatures`.

    Raises:
      TypeError: data that are no numbers.
      ValueError: k outside 0..p, or less than the features without a penalty; `count`
        or `ratio` out of range; data that do not fit, see `solve_linear`.

    Example:
      >>> X, y = torch.eye(4) * 2, torch.tensor([4.0, 1.0, 3.0, 2.0])
      >>> kept = keep_features(X, y, 2, fit_intercept=False)
      >>> kept.features, kept.exact
      (array([0, 2]), True)
    """
    problem = LinearProblem(
        X,
        y,
        loss=loss,
        penalty=penalty,
        fit_intercept=fit_intercept,
        method=method,
        tol=tol,
        max_iterations=max_iterations,
    )
    n, p = problem.design.n, problem.design.p
    check_int("k", k, "how many features to keep", least=0, most=p)
    strengths = linear_strengths(problem, None, count, ratio).tolist()
    apart = _SURE * strengths[0]

    def solved(
        strength: float, init: LinearSolution | None, sure: bool = True
    ) -> KeptFeatures:
        sure = sure and method != "fista"  # which would take too long
        goal = min(tol, _SURE) if sure else tol
        found = problem.solve(strength, init=init, tol=goal)
        if sure:
            found = _refined(problem, strength, found, apart / 10)
        found = found._replace(converged=bool(found.relative_gap <= tol))
        rows = found.coef.numpy(force=True).reshape(p, -1)
        features = np.flatnonzero((rows != 0).any(1))
        return KeptFeatures(features, len(features) == k, strength, found)

    found = None
    for place in range(len(strengths)):
        found = solved(strengths[place], found and found.solution, False)
        if len(found.features) > k:
            break
    kept, beyond = None, None
    while 0 <= place < len(strengths) and (kept is None or beyond is None):
        # Start from fewer features: rounding keeps in the model what a start has.
        found = solved(strengths[place], kept and kept.solution)
        if len(found.features) > k:
            beyond, place = found.strength, place - 1
        else:
            kept, place = found, place + 1
    while kept is None:  # rounding at the largest strength, or features without penalty
        found = solved(2 * found.strength, None)
        if len(found.features) <= k:
            kept = found
        elif found.strength > 8 * beyond:
            raise ValueError(
                f"k must be at least {len(found.features)}, how many features have "
                f"weights at every strength, got {k}. Penalise more of them."
            )
    while beyond is not None and not kept.exact and kept.strength > beyond + apart:
        strength = math.sqrt(kept.strength * beyond)
        found = solved(strength, kept.solution)
        if len(found.features) > k:
            beyond = strength
        else:
            kept = found
    if beyond is None and not kept.exact and method != "fista":
        # The number may rise to k and fall again between two strengths of the grid.
        found = kept
        if k <= n - fit_intercept and _has_knots(problem):
            found = solved(strengths[0], None)
        # Coefficients in the dtype of X tell strengths apart no better than this.
        margin = 100 * max(
            apart, torch.finfo(kept.solution.coef.dtype).eps * strengths[0]
        )
        while not found.exact and found.strength > strengths[-1]:
            knot = _next_knot(problem, found.strength, found.solution, margin / 10)
            strength = knot - margin
            found = solved(max(strength, strengths[-1]), found.solution)
        kept = found if found.exact else kept
    if not kept.solution.converged:
        warnings.warn(
            f"the solution at strength {kept.strength:.3g} did not converge to a "
            f"relative gap of tol={float(tol):g}, it reached "
            f"{float(kept.solution.relative_gap):.2g}. Raise max_iterations, or tol; "
            "or scale the columns of X.",
            UserWarning,
            stacklevel=2,
        )
    return kept


def _refined(
    problem: LinearProblem, strength: float, found: LinearSolution, largest: float
) -> LinearSolution:
    """Go on by rounds of Newton's method until optimality is hardly violated.

    Between two neighbouring supports a gap grows with the square of the distance.

    Args:
      problem: the problem.
      strength: the strength.
      found: a solution with a small gap.
      largest: the largest violation to leave, where rounding leaves no larger one.
    """
    left = problem.measure(strength, found).largest
    while left > largest:
        further = problem.solve(strength, init=found, tol=0.0, max_iterations=1)
        before, left = left, problem.measure(strength, further).largest
        if not left < before / 2:
            break
        found = further
    return found


def _has_knots(problem: LinearProblem) -> bool:
    """Tell whether coefficients are piecewise linear in the strength."""
    if not problem.loss.quadratic:
        return False
    terms = problem.terms(1.0)
    return terms.groups is None and not terms.ridge.any()


def _next_knot(
    problem: LinearProblem, strength: float, found: LinearSolution, past: float
) -> float:
    """Return the next strength at which a feature comes in or goes out; 0 if none does.

    Between two such strengths the coefficients of the squared loss are linear in the
    strength (Osborne, Presnell and Turlach, 2000; Efron, Hastie, Johnstone and
    Tibshirani, 2004).

    Args:
      problem: the problem, of the squared loss, without ridge and groups.
      strength: that of the solution found.
      found: the solution from which to go on.
      past: how much below the strength to begin.
    """
    design, terms = problem.design, problem.terms(1.0)
    slopes, floor = terms.slopes[:, 0], terms.floor[:, 0]
    w = found.coef.cpu().double()
    scores = scores_of(found, design)
    grad = design.gradient(scores - problem.labels)[:, 0]
    used = torch.nonzero((w != 0) | (slopes == 0)).flatten()
    columns = design.columns(used)
    if problem.fit_intercept:
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
