"""Which threshold solves the Lasso? The answer differs from optimizer to optimizer.

    python examples/thresholds.py
    python examples/thresholds.py --framework jax --steps 4000

Each row trains the same 220 weights, of which scikit-learn's Lasso keeps 21, in double
precision, on the whole data and on random minibatches of 32, in JAX and in torch; the
learning rate falls to zero as a cosine. After each step comes a soft threshold, which
must be the optimizer's own step times the strength: `l1jax.proximal` and
`l1torch.Proximal` find it. The first rows show what other ways come to. A figure shows
how the three ways to use Adam get there.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sklearn.datasets import make_regression
from sklearn.linear_model import Lasso

import l1jax
import l1torch

STRENGTH = 0.03  # lambda, per unit of the mean loss
BATCH = 32
Array = Any  # of JAX or of torch
Curves = dict[tuple[str, str], np.ndarray]  # (framework, threshold): weights by step


@dataclasses.dataclass(frozen=True)
class Problem:
    """A Lasso and scikit-learn's answer."""

    X: np.ndarray
    y: np.ndarray
    optimum: np.ndarray

    def objective(self, w: np.ndarray) -> np.ndarray:
        """`F = loss + strength * |w|_1` for weights in the last axis."""
        residual = w @ self.X.T - self.y
        return (residual**2).mean(-1) / 2 + STRENGTH * np.abs(w).sum(-1)

    def gap(self, w: np.ndarray) -> np.ndarray:
        """The objective's relative distance to the optimum."""
        best = self.objective(self.optimum)
        return np.abs(self.objective(w) - best) / best

    def cell(self, w: np.ndarray) -> str:
        """Zeros that the Lasso has too + zeros that it has not, and the gap."""
        zero, truth = w == 0, self.optimum == 0
        right, false = np.count_nonzero(zero & truth), np.count_nonzero(zero & ~truth)
        return f"{right}+{false} {self.gap(w):.0e}"


def make_problem() -> Problem:
    """Makes 400 samples of 220 features and solves their Lasso by scikit-learn."""
    X, y = make_regression(
        n_samples=400, n_features=220, n_informative=20, noise=30.0, random_state=0
    )
    y /= y.std()
    lasso = Lasso(alpha=STRENGTH, fit_intercept=False, tol=1e-14, max_iter=100_000)
    return Problem(X, y, lasso.fit(X, y).coef_)


@dataclasses.dataclass(frozen=True)
class Row:
    """An optimizer and a way to penalise, in the frameworks that have it."""

    optimizer: str
    threshold: str
    jax: Callable[..., optax.GradientTransformation] | None
    torch: Callable[..., torch.optim.Optimizer] | None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    rate: float = 0.03
    unit: Literal["", "1/L"] = ""
    """Of the rate: 1 or, for the Lipschitz constant L of the gradient, 1/L."""
    way: Literal["coordinate", "none", "learning_rate", "subgradient"] = "coordinate"
    """The first two are metrics of the proximal optimizers."""

    def learning_rate(self, X: np.ndarray) -> float:
        """The first learning rate, for batches like X."""
        inverse = float(len(X) / np.linalg.norm(X, 2) ** 2)
        return self.rate * inverse if self.unit == "1/L" else self.rate


O, P = optax, torch.optim
HEAVY = {"momentum": 0.9}
# With these, optax makes the steps of torch.
RMSPROP = partial(O.rmsprop, decay=0.99, eps_in_sqrt=False)
GAIN, ROOT = "lr*l1/(1-0.9)", "lr*l1/sqrt(v)"
WRONG = [
    Row("SGD, momentum", "lr*l1", O.sgd, P.SGD, HEAVY, 0.1, "1/L", "learning_rate"),
    Row("Adam", "lr*l1", O.adam, P.Adam, way="none"),
    Row("SGD", "none: subgradient", O.sgd, P.SGD, {}, 1.0, "1/L", "subgradient"),
    Row("Adam", "none: subgradient", O.adam, P.Adam, way="subgradient"),
]
RIGHT = [
    Row("SGD", "lr*l1", O.sgd, P.SGD, {}, 1.0, "1/L"),
    Row("SGD, momentum", GAIN, O.sgd, P.SGD, HEAVY, 0.1, "1/L"),
    Row("SGD, Nesterov", GAIN, O.sgd, P.SGD, HEAVY | {"nesterov": True}, 0.1, "1/L"),
    Row(
        *("SGD, dampening", "lr*l1*(1-0.5)/(1-0.9)", None, P.SGD),
        *(HEAVY | {"dampening": 0.5}, 0.2, "1/L"),
    ),
    Row("Adam", ROOT, O.adam, P.Adam),
    Row("AdamW", ROOT, O.adamw, P.AdamW, {"weight_decay": 0.0}),
    Row(
        *("AMSGrad", "lr*l1/sqrt(max v)", O.amsgrad, partial(P.Adam, amsgrad=True)),
        rate=0.1,
    ),
    Row("NAdam", ROOT, O.nadam, P.NAdam),
    Row("RAdam", "lr*r*l1/sqrt(v)", O.radam, P.RAdam),
    Row("RMSprop", ROOT, RMSPROP, P.RMSprop),
    Row("RMSprop, momentum", f"{GAIN}/sqrt(v)", RMSPROP, P.RMSprop, HEAVY, 0.003),
    Row("RMSprop, centered", "lr*l1/sd(g)", RMSPROP, P.RMSprop, {"centered": True}),
    Row(
        *("Adagrad", "lr*l1/sqrt(sum g^2)", O.adagrad, P.Adagrad),
        *({"initial_accumulator_value": 0.1}, 0.3),
    ),
    Row("Adadelta", "lr*l1*sqrt(u/v)", O.adadelta, P.Adadelta, rate=1.0),
    Row("Adamax", "lr*l1/max|g|", O.adamax, P.Adamax),
    Row("AdaBelief", "lr*l1/sd(g)", O.adabelief, None),
    Row("Yogi", ROOT, O.yogi, None),
]
CAPTION = """Right zeros of {} + false zeros (of weights that scikit-learn keeps), and \
the relative gap |F-F*|/F*. Full batch and minibatches of {}; {} steps. v and u: running \
means of g^2 and of squared steps; eps and bias corrections are left out; r: RAdam's \
rectification."""


def optimizer_jax(row: Row, lr: optax.Schedule) -> optax.GradientTransformation:
    """Makes the row's optimizer with `l1jax`."""
    if row.way == "subgradient":
        base = row.jax(lr, **row.settings)
        return optax.chain(l1jax.add_subgradient(STRENGTH), base)
    if row.way == "learning_rate":
        base = row.jax(lr, **row.settings)
        return optax.chain(base, l1jax.proximal_step(STRENGTH, lr))
    return l1jax.proximal(row.jax, lr, STRENGTH, metric=row.way, **row.settings)


def optimizer_torch(row: Row, w: torch.nn.Parameter) -> torch.optim.Optimizer:
    """Makes the row's optimizer with `l1torch`."""
    base = row.torch([("w", w)], lr=row.rate, **row.settings)
    if row.way == "subgradient":
        return l1torch.Subgradient(base, STRENGTH)
    if row.way == "learning_rate":
        return l1torch.Proximal(base, STRENGTH, step_size="learning_rate")
    return l1torch.Proximal(base, STRENGTH, metric=row.way)


def gradient(X: Array, y: Array, w: Array) -> Array:
    """The gradient of the loss, half the mean squared error."""
    return X.T @ (X @ w - y) / len(y)


def train_jax(row: Row, data: Problem, rate: float, batches: np.ndarray) -> np.ndarray:
    """Trains in JAX; gives the weights after each step, shape (steps, features)."""
    X, y, steps = jnp.asarray(data.X), jnp.asarray(data.y), len(batches)
    tx = optimizer_jax(row, optax.cosine_decay_schedule(rate, steps))

    def step(carry: Any, batch: Array) -> tuple[Any, Array]:
        w, state = carry
        part = (X[batch], y[batch]) if len(batch) else (X, y)
        updates, state = tx.update(gradient(*part, w), state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    @jax.jit
    def run(w: Array, batches: Array) -> Array:
        return jax.lax.scan(step, (w, tx.init(w)), batches)[1]

    return np.asarray(run(jnp.full(X.shape[1], 0.01), batches))


def train_torch(
    row: Row, data: Problem, rate: float, batches: np.ndarray
) -> np.ndarray:
    """Trains in torch; gives what `train_jax` gives."""
    X, y, steps = torch.tensor(data.X), torch.tensor(data.y), len(batches)
    w = torch.nn.Parameter(torch.full(X.shape[1:], 0.01, dtype=X.dtype))
    optimizer = optimizer_torch(row, w)
    trail = np.empty((steps, X.shape[1]))
    for t, batch in enumerate(torch.tensor(batches)):
        lr = rate * 0.5 * (1 + math.cos(math.pi * t / steps))
        optimizer.param_groups[0]["lr"] = lr
        part = (X[batch], y[batch]) if len(batch) else (X, y)
        w.grad = gradient(*part, w.detach())
        optimizer.step()
        trail[t] = w.detach().numpy()
    return trail


def draw(curves: Curves, data: Problem, path: Path) -> None:
    """Draws gap and exact zeros by step: lines for JAX, markers for torch."""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    FigureCanvasAgg(figure)  # draws to a file, with no display
    gaps, zeros = figure.subplots(1, 2)
    styles = {"lr*l1": ("--", "s"), "none: subgradient": (":", "^"), ROOT: ("-", "o")}
    for (framework, threshold), w in curves.items():
        line, marker = styles[threshold]
        label, shade = f"{framework}, {threshold}", str(0.25 * "s^o".index(marker))
        look: dict[str, Any] = {"linestyle": line, "color": shade, "linewidth": 2}
        if framework == "torch":
            look = {"linestyle": "", "marker": marker, "color": shade}
            look |= {"markevery": max(1, len(w) // 16), "fillstyle": "none"}
        steps = np.arange(1, len(w) + 1)
        # Rounding makes a gap of 0 out of some of 1e-16: the axis ends there.
        gaps.semilogy(steps, np.maximum(data.gap(w), 1e-16), label=label, **look)
        zeros.plot(steps, np.count_nonzero(w == 0, axis=1), label=label, **look)
    truth = np.count_nonzero(data.optimum == 0)
    zeros.axhline(truth, color="0.7", zorder=0, label=f"scikit-learn: {truth}")
    gaps.set(xlabel="steps", ylabel="relative gap |F - F*| / F* (no unit)")
    zeros.set(xlabel="steps", ylabel="exact zeros (number of the 220 weights)")
    figure.legend(
        *zeros.get_legend_handles_labels(), loc="outside lower center", ncols=4
    )
    figure.suptitle(
        "Adam on the Lasso, full batch: three ways to penalise, by their threshold"
    )
    figure.savefig(path, dpi=150)


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Which threshold solves the Lasso?")
    parser.add_argument("--framework", choices=["jax", "torch", "both"], default="both")
    parser.add_argument("--steps", type=int, default=2_000)
    figure = Path(__file__).with_name("thresholds.png")
    parser.add_argument("--figure", type=Path, default=figure)
    return parser.parse_args()


def main() -> None:
    """Trains every row, prints the table and draws the figure."""
    args, console, data = arguments(), Console(), make_problem()
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)  # threads cost more than they give at this size
    trainers = {"JAX": train_jax, "torch": train_torch}
    if args.framework != "both":
        trainers = {k: v for k, v in trainers.items() if k.lower() == args.framework}
    batches = {
        "full": np.empty((args.steps, 0), int),  # no choice of samples: all
        "mini": np.random.default_rng(0).integers(
            len(data.y), size=(args.steps, BATCH)
        ),
    }
