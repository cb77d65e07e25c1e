"""The calls of the fuzz that JAX alone has: optimizers made of optax's factories."""

import fractions
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import l1jax
from parity_tests.frameworks.twin import Twin
from parity_tests.fuzz.rules import (
    Case,
    choice,
    finite_strength,
    integer,
    nothing,
    real,
)
from parity_tests.fuzz.training_cases import grads, params


def optimizers(twin: Twin) -> dict[str, Case]:
    """Return the calls by name, as `fuzz.cases.cases` does."""
    kinds = {
        "strength": finite_strength,
        "penalty": nothing,
        "mask": None,
        "metric": choice,
    }

    def step(factory: Any, learning_rate: Any, strength: Any, **settings: Any) -> Any:
        tx = l1jax.proximal(factory, learning_rate, strength, **settings)
        state = tx.init(params(twin))
        for _ in range(2):
            updates, state = tx.update(grads(twin), state, params(twin))
        return updates

    def base(**more: Any) -> Callable[[], dict[str, Any]]:
        return lambda: (
            {
                "factory": optax.sgd,
                "learning_rate": 0.1,
                "strength": 0.1,
                "mask": None,
            }
            | more
        )

    tx = l1jax.proximal(optax.adam, 0.1, 0.1)
    max_ratio = real(1, np.inf, "low")

    def capped(value: Any) -> bool | None:
        return None if isinstance(value, jnp.ndarray) else max_ratio(value)

    def momentum(value: Any) -> bool | None:
        usual = real(0, 1, "high", none=True)
        unsaid = isinstance(value, fractions.Fraction | jnp.ndarray)
        return None if unsaid else usual(value)

    def window(value: Any) -> bool:
        infinite = isinstance(value, float) and value == np.inf
        return infinite or integer(1, 2**31 - 1)(value)

    def register(optimizer: Any, step_size: Any) -> None:
        l1jax.register_step_size(optimizer, step_size)

    return {
        "proximal": Case(
            step,
            base(),
            kinds
            | {
                "factory": choice,
                "learning_rate": finite_strength,
                "max_ratio": capped,
                "window": window,
            },
        ),
        "proximal of Adam": Case(
            step,
            base(factory=optax.adam),
            {"max_ratio": capped},
        ),
        "proximal of momentum": Case(
            step, base(momentum=0.5), {"momentum": momentum}, below=1.0
        ),
        "proximal.init": Case(
            tx.init, lambda: {"params": params(twin)}, {"params": None}
        ),
        "proximal.update": Case(
            lambda updates, state, params: tx.update(updates, state, params),
            lambda: {
                "updates": grads(twin),
                "state": tx.init(params(twin)),
                "params": params(twin),
            },
            {"updates": None, "state": None, "params": None},
        ),
        "register_step_size": Case(
            register,
            lambda: {
                "optimizer": lambda learning_rate: optax.sgd(learning_rate),
                "step_size": lambda state, learning_rate: l1jax.EffectiveStep(0.1),
            },
            {"optimizer": None, "step_size": None},
        ),
    }
