"""What do penalties look like? Diamonds, discs, and why corners make zeros.

    python examples/geometry.py
    python examples/geometry.py --framework torch

Least squares on two columns of diabetes, body mass index and blood glucose. All have
mean 0 and variance 1: a weight is in standard deviations of the target per standard
deviation of its column [sd/sd]. Every penalty is solved in two forms:

- penalised: minimise `loss + strength * penalty(w)`, by `solve`;
- constrained: minimise the loss where `penalty(w) <= radius`, for L1 by `l1_ball`.

Both have the same solution if the radius is the penalty of the penalised one (for L1:
`implied_radius`). There the ball touches a contour of the loss. L1's ball has corners
on the axes, and for a whole range of strengths a contour touches it first at one: w2 is
exactly 0. L2's ball is round, and at no strength is a weight 0. The elastic net's
corners are blunter, and take more strength. One group of both weights, `|w|_2`, has
L2's ball, and so the same solutions at other strengths; but it has a kink at w = 0, and
from a finite strength on both weights are 0, never one alone.

The strengths are such that all four solutions lie on one contour of the loss.
"""

from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.progress import track
from scipy.optimize import minimize
from sklearn.linear_model import ElasticNet, Lasso, Ridge

from common import FRAMEWORKS, Framework, chosen, command_line, save
from data import diabetes

COLUMNS = ("bmi", "s6")
RATIO = 0.3  # of the elastic net: the share of L1
SHOWN = {"L1": 0.3, "elastic net": 0.69, "L2": 1.66, "one group": 0.387}  # strengths
STRENGTHS = np.geomspace(2.2, 0.04, 60)  # of the paths
TOL = 1e-12  # of the solvers' residual


def penalty_of(name: str, lib: ModuleType) -> Any:
    """Return the library's penalty."""
    return {
        "L1": lib.l1(),
        "elastic net": lib.elastic_net(RATIO),
        "L2": lib.elastic_net(0.0),
        "one group": lib.group_l1(scale_by_size=False),
    }[name]


def value_of(name: str, a: Any, b: Any) -> Any:
    """Return the penalty of the weights (a, b) by its formula, in NumPy."""
    l1, l2 = abs(a) + abs(b), (a * a + b * b) / 2
    return {
        "L1": l1,
        "elastic net": RATIO * l1 + (1 - RATIO) * l2,
        "L2": l2,
        "one group": np.sqrt(2 * l2),
    }[name]


class Found(NamedTuple):
    """What one library finds for one penalty; weights are arrays of (w1, w2)."""

    penalised: np.ndarray
    radius: float
    constrained: np.ndarray | None
    """By `l1_ball`, for L1."""
    path: np.ndarray
    """The penalised solutions at `STRENGTHS`."""
    top: float
    """The strength from which on both weights are zero."""


def fit(name: str, framework: Framework, X: np.ndarray, y: np.ndarray) -> Found:
    """Solve both forms, and the path, by one library."""
    lib, X, y = framework.lib, framework.array(X), framework.array(y)
    start = {"w": framework.array(np.zeros(2))}
    penalty = penalty_of(name, lib)

    def loss(params: Any) -> Any:
        return ((X @ params["w"] - y) ** 2).mean() / 2

    found = lib.solve(loss, start, SHOWN[name], penalty=penalty, tol=TOL).params
    radius = float(lib.penalty_value(found, 1.0, penalty))
    constrained = None
    if name == "L1":
        ball = lib.l1_ball(float(lib.implied_radius(found)))
        # The strength of a constraint has no effect.
        constrained = lib.solve(loss, start, 1.0, penalty=ball, tol=TOL).params["w"]
        constrained = np.asarray(constrained)
    path = lib.regularisation_path(loss, start, STRENGTHS, penalty=penalty, tol=TOL)
    weights = np.asarray(path.params["w"])
    top = float(lib.lambda_max(loss, start, penalty=penalty))
    return Found(np.asarray(found["w"]), radius, constrained, weights, top)


class Quadratic(NamedTuple):
    """The loss `1/2 mean (X w - y)^2` by its second moments, in NumPy."""

    H: np.ndarray
    c: np.ndarray
    constant: float

    def __call__(self, a: Any, b: Any) -> Any:
        """Return the loss at (a, b), elementwise."""
        (h11, h12), (_, h22) = self.H
        curved = (h11 * a * a + 2 * h12 * a * b + h22 * b * b) / 2
        return curved - self.c[0] * a - self.c[1] * b + self.constant

    def minimum(self) -> np.ndarray:
        """Return the least-squares solution."""
        return np.linalg.solve(self.H, self.c)


def in_ball(name: str, loss: Quadratic, radius: float) -> np.ndarray:
    """Minimise the loss in the ball by SciPy, from the least-squares solution."""
    ball = {"type": "ineq", "fun": lambda w: radius - value_of(name, *w)}
    options = {"method": "SLSQP", "constraints": ball, "tol": 1e-15}
    return minimize(lambda w: loss(*w), loss.minimum(), **options).x


def reference(name: str, X: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Solve the penalised form by scikit-learn."""
    options = {"fit_intercept": False, "tol": 1e-14, "max_iter": 100_000}
    strength = SHOWN[name]
    # The gradient of |w|_2 is w / |w|_2: that of L2 at the strength 1 / |w|_2.
    models = {
        "L1": Lasso(strength, **options),
        "elastic net": ElasticNet(strength, l1_ratio=RATIO, **options),
        "L2": Ridge(len(y) * strength, fit_intercept=False),
        "one group": Ridge(len(y) * strength / np.hypot(*w), fit_intercept=False),
    }
    return models[name].fit(X, y).coef_


def require(holds: bool, text: str) -> None:
    """Raise where a claim of this file is wrong."""
    if not holds:
        raise AssertionError(text)


def check(
    name: str, runs: list[Found], loss: Quadratic, X: np.ndarray, y: np.ndarray
) -> float:
    """Hold the runs against each other, SciPy and scikit-learn.

    Returns:
      The largest difference of a weight between the two forms.
    """
    first = runs[0]
    w, radius = first.penalised, first.radius
    for run in runs[1:]:
        for ours, theirs in zip(first, run, strict=True):
            same = ours is None or np.allclose(ours, theirs, rtol=0, atol=1e-8)
            require(same, f"{name}: the twins differ: {ours} and {theirs}")
    require(np.isclose(value_of(name, *w), radius, 1e-12), f"{name}: radius {radius}")
    apart = np.abs(reference(name, X, y, w) - w).max()
    require(apart <= 1e-8, f"{name}: {apart} from scikit-learn")
    ends = [in_ball(name, loss, radius)]
    if first.constrained is not None:
        ends.append(first.constrained)
        require(first.constrained[1] == 0, "the corner of the ball is not exact")
    forms = max(np.abs(end - w).max() for end in ends)
    require(forms <= 1e-6, f"{name}: the two forms differ by {forms}")
    require(w[0] != 0 and (w[1] == 0) == (name == "L1"), f"{name}: zeros of {w}")
    zero = first.path == 0
    beyond = first.top < STRENGTHS
    require((zero.all(1) == beyond).all(), f"{name}: all zero from {first.top}")
    alone = (zero[:, 1] & ~zero[:, 0]).any()
    require(alone == (name in ("L1", "elastic net")), f"{name}: zeros of the path")
    return forms


SPAN = ((-0.42, 0.63), (-0.37, 0.41))  # of w1 and w2 in the figure
SOLUTION = {"color": "C3", "marker": "o", "ms": 8, "mec": "0", "ls": "none"}
CROSS = {"color": "0", "marker": "x", "ms": 7, "mew": 2, "ls": "none"}
FORMULAS = {
    "L1": r"$|w|_1 = |w_1| + |w_2|$",
    "elastic net": rf"${RATIO}\;|w|_1 + {(1 - RATIO) / 2}\;|w|_2^2$",
    "L2": r"$0.5\;|w|_2^2$",
    "one group": r"$|w|_2$",
}
# On the ball; by strength, where, and where its arrow ends.
NOTES = {
    "L1": ("a corner:\n$w_2$ = 0", "$w_2$ = 0", (0.95, 0.15), (0.45, 0)),
    "elastic net": ("blunt corners:\n$w_2$ > 0", "$w_2$ = 0", (1.4, 0.25), (1.5, 0)),
    "L2": ("no corner:\n$w_2$ > 0", "none is ever 0", (0.6, 0.42), None),
    "one group": ("L2's ball:\n$w_2$ > 0", "both = 0", (1.1, 0.2), (1.4, 0)),
}


def draw_plane(axes: Axes, loss: Quadratic) -> tuple[np.ndarray, np.ndarray]:
    """Draw the plane of the weights with the least-squares solution."""
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=1)
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=1)
    axes.plot(*loss.minimum(), **CROSS, label="least squares (strength 0)")
    ticks = (-0.2, 0, 0.2, 0.4, 0.6)
    axes.set(xlim=SPAN[0], ylim=SPAN[1], xticks=ticks, yticks=ticks[:-1])
    axes.set_aspect("equal")
    return tuple(np.meshgrid(*(np.linspace(*ends, 401) for ends in SPAN)))


def draw(column: np.ndarray, name: str, found: Found, loss: Quadratic) -> None:
    """Draw one penalty: constrained, penalised, and by strength."""
    ball, both, path = column
    w, least, strength = found.penalised, loss(*loss.minimum()), SHOWN[name]
    on_ball, on_path, text, end = NOTES[name]
    grid = draw_plane(ball, loss)
    losses, values = loss(*grid), value_of(name, *grid)
    ball.contourf(*grid, values, levels=[0, found.radius], colors="0.87")
    ball.contour(*grid, values, levels=[found.radius], colors="0", linewidths=1.8)
    shares = (0.1, 0.4, 1, 1.9)  # of the excess of the solution's loss
    levels = [least + share * (loss(*w) - least) for share in shares]
    widths = [2.2 if share == 1 else 0.8 for share in shares]
    ball.contour(*grid, losses, levels=levels, colors="C0", linewidths=widths)
    ball.plot(*w, **SOLUTION, label="solution")
    ball.text(-0.4, 0.39, on_ball, fontsize=9, va="top")
    title = f"{name}\n{FORMULAS[name]} $\\leq$ {found.radius:.3f}"
    ball.set_title(title, fontsize=10)

    draw_plane(both, loss)
    lowest = loss(*w) + strength * found.radius
    levels = [lowest + above for above in (0.004, 0.02, 0.06, 0.13)]
    sums = losses + strength * values
    both.contour(*grid, sums, levels=levels, colors="C0", linewidths=0.8)
    both.plot(
        *np.vstack([found.path, loss.minimum()]).T,
        color="0",
        linewidth=2.2,
        label="solutions, as the strength falls to 0",
    )
    both.plot(*w, **SOLUTION)
    both.set_title(f"loss + {strength:g} · penalty", fontsize=10)

    radii = value_of(name, *found.path.T)
    path.plot(STRENGTHS, radii, color="0.7", linewidth=4, label="radius")
    for weights, line, label in zip(found.path.T, ("-", "--"), "12", strict=True):
        path.plot(STRENGTHS, weights, line, color="0", label=f"$w_{label}$")
    path.axvline(strength, color="C3", linestyle=":")
    path.plot([strength] * 2, w, **SOLUTION)
    path.set(xlim=(0, 2.2), ylim=(-0.025, 0.62), xlabel="strength, units of the loss")
    arrow = end and {"arrowstyle": "->"}
    path.annotate(on_path, end or text, text, arrowprops=arrow, fontsize=9)


def main() -> None:
    """Solve, check, print and draw."""
    parser = command_line(__doc__, __file__)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    X, y, _ = diabetes(COLUMNS)
    loss = Quadratic(X.T @ X / len(y), X.T @ y / len(y), (y @ y) / len(y) / 2)
    keys = chosen(arguments.framework)
    figure = Figure(figsize=(10, 7.4), layout="constrained")
    grid = figure.subplots(3, 4, sharex="row", sharey="row", height_ratios=(1, 1, 0.8))
    rows, losses = [], []
    for name, column in zip(track(SHOWN, transient=True), grid.T, strict=True):
        runs = [fit(name, FRAMEWORKS[key], X, y) for key in keys]
        apart = check(name, runs, loss, X, y)
        w, radius, *_, top = runs[0]
        losses.append(loss(*w))
        numbers = [f"{x:.3f}" if x else "0" for x in (SHOWN[name], radius, *w, top)]
        numbers = "".join(f"{x:>9}" for x in numbers)
        rows.append(f"{name:12}{numbers}{np.count_nonzero(w == 0):>7}{apart:>13.0e}")
        draw(column, name, runs[0], loss)
    require(np.ptp(losses) <= 1e-3 * losses[0], f"the losses differ: {losses}")
    libraries = " and ".join(FRAMEWORKS[key].name for key in keys)
    print(f"{libraries}; loss {losses[0]:.3f} in each row; both weights are 0 from:")
    print(
        "penalty      strength   radius       w1       w2   0 from  zeros  forms apart"
    )
    print(*rows, sep="\n")
    for axes, text in zip(grid[:2, 0], ("constrained", "penalised"), strict=True):
        axes.set_ylabel(f"{text}\n$w_2$, glucose [sd/sd]", fontsize=9)
    grid[2, 0].set_ylabel("weights [sd/sd],\nradius", fontsize=9)
    for axes in grid[1]:
        axes.set_xlabel("$w_1$, body mass index [sd/sd]", fontsize=9)
    grid[2, 0].legend(frameon=False, fontsize=9, loc="upper right")
    figure.suptitle(
        "Corners make zeros. Constrained to L1's ball, the loss (bold contour: the "
        "same in all\ncolumns) is least at a corner, where $w_2$ is exactly 0. "
        "Penalised, the minimum is the same."
    )
    lines = [*grid[0, 0].get_lines()[2:], grid[1, 0].get_lines()[3]]
    figure.legend(handles=lines, loc="outside lower center", ncols=3, frameon=False)
    save(figure, arguments.out)


if __name__ == "__main__":
    main()
