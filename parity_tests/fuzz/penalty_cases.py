"""The calls of the fuzz: penalties, their factories and methods."""

from collections.abc import Callable
from typing import Any

import numpy as np

from parity_tests.frameworks.twin import Twin
from parity_tests.fuzz.rules import (
    POSITIVE,
    SHARE,
    Case,
    Rule,
    choice,
    finite_strength,
    flag,
    integer,
    real,
)


def penalties(twin: Twin) -> dict[str, Case]:
    """Return the calls that make penalties by name."""
    lib = twin.lib
    arguments: dict[str, tuple[dict[str, Any], dict[str, Rule | None]]] = {
        "adaptive_l1": (
            {"pilot": twin.array([2.0, 1.0, 0.5, 1.0]), "power": 1.0},
            {"pilot": None, "power": POSITIVE},
        ),
        "weighted_l1": (
            {"weights": twin.array([2.0, 1.0, 0.5, 0.0])},
            {"weights": None},
        ),
        "capped_l1": ({"cap": 1.0}, {"cap": real(1e-18, 1e18)}),
        "elastic_net": ({"l1_ratio": 0.5}, {"l1_ratio": SHARE}),
        "fused_lasso": ({"l1_ratio": 0.5}, {"l1_ratio": SHARE}),
        "l1_ball": (
            {"radius": 1.0, "scope": "array"},
            {"radius": real(0, np.inf, "high"), "scope": choice},
        ),
        "log_sum": ({"epsilon": 0.5}, {"epsilon": real(1e-18, 1e18)}),
        "lp": ({"p": 0.5}, {"p": real(0, 1, "low high")}),
        "mcp": (
            {"scale": 1.0, "gamma": 3.0},
            {"scale": real(1e-18, 1e18), "gamma": real(1, 1e18, "low")},
        ),
        "scad": (
            {"scale": 1.0, "a": 3.7},
            {"scale": real(1e-18, 1e18), "a": real(2, 1e18, "low")},
        ),
        "n_of_m": (
            {"n": 2, "m": 4, "axis": -1},
            {"n": integer(0, 4), "m": None, "axis": None},
        ),
        "owl": (
            {"weights": [3.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]},
            {"weights": None},
        ),
        "slope": ({"q": 0.1}, {"q": real(0, 1, "low high")}),
        "top_k": ({"k": 2, "scope": "tree"}, {"k": integer(0), "scope": choice}),
        "sparse_group_l1": (
            {"l1_ratio": 0.5, "axis": 1, "block": 2, "scale_by_size": True},
            {"l1_ratio": SHARE, "axis": None, "block": None, "scale_by_size": flag},
        ),
        "group_l1": (
            {"axis": 1, "scale_by_size": True},
            {"axis": None, "block": None, "scale_by_size": flag},
        ),
        "group_l1 by name": (
            {"axis": 0, "groups": {"a": [0], "b": [1]}},
            {"axis": None, "groups": None, "block": None, "layouts": None},
        ),
        "group_l1 by unit": (
            {"groups": "output", "layouts": {"w.kernel": "io"}},
            {"axis": None, "groups": None, "block": None, "layouts": None},
        ),
    }
    return {
        name: Case(
            _used(twin, getattr(lib, name.split()[0])), lambda a=a: dict(a), kinds
        )
        for name, (a, kinds) in arguments.items()
    }


def methods(twin: Twin) -> dict[str, Case]:
    """Return the calls of penalties' methods by name."""
    lib = twin.lib
    penalties = {
        "l1": lib.l1(),
        "elastic_net": lib.elastic_net(0.5),
        "nonnegative_l1": lib.nonnegative_l1(),
        "l0": lib.l0(),
        "lp": lib.lp(0.5),
        "log_sum": lib.log_sum(0.5),
        "mcp": lib.mcp(1.0),
        "scad": lib.scad(1.0),
        "capped_l1": lib.capped_l1(1.0),
        "group_l1": lib.group_l1(0),
        "sparse_group_l1": lib.sparse_group_l1(0.5, 0),
        "owl": lib.owl([3.0, 2.0, 1.0]),
        "slope": lib.slope(0.1),
        "total_variation": lib.total_variation(),
        "fused_lasso": lib.fused_lasso(0.5),
        "weighted_l1": lib.weighted_l1([1.0, 2.0, 0.0]),
        "nuclear": lib.nuclear(),
        "l1_ball": lib.l1_ball(10.0),
        "top_k": lib.top_k(2),
        "n_of_m": lib.n_of_m(2, 3),
    }

    def vector(name: str) -> Any:
        x = np.array([2.0, 0.0, 0.5])
        return twin.array(x[None] if name == "nuclear" else x)

    found = {}
    for name, penalty in penalties.items():
        x, grad = (lambda n=name: vector(n)), (lambda n=name: -vector(n))
        weighed = {"x": None, "strength": finite_strength}
        methods: dict[
            str, tuple[Callable[[], dict[str, Any]], dict[str, Rule | None]]
        ] = {
            "prox": (
                lambda x=x: {"x": x(), "threshold": 0.25},
                {"x": None, "threshold": None},
            ),
            "optimality_distance": (
                lambda x=x, g=grad: {"x": x(), "grad": g(), "strength": 0.5},
                {"x": None, "grad": None, "strength": None},
            ),
            "value": (lambda x=x: {"x": x(), "strength": 0.5}, weighed),
            "subgradient": (lambda x=x: {"x": x(), "strength": 0.5}, weighed),
            "lambda_max": (lambda g=grad: {"grad": g()}, {"grad": None}),
        }
        if not penalty.has_subgradient:
            del methods["value"], methods["subgradient"]
        if penalty.constraint:
            del methods["lambda_max"]
        for method, (arguments, kinds) in methods.items():
            call = getattr(penalty, method)
            infinite = (name, method) == ("total_variation", "lambda_max")
            found[f"{name}.{method}"] = Case(
                call,
                arguments,
                kinds,
                infinite=infinite,
                every=1 if name in ("l1", "fused_lasso", "l1_ball") else 2,
            )
    found["soft_threshold"] = Case(
        lib.soft_threshold,
        lambda: {"x": twin.array([2.0, 0.0, 0.5]), "threshold": 0.25},
        {"x": None, "threshold": None},
    )
    return found


def _used(twin: Twin, make: Callable[..., Any]) -> Callable[..., Any]:
    """Make a penalty, and use it."""

    def call(**arguments: Any) -> Any:
        penalty = make(**arguments)
        x = twin.array([[2.0, 0.0, -0.5, 1.0], [0.1, 1.5, 3.0, -2.0]])
        penalty = penalty.at("w.kernel", (2, 4))
        penalty.require_fit("w.kernel", (2, 4))
        found = [
            penalty.prox(x, 0.5),
            penalty.optimality_distance(penalty.prox(x, 0.5), x),
        ]
        if penalty.has_subgradient:
            found.append(penalty.subgradient(x, 0.5))
        return [*found, repr(penalty)]

    return call
