"""Linear models with an L1 penalty, solved to a duality gap."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l1torch.linear.design import Design, as_data, double
from l1torch.linear.duality import checked_targets, coef_shape
from l1torch.linear.losses import LinearLoss, loss_named
from l1torch.linear.newton import NewtonSolver
from l1torch.linear.penalty_terms import penalty_terms
from l1torch.numerics.checks import check_choice, check_flag
from l1torch.numerics.elementwise import Number
from l1torch.penalties.base import Penalty, require_penalty
from l1torch.penalties.separable import l1
from l1torch.solvers.full_batch import Solution, check_limits, solve

_METHODS = ("auto", "working_set", "gram", "fista")
_FEW_FEATURES = 100


class LinearSolution(NamedTuple):
    """What `solve_linear` ends at."""

    coef: Tensor
    """The coefficients, of shape (p,) or (p, classes), in the dtype of X and on its
    device."""
    intercept: Tensor
    """The intercept, a scalar or of shape (classes,), of sum 0; 0 if none was
    fitted."""
    objective: float
    """Mean loss + strength * penalty, of these very coefficients."""
    gap: float
    """The objective is at most this far above its minimum."""
    relative_gap: float
    """`gap` over the objective of zero coefficients with the best intercept."""
    iterations: int
    """Rounds of Newton's method, or steps of FISTA."""
    converged: bool
    """Whether `relative_gap <= tol`."""


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
    init: Any = None,
) -> LinearSolution:
    """Fits a linear model with an L1 penalty, and proves how well.

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

    Example:
      >>> X, y = torch.eye(4), torch.tensor([8.0, 4.0, 2.0, 0.0])
      >>> found = solve_linear(X, y, 0.5, fit_intercept=False)
      >>> print(found.coef.round(decimals=4), found.converged)
      tensor([6., 2., 0., 0.]) True

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
    """
    check_fit(loss, penalty, fit_intercept, method, tol, max_iterations)
    X, y = as_data(X, y)
    design, model = Design(X), loss_named(loss)
    targets = checked_targets(y, design.n, model, fit_intercept)
    shape = coef_shape(design, model, targets)
    terms = penalty_terms(penalty, strength, shape)
    method = _checked_method(method, model, design.n, design.p)
    coef, intercept = _start(init, shape, fit_intercept)
    coef = terms.feasible(coef)
    gram = method == "gram"
    solver = NewtonSolver(design, model, targets, terms, fit_intercept, gram)

    def objective_of(coef: Tensor, intercept: Tensor) -> float:
        scores = design.scores(coef) + intercept
        return model.value(scores, targets) + terms.value(coef)

    # Without a round, Newton's method fits what is not penalised: FISTA's start.
    rounds = 0 if method == "fista" else max_iterations
    bound, iterations = solver.run(coef, intercept, tol, rounds)
    optimal = objective_of(coef, intercept) - bound <= tol * solver.null
    if method == "fista" and not optimal:
        ones = torch.ones((design.n, 1), dtype=torch.float64)
        means = design.gradient(ones)[:, 0]
        params = {"coef": coef.reshape(shape).to(design.like)}
        if fit_intercept:
            start = (intercept + means @ coef).reshape(shape[1:])
            params["intercept"] = start.to(design.like)
        # Scaling the dual point by this share more costs at most this share twice.
        goal = tol * terms.least / 2
        found = _by_fista(
            X,
            y,
            means,
            params,
            strength=strength,
            loss=loss,
            penalty=penalty,
            tol=goal,
            max_iterations=max_iterations,
        )
        coef = found.params["coef"].cpu().double().reshape(design.p, -1)
        if fit_intercept:
            intercept = found.params["intercept"].cpu().double().reshape(-1)
            intercept = intercept - means @ coef
        iterations = int(found.iterations)
        bound = max(bound, solver.run(coef, intercept, tol, 0)[0])
    if model.name == "multinomial":
        # What all classes share has no effect.
        intercept = intercept - intercept.mean()
    coef = coef.reshape(shape).to(design.like)
    intercept = intercept.reshape(shape[1:]).to(design.like)
    # The gap of the coefficients as they are handed back, rounded.
    w = coef.cpu().double().reshape(design.p, -1)
    objective = objective_of(w, intercept.cpu().double())
    gap = objective - bound
    relative = gap / solver.null
    converged = bool(relative <= tol)
    if not converged:
        warnings.warn(
            f"solve_linear has not converged: after {iterations} iterations the "
            f"relative duality gap is {relative:.2g}, and tol={float(tol):g}. Raise "
            "max_iterations or tol, bring the columns of X to one scale, or use double "
            "precision.",
            UserWarning,
            stacklevel=2,
        )
    return LinearSolution(
        coef, intercept, objective, gap, relative, iterations, converged
    )


def check_fit(
    loss: str,
    penalty: Penalty,
    fit_intercept: bool,
    method: str,
    tol: float,
    max_iterations: int,
) -> None:
    """Raises for settings of `solve_linear` that do not depend on the data."""
    loss_named(loss)
    require_penalty(penalty)
    check_flag("fit_intercept", fit_intercept)
    check_choice("method", method, _METHODS)
    check_limits(tol, max_iterations)


def _checked_method(method: Any, loss: LinearLoss, samples: int, features: int) -> str:
    """Checks the method, and chooses one for "auto"."""
    if method == "auto":
        few = loss.quadratic and features <= min(samples, _FEW_FEATURES)
        return "gram" if few else "working_set"
    if method == "gram" and not loss.quadratic:
        raise ValueError(
            f"method 'gram' must have loss='squared', got loss={loss.name!r}. Pass "
            "method='auto'."
        )
    return method


def _start(
    init: Any, shape: tuple[int, ...], fit_intercept: bool
) -> tuple[Tensor, Tensor]:
    """Gives coefficients of shape (p, k) and an intercept (k,) to begin with."""
    k = shape[1] if len(shape) > 1 else 1
    zeros = torch.zeros((shape[0] + 1, k), dtype=torch.float64)
    if init is None:
        return zeros[1:], zeros[0]
    if not isinstance(init, tuple) or len(init) < 2:
        raise TypeError(
            "init must be a LinearSolution, or a tuple of coefficients and intercept, "
            f"got {type(init).__name__}. Pass (coef, 0.0) where there is no intercept."
        )
    coef = double("init's coefficients", init[0], shape).clone().reshape(-1, k)
    intercept = double("init's intercept", init[1], shape[1:]).clone().reshape(k)
    if not (coef.isfinite().all() and intercept.isfinite().all()):
        raise ValueError(
            "init must be finite, got NaN or infinity. Pass None to start at zero."
        )
    return coef, intercept if fit_intercept else zeros[0]


def _by_fista(
    X: Tensor,
    y: Tensor,
    means: Tensor,
    params: dict[str, Tensor],
    *,
    strength: Number,
    loss: str,
    penalty: Penalty,
    tol: float,
    max_iterations: int,
) -> Solution:
    """Runs `solve` on centred columns, if there is an intercept."""
    X, y = X.detach().to(params["coef"]), y.detach().to(X.device)
    means, mean = means.to(X), mean_loss(loss)

    def objective(params: dict[str, Tensor]) -> Tensor:
        if "intercept" in params:
            shift = means @ params["coef"]
            params = params | {"intercept": params["intercept"] - shift}
        return mean(params, X, y)

    with warnings.catch_warnings():
        # The gap decides, and solve_linear warns.
        warnings.simplefilter("ignore", UserWarning)
        return solve(
            objective,
            params,
            {name: strength if name == "coef" else 0.0 for name in params},
            penalty=penalty,
            mask={name: name == "coef" for name in params},
            tol=tol,
            max_iterations=max_iterations,
        )


def mean_loss(loss: str) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """Gives a linear model's mean loss as a function of parameters, X and y.

    The parameters are a mapping with `coef` and, if there is one, `intercept`.
    """
    loss_named(loss)

    def mean(params: Any, X: Tensor, y: Tensor) -> Tensor:
        coef = params["coef"]
        scores = X.to(coef.dtype) @ coef + params.get("intercept", 0.0)
        if loss == "squared":
            return torch.mean((scores - y) ** 2) / 2
        if loss == "logistic":
            return torch.mean(
                torch.logaddexp(torch.zeros_like(scores), scores) - y * scores
            )
        own = torch.take_along_dim(scores, y.long()[:, None], 1)[:, 0]
        return torch.mean(torch.logsumexp(scores, 1) - own)

    return mean
