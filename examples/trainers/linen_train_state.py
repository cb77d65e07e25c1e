"""Exact zeros in a Flax linen model, by its `TrainState`.

    python examples/trainers/linen_train_state.py
    python examples/trainers/linen_train_state.py --batch-size 64 --epochs 50

`l1jax.proximal` stands where `optax.adam(learning_rate)` stood; nothing else changes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

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


@jax.jit
def step(state: TrainState, X: jax.Array, y: jax.Array) -> TrainState:
    """Take one step on one batch."""

    def loss(params: dict) -> jax.Array:
        logits = state.apply_fn({"params": params}, X)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean()

    # It hands the parameters to the optimizer, which needs them.
    return state.apply_gradients(grads=jax.grad(loss)(state.params))


def start(steps: int) -> TrainState:
    """Make a model and its optimizer, for a training of so many steps."""
    model = nn.Dense(CLASSES, kernel_init=nn.initializers.constant(START))
    variables = model.init(jax.random.key(0), jnp.zeros((1, FEATURES)))
    rate = optax.cosine_decay_schedule(LEARNING_RATE, steps)
    tx = l1jax.proximal(optax.adam, rate, STRENGTH)
    return TrainState.create(apply_fn=model.apply, params=variables["params"], tx=tx)


def train(epochs: int = EPOCHS, batch_size: int | None = None) -> TrainState:
    """Train the model; on full batches unless a batch size is given."""
    data = [(jnp.asarray(X), jnp.asarray(y)) for X, y in batches(batch_size)]
    state = start(epochs * len(data))
    for _ in range(epochs):
        for X, y in data:
            state = step(state, X, y)
    return state


def coefficients(state: TrainState) -> np.ndarray:
    """Return the weights, of shape (pixels, digits)."""
    return np.asarray(state.params["kernel"])


def main() -> None:
    """Train and print the zeros of each array."""
    args = arguments(__doc__.splitlines()[0])
    print(l1jax.sparsity_report(train(args.epochs, args.batch_size).params))


if __name__ == "__main__":
    main()
