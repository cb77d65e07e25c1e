"""Linear models with an L1 penalty, solved to a duality gap."""

import warnings

from torch import Tensor

from l1torch.linear.problem import LinearProblem, LinearSolution
from l1torch.numerics.elementwise import Number
from l1torch.penalties.base import Penalty
from l1torch.penalties.separable import l1


def solve_linear(
    X: Tensor,
    y: Tensor,
    strength: Number,
    *,
    loss: str = "squared",
    penalty: Penalty = l1(),
    fit_intercept: bool = True,
    method: str = "auto",
    tol: float = 1e-6,
    max_iterations: int = 10_000,
    init: LinearSolution | tuple[Tensor, Number] | None = None,
) -> LinearSolution:
    """Fit a linear model with an L1 penalty, and prove how well.

    It minimises `mean loss(X w + b, y) + strength * penalty(w)`, with scikit-learn's
    names: the squared loss, `1/(2n) |X w + b - y|^2`, is `Lasso(alpha=strength)` or
    `ElasticNet(alpha=strength, l1_ratio)`, the others are `LogisticRegression(C=1 / (n
    strength))`. The duality gap bounds the distance to the optimum, see `duality_gap`.

    The methods are

    - `"working_set"`: a proximal Newton method on a few coefficients at a time, those
      that violate optimality most, and their groups; for many features, of which few
      are used. It needs memory for the square of the number in use;
    - `"gram"`: the same on all at once, from the matrix `X' X`; for the squared loss
      and up to a thousand features, from any number of samples;
    - `"fista"`: `solve`, in the precision of X (in single precision relative gaps end
      near 1e-6), for columns of one scale; where the others take too much memory;
    - `"auto"`: "gram" for the squared loss and at most 100 features, no more than
      samples, otherwise "working_set".

    Newton's methods compute products with all of X where X is, and what is small on the
    CPU in double precision, so that float32 data give small gaps, too.

    Args:
      X: of shape (n, p), of real numbers; scale its columns as the penalty should see
        them. Centring is done here.
      y: of shape (n,): numbers, labels 0 and 1 or bool, or integer classes from 0.
      strength: lambda, per unit of the mean loss: a number >= 0, or a tensor that
        broadcasts to the coefficients.
      loss: "squared", "logistic" or "multinomial", see `duality_gap`.
      penalty: a penalty that `duality_gap` knows, of unit strength. For others use
        `solve`.
      fit_intercept: whether there is an intercept, which is not penalised.
      method: one of the above.
      tol: the relative duality gap to reach, in [0, 1).
      max_iterations: the most rounds, or steps of FISTA, >= 1.
      init: where to start, coefficients and intercept, or a `LinearSolution` for
        another strength; zeros by default. What the penalty forbids is left out.

    Returns:
      A `LinearSolution`.

    Warns:
      UserWarning: the gap has not been reached; the result tells which one was.

    Raises:
      TypeError: what is no dense tensor of real numbers.
      ValueError: shapes that do not fit; NaN; labels that do not fit the loss; a
        negative strength; an unknown loss or method, or one that does not fit; a
        penalty whose dual is not known.

    Example:
      >>> import torch
      >>> X, y = torch.eye(4), torch.tensor([8.0, 4.0, 2.0, 0.0])
      >>> found = solve_linear(X, y, 0.5, fit_intercept=False)
      >>> print(found.coef.round(decimals=4), found.converged)
      tensor([6., 2., 0., 0.]) True
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
    solution = problem.solve(strength, init=init)
    warn_unless_solved(solution, tol)
    return solution


def warn_unless_solved(solution: LinearSolution, tol: float) -> None:
    """Warn, at the line that called the caller, of a gap that is too large."""
    if not solution.converged:
        warnings.warn(
            f"solve_linear has not converged: after {solution.iterations} iterations "
            f"the relative duality gap is {solution.relative_gap:.2g}, and "
            f"tol={float(tol):g}. Raise max_iterations or tol, bring the columns of X "
            "to one scale, or use double precision.",
            UserWarning,
            stacklevel=3,
        )
