"""Exact zeros in a Flax NNX model, by `nnx.Optimizer`.

    python examples/trainers/nnx_optimizer.py
    python examples/trainers/nnx_optimizer.py --batch-size 64 --epochs 50

`l1jax.proximal` stands where `optax.adam(learning_rate)` stood; nothing else changes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

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


@nnx.jit
def step(
    model: nnx.Linear, optimizer: nnx.Optimizer, X: jax.Array, y: jax.Array
) -> None:
    """Update model and optimizer in place, on one batch."""

    def loss(model: nnx.Linear) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(model(X), y)
        return losses.mean()

    optimizer.update(model, nnx.grad(loss)(model))


def start(steps: int) -> tuple[nnx.Linear, nnx.Optimizer]:
    """Make a model and its optimizer, for a training of so many steps."""
    model = nnx.Linear(
        FEATURES,
        CLASSES,
        kernel_init=nnx.initializers.constant(START),
        rngs=nnx.Rngs(0),
    )
    rate = optax.cosine_decay_schedule(LEARNING_RATE, steps)
    tx = l1jax.proximal(optax.adam, rate, STRENGTH)
    # It hands the parameters to tx, which needs them.
    return model, nnx.Optimizer(model, tx, wrt=nnx.Param)


def train(epochs: int = EPOCHS, batch_size: int | None = None) -> nnx.Linear:
    """Train the model; on full batches unless a batch size is given."""
    data = [(jnp.asarray(X), jnp.asarray(y)) for X, y in batches(batch_size)]
    model, optimizer = start(epochs * len(data))
    for _ in range(epochs):
        for X, y in data:
            step(model, optimizer, X, y)
    return model


def coefficients(model: nnx.Linear) -> np.ndarray:
    """Return the weights, of shape (pixels, digits)."""
    return np.asarray(model.kernel[...])


def main() -> None:
    """Train and print the zeros of each array."""
    args = arguments(__doc__.splitlines()[0])
    print(l1jax.sparsity_report(train(args.epochs, args.batch_size)))


if __name__ == "__main__":
    main()
