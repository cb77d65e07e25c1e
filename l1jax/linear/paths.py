"""Paths of linear models: for many strengths, and to a number of features."""

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from l1jax.linear.design import Array, Design, as_data
from l1jax.linear.duality import checked_targets, coef_shape
from l1jax.linear.fitting import LinearSolution, check_fit, solve_linear
from l1jax.linear.free_columns import FreeColumns
from l1jax.linear.losses import LinearLoss, loss_named
from l1jax.linear.penalty_terms import penalty_terms
from l1jax.paths.grids import check_spacing, check_strengths, spaced_strengths
from l1jax.paths.regularisation import RegularisationPath, warn_unless_converged
from l1jax.penalties.base import Penalty
from l1jax.penalties.separable import l1
from l1jax.solvers.optimality import OptimalityResidual

SURE = 1e-12
"""The relative gap at which a support is nearly the optimum's, and how far apart
strengths are, as a share of the largest, for their supports to be told apart."""


def linear_path(
    X: ArrayLike,
    y: ArrayLike,
    strengths: Sequence[float] | None = None,
    *,
    count: int = 100,
    ratio: float = 1e-3,
    loss: str = "squared",
    penalty: Penalty = l1(),
    fit_intercept: bool = True,
    method: str = "auto",
    tol: float = 1e-6,
    max_iterations: int = 10_000,
) -> RegularisationPath:
    """Solves a linear model for many strengths, each from the one before.

    Args:
      X: of shape (n, p).
      y: of shape (n,): numbers, labels 0 and 1, or classes, see `solve_linear`.
      strengths: positive, strictly falling, in units of the loss. By default `count`
        of them, log-spaced from the smallest at which all weights are zero down to
        `ratio` times it.
      count: how many strengths, if none are given.
      ratio: the smallest strength over the largest, if none are given.
      loss: "squared", "logistic" or "multinomial", see `solve_linear`.
      penalty: the penalty, of unit strength.
      fit_intercept: whether there is an intercept, which is not penalised.
      method: of `solve_linear`.
      tol: of `solve_linear`: the duality gap, relative to the objective of zero
        coefficients with the best intercept, in [0, 1), see `duality_gap`.
      max_iterations: of `solve_linear`, for each strength.

    Returns:
      A `RegularisationPath`, whose parameters are a mapping with `coef` and
      `intercept`, and which has the gaps.

    Warns:
      UserWarning: once, naming the strengths that did not converge.

    Raises:
      TypeError: data or strengths that are no numbers.
      ValueError: strengths that are empty, not positive and finite, or not falling;
        `count` or `ratio` out of range; data that do not fit, see `solve_linear`.

    Example:
      >>> X, y = jnp.eye(4) * 2, jnp.array([2.0, 1.0, 0.5, 0.0])
      >>> path = linear_path(X, y, [0.5, 0.125], fit_intercept=False)
      >>> print(path.strengths, path.nnz)
      [0.5   0.125] [1 3]
    """
    check_fit(loss, penalty, fit_intercept, method, tol, max_iterations)
    X, y = as_data(X, y)
    problem = {"loss": loss, "penalty": penalty, "fit_intercept": fit_intercept}
    strengths = linear_strengths(X, y, strengths, count, ratio, **problem)
    limits = {"method": method, "tol": tol, "max_iterations": max_iterations}
    params, found = solve_all(X, y, strengths, **problem, **limits)
    path = RegularisationPath(
        strengths=strengths,
        params=params,
        **measured(X, y, strengths, found, **problem),
        nnz=np.array([np.count_nonzero(one.coef) for one in found]),
        size=found[0].coef.size,
        converged=np.array([bool(one.converged) for one in found]),
        gap=np.array([float(one.relative_gap) for one in found]),
    )
    warn_unless_converged(
        *(path, f"a relative gap of tol={float(tol):g}", path.gap),
        "Raise max_iterations, or tol; or scale the columns of X.",
    )
    return path


def solve_all(
    X: jax.Array,
    y: jax.Array,
    strengths: np.ndarray,
    *,
    fit_intercept: bool,
    **kwargs: Any,
) -> tuple[dict[str, jax.Array], list[LinearSolution]]:
    """Solves for falling strengths; gives the parameters stacked, and the solutions."""
    found: list[LinearSolution] = []
    for strength in strengths.tolist():
        kwargs["init"] = found[-1] if found else None
        found.append(solve_one(X, y, strength, fit_intercept=fit_intercept, **kwargs))
    params = {"coef": jnp.stack([one.coef for one in found])}
    if fit_intercept:
        params["intercept"] = jnp.stack([one.intercept for one in found])
    return params, found


def linear_strengths(
    X: jax.Array,
    y: jax.Array,
    strengths: Sequence[float] | None,
    count: int,
    ratio: float,
    *,
    loss: str,
    penalty: Penalty,
    fit_intercept: bool,
) -> np.ndarray:
    """Checks the strengths given, or spaces some from the largest that is of use."""
    check_spacing(count, ratio, strengths)
    if strengths is not None:
        return check_strengths(strengths)
    design, model = Design(X), loss_named(loss)
    targets = checked_targets(y, design.n, model, fit_intercept)
    terms = penalty_terms(penalty, 1.0, coef_shape(design, model, targets))
    scores = np.zeros(targets.shape)
    at_zero = model.value(scores, targets)
    scores = FreeColumns(design, terms, fit_intercept).fit(model, targets, scores)[0]
    rounding = 8 * sys.float_info.epsilon
    top = 0.0
    # Of constant targets the intercept leaves only rounding.
    if model.value(scores, targets) > rounding**2 * at_zero:
        top = terms.largest(design.gradient(model.residual(scores, targets)))
    # A little more, so that the first solution is all zero.
    return spaced_strengths(top * (1 + rounding), count, ratio)


def mean_losses(
    X: jax.Array, targets: Array, found: Sequence[LinearSolution], model: LinearLoss
) -> np.ndarray:
    """Gives the mean loss of each solution on further data, in double precision."""
    design = Design(X)
    scores = [_in_double(design, one)[1] for one in found]
    return np.array([model.value(one, targets) for one in scores])


def measured(
    X: jax.Array,
    y: jax.Array,
    strengths: np.ndarray,
    found: Sequence[LinearSolution],
    *,
    loss: str,
    penalty: Penalty,
    fit_intercept: bool,
) -> dict[str, Any]:
    """Gives the numbers of a path, in double precision as the gap is."""
    design, model = Design(X), loss_named(loss)
    targets = checked_targets(y, design.n, model, fit_intercept)
    rows = []
    for strength, one in zip(strengths.tolist(), found, strict=True):
        terms = penalty_terms(penalty, strength, coef_shape(design, model, targets))
        coef, scores = _in_double(design, one)
        value, residual = model.value(scores, targets), model.residual(scores, targets)
        parts = [terms.violation(coef, design.gradient(residual)).reshape(-1)]
        if fit_intercept:
            parts.append(np.abs(residual.mean(0)))
        violations = np.concatenate(parts)
        largest, norm = violations.max(), np.linalg.norm(violations)
        rows.append((value + terms.value(coef), value, float(largest), float(norm)))
    objective, losses, *sizes = np.array(rows).T
    residual = OptimalityResidual(*sizes)
    return {"objective": objective, "loss": losses, "residual": residual}


def _in_double(design: Design, found: LinearSolution) -> tuple[Array, Array]:
    """Gives a solution's coefficients of shape (p, k), and its scores."""
    coef = np.asarray(found.coef, np.float64).reshape(design.p, -1)
    return coef, design.scores(coef) + np.asarray(found.intercept, np.float64)


def solve_one(*args: Any, **settings: Any) -> LinearSolution:
    """Solves for one strength of many, without a warning of its own."""
    with warnings.catch_warnings():
        # The path warns once, of all strengths.
        warnings.filterwarnings("ignore", category=UserWarning, module=__name__)
        return solve_linear(*args, **settings)
