"""The data of the examples: scikit-learn's own sets, scaled, and split where needed."""

import math
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
    """Gives 8 x 8 pixels in a row, float32 from 0 to 1, and digits, int64."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        (X / 16).astype(np.float32), y, test_size=test_size, random_state=0, stratify=y
    )
    return Split(X, y, X_test, y_test)


def minibatches(size: int, batch: int, steps: int, seed: int) -> np.ndarray:
    """Draws the samples of every step: a (steps, batch) array of indices.

    Every epoch has an order of its own, and leaves out what does not fill a batch.
    """
    rng = np.random.default_rng([seed, 1])
    whole = size // batch * batch
    epochs = math.ceil(steps * batch / whole)
    order = [rng.permutation(size)[:whole] for _ in range(epochs)]
    return np.concatenate(order).reshape(-1, batch)[:steps]


def diabetes_with_products() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Gives 442 x 64 columns, y and the columns' names; all scaled to variance 1.

    The columns are the 10 features, their 45 products and 9 squares.
    """
    data = load_diabetes()
    columns, names = list(data.data.T), list(data.feature_names)
    for i in range(10):
        for j in range(i, 10):
            if i == j == data.feature_names.index("sex"):
                continue  # it has two values: its square says nothing new
            columns.append(data.data[:, i] * data.data[:, j])
            names.append(f"{names[i]}²" if i == j else f"{names[i]}·{names[j]}")
    X = StandardScaler().fit_transform(np.column_stack(columns))
    return X, (data.target - data.target.mean()) / data.target.std(), names


def breast_cancer() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Gives 569 x 30 columns of variance 1, y in {0, 1} (1: benign), and the names."""
    data = load_breast_cancer()
    X = StandardScaler().fit_transform(data.data)
    return X, data.target.astype(np.float64), list(data.feature_names)
