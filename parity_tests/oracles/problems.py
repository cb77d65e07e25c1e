"""Real convex problems, scaled as scikit-learn scales them, in numpy."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.preprocessing import StandardScaler


@dataclasses.dataclass(frozen=True)
class Problem:
    """`min_w mean loss(X, y, w) + strength * penalty(w)`."""

    X: np.ndarray
    y: np.ndarray
    strength: float
    lipschitz: float
    """Of the gradient of the mean loss."""
    loss: Callable[[Any, Any, Any, Any], Any]
    """`loss(array module, X, y, w)`, the same formula for numpy, JAX and torch."""
    gradient: Callable[[Any, Any, Any, Any], Any]
    """Of the loss, by hand."""


def squared_loss(xp: Any, X: Any, y: Any, w: Any) -> Any:
    """`1/(2n) |Xw - y|^2`, the loss of scikit-learn's Lasso."""
    residual = X @ w - y
    return (residual @ residual) / (2 * len(y))


def squared_gradient(xp: Any, X: Any, y: Any, w: Any) -> Any:
    """The gradient of `squared_loss`."""
    return X.T @ (X @ w - y) / len(y)


def logistic_loss(xp: Any, X: Any, y: Any, w: Any) -> Any:
    """`mean log(1 + exp(-y Xw))` for labels in {-1, 1}."""
    margin = y * (X @ w)
    return xp.logaddexp(0.0 * margin, -margin).mean()


def logistic_gradient(xp: Any, X: Any, y: Any, w: Any) -> Any:
    """The gradient of `logistic_loss`."""
    margin = y * (X @ w)
    return X.T @ (-y / (1 + xp.exp(margin))) / len(y)


def multinomial_loss(X: Any, Y: Any, params: dict[str, Any]) -> Any:
    """Mean cross-entropy of `softmax(X w + b)` with one-hot labels `Y`, in numpy."""
    scores = X @ params["w"] + params["b"]
    largest = scores.max(1)
    sums = np.exp(scores - largest[:, None]).sum(1)
    return float((largest + np.log(sums) - (scores * Y).sum(1)).mean())


def multinomial_gradient(
    xp: Any, X: Any, Y: Any, params: dict[str, Any]
) -> dict[str, Any]:
    """The gradient of `multinomial_loss`, for numpy, JAX and torch."""
    scores = X @ params["w"] + params["b"]
    scores = xp.exp(scores - xp.amax(scores, 1)[:, None])
    residual = (scores / scores.sum(1)[:, None] - Y) / len(Y)
    return {"w": X.T @ residual, "b": residual.sum(0)}


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits: 1797 x 64, standardised, and labels one-hot. 3 columns are 0."""
    X, y = datasets.load_digits(return_X_y=True)
    return StandardScaler().fit_transform(X), np.eye(10)[y]


@functools.cache
def diabetes(fraction: float = 0.1) -> Problem:
    """Lasso on diabetes: 442 x 10, standardised, at `fraction * lambda_max`."""
    X, y = datasets.load_diabetes(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    y = (y - y.mean()) / y.std()
    return Problem(
        X=X,
        y=y,
        strength=fraction * float(np.abs(X.T @ y).max() / len(y)),
        lipschitz=float(np.linalg.norm(X, 2) ** 2 / len(y)),
        loss=squared_loss,
        gradient=squared_gradient,
    )


@functools.cache
def breast_cancer(fraction: float = 0.1) -> Problem:
    """L1-logistic regression on breast_cancer: 569 x 30, standardised, no intercept."""
    X, y = datasets.load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    y = 2.0 * y - 1
    return Problem(
        X=X,
        y=y,
        strength=fraction * float(np.abs(X.T @ y).max() / (2 * len(y))),
        lipschitz=float(np.linalg.norm(X, 2) ** 2 / (4 * len(y))),
        loss=logistic_loss,
        gradient=logistic_gradient,
    )
