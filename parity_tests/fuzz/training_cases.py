"""The calls of the fuzz: transforms, and what measures and schedules a training."""

from collections.abc import Callable
from typing import Any

import numpy as np

from parity_tests.frameworks.twin import Twin
from parity_tests.fuzz.rules import (
    POSITIVE,
    STEPS,
    Case,
    Rule,
    choice,
    finite_strength,
    integer,
    nothing,
    optional,
    real,
)


def params(twin: Twin) -> dict[str, Any]:
    """Make parameters: weights `w`, and a bias."""
    return twin.tree({"w": np.array([2.0, 0.0, 0.5]), "b": np.array(1.0)})


def grads(twin: Twin) -> dict[str, Any]:
    """Make gradients of `params`."""
    return twin.tree({"w": np.array([-1.0, 0.01, 0.5]), "b": np.array(1.0)})


def transforms(twin: Twin) -> dict[str, Case]:
    """Return the calls of transforms by name."""
    lib = twin.lib

    def step(tx: Any) -> Any:
        state = tx.init(params(twin))
        for _ in range(2):
            updates, state = tx.update(grads(twin), state, params(twin))
        return updates

    def steps(make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **arguments: step(make(**arguments))

    weighed = {"strength": finite_strength, "penalty": nothing, "mask": None}
    base = {"penalty": lib.l1(), "mask": None}
    found = {
        "add_subgradient": Case(
            steps(lib.add_subgradient), lambda: {"strength": 0.1} | base, weighed
        ),
        "proximal_step": Case(
            steps(lib.proximal_step),
            lambda: {"strength": 0.1, "learning_rate": 0.1} | base,
            weighed | {"learning_rate": finite_strength},
        ),
        "clip_by_global_l1_norm": Case(
            steps(lib.clip_by_global_l1_norm),
            lambda: {"max_norm": 1.0},
            {"max_norm": None},
        ),
        "freeze_zeros": Case(
            steps(lib.freeze_zeros),
            lambda: {"optimizer": lib.proximal_step(0.1, 0.1), "mask": None},
            {"optimizer": choice, "mask": None},
        ),
    }
    made = {
        "add_subgradient": lib.add_subgradient(0.1),
        "proximal_step": lib.proximal_step(0.1, 0.1),
        "proximal_step of a target": lib.proximal_step(
            lib.target_sparsity(0.5, 4), 0.1
        ),
        "clip_by_global_l1_norm": lib.clip_by_global_l1_norm(1.0),
        "freeze_zeros": lib.freeze_zeros(lib.proximal_step(0.1, 0.1)),
    }
    for name, tx in made.items():
        found[f"{name}.init"] = Case(
            tx.init, lambda: {"params": params(twin)}, {"params": None}
        )
        found[f"{name}.update"] = Case(
            lambda updates, state, params, tx=tx: tx.update(updates, state, params),
            lambda tx=tx: {
                "updates": grads(twin),
                "state": tx.init(params(twin)),
                "params": params(twin),
            },
            {"updates": None, "params": None}
            | ({} if name.startswith("clip") else {"state": None}),
        )
    return found


def measures(twin: Twin) -> dict[str, Case]:
    """Return the calls of measures, masks, schedules and targets by name."""
    lib = twin.lib
    weighed = {
        "params": None,
        "strength": finite_strength,
        "penalty": nothing,
        "mask": None,
    }
    schedule = {
        name: integer(0, STEPS, none=name == "hold")
        for name in ("delay", "warm_up", "hold", "cool_down")
    }
    schedule |= {name: real(0, np.inf, "high") for name in ("strength", "start", "end")}

    def base() -> dict[str, Any]:
        return {
            "params": params(twin),
            "strength": 0.1,
            "penalty": lib.l1(),
            "mask": None,
        }

    def ramp(**arguments: Any) -> Any:
        made = lib.strength_schedule(**arguments)
        return [made(t) for t in (0, 1, 3, 5, 9)]

    def targets(**arguments: Any) -> Any:
        target = lib.target_sparsity(**arguments)
        return [target.fraction(3), target.count(3, 10)]

    target = lib.target_sparsity(0.5, 10)
    model = _model(twin)
    return {
        "penalty_value": Case(lib.penalty_value, base, weighed),
        "optimality_residual": Case(
            lib.optimality_residual,
            lambda: base() | {"grads": grads(twin)},
            weighed | {"grads": None},
        ),
        "implied_radius": Case(
            lib.implied_radius,
            lambda: {"params": params(twin), "mask": None},
            {"params": None, "mask": None},
        ),
        "sparsity_report": Case(
            lib.sparsity_report,
            lambda: {"params": params(twin), "mask": None},
            {"params": None, "mask": None, "control": optional},
        ),
        "weights_only": Case(
            lib.weights_only, lambda: {"params": params(twin)}, {"params": None}
        ),
        "by_path": Case(
            lambda patterns: lib.by_path(patterns)(params(twin)),
            lambda: {"patterns": "w"},
            {"patterns": None},
        ),
        "by_path.__call__": Case(
            lib.by_path("w"), lambda: {"params": params(twin)}, {"params": None}
        ),
        "layouts": Case(lib.layouts, lambda: {"params": model}, {"params": None}),
        "laplace_scale": Case(
            lib.laplace_scale,
            lambda: {"strength": 0.1, "n": 50},
            _laplace("strength"),
            True,
        ),
        "laplace_strength": Case(
            lib.laplace_strength,
            lambda: {"scale": 0.1, "n": 50},
            _laplace("scale"),
            True,
        ),
        "strength_schedule": Case(
            ramp,
            lambda: {
                "strength": 0.1,
                "delay": 1,
                "warm_up": 2,
                "hold": 2,
                "cool_down": 2,
                "start": 0.0,
                "end": 0.0,
                "power": 2.0,
            },
            schedule | {"hold": integer(0, STEPS), "power": POSITIVE},
        ),
        "strength_schedule()": Case(
            lambda count: lib.strength_schedule(0.1, warm_up=3)(count),
            lambda: {"count": 1},
            {"count": None},
        ),
        "target_sparsity": Case(
            targets,
            lambda: {
                "target": 0.5,
                "steps": 10,
                "begin": 0.1,
                "end": 0.6,
                "scope": "global",
                "snap": 0.75,
            },
            {
                "target": real(0, 1, "high"),
                "steps": integer(1, STEPS),
                "begin": real(0, 0.6, "high"),
                "end": real(0.1, 0.75, "low"),
                "scope": choice,
                "snap": real(0.6, 1, none=True),
            },
        ),
        "TargetSparsity.fraction": Case(
            target.fraction, lambda: {"step": 3}, {"step": None}
        ),
        "TargetSparsity.count": Case(
            target.count, lambda: {"step": 3, "size": 10}, {"step": None, "size": None}
        ),
    }


def _laplace(argument: str) -> dict[str, Rule | None]:
    def rule(value: Any) -> bool | None:
        if hasattr(value, "dtype"):
            return None
        return POSITIVE(value)

    return {argument: rule, "n": rule}


def _model(twin: Twin) -> Any:
    if twin.name == "jax":
        return {"dense": {"kernel": twin.array(np.ones((3, 2)))}}
    import torch

    return torch.nn.Sequential(torch.nn.Linear(3, 2))
