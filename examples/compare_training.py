"""Does your own model train the same in Flax as in torch? If not, where do they part?

    python examples/compare_training.py
    python examples/compare_training.py --steps 400

A convolutional network learns scikit-learn's digits under Adam with
`mean cross-entropy + strength * |w|_1`, by `l1jax.proximal` in Flax and by
`l1torch.Proximal` in torch: from the same weights, on the same minibatches, in float64.

1. `compare_training` runs both and compares every step: the outputs, the loss, the
   gradients, the updates, the weights and which of them are zero.
2. The same with one setting of torch's Adam changed, and
3. with the images flattened as they lie in memory: rows, columns and channels in Flax,
   channels, rows and columns in torch. It names the step, the layer and what to look
   at.
"""

import argparse
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from rich.console import Console
from rich.progress import track
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import l1jax
import l1torch
from parity_tests.bridge import (
    Comparison,
    Layer,
    Pairs,
    channels_first,
    compare_training,
)

STRENGTH = 1e-3  # lambda, per unit of the mean loss
LEARNING_RATE, BATCH = 1e-2, 64
# Of the last convolution's images after pooling: rows, columns, channels.
FLATTENED = {"Dense_0": Layer(flattened=(2, 2, 16))}


class FlaxNet(nn.Module):
    """8x8 images to 10 logits."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Take (batch, 8, 8, 1)."""
        for channels in (8, 16):
            x = nn.relu(nn.Conv(channels, (3, 3), param_dtype=jnp.float64)(x))
            x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(10, param_dtype=jnp.float64)(x.reshape(len(x), -1))


class TorchNet(torch.nn.Module):
    """The same; the images have their channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = torch.nn.Conv2d(8, 16, 3, padding=1)
        self.head = torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take (batch, 1, 8, 8)."""
        for conv in (self.conv1, self.conv2):
            x = torch.nn.functional.avg_pool2d(torch.relu(conv(x)), 2)
        return self.head(x.flatten(1))


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Split the digits 75 to 25: images of (8, 8, 1) between 0 and 1, and labels."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).reshape(-1, 8, 8, 1)
    X, X_test, y, y_test = train_test_split(
        X, y, test_size=0.25, random_state=0, stratify=y
    )
    return X, y, X_test, y_test


def minibatches(
    X: np.ndarray, y: np.ndarray, steps: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw the samples of every step."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(y), (steps, BATCH))
    return [(X[i], y[i]) for i in chosen]


@functools.cache
def initial_variables() -> dict:
    """Draw the Flax network's weights, which torch's is given too."""
    return FlaxNet().init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


def compare(
    batches: list[tuple[np.ndarray, np.ndarray]],
    description: str,
    console: Console,
    *,
    pairs: Pairs | None = FLATTENED,
    beta2: float = 0.999,
) -> tuple[Comparison, TorchNet]:
    """Train both networks; return the comparison, and torch's trained one."""
    module, theirs = FlaxNet(), TorchNet().double()
    variables = initial_variables()

    def torch_optimizer(named: list) -> l1torch.Proximal:
        adam = torch.optim.Adam(named, LEARNING_RATE, betas=(0.9, beta2))
        return l1torch.Proximal(adam, STRENGTH)

    comparison = compare_training(
        (module, variables),
        theirs,
        batches,
        (l1jax.proximal(optax.adam, LEARNING_RATE, STRENGTH), torch_optimizer),
        len(batches),
        pairs=pairs,
        torch_inputs=channels_first,
        progress=functools.partial(track, description=description, console=console),
    )
    return comparison, theirs


def main() -> None:
    """Train, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    # Tensors as small as these gain nothing from threads, and wait for them if the
    # cores are busy.
    torch.set_num_threads(1)

    console = Console()
    X, y, X_test, y_test = load()
    batches = minibatches(X, y, args.steps)

    same, trained = compare(batches, "1. the same", console)
    print(same)
    with torch.no_grad():
        predicted = trained(torch.tensor(channels_first(X_test))).argmax(1).numpy()
    zeros = l1torch.sparsity_report(trained, l1torch.weights_only).sparsity
    print(
        f"After training, {zeros:.1%} of the weights are zero, and "
        f"{np.mean(predicted == y_test):.1%} of the test images are recognised.\n"
    )

    few = batches[:20]
    print(
        compare(few, "2. Adam with beta2=0.99 in torch", console, beta2=0.99)[0], "\n"
    )
    print(compare(few, "3. flattened as it lies", console, pairs=None)[0])
    if not same.agree:
        raise SystemExit("The networks part, which should not happen.")


if __name__ == "__main__":
    main()
