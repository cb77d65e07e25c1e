"""The data of the examples: scikit-learn's own sets, scaled, and split where needed."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler


class Split(NamedTuple):
    """Training data, and data held back."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def digits(test_size: float = 0.3) -> Split:
    """Return 8 x 8 pixels in a row, float32 from 0 to 1, and digits, int64."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        (X / 16).astype(np.float32), y, test_size=test_size, random_state=0, stratify=y
    )
    return Split(X, y, X_test, y_test)


def minibatches(size: int, batch: int, steps: int, seed: int) -> np.ndarray:
    """Draw the samples of every step: a (steps, batch) array of indices.

    Every epoch has an order of its own, and leaves out what does not fill a batch.
    """
    rng = np.random.default_rng([seed, 1])
    whole = size // batch * batch
    epochs = math.ceil(steps * batch / whole)
    order = [rng.permutation(size)[:whole] for _ in range(epochs)]
    return np.concatenate(order).reshape(-1, batch)[:steps]


def diabetes(
    columns: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return 442 patients' columns, all ten or those named, y, and the columns' names.

    Columns and y have mean 0 and variance 1.
    """
    data = load_diabetes()
    names = list(data.feature_names) if columns is None else list(columns)
    X = data.data[:, [data.feature_names.index(name) for name in names]]
    y = (data.target - data.target.mean()) / data.target.std()
    return StandardScaler().fit_transform(X), y, names


def diabetes_with_products() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the same with 45 products and 9 squares of the features: 442 x 64."""
    X, y, names = diabetes()
    columns, names = list(X.T), list(names)
    for i in range(10):
        for j in range(i, 10):
            if i == j == names.index("sex"):
                continue  # it has two values: its square says nothing new
            columns.append(X[:, i] * X[:, j])
            names.append(f"{names[i]}²" if i == j else f"{names[i]}·{names[j]}")
    return StandardScaler().fit_transform(np.column_stack(columns)), y, names


def breast_cancer() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return 569 x 30 columns of variance 1, y in {0, 1} (1: benign), and the names."""
    data = load_breast_cancer()
    X = StandardScaler().fit_transform(data.data)
    return X, data.target.astype(np.float64), list(data.feature_names)
