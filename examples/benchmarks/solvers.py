"""What a Lasso costs, certified: our solvers beside scikit-learn and others.

    python examples/benchmarks/solvers.py

The problems are Gaussian, with a correlation of `rho` between neighbouring features, a
hundred true coefficients and noise, at a tenth and a hundredth of the strength at which
all coefficients are zero. Every solver is asked for the loosest tolerance, in powers of
ten, at which its relative duality gap is at most `--gap`; `l1jax.duality_gap` measures
it in double precision, for all solvers alike. A ratio is the median, over turns, of a
solver's time over that of scikit-learn's Lasso just before it: below 1 is faster. The
first call, with compilation, stands apart. celer, skglm and jaxopt are shown if
installed (`pip install ".[benchmarks]"`); jaxopt stops after 2000 steps. Where a gap is
not reached, the ratio would be larger.
"""

import argparse
import importlib
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import Lasso

import l1jax
import l1torch

Solver = Callable[[float], tuple[np.ndarray, float]]
"""Solves at a tolerance; gives coefficients and intercept."""


def problem(n: int, p: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Make features that correlate by `rho ** distance`, and a target."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, p))
    for j in range(1, p):
        X[:, j] = rho * X[:, j - 1] + np.sqrt(1 - rho**2) * X[:, j]
    w = np.zeros(p)
    true = rng.choice(p, min(100, p // 10), replace=False)
    w[true] = rng.choice([-1.0, 1.0], len(true))
    signal, noise = X @ w, rng.normal(size=n)
    return X, signal + noise * np.linalg.norm(signal) / np.linalg.norm(noise) / 3


def solvers(X: np.ndarray, y: np.ndarray, strength: float) -> dict[str, Solver | None]:
    """Return the solvers, with their own copies of the data; None if not installed."""
    ordered = np.asfortranarray(X)  # as coordinate descent wants it
    arrays = jnp.asarray(X), jnp.asarray(y)
    tensors = torch.tensor(X), torch.tensor(y)

    def ours(module: Any, data: Any) -> Solver:
        def solved(tol: float) -> tuple[np.ndarray, float]:
            found = module.solve_linear(*data, strength, tol=tol)
            return np.asarray(found.coef), float(found.intercept)

        return solved

    def theirs(make: Callable[..., Any], **settings: Any) -> Solver:
        def solved(tol: float) -> tuple[np.ndarray, float]:
            model = make(strength, tol=tol, **settings).fit(ordered, y)
            return model.coef_, float(model.intercept_)

        return solved

    def installed(name: str, solver: Callable[[Any], Solver]) -> Solver | None:
        try:
            return solver(importlib.import_module(name))
        except ImportError:
            return None

    def jaxopt_solver(jaxopt: Any) -> Solver:
        centred = arrays[0] - arrays[0].mean(0), arrays[1] - arrays[1].mean()

        def solved(tol: float) -> tuple[np.ndarray, float]:
            descent = jaxopt.ProximalGradient(
                lambda w, X, y: jnp.mean((X @ w - y) ** 2) / 2,
                jaxopt.prox.prox_lasso,
                tol=tol,
                maxiter=2000,
            )
            w = descent.run(jnp.zeros(X.shape[1]), strength, *centred).params
            return np.asarray(w), float(y.mean() - X.mean(0) @ w)

        return solved

    return {
        "scikit-learn Lasso": theirs(Lasso, max_iter=1_000_000),
        "l1jax.solve_linear": ours(l1jax, arrays),
        "l1torch.solve_linear": ours(l1torch, tensors),
        "celer Lasso": installed("celer", lambda celer: theirs(celer.Lasso)),
        "skglm Lasso": installed("skglm", lambda skglm: theirs(skglm.Lasso)),
        "jaxopt ProximalGradient": installed("jaxopt", jaxopt_solver),
    }


def seconds(run: Callable[[], Any]) -> float:
    """Time one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def tuned(
    solve: Solver, measure: Callable[..., Any], gap: float, patience: float
) -> tuple[float, float, Any, int]:
    """Return the first call's time, the tolerance, its gap, the coefficients used."""
    first = seconds(lambda: solve(1e-1))
    for power in range(3, 15):
        start = time.perf_counter()
        coef, intercept = solve(10.0**-power)
        took = time.perf_counter() - start
        found = measure(coef, intercept)
        if found.relative <= gap or took > patience:
            break
    return first, 10.0**-power, found, np.count_nonzero(coef)


def compare(
    X: np.ndarray, y: np.ndarray, strength: float, arguments: Any, title: str
) -> Table:
    """Run all solvers on one problem."""

    def measure(coef: np.ndarray, intercept: float) -> Any:
        return l1jax.duality_gap(X, y, coef, strength, intercept=intercept)

    table = Table(
        "solver", "time, ratio", "first call, ratio", "gap", "nnz", title=title
    )
    baseline = None
    for name, solve in solvers(X, y, strength).items():
        if solve is None or any(word in name for word in arguments.skip):
            table.add_row(name, "not installed" if solve is None else "skipped")
            continue
        first, tol, found, used = tuned(
            solve, measure, arguments.gap, arguments.patience
        )
        baseline = baseline or (lambda solve=solve, tol=tol: solve(tol))
        turns = [
            (seconds(baseline), seconds(lambda solve=solve, tol=tol: solve(tol)))
            for _ in range(arguments.repeats)
        ]
        ratio = statistics.median(b / a for a, b in turns)
        compiled = first / statistics.median(a for a, _ in turns)
        gap = f"{found.relative:.1e}"
        gap += "" if found.relative <= arguments.gap else ", not reached"
        table.add_row(name, f"{ratio:.2f}", f"{compiled:.2f}", gap, str(used))
    return table


def main() -> None:
    """Print the times as ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--features", type=int, default=10_000)
    parser.add_argument("--gap", type=float, default=1e-6)
    parser.add_argument(
        "--patience", type=float, default=30, help="seconds for a solver at most"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rho", type=float, nargs="+", default=[0.5, 0.9])
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1, 0.01])
    parser.add_argument("--skip", nargs="*", default=[], help="parts of names")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")  # of those asked for too little
    console = Console()
    console.print(f"jax {jax.__version__}, torch {torch.__version__}, CPU, float64")
    for rho in arguments.rho:
        X, y = problem(arguments.samples, arguments.features, rho)
        largest = np.abs((y - y.mean()) @ X).max() / len(y)
        for fraction in arguments.fractions:
            title = (
                f"n={len(y):,}, p={X.shape[1]:,}, rho={rho:g}, strength "
                f"{fraction:g} of the largest; median of {arguments.repeats}"
            )
            console.print(compare(X, y, fraction * largest, arguments, title))


if __name__ == "__main__":
    main()
