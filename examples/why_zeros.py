"""Why does L1 give exact zeros, L2 none, and L1 added to the loss none either?

    python examples/why_zeros.py
    python examples/why_zeros.py --framework torch

One weight with the loss 1/2 (w - 0.15)^2, which pulls it towards 0.15 with the force
0.15 - w, and a penalty of strength lambda = 0.5 that pushes it towards zero:

- L2, lambda/2 w^2, pushes by lambda * w. The push fades as the weight does, and the
  two balance at w = 0.15 / (1 + lambda): smaller, but not zero.
- L1, lambda |w|, pushes by the constant lambda, and at zero by as much as is needed, up
  to lambda. A pull below lambda cannot get the weight off zero: w = 0 is the solution.
- Gradient descent on `loss + lambda |w|` cannot stand at zero: a step there goes by
  lr * (lambda - 0.15) down or lr * (lambda + 0.15) up, and the weight jumps to and fro.
  Adam divides by the size of the gradients, and so swings by a good part of lr.
- The proximal step takes the loss's step, then moves the weight towards zero by lr *
  lambda and stops there: exact zero after finitely many steps, at any learning rate at
  which gradient descent converges (here below 2).

The table tells from which step on the weight is exactly zero, and the largest |w| of
the last quarter, for the jumps also in units of the learning rate. A smaller learning
rate takes longer and makes smaller jumps, but never a zero.
"""

from collections.abc import Callable
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

import l1jax
import l1torch
from common import FRAMEWORKS, chosen, command_line, save

GOAL, STRENGTH = (
    0.15,
    0.5,
)  # where the loss is smallest, and lambda per unit of the loss
START, STEPS, SHOWN = 1.0, 600, 300
RATES = (0.1, 0.01)
SUBGRADIENT, PROX, L2 = "L1, subgradient", "L1, proximal", "L2, weight decay"
LOOKS: dict[str, dict[str, Any]] = {
    L2: {"color": "0.55", "linestyle": "--"},
    SUBGRADIENT: {"color": "tab:red", "linestyle": "-", "linewidth": 1.3},
    PROX: {"color": "0", "linestyle": "-", "linewidth": 2},
}


class Run(NamedTuple):
    """What one row of the table trains."""

    optimizer: str
    way: str
    rate: float


RUNS = [Run("SGD", way, rate) for way in LOOKS for rate in RATES]
RUNS += [Run("Adam", way, rate) for way in (SUBGRADIENT, PROX) for rate in RATES]


def train_jax(run: Run) -> np.ndarray:
    """Return the weight at the start and after each step, by optax."""
    factory = optax.sgd if run.optimizer == "SGD" else optax.adam
    if run.way == PROX:
        tx = l1jax.proximal(factory, run.rate, STRENGTH)
    elif run.way == SUBGRADIENT:
        tx = optax.chain(l1jax.add_subgradient(STRENGTH), factory(run.rate))
    else:
        tx = optax.chain(optax.add_decayed_weights(STRENGTH), factory(run.rate))
    params = {"w": jnp.array(START)}

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        params, state = carry
        grads = {"w": params["w"] - GOAL}
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), params["w"]

    return np.asarray(jax.lax.scan(step, (params, tx.init(params)), length=STEPS)[1])


def train_torch(run: Run) -> np.ndarray:
    """The same by torch.optim."""
    w = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    cls = torch.optim.SGD if run.optimizer == "SGD" else torch.optim.Adam
    if run.way == PROX:
        optimizer = l1torch.Proximal(cls([("w", w)], lr=run.rate), STRENGTH)
    elif run.way == SUBGRADIENT:
        optimizer = l1torch.Subgradient(cls([("w", w)], lr=run.rate), STRENGTH)
    else:
        optimizer = cls([("w", w)], lr=run.rate, weight_decay=STRENGTH)
    trail = np.empty(STEPS)
    for t in range(STEPS):
        trail[t] = w.item()
        w.grad = w.detach() - GOAL
        optimizer.step()
    return trail


TRAINERS: dict[str, Callable[[Run], np.ndarray]] = {
    "jax": train_jax,
    "torch": train_torch,
}


def first_zero(trail: np.ndarray) -> int | None:
    """Return the step from which on the weight is exactly zero, if there is one."""
    at = int(np.flatnonzero(np.append(START, trail) != 0)[-1])
    return at if at < len(trail) else None


def check(run: Run, trail: np.ndarray) -> None:
    """Raise if a run does not do what this file says of it."""
    zeros, tail = np.count_nonzero(trail == 0), np.abs(trail[-STEPS // 4 :])
    if run.way == PROX:
        kept = first_zero(trail) is not None
    elif run.way == L2:
        rest = GOAL / (1 + STRENGTH)
        shrunk = (1 - run.rate * (1 + STRENGTH)) ** np.arange(STEPS)
        kept = zeros == 0 and np.allclose(trail, rest + (START - rest) * shrunk)
    elif run.optimizer == "SGD":
        # From above zero a step leads down by lr (lambda - goal + w) at most, from
        # below up by lr (lambda + goal + |w|): once across, it never gets further.
        crossed = trail[np.flatnonzero(trail < 0)[0] :]
        kept = zeros == 0 and np.abs(crossed).max() <= run.rate * (STRENGTH + GOAL)
        kept &= tail.max() >= 0.5 * run.rate * (STRENGTH - GOAL)
    else:
        kept = zeros == 0 and 0.1 * run.rate <= tail.max() <= run.rate
    if not kept:
        raise AssertionError(f"{run}: not as claimed, {zeros} zeros, ends by {tail}")


def report(trails: dict[Run, np.ndarray], title: str) -> None:
    """Print the table."""
    columns = ("optimizer", "way", "lr", "zero from step", "|w| at the end", "in lr")
    table = Table(*columns, title=title, box=box.SIMPLE_HEAD)
    for run, trail in trails.items():
        at, largest = first_zero(trail), np.abs(trail[-STEPS // 4 :]).max()
        table.add_row(
            run.optimizer,
            run.way,
            f"{run.rate:g}",
            "never" if at is None else f"{at}",
            f"{largest:.3g}",
            f"{largest / run.rate:.2f}" if run.way == SUBGRADIENT else "",
            end_section=run.rate == RATES[-1],
        )
    console = Console(width=100)
    console.print(table)
    console.print(
        f"|w| at the end: the largest of the last {STEPS // 4} of {STEPS} steps"
    )


def draw_forces(axes: Axes) -> None:
    """Draw the pull of the loss and the pushes; they balance at the solutions."""
    w = np.array([-0.4, 1.05])
    axes.plot(w, GOAL - w, color="0", linestyle=":", linewidth=2)
    axes.plot(w, STRENGTH * w, **LOOKS[L2])
    jump = np.array([w[0], 0, 0, w[1]])
    axes.plot(jump, STRENGTH * np.array([-1, -1, 1, 1]), **LOOKS[PROX])
    ends = {"color": "0", "linestyle": "", "markersize": 9}
    axes.plot(GOAL / (1 + STRENGTH), GOAL * STRENGTH / (1 + STRENGTH), "D", **ends)
    axes.plot(0, GOAL, "o", **ends)
    axes.text(0.52, -0.25, f"pull of the loss,\n{GOAL:g} - w")
    axes.text(1.02, 0.27, "push of L2, λ w", ha="right", color="0.3")
    axes.text(0.2, 0.53, "push of L1, λ sign(w)")
    rest = GOAL / (1 + STRENGTH)
    balance = (("w = 0\nunder L1", 0, GOAL, (-0.1, -0.4)),)
    balance += ((f"w = {rest:.2f}\nunder L2", rest, STRENGTH * rest, (0.05, -0.4)),)
    for text, x, y, place in balance:
        arrow = {"arrowstyle": "-", "shrinkB": 5}
        right = "right" if x == 0 else "left"
        axes.annotate(text, (x, y), place, arrowprops=arrow, ha=right)
    axes.set(xlim=w, ylim=(-0.6, 0.65), xlabel="weight w")
    axes.set_ylabel("force (units of the loss / weight)")
    axes.set_title("At zero L1 still pushes, L2 does not", fontsize=11)


def draw_sizes(axes: Axes, trails: dict[Run, np.ndarray], optimizer: str) -> None:
    """Draw the largest |w| of 20 steps to come; exact zeros lie at the bottom."""
    lowest, window = 1e-4, 20
    for rate in RATES:
        jumps, path = (trails[Run(optimizer, way, rate)] for way in (SUBGRADIENT, PROX))
        ahead = np.lib.stride_tricks.sliding_window_view(np.abs(jumps), window).max(-1)
        axes.semilogy(ahead[:SHOWN], **LOOKS[SUBGRADIENT])
        axes.semilogy(np.where(path == 0, lowest, path)[:SHOWN], **LOOKS[PROX])
        at, most = first_zero(path), np.abs(jumps[-STEPS // 4 :]).max()
        axes.plot(at, lowest, "o", color="0", markersize=7)
        axes.text(at + 6, 1.3 * lowest, f"lr {rate:g}")
        text = f"subgradient, lr {rate:g}: {most / rate:.2f} lr"
        axes.text(SHOWN - 3, 1.3 * most, text, ha="right")
    axes.text(SHOWN - 3, 1.3 * lowest, "proximal: exact zero", ha="right")
    axes.axhspan(lowest / 2, 2.4 * lowest, color="0.93", zorder=0)
    axes.set(xlabel="step", ylabel=f"|w|, the largest of {window} steps")
    axes.set(xlim=(0, SHOWN), ylim=(lowest / 1.5, 2))
    axes.set_yticks([1, 0.1, 0.01, 0.001, lowest], ["1", "0.1", "0.01", "0.001", "0"])
    axes.minorticks_off()


def draw(trails: dict[Run, np.ndarray]) -> Figure:
    """Draw the forces, the paths, and what they do near zero."""
    figure = Figure(figsize=(10, 7.6), layout="constrained")
    figure.suptitle(
        f"One weight, loss 1/2 (w - {GOAL:g})², strength λ = {STRENGTH:g}:\n"
        "L1 holds it at zero, and a proximal step puts it there"
    )
    (forces, paths), (sgd, adam) = figure.subplots(2, 2)
    draw_forces(forces)
    for way, marker in zip(LOOKS, "s.o", strict=True):
        trail = trails[Run("SGD", way, RATES[0])][:31]
        paths.plot(trail, **LOOKS[way], marker=marker, markersize=5, label=way)
    paths.axhline(0, color="0.8", linewidth=1, zorder=0)
    paths.set(xlabel="step", ylabel="weight w", xlim=(0, 30))
    paths.legend(frameon=False)
    paths.set_title(f"SGD, lr {RATES[0]:g}: L2 shrinks, L1 arrives", fontsize=11)
    draw_sizes(sgd, trails, "SGD")
    draw_sizes(adam, trails, "Adam")
    sgd.set_title("SGD: the subgradient steps by lr (λ ± pull)", fontsize=11)
    adam.set_title("Adam: it swings by a good part of lr", fontsize=11)
    return figure


def main() -> None:
    """Train, check, print and draw."""
    arguments = command_line(__doc__, __file__).parse_args()
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    names = chosen(arguments.framework)
    found = {
        name: {run: TRAINERS[name](run) for run in track(RUNS, name, transient=True)}
        for name in names
    }
    for run in RUNS:
        both = [trails[run] for trails in found.values()]
        if not np.allclose(both[0], both[-1], rtol=0, atol=1e-12):
            raise AssertionError(f"{run}: the paths of JAX and torch differ")
        for trail in both:
            check(run, trail)
    title = " and ".join(FRAMEWORKS[name].name for name in names)
    title += ": the same paths" if len(names) == 2 else ""
    report(found[names[0]], title)
    save(draw(found[names[0]]), arguments.out)


if __name__ == "__main__":
    main()
