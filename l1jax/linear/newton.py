"""Newton's method for linear models with a penalty, on a working set."""

import math
from typing import NamedTuple

import numpy as np

from l1jax.linear.design import Array, Design
from l1jax.linear.duality import dual_value, null_objective
from l1jax.linear.free_columns import FreeColumns
from l1jax.linear.l1_quadratic import minimise
from l1jax.linear.losses import LinearLoss
from l1jax.linear.penalty_terms import PenaltyTerms

_FIRST_SET = 128
"""How many coefficients to begin with."""


class NewtonRun(NamedTuple):
    """What a run of `NewtonSolver` has found out."""

    bound: float
    """The best lower bound of the objective."""
    iterations: int
    """The rounds taken."""


class NewtonSolver:
    """A proximal Newton method (Lee, Sun and Saunders, 2014) with working sets.

    A round computes the gradient by all coefficients and the duality gap, adds to the
    working set as many of the worst violations as there are coefficients in use, and
    their groups, minimises the quadratic model of the objective on the set, and goes
    there. With the squared loss the model is exact, and the matrix of products of
    columns is kept. The multinomial loss does not change where all classes'
    coefficients of a feature move alike; what that saves of the penalty is too flat
    for the model, and is taken directly (as in Friedman, Hastie and Tibshirani, 2010).

    Attributes:
      null: the objective of zero coefficients.
    """

    def __init__(
        self,
        design: Design,
        loss: LinearLoss,
        labels: Array,
        intercept: bool,
        everything: bool,
    ) -> None:
        self._design, self._loss, self._labels = design, loss, labels
        self._intercept, self._everything = intercept, everything
        # By which factor a round reduces the violation within the working set. With the
        # squared loss the model is exact, but the set is going to grow, and a rough
        # solution is enough. Other losses converge fast only if it is solved well.
        self._precision = 4 if loss.quadratic else 100
        self._free: FreeColumns | None = None
        self._chosen = np.zeros(0, np.int64)
        self._columns = np.zeros((design.n, 0))
        self._means = np.zeros(0)
        self._gram = np.zeros((0, 0))
        self.null = null_objective(design, loss, labels, intercept)

    def run(
        self,
        terms: PenaltyTerms,
        coef: Array,
        intercept: Array,
        tol: float,
        max_iterations: int,
    ) -> NewtonRun:
        """Move coefficients of shape (p, k) and an intercept (k,) in place.

        Args:
          terms: the penalty at the strength to solve for.
          coef: where to start, and then the solution.
          intercept: where to start, and then the solution.
          tol: the relative duality gap to reach.
          max_iterations: the most rounds. With 0 only what is not penalised is fitted.
        """
        loss, labels = self._loss, self._labels
        free = self._free_columns(terms)
        self._forget_unused(terms, coef)
        scores = self._design.scores(coef) + intercept
        # No loss or penalty is below 0.
        bound, least, stalled, precise = 0.0, math.inf, 0, False
        for iteration in range(max_iterations + 1):
            if loss.name == "multinomial":
                coef[:] = terms.shifted(coef)
            fitted = free.fit(loss, labels, scores)
            scores = fitted.scores
            free.add(fitted.moves, coef, intercept)
            residual = loss.residual(scores, labels)
            objective = loss.value(scores, labels) + terms.value(coef)
            # At zero, rounding must not put anything into the model; after two rounds
            # without progress, rounding may be all that is left.
            precise = precise or stalled > 1
            certain = precise or not coef.any()
            while True:
                grad = self._design.gradient(residual, certain)
                dual = bound
                if fitted.exact:
                    found = dual_value(loss, labels, residual, grad, coef, terms)
                    dual = max(dual, found)
                rough = objective - dual > max(100 * tol, 1e-3) * self.null
                if certain or (rough and iteration < max_iterations):
                    break
                # Single precision is enough to find a direction, not to certify a gap.
                certain = precise = True
            if certain:
                # Any lower bound holds for all coefficients.
                bound = dual
            gap, stalled = objective - dual, stalled + 1
            # A smaller decrease is rounding, which might go on for ever.
            if gap < 0.99 * least:
                least, stalled = gap, 0
            converged = certain and gap <= tol * self.null
            if converged or iteration == max_iterations or stalled > 10:
                break
            violation = terms.violation(coef, grad).reshape(-1)
            self._choose(terms, violation, np.flatnonzero(coef))
            # A violation v adds about v * sum |coef| to the gap, and strength * sum
            # |coef| is at most the objective of zero coefficients.
            enough = tol * terms.least / 4
            size = float(np.abs(coef).sum()) or self.null / terms.least
            accuracy = min(gap / size / 10, float(violation.max()) / self._precision)
            accuracy = enough if self._everything else max(accuracy, enough)
            scores = self._step(terms, coef, intercept, scores, grad, accuracy)
        return NewtonRun(bound, iteration)

    def _free_columns(self, terms: PenaltyTerms) -> FreeColumns:
        """Return the columns without a penalty, kept while they stay the same."""
        if self._free is None or not np.array_equal(self._free.free, terms.free):
            k = self._labels.shape[1]
            self._free = FreeColumns(self._design, terms.free, k, self._intercept)
        return self._free

    def _forget_unused(self, terms: PenaltyTerms, coef: Array) -> None:
        """Leave in the working set of another strength only what the start uses."""
        if self._everything or not self._loss.quadratic:
            return
        used = terms.whole(np.flatnonzero(coef))
        kept = np.flatnonzero(np.isin(self._chosen, used))
        if len(kept) < len(self._chosen):
            self._chosen, self._means = self._chosen[kept], self._means[kept]
            self._columns = self._columns[:, kept]
            self._gram = self._gram[np.ix_(kept, kept)]

    def _choose(self, terms: PenaltyTerms, violation: Array, support: Array) -> None:
        """Put coefficients in use, and those of the worst violations, into the set."""
        kept = self._chosen[: len(self._chosen) if self._loss.quadratic else 0]
        missing, violating = violation < 0, violation > 0
        room = max(_FIRST_SET, len(support))
        if self._everything:
            violating = np.isfinite(terms.slopes).reshape(-1)
            room = len(violation)
        missing[support] = True
        missing[kept] = False
        violating[support] = False
        violating[kept] = False
        new = np.flatnonzero(violating)
        if len(new) > room:
            new = new[np.argpartition(-violation[new], room)[:room]]
        new = terms.whole(np.concatenate([np.flatnonzero(missing), new]))
        if not self._loss.quadratic:
            self._chosen = new
            self._columns, self._means = self._centred(new)
        elif len(new):
            columns, means = self._centred(new)
            self._chosen = np.concatenate([kept, new])
            corner = self._columns.T @ columns / len(columns)
            block = columns.T @ columns / len(columns)
            self._gram = np.block([[self._gram, corner], [corner.T, block]])
            self._columns = np.concatenate([self._columns, columns], 1)
            self._means = np.concatenate([self._means, means])

    def _centred(self, flat: Array) -> tuple[Array, Array]:
        """Return columns of some coefficients, and the means subtracted from them."""
        columns = self._design.columns(flat // self._labels.shape[1])
        means = columns.mean(0) if self._intercept else np.zeros(len(flat))
        columns -= means
        return columns, means

    def _step(
        self,
        terms: PenaltyTerms,
        coef: Array,
        intercept: Array,
        scores: Array,
        grad: Array,
        accuracy: float,
    ) -> Array:
        """Go towards the minimum of the model while that helps; return the scores."""
        chosen, k = self._chosen, coef.shape[1]
        flat, m = coef.reshape(-1), len(chosen)
        classes, columns = chosen % k, self._columns
        w, g = flat[chosen], grad.reshape(-1)[chosen]
        # The columns have mean 0: with the squared loss the intercept stays optimal.
        joint = self._intercept and not self._loss.quadratic
        terms = terms.at(chosen, k if joint else 0)
        if joint:
            zeros = np.zeros(k)
            columns = np.concatenate([columns, np.ones((len(columns), k))], 1)
            classes = np.concatenate([classes, np.arange(k)])
            w, g = np.concatenate([w, zeros]), np.concatenate([g, zeros])
        H = self._gram
        if not self._loss.quadratic:
            H = self._loss.hessian(columns, classes, scores)
        new = minimise(H, H @ w - g, terms, w, accuracy)
        step = new - w
        by_class = np.zeros((len(step), k))
        by_class[np.arange(len(step)), classes] = step
        moved = columns @ by_class

        size = 1.0
        if not self._loss.quadratic:
            decrease = 1e-4 * (float(g @ step) + terms.rise(w, step))

            def change(size: float) -> float:
                loss = self._loss.change(scores, size * moved, self._labels)
                return loss + terms.rise(w, size * step)

            while not change(size) <= size * decrease:
                size /= 2
                if size < 1e-10:
                    return scores
            new = new if size == 1 else w + size * step
        flat[chosen] = new[:m]
        if self._intercept:
            np.subtract.at(intercept, classes[:m], self._means * (size * step[:m]))
        if joint:
            intercept += size * step[m:]
        return scores + size * moved
