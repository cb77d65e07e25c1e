"""Which threshold solves the Lasso? The answer differs from optimizer to optimizer.

    python examples/thresholds.py
    python examples/thresholds.py --framework jax --steps 4000

Each row trains 220 weights, of which scikit-learn's Lasso keeps 21, in JAX and in
torch, on all data and on random minibatches of 32; the learning rate falls to zero as a
cosine. The threshold after each step must be the optimizer's own step times the
strength: `l1jax.proximal` and `l1torch.Proximal` find it. The first rows show other
ways, and a figure follows the three ways to use Adam.
"""

import dataclasses
import itertools
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
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import make_regression
from sklearn.linear_model import Lasso

import l1jax
import l1torch
from common import FRAMEWORKS, chosen, command_line, save

STRENGTH = 0.03  # lambda, per unit of the mean loss
BATCH = 32
Array = Any  # of JAX or of torch
CAPTION = """{} steps, minibatches of {}. Cells: right zeros of {} + false zeros, \
relative gap |F-F*|/F*. v, u: running means of g^2 and of squared steps; sd: standard \
deviation; r: RAdam's rectification; eps and bias corrections are not shown."""


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
    """Make 400 samples of 220 features and solve their Lasso by scikit-learn."""
    X, y = make_regression(400, 220, n_informative=20, noise=30.0, random_state=0)
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
    unit: Literal["", "1/L"] = ""  # of the rate; L: the gradient's Lipschitz constant
    way: Literal["coordinate", "none", "learning_rate", "subgradient"] = "coordinate"
    """The first two are metrics of the proximal optimizers."""

    def make_jax(self, lr: optax.Schedule) -> optax.GradientTransformation:
        """Make the optimizer with `l1jax`."""
        base = self.jax(lr, **self.settings)
        if self.way == "subgradient":
            return optax.chain(l1jax.add_subgradient(STRENGTH), base)
        if self.way == "learning_rate":
            return optax.chain(base, l1jax.proximal_step(STRENGTH, lr))
        return l1jax.proximal(self.jax, lr, STRENGTH, metric=self.way, **self.settings)

    def make_torch(self, w: torch.nn.Parameter) -> torch.optim.Optimizer:
        """Make the optimizer with `l1torch`; its learning rate is set at each step."""
        base = self.torch([("w", w)], **self.settings)
        if self.way == "subgradient":
            return l1torch.Subgradient(base, STRENGTH)
        if self.way == "learning_rate":
            return l1torch.Proximal(base, STRENGTH, step_size="learning_rate")
        return l1torch.Proximal(base, STRENGTH, metric=self.way)


P, HEAVY = torch.optim, {"momentum": 0.9}
NESTEROV, DAMPED = HEAVY | {"nesterov": True}, HEAVY | {"dampening": 0.5}
AMSGRAD, START = partial(P.Adam, amsgrad=True), {"initial_accumulator_value": 0.1}
# With these, optax makes the steps of torch.
RMSPROP = partial(optax.rmsprop, decay=0.99, eps_in_sqrt=False)
GAIN, ROOT, NONE = "lr*l1/(1-0.9)", "lr*l1/sqrt(v)", "none: subgradient"
WRONG = [
    Row("SGD, momentum", "lr*l1", optax.sgd, P.SGD, HEAVY, 0.1, "1/L", "learning_rate"),
    Row("Adam", "lr*l1", optax.adam, P.Adam, way="none"),
    Row("SGD", NONE, optax.sgd, P.SGD, {}, 1.0, "1/L", "subgradient"),
    Row("Adam", NONE, optax.adam, P.Adam, way="subgradient"),
]
RIGHT = [
    Row("SGD", "lr*l1", optax.sgd, P.SGD, {}, 1.0, "1/L"),
    Row("SGD, momentum", GAIN, optax.sgd, P.SGD, HEAVY, 0.1, "1/L"),
    Row("SGD, Nesterov", GAIN, optax.sgd, P.SGD, NESTEROV, 0.1, "1/L"),
    Row("SGD, dampening", "lr*l1*0.5/(1-0.9)", None, P.SGD, DAMPED, 0.2, "1/L"),
    Row("Adam", ROOT, optax.adam, P.Adam),
    Row("AdamW", ROOT, optax.adamw, P.AdamW, {"weight_decay": 0.0}),
    Row("AMSGrad", "lr*l1/sqrt(max v)", optax.amsgrad, AMSGRAD, rate=0.1),
    Row("NAdam", ROOT, optax.nadam, P.NAdam),
    Row("RAdam", "lr*r*l1/sqrt(v)", optax.radam, P.RAdam),
    Row("RMSprop", ROOT, RMSPROP, P.RMSprop),
    Row("RMSprop, momentum", GAIN + "/sqrt(v)", RMSPROP, P.RMSprop, HEAVY, 0.003),
    Row("RMSprop, centered", "lr*l1/sd(g)", RMSPROP, P.RMSprop, {"centered": True}),
    Row("Adagrad", "lr*l1/sqrt(sum g^2)", optax.adagrad, P.Adagrad, START, 0.3),
    Row("Adadelta", "lr*l1*sqrt(u/v)", optax.adadelta, P.Adadelta, rate=1.0),
    Row("Adamax", "lr*l1/max|g|", optax.adamax, P.Adamax),
    Row("AdaBelief", "lr*l1/sd(g)", optax.adabelief, None),
    Row("Yogi", ROOT, optax.yogi, None),
]


def gradient(X: Array, y: Array, w: Array, batch: Array) -> Array:
    """The gradient of half the mean squared error on a batch; all samples if empty."""
    X, y = (X[batch], y[batch]) if len(batch) else (X, y)
    return X.T @ (X @ w - y) / len(y)


def train_jax(row: Row, data: Problem, lr: float, batches: np.ndarray) -> np.ndarray:
    """Train in JAX; return the weights after each step, shape (steps, features)."""
    X, y = jnp.asarray(data.X), jnp.asarray(data.y)
    tx = row.make_jax(optax.cosine_decay_schedule(lr, len(batches)))

    def step(carry: Any, batch: Array) -> tuple[Any, Array]:
        w, state = carry
        updates, state = tx.update(gradient(X, y, w, batch), state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    @jax.jit
    def run(w: Array, batches: Array) -> Array:
        return jax.lax.scan(step, (w, tx.init(w)), batches)[1]

    return np.asarray(run(jnp.full(X.shape[1], 0.01), batches))


def train_torch(row: Row, data: Problem, lr: float, batches: np.ndarray) -> np.ndarray:
    """Train in torch; return what `train_jax` gives."""
    X, y = torch.tensor(data.X), torch.tensor(data.y)
    w = torch.nn.Parameter(torch.full(X.shape[1:], 0.01, dtype=X.dtype))
    optimizer = row.make_torch(w)
    trail = np.empty((len(batches), len(w)))
    for t, batch in enumerate(torch.tensor(batches)):
        cosine = (1 + math.cos(math.pi * t / len(batches))) / 2
        optimizer.param_groups[0]["lr"] = lr * cosine
        w.grad = gradient(X, y, w.detach(), batch)
        optimizer.step()
        trail[t] = w.detach().numpy()
    return trail


def draw(curves: dict[tuple[str, str], np.ndarray], data: Problem, path: Path) -> None:
    """Draw gap and exact zeros by step: lines for JAX, markers for torch."""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    figure.suptitle("Adam on the Lasso, full batch. Lines: JAX; markers: torch")
    gaps, zeros = figure.subplots(1, 2)
    styles = {NONE: (":", "^"), "lr*l1": ("--", "s"), ROOT: ("-", "o")}
    for (framework, threshold), w in curves.items():
        line, marker = styles[threshold]
        look: dict[str, Any] = {"linestyle": line, "color": "0.5", "linewidth": 2}
        if framework == "torch":
            look = {"linestyle": "", "marker": marker, "color": "0", "markersize": 7}
            look |= {"fillstyle": "none", "markevery": max(1, len(w) // 16)}
        look["label"] = f"{framework}, threshold {threshold}"
        steps = np.arange(1, len(w) + 1)
        # Where only rounding is left, some gaps are 0, which has no logarithm.
        gaps.semilogy(steps, np.maximum(data.gap(w), 1e-16), **look)
        zeros.plot(steps, np.count_nonzero(w == 0, axis=1), **look)
    gaps.set(xlabel="steps", ylabel="relative gap |F - F*| / F* (no unit)")
    zeros.set(xlabel="steps", ylabel="exact zeros (number, of 220 weights)")
    figure.legend(handles=zeros.lines, loc="outside lower center", ncols=3)
    save(figure, path)


def main() -> None:
    """Train every row, print the table and draw the figure."""
    parser = command_line(__doc__, __file__)
    parser.add_argument("--steps", type=int, default=1_500)
    args, data = parser.parse_args(), make_problem()
    console = Console(width=100)  # that of the table, into a file too
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)  # threads cost more than they give at this size
    trainers = {"jax": train_jax, "torch": train_torch}
    trainers = {FRAMEWORKS[key].name: trainers[key] for key in chosen(args.framework)}
    drawn = np.random.default_rng(0).integers(len(data.y), size=(args.steps, BATCH))
    runs = {  # the batch of each step (empty: all data) and 1/L
        "full batch": (drawn[:, :0], len(data.X) / np.linalg.norm(data.X, 2) ** 2),
        "minibatch": (drawn, BATCH / np.linalg.norm(data.X[:BATCH], 2) ** 2),
    }
    columns = list(itertools.product(runs, trainers))
    headers = (f"{run}\n{framework}" for run, framework in columns)
    table = Table("optimizer", "threshold", *headers, box=box.SIMPLE_HEAD)
    table.show_edge = table.pad_edge = False
    table.caption = CAPTION.format(args.steps, BATCH, (data.optimum == 0).sum())
    curves = {}
    for row in track(WRONG + RIGHT, "training", console=console):
        cells = [row.optimizer, row.threshold]
        for run, framework in columns:
            if getattr(row, framework.lower()) is None:
                cells.append("")
                continue
            batches, inverse = runs[run]
            lr = row.rate * inverse if row.unit == "1/L" else row.rate
            w = trainers[framework](row, data, lr, batches)
            cells.append(data.cell(w[-1]))
            if row.optimizer == "Adam" and run == "full batch":
                curves[framework, row.threshold] = w
        table.add_row(*cells, end_section=row is WRONG[-1])
    console.print(table)
    draw(curves, data, args.out)


if __name__ == "__main__":
    main()
