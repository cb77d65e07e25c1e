"""The strength that keeps a wished number of features."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from l1torch.linear.design import as_data
from l1torch.linear.fitting import LinearSolution, check_fit
from l1torch.linear.knots import has_knots, next_knot
from l1torch.linear.paths import SURE, linear_strengths, measured, solve_one
from l1torch.numerics.checks import check_int
from l1torch.penalties.base import Penalty
from l1torch.penalties.separable import l1


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
    """Finds a linear model that uses k of the features.

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
    check_fit(loss, penalty, fit_intercept, method, tol, max_iterations)
    X, y = as_data(X, y)
    require_k(k, tuple(X.shape))
    problem = {"loss": loss, "penalty": penalty, "fit_intercept": fit_intercept}
    strengths = linear_strengths(X, y, None, count, ratio, **problem).tolist()
    limits = {"method": method, "max_iterations": max_iterations}
    apart = SURE * strengths[0]

    def solved(
        strength: float, init: LinearSolution | None, sure: bool = True
    ) -> KeptFeatures:
        sure = sure and method != "fista"  # which would take too long
        goal = min(tol, SURE) if sure else tol
        found = solve_one(X, y, strength, **problem, **limits, tol=goal, init=init)
        if sure:
            found = _refined(X, y, strength, found, apart / 10, method, **problem)
        found = found._replace(converged=bool(found.relative_gap <= tol))
        rows = found.coef.numpy(force=True).reshape(X.shape[1], -1)
        features = np.flatnonzero((rows != 0).any(1))
        return KeptFeatures(features, len(features) == k, strength, found)

    found = None
    for place in range(len(strengths)):
        found = solved(strengths[place], found and found.solution, False)
        if len(found.features) > k:
            break
    kept, beyond = None, None
    while 0 <= place < len(strengths) and (kept is None or beyond is None):
        # From fewer features: rounding keeps what it finds.
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
        found, sizes = kept, {"penalty": penalty, "fit_intercept": fit_intercept}
        if k <= X.shape[0] - fit_intercept and has_knots(loss, penalty, X.shape[1]):
            found = solved(strengths[0], None)
        # As precisely as coefficients in the dtype of X tell.
        margin = 100 * max(
            apart, torch.finfo(kept.solution.coef.dtype).eps * strengths[0]
        )
        while not found.exact and found.strength > strengths[-1]:
            at = found.strength, found.solution
            strength = next_knot(X, y, *at, margin / 10, **sizes) - margin
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
    X: Tensor,
    y: Tensor,
    strength: float,
    found: LinearSolution,
    largest: float,
    method: str,
    **problem: Any,
) -> LinearSolution:
    """Goes on by rounds of Newton's method until optimality is hardly violated.

    Between two neighbouring supports a gap grows with the square of the distance.

    Args:
      found: a solution with a small gap.
      largest: the largest violation to leave, where rounding leaves no larger one.
    """

    def violation(one: LinearSolution) -> float:
        found = measured(X, y, np.array([strength]), [one], **problem)
        return float(found["residual"].largest[0])

    limits = {"method": method, "tol": 0.0, "max_iterations": 1}
    left = violation(found)
    while left > largest:
        further = solve_one(X, y, strength, **problem, **limits, init=found)
        before, left = left, violation(further)
        if not left < before / 2:
            break
        found = further
    return found


def require_k(k: int, shape: tuple[int, ...]) -> None:
    """Raises unless it is a number of features."""
    if len(shape) == 2:
        check_int("k", k, "how many features to keep", least=0, most=shape[1])
