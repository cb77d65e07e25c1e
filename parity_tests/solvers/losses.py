"""Losses that both frameworks compute, and their minima by the full-batch solver."""

import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.oracles import problems

XP = {"jax": jnp, "torch": torch}


def solve(twin, loss, params, *args, dtype="float64", **kwargs):
    """Solve with `loss(array module, params)`: parameters in numpy, and the result."""
    found = twin.lib.solve(
        lambda params: loss(XP[twin.name], params),
        twin.tree(params, dtype),
        *args,
        **kwargs,
    )
    return {k: twin.numpy(v) for k, v in found.params.items()}, found


def of_problem(twin, problem, dtype="float64"):
    """Return the loss of a data set, of parameters with one array `w`."""
    X, y = twin.array(problem.X, dtype), twin.array(problem.y, dtype)
    return lambda xp, params: problem.loss(xp, X, y, params["w"])


def zeros(problem):
    """Return weights of 0 for a data set."""
    return {"w": np.zeros(problem.X.shape[1])}


def cross_entropy(twin, X, Y):
    """Return the mean cross entropy of a linear model with biases."""
    X, Y = twin.array(X), twin.array(Y)

    def loss(xp, params):
        scores = X @ params["w"] + params["b"]
        top = xp.amax(scores, 1)
        sums = xp.exp(scores - top[:, None]).sum(1)
        return (top + xp.log(sums) - (scores * Y).sum(1)).mean()

    return loss


def few_digits():
    """Return 80 images of digits, and their labels as rows of 0 and 1."""
    X, Y = problems.digits()
    return X[:80], Y[:80]
