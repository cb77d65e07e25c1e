"""Columns that no penalty touches: they are solved for exactly, not searched for."""

import math
from collections.abc import Callable

import numpy as np

from l1jax.linear.design import Array, Design
from l1jax.linear.losses import LinearLoss
from l1jax.linear.penalty_terms import PenaltyTerms


class FreeColumns:
    """What is fitted without a penalty: the intercept, and free coefficients."""

    def __init__(self, design: Design, terms: PenaltyTerms, intercept: bool) -> None:
        k = terms.slopes.shape[1]
        features, classes = np.divmod(terms.free, k)
        columns = design.columns(features)
        if intercept:
            # Apart from its mean a column is far from parallel to the intercept's.
            self._means = columns.mean(0)
            ones = np.ones((design.n, k))
            columns = np.concatenate([columns - self._means, ones], 1)
            classes = np.concatenate([classes, np.arange(k)])
        self._intercept, self._k, self._flat = intercept, k, terms.free
        self._columns, self._classes = columns, classes

    def fit(
        self, loss: LinearLoss, targets: Array, scores: Array
    ) -> tuple[Array, Callable[[Array, Array], None], bool]:
        """Minimises the loss over them, from given scores, by Newton's method.

        Returns:
          The new scores; a function that adds to coefficients of shape (p, k) and an
          intercept of shape (k,), in place, what the scores have moved by; and
          whether the gradient has become 0.
        """
        columns, classes = self._columns, self._classes
        moved = np.zeros(len(classes))
        exact, smallest = not len(classes), math.inf
        sizes = np.sqrt(np.mean(columns**2, 0))
        sizes[sizes == 0] = 1
        for _ in range(100 if len(classes) else 0):
            residual = loss.residual(scores, targets)
            grad = np.mean(columns * residual[:, classes], 0)
            scale = sizes * np.sqrt(np.mean(residual**2)) + np.finfo(float).tiny
            largest = float(np.max(np.abs(grad) / scale))
            exact = largest <= 1e-9
            if largest <= 1e-15 or (exact and largest >= smallest):
                break
            smallest = largest
            hessian = loss.hessian(columns / sizes, classes, scores)
            step = -np.linalg.lstsq(hessian, grad / sizes)[0] / sizes
            size = 1.0
            shift = self._scores(step)
            while not (exact or loss.change(scores, size * shift, targets) <= 0):
                size /= 2
            moved, scores = moved + size * step, scores + size * shift
            if size < 1e-8:
                break

        def add(coef: Array, intercept: Array) -> None:
            count = len(self._flat)
            coef.reshape(-1)[self._flat] += moved[:count]
            if self._intercept:
                intercept += moved[count:]
                np.subtract.at(intercept, classes[:count], self._means * moved[:count])

        return scores, add, exact

    def _scores(self, step: Array) -> Array:
        by_class = np.zeros((len(step), self._k))
        by_class[np.arange(len(step)), self._classes] = step
        return self._columns @ by_class
