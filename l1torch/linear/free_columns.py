"""Columns that no penalty touches: they are solved for exactly, not searched for."""

import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from l1torch.linear.design import Design
from l1torch.linear.losses import LinearLoss
from l1torch.linear.penalty_terms import PenaltyTerms


class FreeColumns:
    """What is fitted without a penalty: the intercept, and free coefficients."""

    def __init__(self, design: Design, terms: PenaltyTerms, intercept: bool) -> None:
        k = terms.slopes.shape[1]
        features, classes = terms.free // k, terms.free % k
        columns = design.columns(features)
        if intercept:
            # Apart from its mean a column is far from parallel to the intercept's.
            self._means = columns.mean(0)
            ones = torch.ones((design.n, k), dtype=torch.float64)
            columns = torch.cat([columns - self._means, ones], 1)
            classes = torch.cat([classes, torch.arange(k)])
        self._intercept, self._k, self._flat = intercept, k, terms.free
        self._columns, self._classes = columns, classes

    def fit(
        self, loss: LinearLoss, targets: Tensor, scores: Tensor
    ) -> tuple[Tensor, Callable[[Tensor, Tensor], None], bool]:
        """Minimises the loss over them, from given scores, by Newton's method.

        Returns:
          The new scores; a function that adds to coefficients of shape (p, k) and an
          intercept of shape (k,), in place, what the scores have moved by; and
          whether the gradient has become 0.
        """
        columns, classes = self._columns, self._classes
        moved = torch.zeros(len(classes), dtype=torch.float64)
        exact, smallest = not len(classes), math.inf
        sizes = torch.mean(columns**2, 0).sqrt()
        sizes[sizes == 0] = 1
        for _ in range(100 if len(classes) else 0):
            residual = loss.residual(scores, targets)
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
            while not (exact or loss.change(scores, size * shift, targets) <= 0):
                size /= 2
            moved, scores = moved + size * step, scores + size * shift
            if size < 1e-8:
                break

        def add(coef: Tensor, intercept: Tensor) -> None:
            count = len(self._flat)
            coef.reshape(-1)[self._flat] += moved[:count]
            if self._intercept:
                intercept += moved[count:]
                shift = self._means * moved[:count]
                intercept.index_add_(0, classes[:count], -shift)

        return scores, add, exact

    def _scores(self, step: Tensor) -> Tensor:
        by_class = torch.zeros((len(step), self._k), dtype=torch.float64)
        by_class[torch.arange(len(step)), self._classes] = step
        return self._columns @ by_class
