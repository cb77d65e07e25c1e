"""Solutions for many strengths: one after the other, or all at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l1jax.parameters.masks import Mask
from l1jax.penalties.base import Penalty
from l1jax.penalties.penalty_values import penalty_value
from l1jax.solvers.full_batch import find_solution
from l1jax.solvers.optimality import OptimalityResidual, optimality_residual


class Settings(NamedTuple):
    """How each strength is solved: see `regularisation_path`."""

    penalty: Penalty
    mask: Mask
    tol: float
    max_iterations: int
    optimizer: Callable[[Any], optax.GradientTransformation] | None
    steps: int | None
    warm_start: bool
    vectorised: bool


class Fits(NamedTuple):
    """Solutions with a leading axis of strengths."""

    params: Any
    objective: np.ndarray
    loss: np.ndarray
    residual: OptimalityResidual


def fit_all(
    loss: Callable[[Any], jax.Array],
    start: Any,
    strengths: np.ndarray,
    settings: Settings,
) -> Fits:
    """Solve for every strength, from the one before or all from `start`."""

    def run(start: Any, strengths: jax.Array) -> Fits:
        if settings.vectorised:
            return jax.vmap(lambda s: _fit(loss, start, s, settings))(strengths)

        def body(last: Any, strength: jax.Array) -> tuple[Any, Fits]:
            first = last if settings.warm_start else start
            fit = _fit(loss, first, strength, settings)
            return fit.params, fit

        return jax.lax.scan(body, start, strengths)[1]

    # One program for all strengths is compiled once.
    return _on_host(jax.jit(run)(start, jnp.asarray(strengths)))


def require_vectorisable(settings: Settings) -> None:
    """Raise where strengths cannot be solved at once; in JAX they always can."""


def _fit(
    loss: Callable[[Any], jax.Array], start: Any, strength: Any, settings: Settings
) -> Fits:
    if settings.optimizer is None:
        found = find_solution(
            loss,
            start,
            strength,
            penalty=settings.penalty,
            mask=settings.mask,
            tol=settings.tol,
            max_iterations=settings.max_iterations,
        )
        return Fits(found.params, found.objective, found.loss, found.residual)
    params = _trained(loss, start, settings.optimizer(strength), settings.steps)
    return _measured(loss, params, strength, settings)


def _measured(
    loss: Callable[[Any], jax.Array], params: Any, strength: Any, settings: Settings
) -> Fits:
    penalty, mask = settings.penalty, settings.mask
    value, grads = jax.value_and_grad(loss)(params)
    penalised = penalty_value(params, strength, penalty=penalty, mask=mask)
    return Fits(
        params=params,
        objective=value + penalised,
        loss=value,
        residual=optimality_residual(
            grads, params, strength, penalty=penalty, mask=mask
        ),
    )


def _on_host(fits: Fits) -> Fits:
    """Take the numbers to the host, in double precision; not the parameters."""
    numbers = jax.tree.map(lambda x: np.asarray(x, float), fits._replace(params=None))
    return numbers._replace(params=fits.params)


def _trained(
    loss: Callable[[Any], jax.Array],
    params: Any,
    optimizer: optax.GradientTransformation,
    steps: int,
) -> Any:
    """Take full-batch steps."""

    def body(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(body, (params, optimizer.init(params)), length=steps)[0][0]
