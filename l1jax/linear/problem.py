"""A linear model's problem: checked and prepared once, solved for many strengths."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from l1jax.linear.design import Array, Design, as_data, double
from l1jax.linear.duality import checked_labels, coef_shape
from l1jax.linear.first_order import fit_by_fista
from l1jax.linear.free_columns import FreeColumns
from l1jax.linear.losses import LinearLoss, loss_named
from l1jax.linear.newton import NewtonSolver
from l1jax.linear.penalty_terms import PenaltyTerms, penalty_terms
from l1jax.numerics.checks import check_choice, check_flag
from l1jax.penalties.base import Penalty, require_penalty
from l1jax.solvers.full_batch import check_limits

_METHODS = ("auto", "working_set", "gram", "fista")
_FEW_FEATURES = 100


class LinearSolution(NamedTuple):
    """What `solve_linear` ends at."""

    coef: jax.Array
    """The coefficients, of shape (p,) or (p, classes), in the dtype of X."""
    intercept: jax.Array
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


class Measures(NamedTuple):
    """What a solution reaches, in double precision as its gap is."""

    objective: float
    """Mean loss + strength * penalty."""
    loss: float
    """The mean loss."""
    largest: float
    """The largest violation of the optimality conditions."""
    norm: float
    """The Euclidean norm of all violations."""


class LinearProblem:
    """`min mean loss(X w + b, y) + strength * penalty(w)` for any strength.

    What all strengths share is made once: the data are checked, and kept are the
    products of columns that Newton's method has formed, and the objective of zero
    coefficients. Solving gives no warning.

    Attributes:
      X: the features, of shape (n, p), as given.
      y: of shape (n,), as given.
      design: X, for products in double precision.
      loss: the mean loss.
      labels: y as the loss takes it, of shape (n, k).
      penalty: of unit strength.
      fit_intercept: whether there is an intercept.
      shape: that of the coefficients, (p,) or (p, classes).
      tol: the relative duality gap to reach.
      max_iterations: the most rounds, or steps of FISTA, for each strength.
    """

    def __init__(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        loss: str,
        penalty: Penalty,
        fit_intercept: bool,
        method: str = "auto",
        tol: float = 1e-6,
        max_iterations: int = 10_000,
    ) -> None:
        self.loss = loss_named(loss)
        require_penalty(penalty)
        check_flag("fit_intercept", fit_intercept)
        check_choice("method", method, _METHODS)
        check_limits(tol, max_iterations)
        self.penalty, self.fit_intercept = penalty, fit_intercept
        self.tol, self.max_iterations = tol, max_iterations
        self.X, self.y = as_data(X, y)
        self.design = Design(self.X)
        self.labels = checked_labels(self.y, self.design.n, self.loss, fit_intercept)
        self.shape = coef_shape(self.design, self.loss, self.labels)
        self._given_method = method
        self.method = _method_for(method, self.loss, self.design.n, self.design.p)
        self._newton = NewtonSolver(
            self.design,
            self.loss,
            self.labels,
            fit_intercept,
            everything=self.method == "gram",
        )

    def on_rows(self, rows: Sequence[int] | np.ndarray) -> "LinearProblem":
        """Return the same problem on some of the samples."""
        return LinearProblem(
            self.X[rows],
            self.y[rows],
            loss=self.loss.name,
            penalty=self.penalty,
            fit_intercept=self.fit_intercept,
            method=self._given_method,
            tol=self.tol,
            max_iterations=self.max_iterations,
        )

    def terms(self, strength: ArrayLike) -> PenaltyTerms:
        """Return the penalty at a strength, written out for each coefficient."""
        return penalty_terms(self.penalty, strength, self.shape)

    def solve(
        self,
        strength: ArrayLike,
        *,
        init: Any = None,
        tol: float | None = None,
        max_iterations: int | None = None,
    ) -> LinearSolution:
        """Solve for one strength, without a warning.

        Args:
          strength: lambda, a number or of a shape that broadcasts to the coefficients.
          init: where to start, see `solve_linear`.
          tol: another tolerance than the problem's.
          max_iterations: another limit than the problem's.
        """
        tol = self.tol if tol is None else tol
        limit = self.max_iterations if max_iterations is None else max_iterations
        terms = self.terms(strength)
        coef, intercept = _start(init, self.shape, self.fit_intercept)
        coef = terms.feasible(coef)
        if self.method == "fista":
            # With 0 rounds Newton's method fits only what is not penalised.
            bound, iterations = self._newton.run(terms, coef, intercept, tol, 0)
            objective = self._objective(terms, coef, intercept)
            if objective - bound > tol * self._newton.null:
                coef, intercept, iterations = fit_by_fista(
                    self.X,
                    self.y,
                    self.design,
                    coef,
                    intercept,
                    shape=self.shape,
                    strength=strength,
                    loss=self.loss.name,
                    penalty=self.penalty,
                    fit_intercept=self.fit_intercept,
                    # With optimality violated by at most this, the dual point becomes
                    # feasible when scaled down by a share of tol / 2, and the relative
                    # gap grows by at most twice that share.
                    tol=tol * terms.least / 2,
                    max_iterations=limit,
                )
                further, _ = self._newton.run(terms, coef, intercept, tol, 0)
                bound = max(bound, further)
        else:
            bound, iterations = self._newton.run(terms, coef, intercept, tol, limit)
        return self._certified(terms, coef, intercept, bound, iterations, tol)

    def _certified(
        self,
        terms: PenaltyTerms,
        coef: Array,
        intercept: Array,
        bound: float,
        iterations: int,
        tol: float,
    ) -> LinearSolution:
        """Return coefficients in the dtype of X with the gap that they have there."""
        if self.loss.name == "multinomial":
            # A shift that all classes share has no effect.
            intercept = intercept - intercept.mean()
        dtype = self.design.dtype
        coef = jnp.asarray(coef.reshape(self.shape), dtype)
        intercept = jnp.asarray(intercept.reshape(self.shape[1:]), dtype)
        # Rounding to the dtype of X has changed the objective.
        w = np.asarray(coef, np.float64).reshape(self.design.p, -1)
        objective = self._objective(terms, w, np.asarray(intercept, np.float64))
        gap = objective - bound
        relative = gap / self._newton.null
        return LinearSolution(
            coef=coef,
            intercept=intercept,
            objective=objective,
            gap=gap,
            relative_gap=relative,
            iterations=iterations,
            converged=bool(relative <= tol),
        )

    def _objective(self, terms: PenaltyTerms, coef: Array, intercept: Array) -> float:
        scores = self.design.scores(coef) + intercept
        return self.loss.value(scores, self.labels) + terms.value(coef)

    def largest_strength(self) -> float:
        """Return the least strength at which all that is penalised is zero."""
        terms = self.terms(1.0)
        free = FreeColumns(
            self.design, terms.free, len(self.labels.T), self.fit_intercept
        )
        zeros = np.zeros_like(self.labels)
        scores = free.fit(self.loss, self.labels, zeros).scores
        # If labels are constant, the intercept leaves nothing of them but rounding.
        rounding = (8 * sys.float_info.epsilon) ** 2
        if not self.loss.value(scores, self.labels) > rounding * self.loss.value(
            zeros, self.labels
        ):
            return 0.0
        residual = self.loss.residual(scores, self.labels)
        return terms.largest(self.design.gradient(residual))

    def measure(self, strength: ArrayLike, solution: LinearSolution) -> Measures:
        """Measure a solution of one strength."""
        terms = self.terms(strength)
        coef = np.asarray(solution.coef, np.float64).reshape(self.design.p, -1)
        scores = scores_of(solution, self.design)
        loss = self.loss.value(scores, self.labels)
        residual = self.loss.residual(scores, self.labels)
        violations = terms.violation(coef, self.design.gradient(residual)).reshape(-1)
        if self.fit_intercept:
            violations = np.concatenate([violations, np.abs(residual.mean(0))])
        return Measures(
            objective=loss + terms.value(coef),
            loss=loss,
            largest=float(violations.max()),
            norm=float(np.linalg.norm(violations)),
        )


def scores_of(solution: LinearSolution, design: Design) -> Array:
    """Return `X w + b` of shape (n, k), in double precision."""
    coef = np.asarray(solution.coef, np.float64).reshape(design.p, -1)
    return design.scores(coef) + np.asarray(solution.intercept, np.float64)


def _method_for(method: str, loss: LinearLoss, samples: int, features: int) -> str:
    """Choose the method for "auto"; raise for one that does not fit the loss."""
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
) -> tuple[Array, Array]:
    """Return coefficients of shape (p, k) and an intercept (k,) to begin with."""
    k = shape[1] if len(shape) > 1 else 1
    zeros = np.zeros((shape[0] + 1, k))
    if init is None:
        return zeros[1:], zeros[0]
    if not isinstance(init, tuple) or len(init) < 2:
        raise TypeError(
            "init must be a LinearSolution, or a tuple of coefficients and intercept, "
            f"got {type(init).__name__}. Pass (coef, 0.0) where there is no intercept."
        )
    coef = double("init's coefficients", init[0], shape).reshape(-1, k)
    intercept = double("init's intercept", init[1], shape[1:]).reshape(k)
    if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
        raise ValueError(
            "init must be finite, got NaN or infinity. Pass None to start at zero."
        )
    return coef, intercept if fit_intercept else zeros[0]
