"""Columns that no penalty touches: they are solved for exactly, not searched for."""

import math
from typing import NamedTuple

import numpy as np

from l1jax.linear.design import Array, Design
from l1jax.linear.losses import LinearLoss


class FreeFit(NamedTuple):
    """What `FreeColumns.fit` ends at."""

    scores: Array
    """The scores at the minimum, of shape (n, k)."""
    moves: Array
    """By how much the free coefficients have moved, then the intercept."""
    exact: bool
    """Whether the gradient has become 0."""


class FreeColumns:
    """What is fitted without a penalty: the intercept, and free coefficients.

    Attributes:
      free: the flat indices of the free coefficients, of shape (p, k) in all.
    """

    def __init__(self, design: Design, free: Array, k: int, intercept: bool) -> None:
        classes = free % k
        columns = design.columns(free // k)
        if intercept:
            # Without its mean a column is orthogonal to the intercept's.
            self._means = columns.mean(0)
            columns = np.concatenate(
                [columns - self._means, np.ones((design.n, k))], axis=1
            )
            classes = np.concatenate([classes, np.arange(k)])
        self.free = free
        self._intercept, self._k = intercept, k
        self._columns, self._classes = columns, classes

    def fit(self, loss: LinearLoss, labels: Array, scores: Array) -> FreeFit:
        """Minimise the loss over them, from given scores, by Newton's method."""
        columns, classes = self._columns, self._classes
        moved = np.zeros(len(classes))
        exact, smallest = not len(classes), math.inf
        sizes = np.sqrt(np.mean(columns**2, 0))
        sizes[sizes == 0] = 1
        for _ in range(100 if len(classes) else 0):
            residual = loss.residual(scores, labels)
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
            while not (exact or loss.change(scores, size * shift, labels) <= 0):
                size /= 2
            moved, scores = moved + size * step, scores + size * shift
            if size < 1e-8:
                break

        return FreeFit(scores, moved, exact)

    def add(self, moves: Array, coef: Array, intercept: Array) -> None:
        """Add moves to coefficients of shape (p, k) and an intercept (k,), in place."""
        count = len(self.free)
        coef.reshape(-1)[self.free] += moves[:count]
        if self._intercept:
            intercept += moves[count:]
            np.subtract.at(
                intercept, self._classes[:count], self._means * moves[:count]
            )

    def _scores(self, step: Array) -> Array:
        by_class = np.zeros((len(step), self._k))
        by_class[np.arange(len(step)), self._classes] = step
        return self._columns @ by_class
