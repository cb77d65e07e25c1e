"""Which features survive as the strength grows, and does the model predict as well?

    python examples/feature_selection.py
    python examples/feature_selection.py --framework torch --splits 2 --count 15

Two data sets, 70 % of the rows to train, 30 % to test: diabetes with the products of
its features (64 columns, squared loss) and breast cancer (30 columns, logistic loss).
The strengths, the features shown and the choices of cross-validation come from the
training part of the first split. At these strengths three models are fitted to every
split, and their test errors are means over all splits. The other splits test on rows
that the choice has seen: the errors at a choice are a little too good.

- L1: the path's solution itself, whose weights are shrunk;
- refit: the features that L1 kept, fitted once more without the penalty;
- dense: all features, without the penalty (the logistic loss with 1e-5 |w|^2/2, without
  which the dense weights go to infinity; so has its refit).

What to see: few features do most of the work, and a feature that came in may leave
again when others say the same together. At large strengths L1 errs by its shrinkage,
and the refit takes that back; at small ones the shrinkage is what helps, and the refit
overfits as the dense model does. Where many columns are noise (the products), L1
predicts better than the dense model. Where rows are many for the columns (breast
cancer), it predicts about as well, from fewer columns. Cross-validation looks for the
best prediction, not for the true features; "one standard error" (SE) keeps fewer.
"""

import argparse
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.linear_model import lasso_path
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from common import FRAMEWORKS, Framework, chosen, command_line, save
from data import Split, breast_cancer, diabetes_with_products

RATIO, TOL = 3e-3, 1e-10  # of the path: smallest to largest strength; duality gap
# The strength of w^2/2 in refits. The logistic loss needs some: it has no minimum once
# the features tell all classes apart, as all 30 do (the weights go to infinity).
UNPENALISED = {"squared": 0.0, "logistic": 1e-5}
SHOWN = 12  # features by name in the figure
LINES = {"L1": "k-o", "refit": "k--s", "dense": "k:"}


class Task(NamedTuple):
    """A data set, the loss to fit it by, and what its test error is called."""

    title: str
    X: np.ndarray
    y: np.ndarray
    names: list[str]
    loss: str
    error: str


def tasks() -> list[Task]:
    """Load both."""
    return [
        Task(
            "Diabetes with products",
            *diabetes_with_products(),
            "squared",
            "mean squared error / variance",
        ),
        Task("Breast cancer", *breast_cancer(), "logistic", "wrong classes [%]"),
    ]


def split(task: Task, seed: int) -> Split:
    """Take 70 % of the rows for training, and scale by these alone."""
    classes = task.y if task.loss == "logistic" else None
    X, X_test, y, y_test = train_test_split(
        task.X, task.y, test_size=0.3, random_state=seed, stratify=classes
    )
    scaler = StandardScaler().fit(X)
    X, X_test = scaler.transform(X), scaler.transform(X_test)
    if classes is None:
        y, y_test = (y - y.mean()) / y.std(), (y_test - y.mean()) / y.std()
    return Split(X, y, X_test, y_test)


def error(task: Task, data: Split, kept: Any, coef: Any, intercept: Any) -> float:
    """Return a linear model's test error, in the units of `task.error`."""
    scores = data.X_test[:, kept] @ np.asarray(coef) + np.asarray(intercept)
    if task.loss == "logistic":
        return 100 * float(((scores > 0) != data.y_test).mean())
    return float(((scores - data.y_test) ** 2).mean() / data.y_test.var())


def index(strengths: np.ndarray, folds: list[Any], rule: str) -> int:
    """Return where the chosen strength stands; raise unless the twins chose one."""
    found = {int(np.argmin(np.abs(strengths - getattr(one, rule)))) for one in folds}
    if len(found) > 1:
        raise AssertionError(f"cross-validation: {rule} differs: {found}")
    return found.pop()


def test_errors(
    framework: Framework, task: Task, data: Split, strengths: np.ndarray
) -> np.ndarray:
    """Return the test errors of L1, refit and dense at every strength."""
    _, lib, array = framework
    X, y = array(data.X), array(data.y)
    path = lib.linear_path(X, y, strengths, loss=task.loss, method="working_set")
    known: dict[bytes, float] = {}

    def refitted(kept: np.ndarray) -> float:
        """Fit a model to some of the columns, without the L1 penalty."""
        if kept.tobytes() not in known:
            found = lib.solve_linear(
                array(data.X[:, kept]),
                y,
                UNPENALISED[task.loss],
                loss=task.loss,
                penalty=lib.elastic_net(0.0),
            )
            known[kept.tobytes()] = error(task, data, kept, *found[:2])
        return known[kept.tobytes()]

    coefs = np.asarray(path.params["coef"])
    everything = np.full(path.size, True)
    rows = []
    for coef, intercept in zip(coefs, path.params["intercept"], strict=True):
        shrunk = error(task, data, everything, coef, intercept)
        # Where no feature is kept, L1 has nothing but the intercept already.
        again = refitted(coef != 0) if coef.any() else shrunk
        rows.append((shrunk, again, refitted(everything)))
    return np.array(rows).T


def check_path(task: Task, data: Split, paths: list[Any]) -> None:
    """Raise unless the twins agree with each other and with what is known besides."""
    X, y, strengths = data.X, data.y, paths[0].strengths
    coefs = [np.asarray(path.params["coef"]) for path in paths]
    if task.loss == "squared":
        known = lasso_path(X, y, alphas=strengths, tol=1e-14, max_iter=1_000_000)[1].T
        coefs.append(known)
    # At the largest strength, where the first feature comes in, rounding decides.
    for coef in coefs[1:]:
        if ((coef == 0) != (coefs[0] == 0))[1:].any():
            raise AssertionError(f"{task.title}: supports differ")
        if np.abs(coef - coefs[0]).max() > 1e-6:
            raise AssertionError(f"{task.title}: coefficients differ")
    for path, coef in zip(paths, coefs, strict=False):
        scores = coef @ X.T + np.asarray(path.params["intercept"])[:, None]
        predicted = 1 / (1 + np.exp(-scores)) if task.loss == "logistic" else scores
        grads = (predicted - y) @ X / len(y)
        at = strengths[:, None]
        off = np.where(coef, grads + at * np.sign(coef), np.maximum(abs(grads) - at, 0))
        free = (predicted - y).mean(1)  # of the intercept, which is not penalised
        if (worst := max(np.abs(off).max(), np.abs(free).max())) > 1e-6:
            raise AssertionError(f"{task.title}: KKT residual {worst}")


def check_refit(lib: ModuleType, array: Any, data: Split, solution: Any) -> None:
    """Raise unless `refit`, the way for any model, is least squares on the support."""
    X, y = array(data.X), array(data.y)

    def loss(params: Any) -> Any:
        return ((X @ params["coef"] + params["intercept"] - y) ** 2).mean() / 2

    start = {"coef": solution.coef, "intercept": solution.intercept}
    coef = np.asarray(lib.refit(loss, start, tol=1e-9).params["coef"])
    kept = np.asarray(solution.coef) != 0
    known = np.linalg.lstsq(data.X[:, kept], data.y, rcond=None)[0]  # all is centred
    if coef[~kept].any() or np.abs(coef[kept] - known).max() > 1e-6:
        raise AssertionError(f"refit {coef[kept]}, least squares {known}")


def check_claims(
    task: Task, kept: Any, errors: Any, at: int, arguments: argparse.Namespace
) -> None:
    """Raise unless the docstring's words hold; few splits are too noisy to tell.

    `at` is where the strength stands that cross-validation chose, for the least loss.
    """
    if arguments.splits < 8 or arguments.count < 30:
        return
    shrunk, again, dense = errors
    few = (kept >= 2) & (kept <= 3)
    if not few.any():
        raise AssertionError(f"{task.title}: no strength keeps 2 or 3 features: {kept}")
    if (again[few] >= shrunk[few]).any() or again[-1] <= shrunk[-1]:
        raise AssertionError(f"{task.title}: refit {again}, L1 {shrunk}")
    # At that strength, and not at the best one on the test rows, which nobody knows.
    gain = 0.9 if task.loss == "squared" else 1.15
    if shrunk[at] > gain * dense[0]:
        raise AssertionError(f"{task.title}: L1 {shrunk[at]}, dense {dense[0]}")


def draw_features(axes: Axes, task: Task, path: Any, order: list[int]) -> None:
    """Draw from which strength to which each feature is in the model."""
    axes.set_xscale("log")
    coef = np.asarray(path.params["coef"])
    logs = np.log(path.strengths)
    edges = np.exp(logs[0] + (np.arange(len(path) + 1) - 0.5) * (logs[1] - logs[0]))
    for row, feature in enumerate(order):
        for sign, style in ((1, {"facecolor": "0.3"}), (-1, {"hatch": "////"})):
            inside = np.sign(coef[:, feature]) == sign
            spans = [
                (edges[i + 1], edges[i] - edges[i + 1]) for i in np.flatnonzero(inside)
            ]
            axes.broken_barh(spans, (row - 0.35, 0.7), **{"facecolor": "0.85"} | style)
    axes.set_yticks(range(len(order)), [task.names[i] for i in order], fontsize=9)
    axes.set_ylim(len(order) - 0.5, -0.5)
    shown = np.linspace(1, len(path) - 1, 6).round().astype(int)
    top = axes.secondary_xaxis("top")
    top.set_xticks(path.strengths[shown], [str(path.nnz[i]) for i in shown])
    top.set_xlabel("number of features kept", fontsize=9)
    top.xaxis.set_minor_locator(NullLocator())
    axes.set_title(f"{task.title}, {len(task.names)} columns", fontsize=11)


def draw_errors(axes: Axes, task: Task, strengths: np.ndarray, errors: Any) -> None:
    """Draw the test errors of the three models."""
    for (name, line), values in zip(LINES.items(), errors, strict=True):
        axes.plot(strengths, values, line, label=name, markersize=4)
    low, high = errors[:, 1:].min(), np.median(errors[0]) * 2
    axes.set(ylim=(0.9 * low, min(high, 1.05 * errors.max())))
    axes.set(xlabel="strength (per unit of the mean loss)", ylabel=task.error)


def main() -> None:
    """Fit, compare, print and draw."""
    parser = command_line(__doc__, __file__)
    parser.add_argument("--splits", type=int, default=8, help="to average over")
    parser.add_argument("--count", type=int, default=30, help="of strengths")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    frameworks = [FRAMEWORKS[name] for name in chosen(arguments.framework)]
    table = Table(
        "",
        "strength",
        "features",
        "L1",
        "refit",
        "choice",
        title=f"Test errors (mean of {arguments.splits} splits): squared error over "
        "variance,\nwrong classes in percent; strength, features, choice: of the first",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    figure = Figure(figsize=(10, 8), layout="constrained")
    grid = figure.subplots(2, 2, sharex="col", height_ratios=(1.3, 1))
    told = []
    for task, column in zip(tasks(), grid.T, strict=True):
        data = split(task, seed=0)
        args = {"loss": task.loss, "method": "working_set"}
        paths, folds, kept = [], [], []
        for _, lib, array in track(frameworks, task.title, transient=True):
            X, y = array(data.X), array(data.y)
            limits = {"count": arguments.count, "ratio": RATIO, "tol": TOL}
            path = lib.linear_path(X, y, **limits, **args)
            paths.append(path)
            folds.append(lib.cross_validate(X, y, path.strengths, **args))
            kept.append(lib.keep_features(X, y, 5, **args).features.tolist())
            if task.loss == "squared":
                check_refit(lib, array, data, folds[-1].solution)
        check_path(task, data, paths)
        if kept[0] != kept[-1]:
            raise AssertionError(f"keep_features differ: {kept}")
        path, strengths = paths[0], paths[0].strengths
        seeds = track(range(arguments.splits), "splits", transient=True)
        splits = (split(task, seed) for seed in seeds)
        errors = [test_errors(frameworks[0], task, one, strengths) for one in splits]
        errors = np.mean(errors, 0)
        choices = {
            "two": int(np.argmax(path.nnz >= 2)),
            "five or more": int(np.argmax(path.nnz >= 5)),
            "CV, 1 SE": index(strengths, folds, "strength_one_se"),
            "CV, least loss": index(strengths, folds, "strength_min"),
        }
        digits = 1 if task.loss == "logistic" else 3
        for i, (choice, at) in enumerate(choices.items()):
            cells = [f"{x:.{digits}f}" for x in errors[:2, at]]
            name, count = "" if i else task.title, str(path.nnz[at])
            table.add_row(name, f"{strengths[at]:.4f}", count, *cells, choice)
        dense = f"{errors[2, 0]:.{digits}f}"
        table.add_row("", "0", str(path.size), "", dense, "dense")
        table.add_section()
        check_claims(task, path.nnz, errors, choices["CV, least loss"], arguments)
        coef = np.asarray(path.params["coef"])
        entry = np.where((coef != 0).any(0), (coef != 0).argmax(0), len(path))
        order = np.argsort(entry, kind="stable")[:SHOWN].tolist()
        for what, which in (("in order", order[:6]), ("keep_features(5)", kept[0])):
            names = ", ".join(task.names[i] for i in which)
            told.append(f"{task.title}, {what}: {names}")
        draw_features(column[0], task, path, order)
        draw_errors(column[1], task, strengths, errors)
        for rule, line in (("1 SE", "-."), ("least loss", "-")):
            at = strengths[choices[f"CV, {rule}"]]
            style = {"color": "0.5", "zorder": 0, "label": f"cross-validation, {rule}"}
            for axes in column:
                axes.axvline(at, linestyle=line, **style)
    grid[1, 0].legend(fontsize=9, loc="upper left", bbox_to_anchor=(0, 1.0))
    figure.suptitle(
        "Which features survive as the strength grows (first split; dark: weight > 0, "
        f"hatched: < 0),\nand the test error of three models (mean of "
        f"{arguments.splits} splits)"
    )
    Console().print(table)
    print("\n".join(told))
    save(figure, arguments.out)


if __name__ == "__main__":
    main()
