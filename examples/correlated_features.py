"""Of columns that are nearly equal, which does L1 keep, and is that a finding?

    python examples/correlated_features.py
    python examples/correlated_features.py --framework jax --resamples 20

Breast cancer has ten mean columns, three of which measure a cell's size: radius,
perimeter and area, correlated by 0.98 and more. Logistic regression on all ten:

- L1 keeps one of the three at most strengths, and which one changes with the strength.
  Of two such columns alone it is the one that correlates a little more with y;
- on bootstrap resamples it flips: read "radius or perimeter" (at small strengths area,
  too), not "perimeter". The sum of the three is far more stable than their weights are;
- L2 shares the weight among them and has no zeros; the elastic net shares, too, and
  still drops the columns that say nothing.

With a column twice, w1 + w2 is all that the loss and L1 see where the signs agree:
every point between (s, 0) and (0, s) is a solution. Where a solver ends depends on its
start: the same objective, the same predictions, different supports. The elastic net is
strictly convex: one solution, w1 = w2, from every start.
"""

from typing import Any

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
from data import breast_cancer

STRENGTH, RATIO = 0.05, 0.5  # per unit of the mean loss; of L1 in the elastic net
SIZES = {"mean radius": "-", "mean perimeter": "--", "mean area": ":"}
PENALTIES = {"L1": 1.0, "elastic net": RATIO, "L2": 0.0}  # all are elastic_net(r)
STRENGTHS = np.geomspace(0.3, 1e-3, 40)
LEARNING_RATE, STEPS = 1.0, 1500  # of proximal gradient descent, on all rows


def fit_paths(framework: str, X: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Return the weights at all strengths, by penalty."""
    _, lib, array = FRAMEWORKS[framework]
    found, args = {}, {"loss": "logistic", "tol": 1e-11}
    for name, ratio in PENALTIES.items():
        penalty = lib.elastic_net(ratio)
        path = lib.linear_path(array(X), array(y), STRENGTHS, penalty=penalty, **args)
        found[name] = np.asarray(path.params["coef"])
    return found


def check_path(coefs: np.ndarray) -> None:
    """Raise unless L1 keeps one size at most strengths, and each of them at some."""
    inside = coefs[:, :3] != 0
    alone = inside.sum(1) == 1
    if alone.mean() <= 0.5 or not inside[alone].any(0).all():
        raise AssertionError(f"by strength, L1 keeps\n{inside}")


def check_pairs(framework: str, X: np.ndarray, y: np.ndarray) -> None:
    """Raise unless L1 takes the column that correlates more, of every pair alone."""
    _, lib, array = FRAMEWORKS[framework]
    for pair in ([0, 1], [0, 2], [1, 2]):
        best = np.abs([np.corrcoef(X[:, j], y)[0, 1] for j in pair]).argmax()
        columns = array(X[:, pair])
        path = lib.linear_path(columns, array(y), count=20, ratio=0.05, loss="logistic")
        kept = np.asarray(path.params["coef"])[1:] != 0
        if not kept[:, best].all() or kept[:, 1 - best].any():
            raise AssertionError(f"of the pair {pair}, L1 keeps\n{kept}")


def resample(
    framework: str, X: np.ndarray, y: np.ndarray, count: int
) -> dict[str, np.ndarray]:
    """Return the weights at `STRENGTH` on bootstrap resamples, by penalty."""
    label, lib, array = FRAMEWORKS[framework]
    found: dict[str, list[np.ndarray]] = {name: [] for name in PENALTIES}
    for seed in track(range(count), f"{label}: resamples", transient=True):
        rows = np.random.default_rng(seed).integers(0, len(y), len(y))
        for name, ratio in PENALTIES.items():
            fitted = lib.solve_linear(
                array(X[rows]),
                array(y[rows]),
                STRENGTH,
                loss="logistic",
                penalty=lib.elastic_net(ratio),
                tol=1e-9,
            )
            found[name].append(np.asarray(fitted.coef))
    return {name: np.array(coefs) for name, coefs in found.items()}


def check_resamples(coefs: Any, shares: Any) -> None:
    """Raise unless the docstring's words on the resamples hold."""
    if shares["L1"][:2].min() < 0.1 or shares["L1"][:2].max() > 0.9:
        raise AssertionError(f"L1 selects in shares of {shares['L1']}")
    if shares["elastic net"].min() < 1 or (coefs["elastic net"] != 0).all():
        raise AssertionError(f"elastic net: {shares}, or no zeros at all")
    if (coefs["L2"] == 0).any():
        raise AssertionError("zeros under L2")
    sizes = coefs["L1"][:, :3]
    if sizes.sum(1).std() > 0.7 * sizes[:, :2].std(0).min():
        raise AssertionError(f"L1's sum has an sd of {sizes.sum(1).std()}")


def starts() -> np.ndarray:
    """Return initial weights: two solutions of a smaller strength, and random ones."""
    rng = np.random.default_rng(0)
    return np.vstack([[[-2.6, 0], [0, -2.6]], rng.normal(0, 2, (6, 2))])


def end_in_jax(x: np.ndarray, y: np.ndarray, ratio: float) -> np.ndarray:
    """Return w1, w2 and the bias that proximal gradient descent ends at, by start."""
    X, y = jnp.asarray(np.column_stack([x, x])), jnp.asarray(y)
    w = jnp.asarray(starts())
    params = {"w": w, "bias": jnp.zeros(len(w))}
    penalty = l1jax.elastic_net(ratio)
    tx = l1jax.proximal(optax.sgd, LEARNING_RATE, STRENGTH, penalty=penalty)

    def losses(params: Any) -> jax.Array:
        scores = params["w"] @ X.T + params["bias"][:, None]
        loss = (jnp.logaddexp(0.0, scores) - y * scores).mean(1)
        return loss.sum()  # each start has weights of its own: they do not interact

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        updates, state = tx.update(jax.grad(losses)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=STEPS)[0][0])
    found = run((params, tx.init(params)))
    return np.column_stack([found["w"], found["bias"]])


def end_in_torch(x: np.ndarray, y: np.ndarray, ratio: float) -> np.ndarray:
    """The same in torch."""
    X, y = torch.tensor(np.column_stack([x, x])), torch.tensor(y)
    w = torch.tensor(starts(), requires_grad=True)
    bias = torch.zeros(len(w), dtype=w.dtype, requires_grad=True)
    base = torch.optim.SGD([("w", w), ("bias", bias)], lr=LEARNING_RATE)
    optimizer = l1torch.Proximal(base, STRENGTH, penalty=l1torch.elastic_net(ratio))
    for _ in range(STEPS):
        optimizer.zero_grad()
        scores = w @ X.T + bias[:, None]
        loss = (torch.nn.functional.softplus(scores) - y * scores).mean(1)
        loss.sum().backward()
        optimizer.step()
    return np.column_stack([w.detach(), bias.detach()])


def objective(x: np.ndarray, y: np.ndarray, ratio: float, *params: Any) -> Any:
    """Compute the objective of w1, w2 and the bias for a column given twice."""
    w1, w2, bias = (np.asarray(part)[..., None] for part in params)
    scores = (w1 + w2) * x + bias
    loss = (np.logaddexp(0, scores) - y * scores).mean(-1)
    l1, l2 = (abs(w1) + abs(w2))[..., 0], (w1**2 + w2**2)[..., 0] / 2
    return loss + STRENGTH * (ratio * l1 + (1 - ratio) * l2)


def check_ends(
    x: np.ndarray, y: np.ndarray, ends: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the objectives, less the least; raise unless L1's supports differ."""
    above = {}
    for name, found in ends.items():
        values = objective(x, y, PENALTIES[name], *found.T)
        above[name] = values - values.min()
        if above[name].max() > 1e-10:
            raise AssertionError(f"{name}: objectives {values}")
        if np.ptp(found[:, :2].sum(1)) > 1e-6:
            raise AssertionError(f"{name}: the predictions differ: {found}")
    supports = {(w[0] != 0, w[1] != 0) for w in ends["L1"]}
    if len(supports) < 3:
        raise AssertionError(f"L1: the supports are no more than {supports}")
    if np.ptp(ends["elastic net"][:, :2]) > 1e-6:
        raise AssertionError(f"elastic net: {ends['elastic net']}")
    return above


def draw_paths(axes: Axes, name: str, coefs: np.ndarray) -> None:
    """Draw the weights of the three size columns against the strength."""
    for column, (feature, line) in enumerate(SIZES.items()):
        axes.semilogx(STRENGTHS, coefs[:, column], f"k{line}", label=feature)
    axes.axvline(STRENGTH, color="0.7", linewidth=1, zorder=0)
    axes.set_title(name, fontsize=11)
    axes.set(xlabel="strength (per unit of mean loss)", ylim=(-4.2, 0.3))


def draw_shares(axes: Axes, shares: dict[str, np.ndarray]) -> None:
    """Draw how often each size column is selected."""
    styles = {"L1": {"color": "0.25"}, "elastic net": {"color": "0.85", "hatch": "///"}}
    for i, (name, style) in enumerate(styles.items()):
        at = np.arange(len(SIZES)) + 0.38 * (i - 0.5)
        drawn = axes.bar(at, 100 * shares[name], 0.36, label=name, ec="k", **style)
        axes.bar_label(drawn, fmt="%.0f", fontsize=9)
    axes.set_xticks(range(len(SIZES)), [name.split()[1] for name in SIZES])
    axes.set(ylim=(0, 135), ylabel="resamples that select it [%]")
    axes.set_yticks(range(0, 101, 25))
    axes.set_title(f"Selected at strength {STRENGTH:g}", fontsize=11)
    axes.legend(fontsize=9, ncols=2, loc="upper center")


def draw_plane(
    axes: Axes, x: np.ndarray, y: np.ndarray, name: str, ends: np.ndarray
) -> None:
    """Draw the objective over the weights of the column and its copy."""
    axis = np.linspace(-4.5, 4.5, 61)
    w1, w2 = np.meshgrid(axis, axis)
    biases = np.zeros_like(w1)
    for _ in range(20):  # Newton's method, for the best bias of each point
        p = 1 / (1 + np.exp(-((w1 + w2)[..., None] * x + biases[..., None])))
        biases -= (p - y).mean(-1) / np.maximum((p * (1 - p)).mean(-1), 0.02)
    values = objective(x, y, PENALTIES[name], w1, w2, biases)
    levels = values.min() + np.array([0.01, 0.04, 0.1, 0.2, 0.35])
    axes.contour(w1, w2, values, levels, colors="0.55", linewidths=0.9)
    if name == "L1":
        segment = [ends[0, :2].sum(), 0]
        axes.plot(segment, segment[::-1], "0.75", linewidth=5, label="all solutions")
    for start, end in zip(starts(), ends, strict=True):
        axes.plot(*zip(start, end[:2], strict=True), "k:", linewidth=0.8)
    axes.plot(*starts().T, "o", color="k", mfc="w", markersize=5, label="start")
    axes.plot(*ends[:, :2].T, "k*", markersize=8, label="end")
    for line in (axes.axhline, axes.axvline):
        line(0, color="0.8", linewidth=0.6, zorder=0)
    axes.set_title(f"A column twice: {name}", fontsize=11)
    axes.set(xlabel="weight w1", ylabel="weight w2 of its copy", aspect="equal")
    axes.legend(fontsize=9, loc="upper right")


def main() -> None:
    """Compare, print and draw."""
    parser = command_line(__doc__, __file__)
    parser.add_argument("--resamples", type=int, default=60, help="of the bootstrap")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    X, y, names = breast_cancer()
    sizes = [names.index(name) for name in SIZES]
    X = X[:, sizes + [j for j in range(10) if j not in sizes]]  # the sizes first
    x = X[:, 1]  # the column that is given twice
    results = []
    for framework in chosen(arguments.framework):
        end = {"jax": end_in_jax, "torch": end_in_torch}[framework]
        check_pairs(framework, X, y)
        paths = fit_paths(framework, X, y)
        check_path(paths["L1"])
        coefs = resample(framework, X, y, arguments.resamples)
        ends = {name: end(x, y, PENALTIES[name]) for name in ("L1", "elastic net")}
        above = check_ends(x, y, ends)
        results.append((paths, coefs, ends))
    for ours, theirs in zip(results[0], results[-1], strict=True):
        for name, values in ours.items():
            zeros = ((values == 0) == (theirs[name] == 0)).all()
            if not zeros or np.abs(values - theirs[name]).max() > 1e-5:
                raise AssertionError(f"the twins differ under {name}")
    paths, coefs, ends = results[0]
    shares = {name: (found[:, :3] != 0).mean(0) for name, found in coefs.items()}
    check_resamples(coefs, shares)
    single = ((coefs["L1"][:, :3] != 0).sum(1) == 1).mean()
    table = Table(
        "weight of",
        "corr. y",
        "L1",
        "selected",
        "elastic net",
        "selected",
        "L2",
        title=f"Mean ± sd over {arguments.resamples} resamples, strength {STRENGTH:g}",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )

    for j, feature in enumerate([*SIZES, "their sum"]):
        row = [feature, f"{np.corrcoef(X[:, j], y)[0, 1]:.4f}" if j < 3 else ""]
        for name, found in coefs.items():
            values = found[:, j] if j < 3 else found[:, :3].sum(1)
            row.append(f"{values.mean():.2f}±{values.std():.2f}")
            row.append(f"{100 * shares[name][j]:.0f} %" if j < 3 else "")
        table.add_row(*row[:-1])  # L2 selects all
    Console().print(table)
    print(f"L1 keeps just one of the three in {100 * single:.0f} % of the resamples.")
    table = Table(
        "start",
        "L1 ends at",
        "objective - least",
        "elastic net ends at",
        title="A column twice: w1, w2",
        box=box.SIMPLE_HEAD,
    )
    for gap, *pairs in zip(above["L1"], starts(), *ends.values(), strict=True):
        cells = [", ".join(f"{w:.3f}" if w else "0" for w in p[:2]) for p in pairs]
        table.add_row(*cells[:2], f"{gap:.0e}", cells[2])
    Console().print(table)

    figure = Figure(figsize=(10, 7.4), layout="constrained")
    figure.suptitle(
        "Three nearly equal columns: L1 keeps one (which one varies), L2 shares, the "
        "elastic net shares.\nOf a column given twice, L1 has a segment of solutions, "
        "the elastic net one"
    )
    grid = figure.subplots(2, 3)
    for axes, (name, found) in zip(grid[0], paths.items(), strict=True):
        draw_paths(axes, name, found)
    grid[0, 0].set_ylabel("weight (per sd of the column)")
    grid[0, 2].legend(fontsize=9, loc="lower right")
    draw_shares(grid[1, 0], shares)
    for axes, (name, found) in zip(grid[1, 1:], ends.items(), strict=True):
        draw_plane(axes, x, y, name, found)
    save(figure, arguments.out)


if __name__ == "__main__":
    main()
