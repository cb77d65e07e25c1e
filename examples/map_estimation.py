"""L1 as a Laplace prior: which strength belongs to which prior and data size?

    python examples/map_estimation.py
    python examples/map_estimation.py --framework torch --half-width 400

Two weights, of bmi and of age, explain the progression of diabetes from n patients: y =
X w + noise of known standard deviation sigma = 0.8 (y and the columns have variance 1
over all 442). With independent priors w_j ~ Laplace(0, b) the posterior is

    -log p(w | y) = |X w - y|^2 / (2 sigma^2) + |w|_1 / b + constant

which is n / sigma^2 times `1/(2n) |X w - y|^2 + strength * |w|_1` at the strength
sigma^2 / (n b), `sigma**2 * laplace_strength(b, n)`. Two weights are few enough to have
the posterior on a grid, and to see that

- its mode is the solution of L1 at this strength, zeros and all (MAP estimate);
- only the mode is sparse: the posterior mean is not, and the posterior gives a weight
  of exactly zero no probability, so that a zero is no statement that w_j is zero;
- the strength of a fixed prior falls as 1/n: data outvote the prior, and the zeros go.
  Who tunes the strength at each n anew chooses another prior each time;
- a Gaussian prior of standard deviation t is ridge, at the strength sigma^2 / (n t^2).
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import l1jax
from common import FRAMEWORKS, chosen, command_line, save
from data import diabetes

FEATURES = ("bmi", "age")
SIGMA = 0.8  # of the noise, taken for known
SIZES, SCALES = (20, 100, 442), (0.1, 0.05)
WIDTH, SMALL = 1.5, 0.01  # the grid is [-1.5, 1.5]^2; what counts as a small weight
REGIONS = (0.99, 0.9, 0.5)


class Posterior(NamedTuple):
    """A posterior on a grid, and what is read off it."""

    density: np.ndarray
    """On the grid, of sum 1; the first weight varies along the first axis."""
    mode: np.ndarray
    mean: np.ndarray
    small: float
    """The probability that the second weight is smaller than `SMALL`."""


def load(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return X and y of n patients, drawn without replacement."""
    X, y, _ = diabetes(FEATURES)
    rows = np.random.default_rng(0).permutation(len(y))[:n]
    return X[rows], y[rows]


def negative_log(
    X: np.ndarray, y: np.ndarray, prior: str, scale: float, *w: np.ndarray
) -> np.ndarray:
    """Return -log p(w | y) up to a constant, for arrays of the two weights."""
    squares = sum(
        (X.T @ X)[i, j] * w[i] * w[j] for i in range(2) for j in range(2)
    ) - 2 * sum((X.T @ y)[i] * w[i] for i in range(2))
    if prior == "Laplace":
        return squares / (2 * SIGMA**2) + (np.abs(w[0]) + np.abs(w[1])) / scale
    return squares / (2 * SIGMA**2) + (w[0] ** 2 + w[1] ** 2) / (2 * scale**2)


def on_grid(
    X: np.ndarray, y: np.ndarray, prior: str, scale: float, axis: np.ndarray
) -> Posterior:
    """Compute a posterior on the grid `axis` x `axis`, without the library."""
    grid = np.meshgrid(axis, axis, indexing="ij")
    energy = negative_log(X, y, prior, scale, *grid)
    density = np.exp(energy.min() - energy)
    density /= density.sum()
    margins = density.sum(1), density.sum(0)
    if max(margin[[0, -1]].max() for margin in margins) > 1e-9:
        raise AssertionError(f"the grid cuts off the posterior of n={len(y)}")
    step = axis[1] - axis[0]
    ends = np.interp([-SMALL, SMALL], axis + step / 2, np.cumsum(margins[1]))
    # The mode, between the points of the grid: on ever finer grids about the best one.
    mode = np.array([part.flat[energy.argmin()] for part in grid])
    while step > 1e-7:
        fine = [middle + 2 * step * np.linspace(-1, 1, 41) for middle in mode]
        around = np.meshgrid(*fine, indexing="ij")
        best = negative_log(X, y, prior, scale, *around).argmin()
        mode, step = np.array([part.flat[best] for part in around]), step / 10
    mean = np.array([margin @ axis for margin in margins])
    return Posterior(density, mode, mean, float(ends[1] - ends[0]))


def solve(
    framework: str, X: np.ndarray, y: np.ndarray, prior: str, scale: float
) -> tuple[float, np.ndarray]:
    """Return the strength that belongs to the prior, and the library's solution."""
    _, lib, array = FRAMEWORKS[framework]
    if prior == "Laplace":
        strength = SIGMA**2 * lib.laplace_strength(scale, n=len(y))
        penalty = lib.l1()
    else:
        strength = SIGMA**2 / (len(y) * scale**2)
        penalty = lib.elastic_net(0.0)  # half the sum of squares
    found = lib.solve_linear(
        array(X),
        array(y),
        strength,
        penalty=penalty,
        fit_intercept=False,
        tol=1e-14,
    )
    return strength, np.asarray(found.coef)


def check(n: int, post: Posterior, solutions: list[np.ndarray], prior: str) -> None:
    """Raise unless the solutions are the grid's mode, with its zeros."""
    for w in solutions:
        if np.abs(w - post.mode).max() > 1e-5:
            raise AssertionError(f"{prior}, n={n}: solver {w}, grid {post.mode}")
        if ((w == 0) != (post.mode == 0)).any():
            raise AssertionError(f"{prior}, n={n}: other zeros: {w}, {post.mode}")
        if np.abs(w - solutions[0]).max() > 1e-9:
            raise AssertionError(f"{prior}, n={n}: the twins differ: {solutions}")
    if np.abs(post.mean).min() < 1e-3:
        raise AssertionError(f"{prior}, n={n}: a posterior mean of zero: {post.mean}")
    if prior == "Gaussian" and np.abs(post.mean - post.mode).max() > 1e-5:
        raise AssertionError(f"n={n}: mean {post.mean} and mode {post.mode} of L2")


def regions(density: np.ndarray, shares: tuple[float, ...]) -> list[float]:
    """Return the densities above which the given shares of the probability lie."""
    falling = np.sort(density, axis=None)[::-1]
    return [float(falling[np.searchsorted(falling.cumsum(), s)]) for s in shares]


def draw_posterior(axes: Axes, n: int, axis: np.ndarray, post: Posterior) -> None:
    """Draw the regions of the posterior, of the prior, and mode and mean."""
    prior = np.exp(-(np.abs(axis)[:, None] + np.abs(axis)) / SCALES[0])
    prior /= prior.sum()
    grey = {"colors": "0.45", "linestyles": "dashed", "linewidths": 1}
    axes.contour(axis, axis, prior.T, levels=regions(prior, REGIONS), **grey)
    levels = regions(post.density, REGIONS)
    shades = [*levels, post.density.max()]
    axes.contourf(axis, axis, post.density.T, shades, colors=("0.88", "0.75", "0.6"))
    axes.contour(axis, axis, post.density.T, levels, colors="k", linewidths=1)
    for at in (axes.axhline, axes.axvline):
        at(0, color="0.6", linewidth=0.6, zorder=0)
    axes.plot(*post.mode, "k*", markersize=13, mfc="w", label="mode: L1's solution")
    axes.plot(*post.mean, "kx", markersize=8, markeredgewidth=2, label="mean")
    where = "on the axis" if post.mode[1] == 0 else "off the axis"
    axes.set_title(f"n = {n}: the mode is {where}", fontsize=11)
    axes.set(xlim=(-0.5, 0.85), ylim=(-0.5, 0.55), aspect="equal")
    axes.set(xlabel="weight of bmi (sd of y per sd of bmi)", ylabel="weight of age")
    axes.legend(loc="lower right", fontsize=9)


def draw_margin(axes: Axes, axis: np.ndarray, post: Posterior) -> None:
    """Draw the density of the second weight."""
    step = axis[1] - axis[0]
    margin, prior = post.density.sum(0) / step, np.exp(-np.abs(axis) / SCALES[0])
    axes.plot(axis, prior / (2 * SCALES[0]), "--", color="0.45", label="prior")
    axes.plot(axis, margin, "k-", label=f"posterior, n = {SIZES[0]}")
    at = (post.mode[1], post.mean[1])
    for x, marker, text in zip(at, "*x", ("joint mode", "mean"), strict=True):
        y = np.interp(x, axis, margin)
        size, text = (13, text) if marker == "*" else (8, f"{text} {x:.3f}")
        style = {"markersize": size, "markeredgewidth": 1 if marker == "*" else 2}
        axes.plot(x, y, f"k{marker}", mfc="w", label=text, **style)
    axes.set_title(
        f"Exactly zero has no probability: P(|w| < {SMALL:g}) = {post.small:.2f}",
        fontsize=11,
    )
    axes.set(xlim=(-0.5, 0.55), ylim=(0, None))
    axes.set(xlabel="weight of age (sd of y per sd of age)", ylabel="density")
    axes.legend(loc="upper right", fontsize=9)


def draw_strengths(axes: Axes) -> None:
    """Draw the strength that belongs to a prior against the number of samples."""
    sizes = np.geomspace(10, 10_000, 50)
    for scale, line in zip(
        (0.02, *SCALES[::-1], 0.5), ("-", "--", "-.", ":"), strict=True
    ):
        strengths = SIGMA**2 * l1jax.laplace_strength(scale, sizes)
        axes.loglog(sizes, strengths, f"k{line}", linewidth=1.3)
        text = f"b = {scale:g} "
        axes.text(sizes[0], strengths[0], text, ha="right", va="center", fontsize=9)
        if scale in SCALES:
            rows = SIGMA**2 * l1jax.laplace_strength(scale, np.array(SIZES))
            axes.plot(SIZES, rows, "ko", markersize=5)
    axes.set_title("One prior, ever smaller strengths: sigma²/(n b)", fontsize=11)
    axes.set(xlim=(1.5, 1e4), xlabel="samples n (points: the table's rows)")
    axes.set(ylabel="strength (per unit of the mean loss)")


def main() -> None:
    """Compare, print and draw."""
    parser = command_line(__doc__, __file__)
    parser.add_argument(
        "--half-width", type=int, default=600, help="points from 0 to the grid's edge"
    )
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    half = arguments.half_width
    axis = np.arange(-half, half + 1) / half * WIDTH  # with an exact zero
    table = Table(
        "prior",
        "n",
        "strength",
        "L1 or L2",
        "- mode",
        "mean",
        "near 0",
        title="Weights of bmi and age by prior (b, t): the solution of L1 or L2, less\n"
        f"the grid's mode; the posterior's mean; its probability of |age| < {SMALL:g}",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )

    def pair(w: Any) -> str:
        return ", ".join("0" if x == 0 else f"{x:.3f}" for x in w)

    drawn = {}
    t = math.sqrt(2) * SCALES[0]  # the standard deviation of the first Laplace prior
    priors = [("Laplace", scale) for scale in SCALES] + [("Gaussian", t)]
    for prior, scale in track(priors, "priors", transient=True):
        for n in SIZES:
            X, y = load(n)
            post = on_grid(X, y, prior, scale, axis)
            found = [solve(f, X, y, prior, scale) for f in chosen(arguments.framework)]
            check(n, post, [w for _, w in found], prior)
            strength, w = found[0]
            if prior == "Gaussian":
                ridge = X.T @ X + SIGMA**2 / scale**2 * np.eye(2)
                if np.abs(np.linalg.solve(ridge, X.T @ y) - w).max() > 1e-9:
                    raise AssertionError(f"n={n}: not ridge's closed form: {w}")
            name = f"{prior} {scale:.3g}"
            row = (name, str(n), f"{strength:.5f}", pair(w))
            apart = f"{np.abs(w - post.mode).max():.0e}"
            table.add_row(*row, apart, pair(post.mean), f"{post.small:.3f}")
            drawn.setdefault((prior, n), post)
        table.add_section()
    Console().print(table)
    figure = Figure(figsize=(9.4, 7.6), layout="constrained")
    figure.suptitle(
        f"A Laplace prior of scale b = {SCALES[0]} (dashed), its posterior for two n "
        "(regions of 50, 90, 99 % probability):\nsparse is only the mode, and only "
        "as long as data are few"
    )
    grid = figure.subplots(2, 2)
    for axes, n in zip(grid[0], SIZES[:: len(SIZES) - 1], strict=True):
        draw_posterior(axes, n, axis, drawn["Laplace", n])
    draw_margin(grid[1, 0], axis, drawn["Laplace", SIZES[0]])
    draw_strengths(grid[1, 1])
    save(figure, arguments.out)


if __name__ == "__main__":
    main()
