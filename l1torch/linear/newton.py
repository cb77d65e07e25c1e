"""Newton's method for linear models with a penalty, on a working set."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from l1torch.linear.design import Design
from l1torch.linear.duality import dual_value, null_objective
from l1torch.linear.free_columns import FreeColumns
from l1torch.linear.l1_quadratic import minimise
from l1torch.linear.losses import LinearLoss
from l1torch.linear.penalty_terms import PenaltyTerms

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
        labels: Tensor,
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
        self._chosen = torch.zeros(0, dtype=torch.long)
        self._columns = torch.zeros((design.n, 0), dtype=torch.float64)
        self._means = torch.zeros(0, dtype=torch.float64)
        self._gram = torch.zeros((0, 0), dtype=torch.float64)
        self.null = null_objective(design, loss, labels, intercept)

    def run(
        self,
        terms: PenaltyTerms,
        coef: Tensor,
        intercept: Tensor,
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
            self._choose(terms, violation, torch.nonzero(coef.reshape(-1))[:, 0])
            # A violation v adds about v * sum |coef| to the gap, and strength * sum
            # |coef| is at most the objective of zero coefficients.
            enough = tol * terms.least / 4
            size = float(coef.abs().sum()) or self.null / terms.least
            accuracy = min(gap / size / 10, float(violation.max()) / self._precision)
            accuracy = enough if self._everything else max(accuracy, enough)
            scores = self._step(terms, coef, intercept, scores, grad, accuracy)
        return NewtonRun(bound, iteration)

    def _free_columns(self, terms: PenaltyTerms) -> FreeColumns:
        """Return the columns without a penalty, kept while they stay the same."""
        if self._free is None or not torch.equal(self._free.free, terms.free):
            k = self._labels.shape[1]
            self._free = FreeColumns(self._design, terms.free, k, self._intercept)
        return self._free

    def _forget_unused(self, terms: PenaltyTerms, coef: Tensor) -> None:
        """Leave in the working set of another strength only what the start uses."""
        if self._everything or not self._loss.quadratic:
            return
        used = terms.whole(torch.nonzero(coef.reshape(-1))[:, 0])
        kept = torch.nonzero(torch.isin(self._chosen, used))[:, 0]
        if len(kept) < len(self._chosen):
            self._chosen, self._means = self._chosen[kept], self._means[kept]
            self._columns = self._columns[:, kept]
            self._gram = self._gram[kept[:, None], kept]

    def _choose(self, terms: PenaltyTerms, violation: Tensor, support: Tensor) -> None:
        """Put coefficients in use, and those of the worst violations, into the set."""
        kept = self._chosen[: len(self._chosen) if self._loss.quadratic else 0]
        missing, violating = violation < 0, violation > 0
        room = max(_FIRST_SET, len(support))
        if self._everything:
            violating, room = terms.slopes.isfinite().flatten(), len(violation)
        missing[support] = True
        missing[kept] = False
        violating[support] = False
        violating[kept] = False
        new = torch.nonzero(violating)[:, 0]
        if len(new) > room:
            new = new[violation[new].topk(room).indices]
        new = terms.whole(torch.cat([torch.nonzero(missing)[:, 0], new]))
        if not self._loss.quadratic:
            self._chosen = new
            self._columns, self._means = self._centred(new)
        elif len(new):
            columns, means = self._centred(new)
            self._chosen = torch.cat([kept, new])
            corner = self._columns.T @ columns / len(columns)
            block = columns.T @ columns / len(columns)
            self._gram = torch.cat(
                [
                    torch.cat([self._gram, corner], 1),
                    torch.cat([corner.T, block], 1),
                ]
            )
            self._columns = torch.cat([self._columns, columns], 1)
            self._means = torch.cat([self._means, means])

    def _centred(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return columns of some coefficients, and the means subtracted from them."""
        columns = self._design.columns(flat // self._labels.shape[1])
        means = columns.mean(0) if self._intercept else torch.zeros_like(columns[0])
        columns -= means
        return columns, means

    def _step(
        self,
        terms: PenaltyTerms,
        coef: Tensor,
        intercept: Tensor,
        scores: Tensor,
        grad: Tensor,
        accuracy: float,
    ) -> Tensor:
        """Go towards the minimum of the model while that helps; return the scores."""
        chosen, k = self._chosen, coef.shape[1]
        flat, m = coef.reshape(-1), len(chosen)
        classes, columns = chosen % k, self._columns
        w, g = flat[chosen], grad.reshape(-1)[chosen]
        # The columns have mean 0: with the squared loss the intercept stays optimal.
        joint = self._intercept and not self._loss.quadratic
        terms = terms.at(chosen, k if joint else 0)
        if joint:
            zeros = torch.zeros(k, dtype=torch.float64)
            columns = torch.cat([columns, torch.ones((len(columns), k)).double()], 1)
            classes = torch.cat([classes, torch.arange(k)])
            w, g = torch.cat([w, zeros]), torch.cat([g, zeros])
        H = self._gram
        if not self._loss.quadratic:
            H = self._loss.hessian(columns, classes, scores)
        new = minimise(H, H @ w - g, terms, w, accuracy)
        step = new - w
        by_class = torch.zeros((len(step), k), dtype=torch.float64)
        by_class[torch.arange(len(step)), classes] = step
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
            intercept.index_add_(0, classes[:m], -self._means * (size * step[:m]))
        if joint:
            intercept += size * step[m:]
        return scores + size * moved
