"""Data whose features and targets are in any unit."""

import numpy as np

N, P = 60, 8


def data(loss, unit, size):
    """Features in one unit, targets in another; no plane divides the classes."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, P)) + 1
    score = X[:, 0] - X[:, 3] + 2 * rng.normal(size=N)
    if loss == "squared":
        return unit * X, size * (score + 3)
    bounds = [0.5] if loss == "logistic" else [0.3, 0.7]
    y = np.digitize(score, np.quantile(score, bounds))
    return unit * X, y * 1.0 if loss == "logistic" else y
