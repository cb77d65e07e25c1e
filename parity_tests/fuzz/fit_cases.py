"""The calls of the fuzz: what fits a model to all data."""

from collections.abc import Callable
from typing import Any

import matplotlib.figure
import numpy as np

from parity_tests.frameworks.twin import Twin
from parity_tests.fuzz.rules import (
    COUNTED,
    SHARE,
    STEPS,
    TOL,
    Case,
    choice,
    finite_strength,
    flag,
    integer,
    nothing,
    real,
)
from parity_tests.fuzz.training_cases import params


def full_batch(twin: Twin) -> dict[str, Case]:
    """Return the calls that minimise a loss of one's own by name."""
    lib = twin.lib
    X, y = (twin.array(a) for a in _data())

    def loss(params: Any) -> Any:
        try:
            return ((X @ params["w"] + params["b"] - y) ** 2).mean() / 2
        except Exception as error:  # of a loss that is not made for them
            raise TypeError(f"the loss does not take these params: {error}") from None

    def problem(**more: Any) -> Callable[[], dict[str, Any]]:
        return lambda: (
            {
                "loss": loss,
                "params": params(twin),
                "mask": None,
                "tol": 1e-6,
                "max_iterations": 200,
            }
            | {name: make() for name, make in more.items()}
        )

    kinds = {"loss": None, "params": None, "mask": None} | TOL
    path_kinds = {
        "strengths": None,
        "penalty": nothing,
        "warm_start": flag,
        "vectorised": lambda value: None if flag(value) else False,
        "optimizer": None,
        "steps": None,
    }
    path = lib.regularisation_path(loss, params(twin), [0.1, 0.01])

    def small(**arguments: Any) -> Any:
        return lib.regularisation_path(**arguments)

    return {
        "solve": Case(
            lib.solve,
            problem(strength=lambda: 0.1, penalty=lib.l1),
            kinds | {"strength": finite_strength, "penalty": nothing},
        ),
        "refit": Case(lib.refit, problem(), kinds),
        "lambda_max": Case(
            lib.lambda_max, problem(penalty=lib.l1), kinds | {"penalty": nothing}
        ),
        "regularisation_path": Case(
            small, problem(strengths=lambda: [0.1, 0.01]), kinds | path_kinds
        ),
        "regularisation_path counted": Case(
            small, problem(count=lambda: 2, ratio=lambda: 0.1), COUNTED
        ),
        "RegularisationPath.at": Case(path.at, lambda: {"index": 0}, {"index": None}),
        "RegularisationPath.best": Case(
            path.best, lambda: {"score": [0.0, 1.0]}, {"score": None}
        ),
    }


def linear(twin: Twin) -> dict[str, Case]:
    """Return the calls for linear models by name."""
    lib = twin.lib
    X, y = _data()

    def base(**more: Any) -> Callable[[], dict[str, Any]]:
        data = {
            "X": twin.array(X),
            "y": twin.array(y),
        }
        return lambda: data | more

    data = {"X": None, "y": None}
    settings = {
        "loss": choice,
        "penalty": nothing,
        "fit_intercept": flag,
        "method": choice,
    } | TOL
    path = lib.linear_path(twin.array(X), twin.array(y), [0.1, 0.01])
    by_class = lib.linear_path(
        twin.array(X), np.arange(12) % 3, [0.1, 0.01], loss="multinomial"
    )

    def plot(**arguments: Any) -> None:
        figure = matplotlib.figure.Figure()
        if "axes" not in arguments:
            arguments["axes"] = figure.subplots(2, 1)
        lib.plot_path(**arguments)

    return {
        "solve_linear": Case(
            lib.solve_linear,
            base(strength=0.1),
            data | settings | {"strength": finite_strength, "init": None},
        ),
        "linear_path": Case(
            lib.linear_path,
            base(strengths=[0.1, 0.01]),
            data | settings | {"strengths": None},
        ),
        "linear_path counted": Case(lib.linear_path, base(count=2, ratio=0.1), COUNTED),
        "keep_features": Case(
            lib.keep_features,
            base(k=2, count=3, ratio=0.01),
            data | settings | COUNTED | {"k": integer(0, 3)},
        ),
        "cross_validate": Case(
            lib.cross_validate,
            base(strengths=[0.1, 0.01], folds=3),
            data
            | settings
            | {"strengths": None, "folds": None, "rule": choice, "shuffle": None},
        ),
        "cross_validate counted": Case(
            lib.cross_validate, base(count=2, ratio=0.1, folds=3), COUNTED
        ),
        "duality_gap": Case(
            lib.duality_gap,
            lambda: {
                "X": twin.array(X),
                "y": twin.array(y),
                "coef": twin.array([0.9, 0.0, -0.4]),
                "strength": 0.1,
            },
            data
            | {
                "coef": None,
                "strength": finite_strength,
                "intercept": None,
                "loss": choice,
                "penalty": nothing,
            },
        ),
        "information_criterion": Case(
            lib.information_criterion,
            lambda: {"path": path, "n": 12, "gamma": 0.5},
            {
                "path": choice,
                "n": integer(1, STEPS),
                "kind": choice,
                "loss": choice,
                "noise_variance": real(0, np.inf, "low high", none=True),
                "gamma": SHARE,
            },
        ),
        "plot_path": Case(
            plot,
            lambda: {"path": path},
            {
                "path": choice,
                "strength": real(0, np.inf, "low high", none=True),
                "labels": None,
                "classes": None,
                "params": None,
                "named": integer(0),
                "axes": None,
            },
        ),
        "plot_path of classes": Case(
            plot, lambda: {"path": by_class}, {"labels": None, "classes": None}
        ),
    }


def _data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12, 3))
    return X, X @ np.array([1.0, 0.0, -0.5]) + 0.1 * rng.standard_normal(12)
