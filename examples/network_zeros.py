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

import collections
import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

import l1jax
import l1torch
from common import FRAMEWORKS, chosen, command_line, save
from data import Split, digits, minibatches
from networks import BATCH, forward, from_torch, initial, measure, to_torch

STRENGTH, STRONG = 5.1e-5, 2.6e-4  # lambda, per unit of the mean loss
LEARNING_RATE = 2e-3
# Long enough to average over noise, short enough to forget the initial weights.
EMA_DECAY = 0.99
FIRST, ZEROS, SMALL = "zeros after step 1", "exact zeros", "|w| < 1e-3"
ACCURACY = "test accuracy"
Weights = dict[str, np.ndarray]
Run = tuple[float, Weights, Weights]
Means = dict[tuple[str, str], dict[str, float]]  # by table and row


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


def jax_optimizer(setting: Setting, steps: int) -> optax.GradientTransformation:
    """Make the optimizer of one setting for optax."""
    rate, strength = setting.learning_rate, setting.strength
    if setting.cosine:
        rate = optax.cosine_decay_schedule(rate, steps)
    if setting.warm_up:
        strength = optax.linear_schedule(0.0, strength, max(1, steps // 10))
    if setting.subgradient:
        adam = optax.adam(rate, b1=setting.b1)
        return optax.chain(l1jax.add_subgradient(strength), adam)
    return l1jax.proximal(optax.adam, rate, strength, b1=setting.b1, **setting.options)


def train_jax(setting: Setting, data: Split, steps: int, seed: int) -> Run:
    """Return the zeros after the first step, the last weights and their average."""
    tx = jax_optimizer(setting, steps)
    X, y = jnp.asarray(data.X), jnp.asarray(data.y)
    batches = jnp.asarray(minibatches(len(y), BATCH, steps, seed))

    def loss(params: Weights, batch: jax.Array) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(
            forward(params, X[batch]), y[batch]
        )
        return losses.mean()

    def step(i: jax.Array, carry: tuple) -> tuple:
        params, average, state = carry
        gradient = jax.grad(loss)(params, batches[i])
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        average = optax.incremental_update(params, average, 1 - EMA_DECAY)
        return params, average, state

    @jax.jit
    def train(carry: tuple, start: int, stop: int) -> tuple:
        return jax.lax.fori_loop(start, stop, step, carry)

    params = jax.tree.map(jnp.asarray, initial(seed))
    carry = train((params, params, tx.init(params)), 0, 1)
    first = l1jax.sparsity_report(carry[0], l1jax.weights_only).sparsity
    params, average, _ = train(carry, 1, steps)
    return first, jax.device_get(params), jax.device_get(average)


def torch_optimizer(
    setting: Setting, base: torch.optim.Optimizer, steps: int
) -> l1torch.Proximal | l1torch.Subgradient:
    """Wrap Adam as one setting wants it."""

    def warm_up(t: int) -> float:
        return setting.strength * min(1, t / max(1, steps // 10))

    strength = warm_up if setting.warm_up else setting.strength
    if setting.subgradient:
        return l1torch.Subgradient(base, strength)
    return l1torch.Proximal(base, strength, **setting.options)


def train_torch(setting: Setting, data: Split, steps: int, seed: int) -> Run:
    """Do in torch what `train_jax` does."""
    model = to_torch(initial(seed))
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    average.update_parameters(model)  # the first call copies: start as JAX does

    X, y = torch.tensor(data.X), torch.tensor(data.y)
    batches = torch.tensor(minibatches(len(y), BATCH, steps, seed))
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
    return report.sparsity, from_torch(model), from_torch(average.module)


def row(first: float, weights: Weights, data: Split) -> dict[str, float]:
    """Return what the tables show, in percent; biases are left out of the counts."""
    zeros, small, accuracy = measure(weights, data)
    return {FIRST: 100 * first, ZEROS: zeros, SMALL: small, ACCURACY: accuracy}


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


def draw(framework: str, found: Means) -> Figure:
    """Draw zeros and small weights, and the accuracy, of the tables' rows."""
    figure = Figure(figsize=(9.5, 6.2), layout="constrained")
    figure.suptitle(
        f"What keeps exact zeros on minibatches (digits, {framework}; in brackets: "
        "the table)"
    )
    zeros, accuracy = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    places = -np.arange(len(found))
    for name, color, height in ((SMALL, "0.82", 0.8), (ZEROS, "0.35", 0.5)):
        sizes = [means[name] for means in found.values()]
        zeros.barh(places, sizes, height, color=color, edgecolor="0", label=name)
    accuracy.plot([means[ACCURACY] for means in found.values()], places, "ko")
    labels = [f"{label} ({title[0]}.)" for title, label in found]
    zeros.set_yticks(places, labels, fontsize=9)
    zeros.set(xlabel="weights [%]", xlim=(0, 100))
    accuracy.set(xlabel="accuracy on held-out digits [%]")
    accuracy.locator_params(axis="x", nbins=4)
    accuracy.grid(color="0.9")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def show(framework: str, steps: int, seeds: int) -> Means:
    """Train in one framework, print its tables and return their numbers."""
    train = {"jax": train_jax, "torch": train_torch}[framework]
    console, data, tables = Console(), digits(test_size=0.25), rows()
    settings = (s for group in tables.values() for s in group.values())
    # Each training once: an average belongs to a training that is there anyway.
    trainings = dict.fromkeys(s for s in settings if not s.averaged)
    runs = list(itertools.product(trainings, range(seeds)))
    found = collections.defaultdict(list)
    for setting, seed in track(runs, f"training in {framework}", console=console):
        first, last, average = train(setting, data, steps, seed)
        found[setting].append(row(first, last, data))
        averaged = dataclasses.replace(setting, averaged=True)
        found[averaged].append(row(first, average, data))

    means: Means = {}
    columns = [[FIRST, ZEROS, ACCURACY], *[[ZEROS, SMALL, ACCURACY]] * 2]
    for (title, group), names in zip(tables.items(), columns, strict=True):
        table = Table("setting", title=f"{title} ({framework})")
        for name in names:
            table.add_column(name, justify="right")
        for label, setting in group.items():
            runs = found[setting]
            mean = {name: np.mean([run[name] for run in runs]) for name in runs[0]}
            table.add_row(label, *(f"{mean[name]:.1f}%" for name in names))
            means[title, label] = mean
        console.print(table)
    return means


def main() -> None:
    """Train every setting once for each seed, print the tables and draw."""
    parser = command_line(__doc__, __file__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.set_defaults(framework="jax")
    args = parser.parse_args()
    # Tensors as small as these gain nothing from threads, and wait for them if the
    # cores are busy.
    torch.set_num_threads(1)
    found = {}
    for framework in chosen(args.framework):
        found[framework] = show(framework, args.steps, args.seeds)
    first = next(iter(found))
    save(draw(FRAMEWORKS[first].name, found[first]), args.out)


if __name__ == "__main__":
    main()
