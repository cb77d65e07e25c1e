"""What keeps exact zeros in a network that is trained on minibatches?

    python examples/network_zeros.py
    python examples/network_zeros.py --framework torch

A network of 64, 256, 256 and 10 units learns scikit-learn's digits under Adam with
`mean cross-entropy + strength * |w|_1`. Three tables show what becomes of its zeros:

1. The first step: Adam has seen one gradient only, and without a cap the threshold
   zeroes many weights at once. `max_ratio` and a strength that warms up prevent it.
2. The window: a minibatch's noise pushes weights off zero, and the penalty that
   accumulates over a window of steps takes them back.
3. Momentum, learning rate, averaging, the subgradient and the metric. The difference to
   the column `|w| < 1e-3` is what is small, but not zero.

Both frameworks start at the same weights and see the same minibatches. `--seeds` gives
means over several initial weights and orders of the data; the split stays.
"""

import argparse
import collections
import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import l1jax
import l1torch

STRENGTH, STRONG = 5.1e-5, 2.6e-4  # lambda, per unit of the mean loss
LEARNING_RATE, BATCH, UNITS = 2e-3, 100, (64, 256, 256, 10)
# Long enough to average over noise, short enough to forget the initial weights.
EMA_DECAY = 0.99
FIRST, ZEROS, SMALL = "zeros after step 1", "exact zeros", "|w| < 1e-3"
ACCURACY = "test accuracy"
Layers = list[dict[str, np.ndarray]]
Run = tuple[float, Layers, Layers]


class Data(NamedTuple):
    """Pixels between 0 and 1, and digits."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row: a way to train, and whether to look at the averaged weights."""

    strength: float = STRENGTH
    max_ratio: float = 10.0
    window: int = 1
    metric: str = "coordinate"
    b1: float = 0.9
    warm_up: bool = False
    cosine: bool = True
    subgradient: bool = False
    averaged: bool = False

    @property
    def learning_rate(self) -> float:
        """The first one; a constant one is the mean of the cosine, to go as far."""
        return LEARNING_RATE if self.cosine else LEARNING_RATE / 2

    @property
    def options(self) -> dict[str, Any]:
        """What the twins take by the same names."""
        names = ("metric", "max_ratio", "window")
        return {name: getattr(self, name) for name in names}


def load() -> Data:
    """Splits the digits 75 to 25."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        (X / 16).astype(np.float32), y, test_size=0.25, random_state=0, stratify=y
    )
    return Data(X, y, X_test, y_test)


def initial_layers(seed: int) -> Layers:
    """Draws the initial weights (He, normal); biases are 0."""
    rng = np.random.default_rng(seed)
    return [
        {
            "kernel": rng.normal(0, math.sqrt(2 / m), (m, n)).astype(np.float32),
            "bias": np.zeros(n, np.float32),
        }
        for m, n in itertools.pairwise(UNITS)
    ]


def minibatches(size: int, steps: int, seed: int) -> np.ndarray:
    """Draws the samples of every step: a (steps, BATCH) array of indices."""
    rng = np.random.default_rng([seed, 1])
    whole = size // BATCH * BATCH
    epochs = math.ceil(steps * BATCH / whole)
    order = [rng.permutation(size)[:whole] for _ in range(epochs)]
    return np.concatenate(order).reshape(-1, BATCH)[:steps]


def forward(layers: Layers, X: np.ndarray | jax.Array) -> jax.Array:
    """Applies the network, of NumPy's arrays or JAX's."""
    for layer in layers[:-1]:
        X = jax.nn.relu(X @ layer["kernel"] + layer["bias"])
    return X @ layers[-1]["kernel"] + layers[-1]["bias"]


def jax_optimizer(setting: Setting, steps: int) -> optax.GradientTransformation:
    """Makes the optimizer of one setting for optax."""
    rate, strength = setting.learning_rate, setting.strength
    if setting.cosine:
        rate = optax.cosine_decay_schedule(rate, steps)
    if setting.warm_up:
        strength = optax.linear_schedule(0.0, strength, max(1, steps // 10))
    if setting.subgradient:
        adam = optax.adam(rate, b1=setting.b1)
        return optax.chain(l1jax.add_subgradient(strength), adam)
    return l1jax.proximal(optax.adam, rate, strength, b1=setting.b1, **setting.options)


def train_jax(setting: Setting, data: Data, steps: int, seed: int) -> Run:
    """Gives the zeros after the first step, the last weights and their average."""
    tx = jax_optimizer(setting, steps)
    X, y = jnp.asarray(data.X), jnp.asarray(data.y)
    batches = jnp.asarray(minibatches(len(y), steps, seed))

    def loss(layers: Layers, batch: jax.Array) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(
            forward(layers, X[batch]), y[batch]
        )
        return losses.mean()

    def step(i: jax.Array, carry: tuple) -> tuple:
        layers, average, state = carry
        gradient = jax.grad(loss)(layers, batches[i])
        updates, state = tx.update(gradient, state, layers)
        layers = optax.apply_updates(layers, updates)
        average = optax.incremental_update(layers, average, 1 - EMA_DECAY)
        return layers, average, state

    @jax.jit
    def train(carry: tuple, start: int, stop: int) -> tuple:
        return jax.lax.fori_loop(start, stop, step, carry)

    layers = jax.tree.map(jnp.asarray, initial_layers(seed))
    carry = train((layers, layers, tx.init(layers)), 0, 1)
    first = l1jax.sparsity_report(carry[0], l1jax.weights_only).sparsity
    layers, average, _ = train(carry, 1, steps)
    return first, jax.device_get(layers), jax.device_get(average)


def torch_optimizer(
    setting: Setting, base: torch.optim.Optimizer, steps: int
) -> l1torch.Proximal | l1torch.Subgradient:
    """Wraps Adam as one setting wants it."""

    def warm_up(t: int) -> float:
        return setting.strength * min(1, t / max(1, steps // 10))

    strength = warm_up if setting.warm_up else setting.strength
    if setting.subgradient:
        return l1torch.Subgradient(base, strength)
    return l1torch.Proximal(base, strength, **setting.options)


def train_torch(setting: Setting, data: Data, steps: int, seed: int) -> Run:
    """Does in torch what `train_jax` does."""
    linear = [torch.nn.Linear(m, n) for m, n in itertools.pairwise(UNITS)]
    with torch.no_grad():
        for module, layer in zip(linear, initial_layers(seed), strict=True):
            module.weight.copy_(torch.tensor(layer["kernel"].T))
            module.bias.copy_(torch.tensor(layer["bias"]))
    hidden = [part for m in linear[:-1] for part in (m, torch.nn.ReLU())]
    model = torch.nn.Sequential(*hidden, linear[-1])
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    average.update_parameters(model)  # the first call copies: start as JAX does

    X, y = torch.tensor(data.X), torch.tensor(data.y)
    batches = torch.tensor(minibatches(len(y), steps, seed))
    betas = (setting.b1, 0.999)
    base = torch.optim.Adam(model.named_parameters(), setting.learning_rate, betas)
    optimizer = torch_optimizer(setting, base, steps)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(base, steps)
    for t, batch in enumerate(batches):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(X[batch]), y[batch]).backward()
        optimizer.step()
        average.update_parameters(model)
        if setting.cosine:
            cosine.step()
        if t == 0:
            report = l1torch.sparsity_report(model, l1torch.weights_only)
    return report.sparsity, layers_of(model), layers_of(average.module)


def layers_of(model: torch.nn.Sequential) -> Layers:
    """Reads the weights of a torch model as JAX holds them."""
    return [
        {"kernel": m.weight.detach().numpy().T, "bias": m.bias.detach().numpy()}
        for m in model
        if isinstance(m, torch.nn.Linear)
    ]


def measure(first: float, layers: Layers, data: Data) -> dict[str, float]:
    """Gives what the tables show, as fractions; biases are left out of the counts."""
    weights = np.concatenate([layer["kernel"].ravel() for layer in layers])
    return {
        FIRST: first,
        ZEROS: np.mean(weights == 0),
        SMALL: np.mean(np.abs(weights) < 1e-3),
        ACCURACY: np.mean(forward(layers, data.X_test).argmax(1) == data.y_test),
    }


def rows() -> dict[str, dict[str, Setting]]:
    """The tables: their titles, and what each row trains."""
    other = Setting(0.08, metric="none")
    return {
        f"1. The first step, strength {STRONG:g}": {
            "max_ratio=inf": Setting(STRONG, max_ratio=math.inf),
            "max_ratio=10": Setting(STRONG),
            "max_ratio=3": Setting(STRONG, max_ratio=3.0),
            "max_ratio=10, warm-up": Setting(STRONG, warm_up=True),
        },
        f"2. The window, strength {STRENGTH:g}": {
            f"window={window}": Setting(window=window) for window in (1, 3, 10, 100)
        },
        f"3. What loses or keeps zeros, strength {STRENGTH:g}": {
            "b1=0.9, cosine learning rate": Setting(),
            "b1=0.99, cosine": Setting(b1=0.99),
            "b1=0.9, constant": Setting(cosine=False),
            "averaged, cosine": Setting(averaged=True),
            "averaged, constant": Setting(cosine=False, averaged=True),
            "subgradient in the loss": Setting(subgradient=True),
            'metric="tensor"': Setting(metric="tensor"),
            f'other objective: metric="none",\nstrength {other.strength:g}': other,
        },
    }


def main() -> None:
    """Trains every setting once for each seed and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--framework", choices=("jax", "torch"), default="jax")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    args = parser.parse_args()
    train = train_torch if args.framework == "torch" else train_jax
    # Tensors as small as these gain nothing from threads, and wait for them if the
    # cores are busy.
    torch.set_num_threads(1)

    console, data, tables = Console(), load(), rows()
    settings = (s for chosen in tables.values() for s in chosen.values())
    # Each training once: an average belongs to a training that is there anyway.
    trainings = dict.fromkeys(s for s in settings if not s.averaged)
    runs = list(itertools.product(trainings, range(args.seeds)))
    found = collections.defaultdict(list)
    for setting, seed in track(runs, f"training in {args.framework}", console=console):
        first, last, average = train(setting, data, args.steps, seed)
        found[setting].append(measure(first, last, data))
        averaged = dataclasses.replace(setting, averaged=True)
        found[averaged].append(measure(first, average, data))

    columns = [[FIRST, ZEROS, ACCURACY], *[[ZEROS, SMALL, ACCURACY]] * 2]
    for (title, chosen), names in zip(tables.items(), columns, strict=True):
        table = Table("setting", title=title)
        for name in names:
            table.add_column(name, justify="right")
        for label, setting in chosen.items():
            means = (np.mean([each[name] for each in found[setting]]) for name in names)
            table.add_row(label, *(f"{x:.1%}" for x in means))
        console.print(table)


if __name__ == "__main__":
    main()
