"""Paths of linear models: for many strengths, and to a number of features."""

import sys
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from l1jax.linear.problem import LinearProblem, LinearSolution
from l1jax.paths.grids import check_spacing, check_strengths, spaced_strengths
from l1jax.paths.regularisation import RegularisationPath, warn_unless_converged
from l1jax.penalties.base import Penalty
from l1jax.penalties.separable import l1
from l1jax.solvers.optimality import OptimalityResidual


def linear_path(
    X: ArrayLike,
    y: ArrayLike,
    strengths: Sequence[float] | np.ndarray | None = None,
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
    """Solve a linear model for many strengths, each from the one before.

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
    strengths = linear_strengths(problem, strengths, count, ratio)
    found = solve_all(problem, strengths)
    params = {"coef": jnp.stack([one.coef for one in found])}
    if fit_intercept:
        params["intercept"] = jnp.stack([one.intercept for one in found])
    measures = [
        problem.measure(strength, one)
        for strength, one in zip(strengths.tolist(), found, strict=True)
    ]
    path = RegularisationPath(
        strengths=strengths,
        params=params,
        objective=np.array([one.objective for one in measures]),
        loss=np.array([one.loss for one in measures]),
        nnz=np.array([np.count_nonzero(one.coef) for one in found]),
        size=found[0].coef.size,
        residual=OptimalityResidual(
            largest=np.array([one.largest for one in measures]),
            norm=np.array([one.norm for one in measures]),
        ),
        converged=np.array([one.converged for one in found]),
        gap=np.array([one.relative_gap for one in found]),
    )
    warn_unless_converged(
        path,
        f"a relative gap of tol={float(tol):g}",
        path.gap,
        "Raise max_iterations, or tol; or scale the columns of X.",
    )
    return path


def solve_all(problem: LinearProblem, strengths: np.ndarray) -> list[LinearSolution]:
    """Solve for falling strengths, each from the solution before."""
    found: list[LinearSolution] = []
    for strength in strengths.tolist():
        found.append(problem.solve(strength, init=found[-1] if found else None))
    return found


def linear_strengths(
    problem: LinearProblem,
    strengths: Sequence[float] | None,
    count: int,
    ratio: float,
) -> np.ndarray:
    """Check the strengths given, or space some from the largest that is of use."""
    check_spacing(count, ratio, strengths)
    if strengths is not None:
        return check_strengths(strengths)
    # A little more than the largest, so that the first solution is all zero.
    top = problem.largest_strength() * (1 + 8 * sys.float_info.epsilon)
    return spaced_strengths(top, count, ratio)
