"""The losses of linear models, on the host in double precision, and their duals.

Scores `X w + b` have the shape (n, k), with k = 1 but for classes. Each loss is a mean
over n samples, `1/n sum_i f(scores_i, targets_i)`.
"""

import abc
import math
from typing import Any

import numpy as np

from l1jax.numerics.checks import check_choice

Array = np.ndarray


class LinearLoss(abc.ABC):
    """A mean loss of scores, with what Newton's method and a dual point need of it."""

    name: str
    quadratic: bool = False
    """Whether its second derivative is constant."""

    @abc.abstractmethod
    def labels(self, y: Array) -> Array:
        """Check y of shape (n,) and return the labels, of the shape of the scores."""

    @abc.abstractmethod
    def value(self, scores: Array, labels: Array) -> float:
        """Return the mean loss."""

    @abc.abstractmethod
    def residual(self, scores: Array, labels: Array) -> Array:
        """Return the derivative of each sample's loss by its scores."""

    @abc.abstractmethod
    def hessian(self, columns: Array, classes: Array, scores: Array) -> Array:
        """Return the second derivative by the coefficients of some columns.

        Args:
          columns: of shape (n, m).
          classes: the column of the scores that each of them adds to, of shape (m,).
          scores: where, of shape (n, k).
        """

    @abc.abstractmethod
    def dual(self, residual: Array, labels: Array) -> float:
        """Return minus the mean conjugate of the samples' losses at `residual`."""

    def change(self, scores: Array, moved: Array, labels: Array) -> float:
        """Return `value(scores + moved) - value(scores)`.

        Of small moves the two values would differ by less than their rounding: there,
        and where it is exact, the change is the move times the mean of the slopes.
        """
        if not self.quadratic and np.abs(moved).max() > 0.1:
            return self.value(scores + moved, labels) - self.value(scores, labels)
        before = self.residual(scores, labels)
        after = self.residual(scores + moved, labels)
        return float(np.sum((before + after) / 2 * moved)) / len(moved)


class _Squared(LinearLoss):
    """`1/2 (score - y)^2`, with numbers y."""

    name = "squared"
    quadratic = True

    def labels(self, y: Array) -> Array:
        if not np.isfinite(y).all():
            raise ValueError(
                f"y must be finite, got {_first(y, ~np.isfinite(y))}. Drop the samples "
                "that have no target, or fill it in."
            )
        return y[:, None]

    def value(self, scores: Array, labels: Array) -> float:
        return float(np.mean((scores - labels) ** 2)) / 2

    def residual(self, scores: Array, labels: Array) -> Array:
        return scores - labels

    def hessian(self, columns: Array, classes: Array, scores: Array) -> Array:
        return columns.T @ columns / len(columns)

    def dual(self, residual: Array, labels: Array) -> float:
        return -float(np.mean(residual * (residual / 2 + labels)))


class _Logistic(LinearLoss):
    """`log(1 + exp(score)) - y score`, with labels y of 0 and 1."""

    name = "logistic"

    def labels(self, y: Array) -> Array:
        _require(y, (y == 0) | (y == 1), "hold the labels 0 and 1", "(y > 0) * 1")
        return y[:, None]

    def value(self, scores: Array, labels: Array) -> float:
        # A difference of large scores would leave nothing but their rounding.
        return float(np.mean(np.logaddexp(0, (1 - 2 * labels) * scores)))

    def residual(self, scores: Array, labels: Array) -> Array:
        sign = 1 - 2 * labels
        return sign * _sigmoid(sign * scores)

    def hessian(self, columns: Array, classes: Array, scores: Array) -> Array:
        weights = _sigmoid(scores) * _sigmoid(-scores)
        return (columns * weights).T @ columns / len(columns)

    def dual(self, residual: Array, labels: Array) -> float:
        chance = residual + labels
        return -float(np.mean(_x_log_x(chance) + _x_log_x(1 - chance)))


class _Multinomial(LinearLoss):
    """`log sum_c exp(score_c) - score_y`, with classes y of 0, 1, ..., k - 1."""

    name = "multinomial"

    def labels(self, y: Array) -> Array:
        whole = (y >= 0) & (y == np.floor(y)) & (y < math.inf)
        _require(y, whole, "hold integer classes from 0", "the index of each class")
        classes = y.astype(np.int64)
        count = np.bincount(classes)
        if len(count) > len(y) or not count.all() or len(count) < 2:
            raise ValueError(
                "y must hold every class from 0 to the largest, and two or more, got "
                f"{np.flatnonzero(count)[:20]}. Number the classes that occur."
            )
        return np.eye(len(count))[classes]

    def value(self, scores: Array, labels: Array) -> float:
        wrong = scores - (scores * labels).sum(1, keepdims=True)
        largest = wrong.max(1, keepdims=True)
        sums = np.exp(wrong - largest).sum(1, keepdims=True)
        return float(np.mean(largest + np.log(sums)))

    def residual(self, scores: Array, labels: Array) -> Array:
        others = _softmax(scores) * (1 - labels)
        return others - labels * others.sum(1, keepdims=True)

    def hessian(self, columns: Array, classes: Array, scores: Array) -> Array:
        chances = _softmax(scores)[:, classes]
        weighted = columns * chances
        same = classes[:, None] == classes
        products = np.where(same, weighted.T @ columns, 0) - weighted.T @ weighted
        return products / len(columns)

    def dual(self, residual: Array, labels: Array) -> float:
        return -float(np.mean(_x_log_x(residual + labels).sum(1)))


_LOSSES = {loss.name: loss for loss in (_Squared(), _Logistic(), _Multinomial())}


def loss_named(name: Any) -> LinearLoss:
    """Return the loss of a name, or raise."""
    return _LOSSES[check_choice("loss", name, tuple(_LOSSES))]


def _sigmoid(x: Array) -> Array:
    # Neither branch overflows.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def _softmax(scores: Array) -> Array:
    chances = np.exp(scores - scores.max(1, keepdims=True))
    return chances / chances.sum(1, keepdims=True)


def _x_log_x(x: Array) -> Array:
    # Rounding may leave probabilities a little below 0.
    return np.where(x > 0, x * np.log(np.where(x > 0, x, 1)), 0)


def _require(y: Array, good: Array, wanted: str, remedy: str) -> None:
    if not good.all():
        raise ValueError(
            f"y must {wanted} for this loss, got {_first(y, ~good)}. Pass {remedy}."
        )


def _first(y: Array, bad: Array) -> str:
    index = int(np.argmax(bad))
    return f"{y[index]} at index {index}"
