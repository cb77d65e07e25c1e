"""The Lasso of the diabetes data at many strengths, and what may train it."""

import numpy as np
import optax
import torch
from sklearn.linear_model import lasso_path

from parity_tests.frameworks.twins import JAX
from parity_tests.oracles import problems

COUNT = 12


def run(twin, *args, **kwargs):
    """Return the path that the twin finds."""
    return twin.lib.regularisation_path(*args, **kwargs)


def lasso(twin, dtype="float64"):
    """Return the loss on the diabetes data, and a start away from its minimum."""
    problem = problems.diabetes()
    X, y = twin.array(problem.X, dtype), twin.array(problem.y + 1.5, dtype)

    def loss(params):
        return ((X @ params["w"] + params["b"] - y) ** 2).mean() / 2

    return loss, twin.tree({"w": np.full(10, 0.3), "b": 0.5}, dtype)


def weights(twin, path, name="w"):
    """Return one parameter at all strengths."""
    return twin.numpy(path.params[name])


def spaced(count=COUNT, ratio=1e-3):
    """Return strengths from the largest of use down, evenly in the logarithm."""
    return problems.diabetes(1.0).strength * np.geomspace(1, ratio, count)


def reference(strengths):
    """Return scikit-learn's coefficients, a row for each strength."""
    problem = problems.diabetes()
    settings = {"alphas": strengths, "tol": 1e-15, "max_iter": 1_000_000}
    return lasso_path(problem.X, problem.y, **settings)[1].T


def adam(twin, rate=1e-2, **kwargs):
    """Return the function of a strength that makes a proximal Adam."""
    if twin is JAX:
        return lambda s: twin.lib.proximal(optax.adam, rate, s, **kwargs)
    return lambda named, s: twin.lib.Proximal(
        torch.optim.Adam(named, rate), s, **kwargs
    )


def sgd(twin, rate):
    """Return the function of a strength that makes a proximal SGD."""
    if twin is JAX:
        return lambda s: twin.lib.proximal(optax.sgd, rate, s)
    return lambda named, s: twin.lib.Proximal(torch.optim.SGD(named, rate), s)
