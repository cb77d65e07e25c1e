"""The problem that all recipes solve: which digit is it, from 64 pixels?

Multinomial logistic regression on scikit-learn's digits: `mean cross-entropy + strength
* |weights|_1`, with free biases. It is convex, so that every trainer must end at the
same weights, with the same zeros: 584 of 640.

The samples come in one order in every epoch, so that the recipes can be held against
each other. In your own training shuffle them anew for each.
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler

FEATURES, CLASSES = 64, 10
STRENGTH = 0.05  # lambda, per unit of the mean loss
LEARNING_RATE = 0.3  # the first; a cosine takes it to zero
START = 0.1  # every weight; the biases start at 0
EPOCHS = 500

Batches = list[tuple[np.ndarray, np.ndarray]]


def batches(size: int | None = None) -> Batches:
    """Cut the data into minibatches.

    Args:
      size: samples in each, the last one taking what is left; None for one batch of
        all 1797.

    Returns:
      Pairs of standardised pixels, float32 of shape (samples, 64), and digits, int64
      of shape (samples,).

    Raises:
      ValueError: a size below 1.
    """
    X, y = load_digits(return_X_y=True)
    X = StandardScaler().fit_transform(X).astype(np.float32)
    size = len(y) if size is None else size
    if size < 1:
        raise ValueError(f"size must be >= 1, got {size}. Pass None for a full batch.")
    order = np.random.default_rng(0).permutation(len(y))
    chosen = [order[i : i + size] for i in range(0, len(y), size)]
    return [(X[i], y[i].astype(np.int64)) for i in chosen]


def arguments(description: str) -> argparse.Namespace:
    """Read `--epochs` and `--batch-size` from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--batch-size", type=int, help="all samples unless given")
    return parser.parse_args()
