"""JAX's side of the tests: its arrays, its devices, and how it trains."""

import importlib.metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import l1jax
import l1jax.numerics.prox
from parity_tests.frameworks.twin import Twin, rounded
from parity_tests.oracles.convergence_matrix import Params, Row, case, cosine, start


def _array(values: Any, dtype: str = "float64") -> jax.Array:
    return jnp.asarray(rounded(values, dtype), dtype)


def _numpy(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def _versions() -> dict[str, str]:
    packages = ("jax", "jaxlib", "optax")
    return {name: importlib.metadata.version(name) for name in packages}


def _device(kind: str) -> jax.Device | None:
    try:
        # Asking for a TPU where there is none, but libtpu is, is slow and loud.
        if kind == "tpu" and jax.default_backend() != "tpu":
            return None
        return jax.devices(kind)[0]
    except (RuntimeError, AssertionError):  # no such backend, or none at all
        return None


def train(
    name: str,
    row: Row,
    steps: int,
    schedule: bool = True,
    trail: bool = False,
    dtype: str = "float64",
    l1_ratio: float | None = None,
    **kwargs: Any,
) -> Params:
    """Train by `l1jax.proximal`; return the last parameters, or those of all steps."""
    problem = case(name, l1_ratio)
    X, y = jnp.asarray(problem.X, dtype), jnp.asarray(problem.y, dtype)
    factory, settings = row.jax
    rate = row.learning_rate(problem)
    tx = l1jax.proximal(
        factory,
        (lambda step: cosine(rate, step, steps, jnp.cos)) if schedule else rate,
        problem.strength,
        penalty=problem.penalty(l1jax),
        **settings,
        **kwargs,
    )

    @jax.jit
    def run(params: Params) -> tuple[Params, Params]:
        def body(carry: Any, _: Any) -> tuple[Any, Any]:
            params, state = carry
            grads = problem.gradient(jnp, X, y, params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params if trail else None

        (last, _), all_of_them = jax.lax.scan(
            body, (params, tx.init(params)), length=steps
        )
        return last, all_of_them

    params = {k: jnp.asarray(v, dtype) for k, v in start(problem).items()}
    # Accelerators may multiply matrices in less than single precision otherwise.
    with jax.default_matmul_precision("highest"):
        return {k: np.asarray(v) for k, v in run(params)[trail].items()}


TWIN = Twin(
    name="jax",
    lib=l1jax,
    prox=l1jax.numerics.prox,
    array=_array,
    numpy=_numpy,
    dtype=lambda x: jnp.dtype(x.dtype).name,
    jit=jax.jit,
    grad=jax.grad,
    apply_updates=optax.apply_updates,
    train=train,
    set_up=lambda: jax.config.update("jax_enable_x64", True),
    versions=_versions,
    device=_device,
    on=jax.default_device,
)
