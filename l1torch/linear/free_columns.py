"""Columns that no penalty touches: they are solved for exactly, not searched for."""

import math
import sys
from typing import NamedTuple

import torch
from torch import Tensor

from l1torch.linear.design import Design
from l1torch.linear.losses import LinearLoss


class FreeFit(NamedTuple):
    """What `FreeColumns.fit` ends at."""

    scores: Tensor
    """The scores at the minimum, of shape (n, k)."""
    moves: Tensor
    """By how much the free coefficients have moved, then the intercept."""
    exact: bool
    """Whether the gradient has become 0."""


class FreeColumns:
    """What is fitted without a penalty: the intercept, and free coefficients.

    Attributes:
      free: the flat indices of the free coefficients, of shape (p, k) in all.
    """

    def __init__(self, design: Design, free: Tensor, k: int, intercept: bool) -> None:
        classes = free % k
        columns = design.columns(free // k)
        if intercept:
            # Without its mean a column is orthogonal to the intercept's.
            self._means = columns.mean(0)
            ones = torch.ones((design.n, k), dtype=torch.float64)
            columns = torch.cat([columns - self._means, ones], 1)
            classes = torch.cat([classes, torch.arange(k)])
        self.free = free
        self._intercept, self._k = intercept, k
        self._columns, self._classes = columns, classes

    def fit(self, loss: LinearLoss, labels: Tensor, scores: Tensor) -> FreeFit:
        """Minimise the loss over them, from given scores, by Newton's method."""
        columns, classes = self._columns, self._classes
        moved = torch.zeros(len(classes), dtype=torch.float64)
        exact, smallest = not len(classes), math.inf
        sizes = torch.mean(columns**2, 0).sqrt()
        sizes[sizes == 0] = 1
        for _ in range(100 if len(classes) else 0):
            residual = loss.residual(scores, labels)
            grad = torch.mean(columns * residual[:, classes], 0)
            scale = sizes * torch.mean(residual**2).sqrt() + sys.float_info.min
            largest = float((grad.abs() / scale).max())
            exact = largest <= 1e-9
            if largest <= 1e-15 or (exact and largest >= smallest):
                break
            smallest = largest
            hessian = loss.hessian(columns / sizes, classes, scores)
            step = -torch.linalg.pinv(hessian, hermitian=True) @ (grad / sizes) / sizes
            size = 1.0
            shift = self._scores(step)
            while not (exact or loss.change(scores, size * shift, labels) <= 0):
                size /= 2
            moved, scores = moved + size * step, scores + size * shift
            if size < 1e-8:
                break

        return FreeFit(scores, moved, exact)

    def add(self, moves: Tensor, coef: Tensor, intercept: Tensor) -> None:
        """Add moves to coefficients of shape (p, k) and an intercept (k,), in place."""
        count = len(self.free)
        coef.reshape(-1)[self.free] += moves[:count]
        if self._intercept:
            intercept += moves[count:]
            shift = self._means * moves[:count]
            intercept.index_add_(0, self._classes[:count], -shift)

    def _scores(self, step: Tensor) -> Tensor:
        by_class = torch.zeros((len(step), self._k), dtype=torch.float64)
        by_class[torch.arange(len(step)), self._classes] = step
        return self._columns @ by_class
