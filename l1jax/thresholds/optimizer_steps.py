"""The effective steps of the optimizers that optax brings.

They are in the registry once this module is imported, as `l1jax.thresholds` does.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from l1jax.numerics.elementwise import compute_dtype
from l1jax.thresholds.effective_steps import (
    REGISTRY,
    EffectiveStep,
    KnownStep,
    register_step_size,
)

Scalar = jax.Array | float


def _part(state: optax.OptState, field: str) -> Any:
    """Return the part of a chain's state that has a field, or None."""
    if hasattr(state, field):
        return state
    for part in state if isinstance(state, tuple) else ():
        found = _part(part, field)
        if found is not None:
            return found
    return None


def _map(function: Callable[..., jax.Array], *trees: Any) -> Any:
    """Map over leaves in at least single precision; `None` stays `None`."""

    def wide(*leaves: jax.Array) -> jax.Array:
        return function(*(jnp.asarray(x, compute_dtype(x.dtype)) for x in leaves))

    return jax.tree.map(wide, *trees)


# Compiled once. In a step that is not compiled the count is a known integer, which XLA
# would take as an exponent and compile the power anew at each step.
@functools.partial(jax.jit, inline=True)
def _bias(decay: ArrayLike, count: ArrayLike) -> jax.Array:
    """Return the share that its start still has in a moving average."""
    return decay**count


def _sgd(
    state: optax.OptState,
    learning_rate: Scalar,
    *,
    momentum: Scalar | None,
    **_: object,
) -> EffectiveStep:
    del state
    return EffectiveStep(learning_rate / (1 - (0.0 if momentum is None else momentum)))


def _adam(
    state: optax.OptState,
    learning_rate: Scalar,
    *,
    b2: Scalar,
    eps: Scalar,
    eps_root: Scalar = 0.0,
    **_: object,
) -> EffectiveStep:
    moments = _part(state, "nu")
    correction = 1 - _bias(b2, moments.count)
    denominator = _map(
        lambda nu: jnp.sqrt(nu / correction + eps_root) + eps, moments.nu
    )
    return EffectiveStep(learning_rate, denominator, 1.0)


def _amsgrad(
    state: optax.OptState,
    learning_rate: Scalar,
    *,
    eps: Scalar,
    eps_root: Scalar,
    **_: object,
) -> EffectiveStep:
    denominator = _map(
        lambda nu: jnp.sqrt(nu + eps_root) + eps, _part(state, "nu_max").nu_max
    )
    return EffectiveStep(learning_rate, denominator, 1.0)


def _rmsprop(
    state: optax.OptState,
    learning_rate: Scalar,
    *,
    decay: Scalar,
    eps: Scalar,
    eps_in_sqrt: bool,
    centered: bool,
    bias_correction: bool = False,
    **_: object,
) -> EffectiveStep:
    moments = _part(state, "nu")
    correction = 1 - _bias(decay, moments.count) if bias_correction else 1.0

    def root(nu: jax.Array) -> jax.Array:
        return jnp.sqrt(nu + eps) if eps_in_sqrt else jnp.sqrt(nu) + eps

    second = _map(lambda nu: root(nu / correction), moments.nu)
    if not centered:
        return EffectiveStep(learning_rate, second, 1.0)
    deviation = _map(
        lambda mu, nu: root(nu / correction - jnp.square(mu / correction)),
        moments.mu,
        moments.nu,
    )
    reach = _map(jnp.divide, second, deviation)
    return EffectiveStep(learning_rate, deviation, reach)


def _no_rates_yet(*, momentum: Scalar | None, **_: object) -> jax.Array | None:
    return None if momentum is None else jnp.zeros([])


def _rmsprop_with_momentum(
    summed: jax.Array | None,
    count: ArrayLike,
    state: optax.OptState,
    learning_rate: Scalar,
    *,
    momentum: Scalar | None,
    nesterov: bool,
    **others: Any,
) -> tuple[EffectiveStep, jax.Array | None]:
    """Sum the learning rates as `optax.rmsprop` sums the steps that hold them."""
    if summed is None:
        return _rmsprop(state, learning_rate, **others), None
    # As if the first learning rate had always been there: the steady step.
    first = learning_rate / (1 - momentum)
    later = momentum * summed + learning_rate
    summed = jnp.where(count == 0, first, later).astype(summed.dtype)
    rate = learning_rate + momentum * summed if nesterov else summed
    return _rmsprop(state, rate, **others), summed


def _adagrad(
    state: optax.OptState, learning_rate: Scalar, *, eps: Scalar, **_: object
) -> EffectiveStep:
    sums = _part(state, "sum_of_squares").sum_of_squares
    return EffectiveStep(learning_rate, _map(lambda s: jnp.sqrt(s + eps), sums), 1.0)


def _adadelta(
    state: optax.OptState,
    learning_rate: Scalar,
    *,
    rho: Scalar,
    eps: Scalar,
    **_: object,
) -> EffectiveStep:
    averages = _part(state, "e_x")

    def root(e_g: jax.Array, e_x: jax.Array) -> jax.Array:
        # The step was made with the e_x before it. Where the square of the gradient has
        # settled to e_g, that was the one computed here.
        share = e_g / (e_g + eps)
        return jnp.sqrt((e_x + rho * eps) / (rho + (1 - rho) * share))

    reach = _map(root, averages.e_g, averages.e_x)
    denominator = _map(lambda e_g, r: jnp.sqrt(e_g + eps) / r, averages.e_g, reach)
    return EffectiveStep(learning_rate, denominator, reach)


def _adamax(state: optax.OptState, learning_rate: Scalar, **_: object) -> EffectiveStep:
    return EffectiveStep(learning_rate, _map(jnp.asarray, _part(state, "nu").nu), 1.0)


def _adabelief(
    state: optax.OptState,
    learning_rate: Scalar,
    *,
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
    **_: object,
) -> EffectiveStep:
    moments = _part(state, "nu")
    corrections = [1 - _bias(b, moments.count) for b in (b1, b2)]
    denominator = _map(lambda nu: jnp.sqrt(nu / corrections[1]) + eps, moments.nu)
    # The deviation says nothing of the gradient's size; with the mean it does.
    reach = _map(
        lambda mu, nu, d: (
            (jnp.sqrt(nu / corrections[1] + jnp.square(mu / corrections[0])) + eps) / d
        ),
        moments.mu,
        moments.nu,
        denominator,
    )
    return EffectiveStep(learning_rate, denominator, reach)


def _radam(
    state: optax.OptState,
    learning_rate: Scalar,
    *,
    b2: Scalar,
    eps: Scalar,
    eps_root: Scalar,
    threshold: Scalar,
    **_: object,
) -> EffectiveStep:
    count = _part(state, "nu").count
    adam = _adam(state, learning_rate, b2=b2, eps=eps, eps_root=eps_root)
    longest = 2 / (1 - b2) - 1
    bias = _bias(b2, count)
    length = longest - 2 * count * bias / (1 - bias)
    rectified = length >= threshold
    gain = jnp.sqrt(
        (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    )
    # Before the second moment can be trusted, the step is that of momentum alone.
    return EffectiveStep(
        scale=learning_rate * jnp.where(rectified, gain, 1.0),
        denominator=_map(lambda d: jnp.where(rectified, d, 1.0), adam.denominator),
        reach=_map(lambda d: jnp.where(rectified, 1.0, d), adam.denominator),
    )


for _factories, _step_size in (
    ((optax.sgd,), _sgd),
    # optax.nadam and nadamw are partials of adam and adamw.
    ((optax.adam, optax.adamw, optax.yogi), _adam),
    ((optax.amsgrad,), _amsgrad),
    ((optax.adagrad,), _adagrad),
    ((optax.adadelta,), _adadelta),
    ((optax.adamax, optax.adamaxw), _adamax),
    ((optax.adabelief,), _adabelief),
    ((optax.radam,), _radam),
):
    for _factory in _factories:
        register_step_size(_factory, _step_size)
REGISTRY[optax.rmsprop] = KnownStep(_no_rates_yet, _rmsprop_with_momentum)
