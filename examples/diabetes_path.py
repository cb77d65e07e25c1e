"""A regularisation path on real data, and three ways to choose from it.

    python examples/diabetes_path.py

takes diabetes with the products of its features (442 rows, 64 columns), fits the Lasso
at 100 strengths in JAX and in torch, holds every coefficient against scikit-learn's
`lasso_path`, and chooses a strength by cross-validation (beside `LassoCV`), by BIC
(beside the same of scikit-learn's path) and by "keep 10 features". It draws
diabetes_path.png beside this file, or what --out says.
"""

import math
from types import ModuleType
from typing import Any

import jax
import numpy as np
from rich.progress import track
from sklearn.linear_model import LassoCV, lasso_path

import l1jax
from common import FRAMEWORKS, command_line, save
from data import diabetes_with_products

EXACT = 1e-10  # of the duality gap, relative: to be held against scikit-learn
METHOD = "working_set"  # quicker than the default to so small a gap


def choose(lib: ModuleType, X: Any, y: Any) -> dict[str, Any]:
    """Fit the path, and choose from it, by one library."""
    path = lib.linear_path(X, y, tol=EXACT, method=METHOD)
    bic = path.best(-lib.information_criterion(path, n=len(y)))
    return {
        "path": path,
        "folds": lib.cross_validate(X, y, path.strengths, method=METHOD),
        "bic": (bic.strength, int(path.nnz[bic.index])),
        "ten": lib.keep_features(X, y, 10, method=METHOD),
    }


def bic_of_scikit_learn(X: np.ndarray, y: np.ndarray, alphas: np.ndarray) -> float:
    """Return the strength of the least BIC on scikit-learn's path."""
    coef = lasso_path(X, y, alphas=alphas, tol=1e-14, max_iter=1_000_000)[1]
    squares = ((y[:, None] - X @ coef) ** 2).sum(0)
    n = len(y)
    scores = n * np.log(squares / n) + math.log(n) * np.count_nonzero(coef, axis=0)
    return float(alphas[scores.argmin()])


def report(
    found: dict[str, dict[str, Any]], X: np.ndarray, y: np.ndarray, names: list[str]
) -> None:
    """Print what both found, beside scikit-learn; raise where they differ."""
    paths = [one["path"] for one in found.values()]
    alphas = paths[0].strengths
    theirs = lasso_path(X, y, alphas=alphas, tol=1e-14, max_iter=1_000_000)[1].T
    cv = LassoCV(alphas=alphas, cv=5, tol=1e-9, max_iter=1_000_000).fit(X, y)
    print(f"{'':34}{'JAX':>14}{'torch':>14}{'scikit-learn':>14}")

    def row(text: str, ours: list[Any], reference: str = "") -> None:
        print(f"{text:34}" + "".join(f"{x!s:>14}" for x in (*ours, reference)))
        if ours[0] != ours[1]:
            raise AssertionError(f"the twins differ: {text}: {ours}")

    errors = [np.abs(np.asarray(path.params["coef"]) - theirs).max() for path in paths]
    row("strengths, all converged", [len(p) if p.converged.all() else 0 for p in paths])
    row("largest strength", [f"{p.strengths[0]:.6f}" for p in paths])
    within = [error <= 1e-8 for error in errors]
    row("coefficients within 1e-8", within)
    # At the largest strength, where the first feature comes in, rounding decides.
    same = [((np.asarray(p.params["coef"]) == 0) == (theirs == 0))[1:] for p in paths]
    row("same zeros", [bool(zeros.all()) for zeros in same])
    if not all(within):
        raise AssertionError(f"coefficients differ from lasso_path's by {errors}")
    folds = [one["folds"] for one in found.values()]
    row(
        "5-fold CV, smallest mean loss",
        [f"{one.strength_min:.6f}" for one in folds],
        f"{cv.alpha_:.6f}",
    )
    kept = [np.count_nonzero(np.asarray(one.solution.coef)) for one in folds]
    row("  coefficients", kept, str(np.count_nonzero(cv.coef_)))
    row(
        "  mean squared error",
        [f"{2 * one.mean.min():.6f}" for one in folds],
        f"{cv.mse_path_.mean(1).min():.6f}",
    )
    row(
        "5-fold CV, one standard error", [f"{one.strength_one_se:.6f}" for one in folds]
    )
    bic = [one["bic"] for one in found.values()]
    row(
        "BIC",
        [f"{strength:.6f}" for strength, _ in bic],
        f"{bic_of_scikit_learn(X, y, alphas):.6f}",
    )
    row("  coefficients", [count for _, count in bic])
    ten = [one["ten"] for one in found.values()]
    row("keep 10 features", [f"{one.strength:.6f}" for one in ten])
    row("  features", [len(one.features) for one in ten])
    print("the 10 kept:", ", ".join(names[i] for i in ten[0].features))


def main() -> None:
    """Fit, compare, print and draw."""
    out = command_line(__doc__, __file__, frameworks=False).parse_args().out
    jax.config.update("jax_enable_x64", True)
    X, y, names = diabetes_with_products()
    found = {
        name: choose(lib, array(X), array(y))
        for name, lib, array in track(FRAMEWORKS.values(), "fits", transient=True)
    }
    report(found, X, y, names)
    first = found["JAX"]
    figure = l1jax.plot_path(
        first["path"], strength=first["folds"].strength_min, params="coef", labels=names
    )
    figure.suptitle(
        "Lasso on diabetes with products: the weights by strength,\n"
        "and the strength that 5-fold cross-validation chooses"
    )
    save(figure, out)


if __name__ == "__main__":
    main()
