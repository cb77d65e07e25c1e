"""Does clipping help with large updates, and is L1 clipping L1 regularisation?

    python examples/big_gradients.py
    python examples/big_gradients.py --framework torch --steps 1000

Gradient descent diverges at learning rates above 2/L, L the largest eigenvalue of the
Hessian: 1 for uncorrelated columns of variance 1, more with correlation, or in small
units, whose numbers are large (first table). Ten columns of diabetes are then fitted at
lr = 1, twice what they bear, and at 1/L, both falling to zero as a cosine. Clipping by
value, each to [-c, c], turns gradients; by their L2 norm, or by their L1 norm, `g *
min(1, c / sum |g|)`, it does not: in JAX `l1jax.clip_by_global_l1_norm`, in torch
`clip_grad_norm_(norm_type=1)`.

Then nothing diverges, but above 2/L bounded steps jump for ever; a smaller lr is needed
to converge. No clipping penalises a weight: it ends at least squares, without zeros.
Zeros are the penalty's. Both go together, clipping first, if it comes to rest: where it
scales by s < 1 at the solution (last row), this is that of strength / s.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.lib.stride_tricks import sliding_window_view
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso

import l1jax
import l1torch
from common import FRAMEWORKS, chosen, command_line, save
from data import diabetes, diabetes_with_products

STRENGTH = 0.05  # lambda, per unit of the mean loss
FULL = 3_000  # steps, by default
LIMITS = {"value": 0.1, "L2 norm": 0.2, "L1 norm": 0.5}
TIGHT = 0.32  # a limit on the L1 norm that still acts at the solution
LOOKS = {"none": ("s:", "0.5"), "value": ("v--", "tab:blue")}
LOOKS |= {"L2 norm": ("o-", "tab:red"), "L1 norm": (".-", "black")}


class Problem(NamedTuple):
    """Least squares: loss = 1/2 w'Hw - c'w + half the mean of y^2."""

    H: np.ndarray
    c: np.ndarray
    start: np.ndarray
    steps: int

    def gap(self, w: np.ndarray) -> np.ndarray:
        """The loss above its minimum, of the weights in the last axis."""
        away = w - np.linalg.solve(self.H, self.c)
        return ((away @ self.H) * away).sum(-1) / 2


class Way(NamedTuple):
    """How to train."""

    clipping: str
    limit: float
    strength: float
    rate: float
    constant: bool = False


def train_jax(problem: Problem, way: Way) -> np.ndarray:
    """Return the weights at the start and after each step, by optax."""
    rate = optax.cosine_decay_schedule(way.rate, problem.steps)
    rate = way.rate if way.constant else rate
    tx = l1jax.proximal(optax.sgd, rate, way.strength)  # at strength 0 it is SGD
    if way.clipping == "value":
        tx = optax.chain(optax.clip(way.limit), tx)
    elif way.clipping == "L2 norm":
        tx = optax.chain(optax.clip_by_global_norm(way.limit), tx)
    elif way.clipping == "L1 norm":
        tx = optax.chain(l1jax.clip_by_global_l1_norm(way.limit), tx)
    H, c = jnp.asarray(problem.H), jnp.asarray(problem.c)

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        params, state = carry
        grads = {"w": H @ params["w"] - c}
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), params["w"]

    params = {"w": jnp.asarray(problem.start)}
    carry = params, tx.init(params)
    return np.asarray(jax.lax.scan(step, carry, length=problem.steps + 1)[1])


def train_torch(problem: Problem, way: Way) -> np.ndarray:
    """The same by torch.optim."""
    w = torch.nn.Parameter(torch.tensor(problem.start))
    base = torch.optim.SGD([("w", w)], lr=way.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(base, problem.steps)
    optimizer = l1torch.Proximal(base, way.strength)
    H, c = torch.tensor(problem.H), torch.tensor(problem.c)
    trail = np.empty((problem.steps + 1, len(w)))
    for t in range(len(trail)):
        trail[t] = w.detach().numpy()
        w.grad = H @ w.detach() - c
        if way.clipping == "value":
            torch.nn.utils.clip_grad_value_([w], way.limit)
        elif way.clipping != "none":
            order = 1 if way.clipping == "L1 norm" else 2
            torch.nn.utils.clip_grad_norm_([w], way.limit, norm_type=order)
        optimizer.step()
        if not way.constant:
            schedule.step()
    return trail


@functools.cache
def lasso(strength: float) -> np.ndarray:
    """Solve by scikit-learn."""
    X, y, _ = diabetes()
    model = Lasso(alpha=strength, tol=1e-14, max_iter=100_000, fit_intercept=False)
    return model.fit(X, y).coef_


def all_ways(small: float) -> dict[str, Way]:
    """Return the rows of the table, some with a learning rate that is small enough."""
    l1 = LIMITS["L1 norm"]
    return {
        "none": Way("none", 1, 0, 1.0),
        "none, lr ≤ 1/L": Way("none", 1, 0, small),
        **{k: Way(k, limit, 0, 1.0) for k, limit in LIMITS.items()},
        "L1 norm, lr constant": Way("L1 norm", l1, 0, 1.0, constant=True),
        "none, lr ≤ 1/L, prox": Way("none", 1, STRENGTH, small),
        "L1 norm, prox": Way("L1 norm", l1, STRENGTH, 1.0),
        "L1 norm, active, prox": Way("L1 norm", TIGHT, STRENGTH, 1.0),
    }


def steepness() -> Table:
    """Show what correlation and units do to L and to the first gradient."""
    (X, y, _), raw = diabetes(), load_diabetes(scaled=False).data
    designs = {
        "10 columns, made uncorrelated": np.linalg.qr(X)[0] * np.sqrt(len(X)),
        "10 columns of variance 1": X,
        "64 columns of variance 1": diabetes_with_products()[0],
        "10 columns in their own units": raw - raw.mean(0),
    }
    table = Table("diabetes", "L", "2/L", "first |g|_2", "|g|_1", box=box.SIMPLE_HEAD)
    for name, Z in designs.items():
        L, g = np.linalg.norm(Z, 2) ** 2 / len(y), Z.T @ y / len(y)
        norms = f"{np.linalg.norm(g):.1f}", f"{np.abs(g).sum():.1f}"
        table.add_row(name, f"{L:.4g}", f"{2 / L:.2g}", *norms)
    return table


def measure(problem: Problem, trail: np.ndarray) -> dict[str, float]:
    """Return what the table has of one training."""
    end, squares = trail[-1], np.linalg.solve(problem.H, problem.c)
    with np.errstate(all="ignore"):  # one of them diverges
        found = {
            "largest\n|update|": np.linalg.norm(np.diff(trail, axis=0), axis=1).max(),
            "loss above\nminimum": problem.gap(end),
            "exact\nzeros": np.count_nonzero(end == 0),
            "distance to\nleast squares": np.linalg.norm(end - squares),
            "to the\nLasso": np.linalg.norm(end - lasso(STRENGTH)),
        }
    return {k: v if np.isfinite(v) else np.inf for k, v in found.items()}


def check(problem: Problem, ways: dict[str, Way], trails: dict[str, Any]) -> float:
    """Raise if the runs of a framework are not as claimed; return s of the last row."""
    found = {name: measure(problem, trail) for name, trail in trails.items()}
    claims = {}
    for name, way in ways.items():
        update, gap, zeros, _, away = found[name].values()
        claims[f"{name}: zeros by the penalty"] = bool(zeros) == bool(way.strength)
        if way.clipping != "none" and not way.strength:
            root = len(problem.c) ** 0.5 if way.clipping == "value" else 1
            claims[f"{name}: bounded"] = update <= way.rate * way.limit * root + 1e-12
        if name in ("none, lr ≤ 1/L, prox", "L1 norm, prox"):
            claims[f"{name}: the Lasso"] = away < 1e-6
        if name in ("L2 norm", "L1 norm") and problem.steps >= FULL:
            claims[f"{name}: least squares"] = gap < 1e-9
        if name in ("none", "L1 norm, lr constant"):
            claims[f"{name}: no solution"] = gap > 1e-3
    scale = TIGHT / np.abs(problem.H @ trails[name][-1] - problem.c).sum()
    away = np.abs(trails[name][-1] - lasso(STRENGTH / scale)).max()
    claims[f"Lasso of strength / {scale}, to {away}"] = scale < 1 and away < 1e-6
    for claim, kept in claims.items():
        if not kept:
            raise AssertionError(f"not so: {claim}: {found}")
    return scale


def report(problem: Problem, ways: dict[str, Way], trails: dict[str, Any]) -> Table:
    """Make the table."""
    found = {name: measure(problem, trail) for name, trail in trails.items()}
    table = Table("clipping", "limit", "lr", *found["none"], box=box.SIMPLE_HEAD)
    table.title = f"Ten columns, {problem.steps} steps, strength {STRENGTH:g}"
    for name, way in ways.items():
        limit = "" if way.clipping == "none" else f"{way.limit:g}"
        cells = (f"{x:.2g}" if np.isfinite(x) else "-" for x in found[name].values())
        table.add_row(name, limit, f"{way.rate:.2g}", *cells)
    return table


def draw_paths(axes: Axes) -> None:
    """Draw two weights on the contours of their loss, at a learning rate too large."""
    X, y, _ = diabetes()
    pair = X[:, 4:6] * [2, 1]  # s1 in half its unit, and s2: correlation 0.9
    H, c = pair.T @ pair / len(y), pair.T @ y / len(y)
    problem = Problem(H, c, start=np.array([0.8, 2.2]), steps=14)
    x, y = np.mgrid[-1.2:1.2:99j, -1:2.6:99j]
    gap, levels = problem.gap(np.stack([x, y], -1)), np.geomspace(0.02, 12, 7)
    axes.contour(x, y, gap, levels, colors="0.8")
    for clipping, (look, color) in LOOKS.items():
        path = train_jax(problem, Way(clipping, 0.6, 0, rate=0.5, constant=True))
        axes.plot(*path.T, look, color=color, mfc="none", ms=5, label=clipping)
    axes.set(xlim=(-1.2, 1.2), ylim=(-1, 2.6), xlabel="weight of s1 (in half its unit)")
    axes.set(ylabel="weight of s2", title="Two features, lr 0.5 > 2/L")
    axes.legend(fontsize=9, framealpha=0.9)


def draw_loss(axes: Axes, problem: Problem, trails: dict[str, Any]) -> None:
    """Draw how far the loss is above its minimum."""
    for name in ("none, lr ≤ 1/L", *LIMITS, "L1 norm, lr constant"):
        look, color = LOOKS[name.split(",")[0]]
        gap = sliding_window_view(problem.gap(trails[name]), 10).max(-1)
        axes.semilogy(gap, "-." if "," in name else look[1:], color=color)
        height = gap[-1] * (0.1 if name in ("none, lr ≤ 1/L", "L1 norm") else 4)
        axes.text(problem.steps, height, name, ha="right")
    small = np.arccos(4 / np.linalg.norm(problem.H, 2) - 1) / np.pi * problem.steps
    axes.axvline(small, color="0.8", zorder=0)
    axes.text(1.03 * small, 3e-14, "lr > 2/L     lr < 2/L", ha="center")
    axes.text(0, 2, "  none: diverges at once")
    axes.set(ylim=(1e-14, 10), xlabel="step", title="Ten features, lr from 1 to 0")
    axes.set_ylabel("loss above its minimum (worst of 10 steps)")


def draw_weights(axes: Axes, problem: Problem, trails: dict[str, Any]) -> None:
    """Draw the weights at the end; exact zeros lie at the bottom."""
    lowest, squares = 1e-4, np.linalg.solve(problem.H, problem.c)
    order = np.argsort(-np.abs(squares))
    shown = {"least squares": ("k_", 16, squares)}
    shown["L1 norm clipped"] = "kx", 6, trails["L1 norm"][-1]
    shown["the same, proximal"] = "ko", 6, trails["L1 norm, prox"][-1]
    for label, (look, size, w) in shown.items():
        heights = np.where(w == 0, lowest, np.abs(w))[order]
        axes.semilogy(heights, look, mfc="none", ms=size, label=label)
    axes.axhspan(lowest / 3, lowest * 2, color="0.93", zorder=0)
    axes.set_yticks([1, 0.1, 0.01, 0.001, lowest], ["1", "0.1", "0.01", "0.001", "0"])
    axes.set_xticks(range(len(order)), np.array(diabetes()[2])[order])
    axes.set(ylim=(lowest / 2, 20), title="Ten features, the weights")
    axes.set(xlabel="feature", ylabel="|w| at the end")
    axes.legend(fontsize=9, framealpha=0.9)


def main() -> None:
    """Train, check, print and draw."""
    parser = command_line(__doc__, __file__)
    parser.add_argument("--steps", type=int, default=FULL)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)  # tensors as small as these gain nothing from threads
    X, y, _ = diabetes()
    H, c = X.T @ X / len(y), X.T @ y / len(y)
    problem = Problem(H, c, np.zeros(len(c)), arguments.steps)
    ways, found = all_ways(small=1 / np.linalg.norm(H, 2)), []
    console = Console(width=100)
    for name in chosen(arguments.framework):
        train = train_jax if name == "jax" else train_torch
        rows = track(ways.items(), FRAMEWORKS[name].name, transient=True)
        found.append({key: train(problem, way) for key, way in rows})
        scale = check(problem, ways, found[-1])
    for key in list(ways)[1:]:  # the first diverges
        first, last = found[0][key][-1], found[-1][key][-1]
        # torch adds 1e-6 to the norm: what has not converged remembers it.
        converged = problem.steps >= FULL and not ways[key].constant
        np.testing.assert_allclose(last, first, atol=1e-6 if converged else 1e-3)
    console.print(steepness())
    console.print(report(problem, ways, found[0]))
    console.print(f"The last row is the Lasso of strength {STRENGTH} / {scale:.2f}.")
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    figure.suptitle("Clipping bounds the steps; it makes no zeros, the penalty does")
    paths, loss, weights = figure.subplots(1, 3)
    draw_paths(paths)
    draw_loss(loss, problem, found[0])
    draw_weights(weights, problem, found[0])
    save(figure, arguments.out)


if __name__ == "__main__":
    main()
