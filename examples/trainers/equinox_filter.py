"""Exact zeros in an Equinox module, by `eqx.filter_jit`.

    python examples/trainers/equinox_filter.py
    python examples/trainers/equinox_filter.py --batch-size 64 --epochs 50

`l1jax.proximal` stands where `optax.adam(learning_rate)` stood. Its `update` needs the
parameters too, filtered as `init` got them: `eqx.filter(model, eqx.is_inexact_array)`.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import l1jax
from digits import (
    CLASSES,
    EPOCHS,
    FEATURES,
    LEARNING_RATE,
    START,
    STRENGTH,
    arguments,
    batches,
)

Carry = tuple[eqx.nn.Linear, optax.OptState]
Step = Callable[[Carry, jax.Array, jax.Array], Carry]


def make_step(tx: optax.GradientTransformation) -> Step:
    """Make the function that takes one step on one batch."""

    @eqx.filter_grad
    def loss(model: eqx.nn.Linear, X: jax.Array, y: jax.Array) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(X), y)
        return losses.mean()

    @eqx.filter_jit
    def step(carry: Carry, X: jax.Array, y: jax.Array) -> Carry:
        model, state = carry
        grads = loss(model, X, y)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = tx.update(grads, state, params)
        return eqx.apply_updates(model, updates), state

    return step


def start(steps: int) -> tuple[Carry, Step]:
    """Make a model, its optimizer's state and the step, for so many of them."""
    model = eqx.nn.Linear(FEATURES, CLASSES, dtype=jnp.float32, key=jax.random.key(0))
    model = eqx.tree_at(
        lambda model: (model.weight, model.bias),
        model,
        (jnp.full_like(model.weight, START), jnp.zeros_like(model.bias)),
    )
    rate = optax.cosine_decay_schedule(LEARNING_RATE, steps)
    tx = l1jax.proximal(optax.adam, rate, STRENGTH)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    return (model, state), make_step(tx)


def train(epochs: int = EPOCHS, batch_size: int | None = None) -> eqx.nn.Linear:
    """Train the model; on full batches unless a batch size is given."""
    data = [(jnp.asarray(X), jnp.asarray(y)) for X, y in batches(batch_size)]
    carry, step = start(epochs * len(data))
    for _ in range(epochs):
        for X, y in data:
            carry = step(carry, X, y)
    return carry[0]


def coefficients(model: eqx.nn.Linear) -> np.ndarray:
    """Return the weights, of shape (pixels, digits)."""
    return np.asarray(model.weight).T


def main() -> None:
    """Train and print the zeros of each array."""
    args = arguments(__doc__.splitlines()[0])
    print(l1jax.sparsity_report(train(args.epochs, args.batch_size)))


if __name__ == "__main__":
    main()
