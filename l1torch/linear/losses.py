"""The losses of linear models, on the host in double precision, and their duals.

Scores `X w + b` have the shape (n, k), with k = 1 but for classes. Each loss is a mean
over n samples, `1/n sum_i f(scores_i, targets_i)`.
"""

import abc
import math
from typing import Any

import torch
from torch import Tensor

from l1torch.numerics.checks import check_choice


class LinearLoss(abc.ABC):
    """A mean loss of scores, with what Newton's method and a dual point need of it."""

    name: str
    quadratic: bool = False
    """Whether its second derivative is constant."""

    @abc.abstractmethod
    def labels(self, y: Tensor) -> Tensor:
        """Check y of shape (n,) and return the labels, of the shape of the scores."""

    @abc.abstractmethod
    def value(self, scores: Tensor, labels: Tensor) -> float:
        """Return the mean loss."""

    @abc.abstractmethod
    def residual(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the derivative of each sample's loss by its scores."""

    @abc.abstractmethod
    def hessian(self, columns: Tensor, classes: Tensor, scores: Tensor) -> Tensor:
        """Return the second derivative by the coefficients of some columns.

        Args:
          columns: of shape (n, m).
          classes: the column of the scores that each of them adds to, of shape (m,).
          scores: where, of shape (n, k).
        """

    @abc.abstractmethod
    def dual(self, residual: Tensor, labels: Tensor) -> float:
        """Return minus the mean conjugate of the samples' losses at `residual`."""

    def change(self, scores: Tensor, moved: Tensor, labels: Tensor) -> float:
        """Return `value(scores + moved) - value(scores)`.

        Of small moves the two values would differ by less than their rounding: there,
        and where it is exact, the change is the move times the mean of the slopes.
        """
        if not self.quadratic and moved.abs().max() > 0.1:
            return self.value(scores + moved, labels) - self.value(scores, labels)
        before = self.residual(scores, labels)
        after = self.residual(scores + moved, labels)
        return float(torch.sum((before + after) / 2 * moved)) / len(moved)


class _Squared(LinearLoss):
    """`1/2 (score - y)^2`, with numbers y."""

    name = "squared"
    quadratic = True

    def labels(self, y: Tensor) -> Tensor:
        if not y.isfinite().all():
            raise ValueError(
                f"y must be finite, got {_first(y, ~y.isfinite())}. Drop the samples "
                "that have no target, or fill it in."
            )
        return y[:, None]

    def value(self, scores: Tensor, labels: Tensor) -> float:
        return float(torch.mean((scores - labels) ** 2)) / 2

    def residual(self, scores: Tensor, labels: Tensor) -> Tensor:
        return scores - labels

    def hessian(self, columns: Tensor, classes: Tensor, scores: Tensor) -> Tensor:
        return columns.T @ columns / len(columns)

    def dual(self, residual: Tensor, labels: Tensor) -> float:
        return -float(torch.mean(residual * (residual / 2 + labels)))


class _Logistic(LinearLoss):
    """`log(1 + exp(score)) - y score`, with labels y of 0 and 1."""

    name = "logistic"

    def labels(self, y: Tensor) -> Tensor:
        _require(y, (y == 0) | (y == 1), "hold the labels 0 and 1", "(y > 0) * 1")
        return y[:, None]

    def value(self, scores: Tensor, labels: Tensor) -> float:
        # A difference of large scores would leave nothing but their rounding.
        wrong = (1 - 2 * labels) * scores
        return float(torch.mean(torch.logaddexp(torch.zeros_like(wrong), wrong)))

    def residual(self, scores: Tensor, labels: Tensor) -> Tensor:
        sign = 1 - 2 * labels
        return sign * torch.sigmoid(sign * scores)

    def hessian(self, columns: Tensor, classes: Tensor, scores: Tensor) -> Tensor:
        weights = torch.sigmoid(scores) * torch.sigmoid(-scores)
        return (columns * weights).T @ columns / len(columns)

    def dual(self, residual: Tensor, labels: Tensor) -> float:
        chance = residual + labels
        return -float(torch.mean(_x_log_x(chance) + _x_log_x(1 - chance)))


class _Multinomial(LinearLoss):
    """`log sum_c exp(score_c) - score_y`, with classes y of 0, 1, ..., k - 1."""

    name = "multinomial"

    def labels(self, y: Tensor) -> Tensor:
        whole = (y >= 0) & (y == torch.floor(y)) & (y < math.inf)
        _require(y, whole, "hold integer classes from 0", "the index of each class")
        classes = y.long()
        count = torch.bincount(classes)
        if len(count) > len(y) or not count.all() or len(count) < 2:
            raise ValueError(
                "y must hold every class from 0 to the largest, and two or more, got "
                f"{torch.nonzero(count).flatten()[:20].tolist()}. Number the classes "
                "that occur."
            )
        return torch.eye(len(count), dtype=torch.float64)[classes]

    def value(self, scores: Tensor, labels: Tensor) -> float:
        wrong = scores - (scores * labels).sum(1, keepdim=True)
        return float(torch.mean(torch.logsumexp(wrong, 1)))

    def residual(self, scores: Tensor, labels: Tensor) -> Tensor:
        others = torch.softmax(scores, 1) * (1 - labels)
        return others - labels * others.sum(1, keepdim=True)

    def hessian(self, columns: Tensor, classes: Tensor, scores: Tensor) -> Tensor:
        weighted = columns * torch.softmax(scores, 1)[:, classes]
        same = classes[:, None] == classes
        products = torch.where(same, weighted.T @ columns, 0) - weighted.T @ weighted
        return products / len(columns)

    def dual(self, residual: Tensor, labels: Tensor) -> float:
        return -float(torch.mean(_x_log_x(residual + labels).sum(1)))


_LOSSES = {loss.name: loss for loss in (_Squared(), _Logistic(), _Multinomial())}


def loss_named(name: Any) -> LinearLoss:
    """Return the loss of a name, or raise."""
    return _LOSSES[check_choice("loss", name, tuple(_LOSSES))]


def _x_log_x(x: Tensor) -> Tensor:
    # Rounding may leave probabilities a little below 0.
    return torch.where(x > 0, x * torch.log(torch.where(x > 0, x, 1)), 0)


def _require(y: Tensor, good: Tensor, wanted: str, remedy: str) -> None:
    if not good.all():
        raise ValueError(
            f"y must {wanted} for this loss, got {_first(y, ~good)}. Pass {remedy}."
        )


def _first(y: Tensor, bad: Tensor) -> str:
    index = int(bad.int().argmax())
    return f"{y[index]} at index {index}"
