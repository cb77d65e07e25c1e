"""The convergence matrix: every known optimizer on four convex problems.

No framework is imported before a row is asked for its optimizer.
"""

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from parity_tests.oracles import optima, problems

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A convex problem with its oracle's answer."""

    X: np.ndarray
    y: np.ndarray
    strength: float
    gradient: Callable[[Any, Any, Any, Params], Params]
    """Of the smooth loss: `gradient(array module, X, y, params)`."""
    objective: Callable[[Params], float]
    optimum: Params
    lipschitz: float
    l1_ratio: float = 1.0
    haste: float = 1.0
    """How much larger than on the Lasso the learning rates may be."""

    def gap(self, params: Params) -> float:
        """The relative distance to the optimum's objective."""
        best = self.objective(self.optimum)
        return (self.objective(params) - best) / best

    def same_support(self, params: Params) -> bool:
        """Whether the zeros among the weights are the oracle's."""
        return np.array_equal(params["w"] != 0, self.optimum["w"] != 0)

    def penalty(self, lib: Any) -> Any:
        """The penalty, made by `l1jax` or `l1torch`."""
        return lib.l1() if self.l1_ratio == 1 else lib.elastic_net(self.l1_ratio)


@functools.cache
def case(name: str, l1_ratio: float | None = None) -> Case:
    """One of `CASES`; the elastic net at a ratio of 0.5 unless told otherwise."""
    if name == "multinomial":
        X, Y = problems.digits()
        strength = 0.1 * float(np.abs(X.T @ (Y - Y.mean(0))).max() / len(Y))
        return Case(
            X=X,
            y=Y,
            strength=strength,
            gradient=problems.multinomial_gradient,
            objective=lambda params: (
                problems.multinomial_loss(X, Y, params)
                + strength * np.abs(params["w"]).sum()
            ),
            optimum=optima.multinomial_optimum(X, Y, strength),
            lipschitz=float(np.linalg.norm(X, 2) ** 2 / (2 * len(X))),
            haste=12.0,
        )
    problem = problems.diabetes()
    value, haste = optima.l1_value, 1.0
    if name == "logistic":
        problem, haste = problems.breast_cancer(0.2), 30.0
        optimum = optima.sklearn_logistic(problem)
    elif name == "elastic_net":
        l1_ratio = 0.5 if l1_ratio is None else l1_ratio
        value = optima.elastic_net_value(l1_ratio)
        optimum = optima.sklearn_lasso(problem, l1_ratio)
    else:
        optimum = optima.sklearn_lasso(problem)
    return Case(
        X=problem.X,
        y=problem.y,
        strength=problem.strength,
        gradient=lambda xp, X, y, params: {
            "w": problem.gradient(xp, X, y, params["w"])
        },
        objective=lambda params: optima.objective(problem, params["w"], value),
        optimum={"w": optimum},
        lipschitz=problem.lipschitz,
        l1_ratio=1.0 if l1_ratio is None else l1_ratio,
        haste=haste,
    )


STEPS = {"lasso": 2_000, "elastic_net": 2_000, "logistic": 5_000, "multinomial": 2_000}
CASES = tuple(STEPS)


class Named(NamedTuple):
    """An optimizer by its name."""

    name: str
    settings: dict[str, Any]


class Found(NamedTuple):
    """An optimizer of a framework that is installed."""

    make: Callable[..., Any]
    """optax's factory, or torch's class."""
    settings: dict[str, Any]


def named(name: str, **settings: Any) -> Named:
    """Return an optimizer's name and settings."""
    return Named(name, settings)


@dataclasses.dataclass(frozen=True)
class Row:
    """An optimizer in each framework, and whether the two are equal."""

    optax: Named | None = None
    torch_optim: Named | None = None
    rate: float = 0.03
    """The first learning rate; a cosine takes it to zero."""
    per_lipschitz: bool = False
    """Whether the rate is in units of 1 / Lipschitz constant."""
    equal: bool = False
    """Whether the frameworks' optimizers make the same steps under these settings."""

    def learning_rate(self, case: Case) -> float:
        """The first learning rate on a problem."""
        rate = self.rate * case.haste
        return rate / case.lipschitz if self.per_lipschitz else rate

    @property
    def jax(self) -> Found | None:
        """optax's optimizer."""
        return self.optax and _found("optax", self.optax)

    @property
    def torch(self) -> Found | None:
        """torch's optimizer."""
        return self.torch_optim and _found("torch.optim", self.torch_optim)


def _found(module: str, optimizer: Named) -> Found:
    make = getattr(importlib.import_module(module), optimizer.name)
    return Found(make, optimizer.settings)


ROWS = {
    "sgd": Row(named("sgd"), named("SGD"), rate=1.0, per_lipschitz=True, equal=True),
    "sgd, momentum": Row(
        named("sgd", momentum=0.9),
        named("SGD", momentum=0.9),
        rate=0.1,
        per_lipschitz=True,
        equal=True,
    ),
    "sgd, nesterov": Row(
        named("sgd", momentum=0.9, nesterov=True),
        named("SGD", momentum=0.9, nesterov=True),
        rate=0.1,
        per_lipschitz=True,
        equal=True,
    ),
    "sgd, dampening": Row(
        None, named("SGD", momentum=0.9, dampening=0.5), rate=0.2, per_lipschitz=True
    ),
    "adam": Row(named("adam"), named("Adam"), equal=True),
    "adamw": Row(
        named("adamw", weight_decay=0.0),
        named("AdamW", weight_decay=0.0),
        equal=True,
    ),
    "amsgrad": Row(named("amsgrad"), named("Adam", amsgrad=True), rate=0.1),
    "nadam": Row(named("nadam"), named("NAdam")),
    "nadamw": Row(
        named("nadamw", weight_decay=0.0),
        named("NAdam", decoupled_weight_decay=True),
    ),
    "radam": Row(named("radam"), named("RAdam")),
    "rmsprop": Row(
        named("rmsprop", decay=0.99, eps_in_sqrt=False),
        named("RMSprop"),
        equal=True,
    ),
    "rmsprop, eps inside": Row(named("rmsprop"), None),
    "rmsprop, unbiased": Row(named("rmsprop", bias_correction=True), None),
    "rmsprop, momentum": Row(
        named("rmsprop", decay=0.99, eps_in_sqrt=False, momentum=0.9),
        named("RMSprop", momentum=0.9),
        rate=0.003,
    ),
    "rmsprop, nesterov": Row(
        named("rmsprop", momentum=0.9, nesterov=True), None, rate=0.003
    ),
    "rmsprop, centered": Row(
        named("rmsprop", decay=0.99, eps_in_sqrt=False, centered=True),
        named("RMSprop", centered=True),
        equal=True,
    ),
    "adagrad": Row(
        named("adagrad", initial_accumulator_value=0.1, eps=0.0),
        named("Adagrad", initial_accumulator_value=0.1, eps=0.0),
        rate=0.3,
        equal=True,
    ),
    "adagrad, lr_decay": Row(None, named("Adagrad", lr_decay=1e-4), rate=0.3),
    "adadelta": Row(named("adadelta"), named("Adadelta"), rate=1.0, equal=True),
    "adamax": Row(named("adamax"), named("Adamax"), equal=True),
    "adamaxw": Row(named("adamaxw", weight_decay=0.0), None),
    "adabelief": Row(named("adabelief"), None),
    "yogi": Row(named("yogi"), None),
}


def start(case: Case) -> Params:
    """Small weights, all of one sign."""
    return {name: np.full(x.shape, 0.01) for name, x in case.optimum.items()}


def cosine(rate: float, step: Any, steps: int, cos: Callable = math.cos) -> Any:
    """A learning rate that falls to zero; with `jax.numpy.cos` for tracers."""
    return rate * 0.5 * (1 + cos(math.pi * step / steps))
