"""How do I get a sparse network, where are its zeros, and does it get smaller?

    python examples/sparse_network.py
    python examples/sparse_network.py --framework torch --steps 3000

A network of 64, 256, 256 and 10 units learns scikit-learn's digits, as a Flax NNX
module and as a torch module, from the same weights and on the same minibatches:

- Adam alone has no zeros, and no hidden unit could be left out.
- `target_sparsity(0.9, steps)` stands in the place of a strength: 90 % of the weights
  become zero, exactly. Nobody has to say in which layer: there are fewest among those
  that lead to the 10 digits, and most in the middle.
- `group_l1(groups="output")` makes all weights into a unit zero together. Fewer weights
  are zero than at the targets, but fewer units are left.

Zeros that are scattered save memory only in a sparse format. A unit that loses all its
weights makes the matrices themselves smaller: without weights into it, it gives the
constant `relu(bias)`, which `cut` folds into the biases of the next layer; without
weights out of it, nothing hears it. The script checks that the smaller dense network
has the same outputs, to rounding. In the figure each square is one hidden unit and its
8 x 8 weights. White is exactly zero, in the dense network nowhere; even where the
group is kept, pixels that are 0 in every training digit lose their weights.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

import l1jax
import l1torch
from common import FRAMEWORKS, chosen, command_line, save
from data import Split, digits, minibatches
from networks import (
    BATCH,
    UNITS,
    Weights,
    forward,
    from_torch,
    initial,
    kernels,
    measure,
    to_torch,
)

HIDDEN = sum(UNITS[1:-1])
LEARNING_RATE = 3e-3
FULL = 1000  # steps, of which the docstring speaks
STRENGTH = 5e-4  # lambda of the groups, per unit of the mean loss
SHOWN = (8, 4)  # rows and columns of hidden units in the figure
# Light, but not white, next to zero: white is for exact zeros.
SIGNED = LinearSegmentedColormap.from_list("signed", ["#7f2704", "0.82", "#08306b"])


# Strength and penalty of each way: the same lines for both libraries.
WAYS = {
    "Adam alone": lambda lib, model, steps: (0.0, lib.l1()),
    "target 90 %": lambda lib, model, steps: (
        lib.target_sparsity(0.9, steps),
        lib.l1(),
    ),
    "target 95 %": lambda lib, model, steps: (
        lib.target_sparsity(0.95, steps),
        lib.l1(),
    ),
    "whole units": lambda lib, model, steps: (
        lib.strength_schedule(STRENGTH, warm_up=steps // 10),
        lib.group_l1(groups="output", layouts=lib.layouts(model)),
    ),
}
PICTURED = ("Adam alone", "target 95 %", "whole units")


class Trained(NamedTuple):
    """A network, the one without the units that it does not need, and its measures."""

    weights: Weights
    small: Weights
    zeros: list[float]  # by layer, in percent
    accuracy: float  # in percent

    @property
    def left(self) -> int:
        """How many hidden units are left."""
        return sum(kernel.shape[1] for kernel in kernels(self.small)[:-1])


class Network(nnx.Module):
    """The network in Flax NNX; it begins at the weights that it is given."""

    def __init__(self, weights: Weights) -> None:
        def linear(kernel: np.ndarray) -> nnx.Linear:
            return nnx.Linear(
                *kernel.shape,
                kernel_init=lambda *_: jnp.asarray(kernel),
                rngs=nnx.Rngs(0),
            )

        self.first, self.second, self.third = map(linear, kernels(weights))

    def __call__(self, X: jax.Array) -> jax.Array:
        """Return the scores of the digits."""
        return self.third(nnx.relu(self.second(nnx.relu(self.first(X)))))


@nnx.jit
def step(model: Network, optimizer: nnx.Optimizer, X: jax.Array, y: jax.Array) -> None:
    """Update model and optimizer in place, on one batch."""

    def loss(model: Network) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(model(X), y)
        return losses.mean()

    optimizer.update(model, nnx.grad(loss)(model))


def train_flax(way: str, data: Split, steps: int) -> tuple[Any, Weights]:
    """Return the report of the kernels' zeros, and the weights."""
    model = Network(initial(0))
    strength, penalty = WAYS[way](l1jax, model, steps)
    rate = optax.cosine_decay_schedule(LEARNING_RATE, steps)
    tx = l1jax.proximal(optax.adam, rate, strength, penalty=penalty)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    update = nnx.cached_partial(step, model, optimizer)  # spares a look at all parts
    for batch in minibatches(len(data.y), BATCH, steps, seed=0):
        update(data.X[batch], data.y[batch])
    weights = {}
    for i, layer in enumerate((model.first, model.second, model.third)):
        weights[f"kernel_{i}"] = np.asarray(layer.kernel[...])
        weights[f"bias_{i}"] = np.asarray(layer.bias[...])
    return l1jax.sparsity_report(model, l1jax.weights_only), weights


def train_torch(way: str, data: Split, steps: int) -> tuple[Any, Weights]:
    """Do the same in torch."""
    model = to_torch(initial(0))  # a Sequential of Linear and ReLU
    strength, penalty = WAYS[way](l1torch, model, steps)
    adam = torch.optim.Adam(model.named_parameters(), lr=LEARNING_RATE)
    optimizer = l1torch.Proximal(adam, strength, penalty=penalty)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    X, y = torch.tensor(data.X), torch.tensor(data.y)
    for batch in minibatches(len(y), BATCH, steps, seed=0):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(X[batch]), y[batch]).backward()
        optimizer.step()
        cosine.step()
    return l1torch.sparsity_report(model, l1torch.weights_only), from_torch(model)


def cut(weights: Weights) -> Weights:
    """Cut hidden units out of the network, which computes the same without them."""
    small, gone = dict(weights), 0
    for i in range(len(kernels(weights)) - 1):
        kernel, bias, after = (
            small[k] for k in (f"kernel_{i}", f"bias_{i}", f"kernel_{i + 1}")
        )
        constant = ~kernel.any(0)  # nothing comes in: the unit gives relu(bias)
        unheard = ~after.any(1)  # nothing goes out
        kept = ~constant & ~unheard
        fold = np.maximum(bias[constant], 0) @ after[constant]
        small[f"bias_{i + 1}"] = small[f"bias_{i + 1}"] + fold
        small[f"kernel_{i}"], small[f"bias_{i}"] = kernel[:, kept], bias[kept]
        small[f"kernel_{i + 1}"] = after[kept]
        gone += (~kept).sum()
    return cut(small) if gone else small  # one that goes may leave others unheard


def examine(way: str, report: Any, weights: Weights, data: Split) -> Trained:
    """Measure a network and cut it; raise where it is not as it should be."""
    small = cut(weights)
    whole, less = (forward(each, data.X_test) for each in (weights, small))
    error = np.abs(whole - less).max() / np.abs(whole).max()
    if error > 1e-5:
        raise AssertionError(f"{way}: cut, the outputs differ by {error:.1e}")
    share = {"Adam alone": 0.0, "target 90 %": 0.9, "target 95 %": 0.95}.get(way)
    zeros = report.size - report.nnz
    if share is not None and zeros != round(share * report.size):
        raise AssertionError(f"{way}: {zeros} of {report.size} weights are zero")
    by_layer = [100 * array.sparsity for array in report.arrays]
    return Trained(weights, small, by_layer, measure(small, data)[-1])


def mosaic(trained: Trained, axes: Axes, limit: float) -> Any:
    """Draw the weights into the first hidden units as images of 8 x 8 pixels."""
    rows, columns = SHOWN
    kernel, after = kernels(trained.weights)[:2]
    shown = kernel[:, : rows * columns].reshape(8, 8, rows, columns)
    image = shown.transpose(2, 0, 3, 1).reshape(8 * rows, 8 * columns)
    drawn = axes.imshow(
        np.ma.masked_equal(image, 0), cmap=SIGNED, vmin=-limit, vmax=limit
    )
    for unit in np.flatnonzero(~(kernel.any(0) & after.any(1))[: rows * columns]):
        i, j = divmod(unit, columns)
        axes.plot(8 * j + 3.5, 8 * i + 3.5, "x", color="0.5", markersize=12)
    for axis, count in ((axes.xaxis, columns), (axes.yaxis, rows)):
        axis.set_ticks(8 * np.arange(count + 1) - 0.5, labels=[""] * (count + 1))
    axes.grid(color="0.35", linewidth=0.8)
    axes.tick_params(length=0)
    return drawn


def figure_of(name: str, found: dict[str, Trained]) -> Figure:
    """Draw the first layer's weights, and the zeros by layer."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2.6, 1))
    above.suptitle(
        f"The weights of {SHOWN[0] * SHOWN[1]} of 256 hidden units ({name}): "
        "white is exactly zero, x is a unit that is cut"
    )
    pictures = above.subplots(1, len(PICTURED))
    shown = [kernels(found[way].weights)[0] for way in PICTURED]
    limit = float(np.quantile(np.abs(np.concatenate(shown)), 0.995))
    for axes, way in zip(pictures, PICTURED, strict=True):
        drawn = mosaic(found[way], axes, limit)
        axes.set_title(
            f"{way}: {found[way].left} of {HIDDEN} units left,\n"
            f"accuracy {found[way].accuracy:.1f} %",
            fontsize=10,
        )
    above.colorbar(
        drawn,
        ax=pictures,
        label="weight from a pixel (dark: large)",
        extend="both",
        shrink=0.8,
    )
    axes = below.subplots()
    sparse = [way for way in found if sum(found[way].zeros)]
    for i, (hatch, grey) in enumerate((("", "0.35"), ("///", "0.75"), ("...", "1"))):
        places = np.arange(len(sparse)) + 0.27 * (i - 1)
        bars = axes.bar(
            places,
            [found[way].zeros[i] for way in sparse],
            width=0.25,
            color=grey,
            edgecolor="0",
            hatch=hatch,
            label=f"{UNITS[i]} x {UNITS[i + 1]}",
        )
        axes.bar_label(bars, fmt="%.0f", fontsize=9)
    axes.set_xticks(range(len(sparse)), sparse)
    axes.set(ylabel="exact zeros [%]", ylim=(0, 115), yticks=(0, 50, 100))
    axes.set_title("Where the zeros are, by layer", fontsize=10)
    axes.legend(title="kernel", ncols=1, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def main() -> None:
    """Train, cut, print and draw."""
    parser = command_line(__doc__, __file__)
    parser.add_argument("--steps", type=int, default=FULL)
    args = parser.parse_args()
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    trainers = {"jax": train_flax, "torch": train_torch}
    data, console, figure = digits(), Console(width=100), None
    table = Table(
        title=f"{args.steps} steps: exact zeros by kernel and in all [%], "
        "units left, accuracy [%]"
    )
    table.add_column("")
    table.add_column("way", no_wrap=True)
    shapes = [f"{m}x{n}" for m, n in itertools.pairwise(UNITS)]
    for column in (*shapes, "all", "units", "accuracy"):
        table.add_column(column, justify="right", no_wrap=True)
    for key in chosen(args.framework):
        name, found = FRAMEWORKS[key].name, {}
        for way in track(WAYS, name, console=console, transient=True):
            report, weights = trainers[key](way, data, args.steps)
            found[way] = trained = examine(way, report, weights, data)
            zeros = [*trained.zeros, 100 * report.sparsity]
            units = " + ".join(str(k.shape[1]) for k in kernels(trained.small)[:-1])
            numbers = [f"{number:.1f}" for number in (*zeros, trained.accuracy)]
            table.add_row(name, way, *numbers[:-1], units, numbers[-1])
        table.add_section()
        figure = figure or figure_of(name, found)
        most, fewest = found["target 95 %"].left, found["whole units"].left
        if args.steps >= FULL and not fewest < most < HIDDEN:
            raise AssertionError(f"units left: {fewest}, {most} and {HIDDEN}")
    console.print(table)
    save(figure, args.out)


if __name__ == "__main__":
    main()
