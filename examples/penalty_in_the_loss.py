"""Why does the L1 term in my loss give small weights, but not one that is zero?

    python examples/penalty_in_the_loss.py
    python examples/penalty_in_the_loss.py --framework torch --steps 300

Everybody's first L1 is a term in the loss, `loss + strength * sum |w|`. Here linear
regression (diabetes with products, all data) and a network of 64, 256 and 10 units
(digits, minibatches of 100) are trained so, and in two other ways, under SGD and Adam,
with a learning rate that falls to zero as a cosine:

- the term in the loss, of the weights, and of weights and biases;
- `add_subgradient` (in torch `Subgradient`), which adds `strength * sign(w)` to the
  gradients: the same numbers, without touching the loss;
- `proximal` (`Proximal`): the same objective, with exact zeros.

Under one optimizer all reach about the same objective, and as many weights below 1e-3;
only the last has exact zeros. Biases that are penalised, too, are pulled to zero: the
intercept is too low by `strength`, which the loss pays. `if p.dim() > 0` does not leave
biases out: the last table has what four rules penalise.
"""

import collections
import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.special import log_softmax
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso

import l1jax
import l1torch
from common import FRAMEWORKS, chosen, command_line, save
from data import diabetes_with_products, digits, minibatches
from networks import BATCH, forward, initial

SMALL, FULL = 1e-3, 600  # what a cut by hand takes for zero; steps, by default
IN_LOSS, ALL = "in the loss", "in the loss, biases too"
ADDED, PROX = "add_subgradient", "proximal"
WAYS = (IN_LOSS, ALL, ADDED, PROX)
Params = dict[str, Any]
Runs = dict[tuple[str, str], Params]  # by optimizer and way


class Problem(NamedTuple):
    """Data, initial weights, and how to train."""

    name: str
    X: np.ndarray
    y: np.ndarray
    start: dict[str, np.ndarray]
    forward: Callable[[Params, Any], Any]
    batches: np.ndarray
    strength: float
    rates: dict[str, float]


def problems(steps: int) -> list[Problem]:
    """Make the regression, on all data, and the network, in minibatches."""
    X, y = diabetes_with_products()[0], load_diabetes().target  # y has its mean
    w = np.random.default_rng(0).normal(0, 0.1, X.shape[1])
    regression = Problem(
        name="linear regression",
        X=X,
        y=y / y.std(),
        start={"w": w, "bias": np.ones(1)},
        forward=lambda params, X: X @ params["w"] + params["bias"],
        batches=np.tile(np.arange(len(y)), (steps, 1)),
        strength=0.05,
        rates={"SGD": 0.1, "Adam": 0.03},
    )
    data = digits()
    start = {k: v.astype(float) for k, v in initial(0, (64, 256, 10)).items()}
    for name in ("bias_0", "bias_1"):
        start[name] += 0.01  # at zero autodiff's slope of |w| is 1 in JAX, 0 in torch
    network = Problem(
        name="network",
        X=data.X.astype(float),
        y=data.y,
        start=start,
        forward=forward,
        batches=minibatches(len(data.y), BATCH, steps, seed=0),
        strength=1e-3,
        rates={"SGD": 0.3, "Adam": 0.003},
    )
    return [regression, network]


def train_jax(problem: Problem, optimizer: str, way: str) -> dict[str, np.ndarray]:
    """Train with optax."""
    rate = optax.cosine_decay_schedule(problem.rates[optimizer], len(problem.batches))
    factory = {"SGD": optax.sgd, "Adam": optax.adam}[optimizer]
    if way == PROX:
        tx = l1jax.proximal(factory, rate, problem.strength)
    elif way == ADDED:
        tx = optax.chain(l1jax.add_subgradient(problem.strength), factory(rate))
    else:
        tx = factory(rate)
    X, y = jnp.asarray(problem.X), jnp.asarray(problem.y)

    def objective(params: Params, batch: jax.Array) -> jax.Array:
        scores = problem.forward(params, X[batch])
        if problem.name == "network":
            losses = optax.softmax_cross_entropy_with_integer_labels(scores, y[batch])
        else:
            losses = (scores - y[batch]) ** 2 / 2
        if way not in (IN_LOSS, ALL):
            return losses.mean()
        names = [k for k in params if way == ALL or "bias" not in k]
        l1 = sum(jnp.abs(params[k]).sum() for k in names)
        return losses.mean() + problem.strength * l1

    def step(carry: Any, batch: jax.Array) -> tuple[Any, None]:
        params, state = carry
        grads = jax.grad(objective)(params, batch)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jax.tree.map(jnp.asarray, problem.start)
    carry, batches = (start, tx.init(start)), jnp.asarray(problem.batches)
    return jax.tree.map(np.asarray, jax.lax.scan(step, carry, batches)[0][0])


def train_torch(problem: Problem, optimizer: str, way: str) -> dict[str, np.ndarray]:
    """Train with torch.optim."""
    params = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in problem.start.items()}
    cls = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}[optimizer]
    base = cls(params.items(), lr=problem.rates[optimizer])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(base, len(problem.batches))
    wrap = {PROX: l1torch.Proximal, ADDED: l1torch.Subgradient}.get(way)
    wrapped = wrap(base, problem.strength) if wrap else base
    X, y = torch.tensor(problem.X), torch.tensor(problem.y)
    for batch in torch.tensor(problem.batches):
        scores = problem.forward(params, X[batch])
        if problem.name == "network":
            loss = torch.nn.functional.cross_entropy(scores, y[batch])
        else:
            loss = ((scores - y[batch]) ** 2 / 2).mean()
        if way in (IN_LOSS, ALL):
            names = [k for k in params if way == ALL or "bias" not in k]
            l1 = sum(params[k].abs().sum() for k in names)
            loss = loss + problem.strength * l1
        wrapped.zero_grad()
        loss.backward()
        wrapped.step()
        schedule.step()
    return {k: p.detach().numpy() for k, p in params.items()}


TRAINERS = {"jax": train_jax, "torch": train_torch}
Outcome = collections.namedtuple("Outcome", "objective loss small zeros bias")


def flat(params: Params, biases: bool = False) -> np.ndarray:
    """Return the absolute weights in one array, or the biases."""
    kept = [v.ravel() for k, v in params.items() if ("bias" in k) == biases]
    return np.abs(np.concatenate(kept))


def measure(problem: Problem, params: Params) -> Outcome:
    """Evaluate on all training data; the penalty is that of the weights alone."""
    scores, y, w = problem.forward(params, problem.X), problem.y, flat(params)
    if problem.name == "network":
        loss = -log_softmax(scores, axis=1)[np.arange(len(y)), y].mean()
    else:
        loss = ((scores - y) ** 2).mean() / 2
    objective = loss + problem.strength * w.sum()
    counts = np.count_nonzero(w < SMALL), np.count_nonzero(w == 0)
    return Outcome(objective, loss, *counts, flat(params, biases=True).mean())


def check(problem: Problem, runs: Runs) -> None:
    """Raise if the runs of one framework do not show what this file says."""
    full = len(problem.batches) >= FULL
    for optimizer in problem.rates:
        found = [measure(problem, runs[optimizer, way]) for way in WAYS]
        plain, biases, added, prox = found
        by_hand, by_us = (runs[optimizer, way] for way in (IN_LOSS, ADDED))
        apart = max(np.abs(v - by_us[k]).max() for k, v in by_hand.items())
        claims = {
            f"the subgradient is the term in the loss, to {apart:.0e}": apart < 1e-8,
            "zeros by the prox alone": plain.zeros == added.zeros == 0 < prox.zeros,
            "penalised biases are smaller": biases.bias < plain.bias,
        }
        if full:
            claims["the loss pays for the biases"] = biases.loss > plain.loss
            claims["one objective"] = abs(prox.objective / plain.objective - 1) < 0.03
            claims["as many are small"] = abs(prox.small / plain.small - 1) < 0.03
        if full and problem.name != "network":
            lasso = Lasso(alpha=problem.strength, tol=1e-14, max_iter=100_000)
            w = lasso.fit(problem.X, problem.y).coef_
            theirs = measure(problem, {"w": w, "bias": lasso.intercept_})
            gap = prox.objective / theirs.objective - 1
            claims[f"scikit-learn's objective, to {gap:.0e}"] = gap < 1e-8
            zeros = flat(runs[optimizer, PROX]) == 0
            claims["scikit-learn's zeros"] = np.array_equal(zeros, w == 0)
            low = abs(theirs.bias - problem.strength - biases.bias)
            claims[f"too low by the strength, to {low:.0e}"] = low < 1e-4
        for claim, kept in claims.items():
            if not kept:
                raise AssertionError(f"{problem.name}, {optimizer}: not so: {claim}")


def check_twins(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Raise unless an array is the same in both frameworks, with the same zeros."""
    np.testing.assert_allclose(ours, theirs, atol=1e-8)
    np.testing.assert_array_equal(ours == 0, theirs == 0, "other zeros")


def rules(lib: ModuleType, array: Callable[[Any], Any]) -> Table:
    """Show which parameters four rules take for weights.

    Raises unless `p.ndim > 0` takes the bias for one, and the library's rule does not.
    """
    shapes = {"w": (64,), "kernel": (64, 256), "bias": (256,), "intercept": ()}
    params = {k: array(np.ones(v)) for k, v in (shapes | {"scale": (256,)}).items()}
    taken = {
        "every parameter": dict.fromkeys(params, True),
        "p.ndim > 0": {name: p.ndim > 0 for name, p in params.items()},
        "p.ndim > 1": {name: p.ndim > 1 for name, p in params.items()},
        "weights_only (by default)": lib.weights_only(params),
    }
    if not taken["p.ndim > 0"]["bias"] or taken["weights_only (by default)"]["bias"]:
        raise AssertionError(f"the rules take {taken}")
    headers = (f"{name}\n{tuple(p.shape)}" for name, p in params.items())
    table = Table("what is penalised", *headers, box=box.SIMPLE_HEAD)
    for rule, flags in taken.items():
        table.add_row(rule, *("yes" if flags[name] else "-" for name in params))
    return table


def report(problem: Problem, runs: Runs, frameworks: str) -> Table:
    """Make the table of a problem."""
    columns = ["optimizer", "way", "objective", "loss", "< 1e-3", "exactly 0"]
    columns.append("mean |bias|" if problem.name == "network" else "intercept")
    title = f"{problem.name}, {flat(problem.start).size} weights, strength "
    title += f"{problem.strength:g}, {len(problem.batches)} steps; {frameworks}"
    table = Table(*columns, title=title, box=box.SIMPLE_HEAD)
    for (optimizer, way), params in runs.items():
        found = measure(problem, params)
        cells = (f"{found.objective:.5f}", f"{found.loss:.4f}", f"{found.small}")
        cells += (f"{found.zeros}", f"{found.bias:.4f}")
        table.add_row(optimizer, way, *cells, end_section=way == WAYS[-1])
    return table


def draw_sorted(axes: Axes, title: str, curves: dict[str, Any], unit: str) -> None:
    """Draw absolute values by rank, largest first; zeros lie at the bottom."""
    lowest = 1e-11
    for (label, values), look in zip(curves.items(), ("rx", "k."), strict=True):
        shown = np.sort(np.where(values == 0, lowest, values))[::-1]
        ranks, every = np.arange(1, len(shown) + 1), -(-len(shown) // 150)
        axes.semilogy(ranks, shown, look, label=label, markersize=5, markevery=every)
    axes.axhline(SMALL, color="0.8", linewidth=1, zorder=0)
    axes.axhspan(lowest / 5, lowest * 5, color="0.93", zorder=0)
    axes.text(1, 1.6 * lowest, " exactly zero", va="bottom", fontsize=9.5)
    ticks = {1: "1", SMALL: "$10^{-3}$", 1e-6: "$10^{-6}$", 1e-9: "$10^{-9}$"}
    axes.set_yticks([*ticks, lowest], [*ticks.values(), "0"])
    axes.set(ylim=(lowest / 5, 100), xlabel=f"rank of the {unit}", ylabel=f"|{unit}|")
    axes.set_title(title, fontsize=11)
    axes.legend(frameon=False, fontsize=9.5, markerscale=1.5)


def draw(regression: Runs, net: Runs) -> Figure:
    """Draw the sizes of the weights under Adam, and those of the network's biases."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    figure.suptitle("Adam: a term in the loss makes small weights, the prox zeros")
    left, middle, right = figure.subplots(1, 3)
    for axes, title, runs in (left, "Regression", regression), (middle, "Network", net):
        curves = {way: flat(runs["Adam", way]) for way in (IN_LOSS, PROX)}
        draw_sorted(axes, title, curves, "weight")
    ways = {"biases penalised, too": ALL, "weights only": IN_LOSS}
    curves = {label: flat(net["Adam", way], True) for label, way in ways.items()}
    draw_sorted(right, "Its biases, the penalty in the loss", curves, "bias")
    return figure


def main() -> None:
    """Train, check, print and draw."""
    parser = command_line(__doc__, __file__)
    parser.add_argument("--steps", type=int, default=FULL)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)  # tensors as small as these gain nothing from threads
    names, console = chosen(arguments.framework), Console(width=100)
    title = " = ".join(FRAMEWORKS[name].name for name in names)
    first = []
    for problem in problems(arguments.steps):
        found: dict[str, Runs] = {name: {} for name in names}
        keys = list(itertools.product(names, problem.rates, WAYS))
        for name, optimizer, way in track(keys, problem.name, transient=True):
            found[name][optimizer, way] = TRAINERS[name](problem, optimizer, way)
        jax.tree.map(check_twins, found[names[-1]], found[names[0]])
        for runs in found.values():
            check(problem, runs)
        first.append(found[names[0]])
        console.print(report(problem, first[-1], title))
    console.print(rules(*FRAMEWORKS[names[0]][1:]))
    save(draw(*first), arguments.out)


if __name__ == "__main__":
    main()
