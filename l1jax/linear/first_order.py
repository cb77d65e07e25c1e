"""Linear models by the first-order solver, FISTA, in the precision of the data."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from l1jax.linear.design import Array, Design
from l1jax.penalties.base import Penalty
from l1jax.solvers.full_batch import find_solution


class FirstOrderFit(NamedTuple):
    """What `fit_by_fista` ends at, in double precision."""

    coef: Array
    """Of shape (p, k)."""
    intercept: Array
    """Of shape (k,)."""
    iterations: int
    """Steps taken."""


def fit_by_fista(
    X: ArrayLike,
    y: ArrayLike,
    design: Design,
    coef: Array,
    intercept: Array,
    *,
    shape: tuple[int, ...],
    strength: ArrayLike,
    loss: str,
    penalty: Penalty,
    fit_intercept: bool,
    tol: float,
    max_iterations: int,
) -> FirstOrderFit:
    """Run FISTA; with an intercept on centred columns, which it needs to be fast.

    Args:
      X: the features, of shape (n, p).
      y: as `solve_linear` takes it.
      design: the same features.
      coef: where to start, of shape (p, k).
      intercept: where to start, of shape (k,).
      shape: that of the coefficients to the penalty, (p,) or (p, classes).
      strength: lambda.
      loss: the loss's name.
      penalty: of unit strength.
      fit_intercept: whether there is an intercept.
      tol: the largest violation of the optimality conditions to leave.
      max_iterations: the most steps to take.
    """
    X, y = jnp.asarray(X, design.dtype), jnp.asarray(y)
    params = {"coef": jnp.asarray(coef.reshape(shape), design.dtype)}
    if fit_intercept:
        means = design.gradient(np.ones((design.n, 1)))[:, 0]
        centred = (intercept + means @ coef).reshape(shape[1:])
        params["intercept"] = jnp.asarray(centred, design.dtype)
        shift = jnp.asarray(means, design.dtype)
    mean = _mean_loss(loss)

    def objective(params: Mapping[str, jax.Array]) -> jax.Array:
        scores = X @ params["coef"]
        if fit_intercept:
            scores = scores + (params["intercept"] - shift @ params["coef"])
        return mean(scores, y)

    found = find_solution(
        objective,
        params,
        {name: strength if name == "coef" else 0.0 for name in params},
        penalty=penalty,
        mask={name: name == "coef" for name in params},
        tol=tol,
        max_iterations=max_iterations,
    )
    coef = np.array(found.params["coef"], np.float64).reshape(design.p, -1)
    if fit_intercept:
        intercept = np.array(found.params["intercept"], np.float64).reshape(-1)
        intercept = intercept - means @ coef
    return FirstOrderFit(coef, intercept, int(found.iterations))


def _mean_loss(loss: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return a mean loss as a function of scores and y that can be differentiated."""

    def squared(scores: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean((scores - jnp.asarray(y, scores.dtype)) ** 2) / 2

    def logistic(scores: jax.Array, y: jax.Array) -> jax.Array:
        of_ones = jnp.asarray(y, scores.dtype) * scores
        return jnp.mean(jnp.logaddexp(0.0, scores) - of_ones)

    def multinomial(scores: jax.Array, y: jax.Array) -> jax.Array:
        own = jnp.take_along_axis(scores, y.astype(int)[:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(scores, axis=1) - own)

    return {"squared": squared, "logistic": logistic, "multinomial": multinomial}[loss]
