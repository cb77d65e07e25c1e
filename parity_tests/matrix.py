"""The convergence matrix: every known optimizer on four convex problems, both twins."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import l1jax
import l1torch
from parity_tests import oracles, problems

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
            optimum=oracles.multinomial_optimum(X, Y, strength),
            lipschitz=float(np.linalg.norm(X, 2) ** 2 / (2 * len(X))),
            haste=12.0,
        )
    problem = problems.diabetes()
    value, haste = oracles.l1_value, 1.0
    if name == "logistic":
        problem, haste = problems.breast_cancer(0.2), 30.0
        optimum = oracles.sklearn_logistic(problem)
    elif name == "elastic_net":
        l1_ratio = 0.5 if l1_ratio is None else l1_ratio
        value = oracles.elastic_net_value(l1_ratio)
        optimum = oracles.sklearn_lasso(problem, l1_ratio)
    else:
        optimum = oracles.sklearn_lasso(problem)
    return Case(
        X=problem.X,
        y=problem.y,
        strength=problem.strength,
        gradient=lambda xp, X, y, params: {
            "w": problem.gradient(xp, X, y, params["w"])
        },
        objective=lambda params: oracles.objective(problem, params["w"], value),
        optimum={"w": optimum},
        lipschitz=problem.lipschitz,
        l1_ratio=1.0 if l1_ratio is None else l1_ratio,
        haste=haste,
    )


STEPS = {"lasso": 2_000, "elastic_net": 2_000, "logistic": 5_000, "multinomial": 2_000}
CASES = tuple(STEPS)


@dataclasses.dataclass(frozen=True)
class Row:
    """An optimizer: how each framework makes it, and whether the two are equal."""

    jax: tuple[Callable[..., Any], dict[str, Any]] | None = None
    torch: tuple[Callable[..., Any], dict[str, Any]] | None = None
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


ROWS = {
    "sgd": Row((optax.sgd, {}), (torch.optim.SGD, {}), 1.0, True, equal=True),
    "sgd, momentum": Row(
        (optax.sgd, {"momentum": 0.9}),
        (torch.optim.SGD, {"momentum": 0.9}),
        0.1,
        True,
        equal=True,
    ),
    "sgd, nesterov": Row(
        (optax.sgd, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        0.1,
        True,
        equal=True,
    ),
    "sgd, dampening": Row(
        None, (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}), 0.2, True
    ),
    "adam": Row((optax.adam, {}), (torch.optim.Adam, {}), equal=True),
    "adamw": Row(
        (optax.adamw, {"weight_decay": 0.0}),
        (torch.optim.AdamW, {"weight_decay": 0.0}),
        equal=True,
    ),
    "amsgrad": Row((optax.amsgrad, {}), (torch.optim.Adam, {"amsgrad": True}), 0.1),
    "nadam": Row((optax.nadam, {}), (torch.optim.NAdam, {})),
    "nadamw": Row(
        (optax.nadamw, {"weight_decay": 0.0}),
        (torch.optim.NAdam, {"decoupled_weight_decay": True}),
    ),
    "radam": Row((optax.radam, {}), (torch.optim.RAdam, {})),
    "rmsprop": Row(
        (optax.rmsprop, {"decay": 0.99, "eps_in_sqrt": False}),
        (torch.optim.RMSprop, {}),
        equal=True,
    ),
    "rmsprop, eps inside": Row((optax.rmsprop, {}), None),
    "rmsprop, unbiased": Row((optax.rmsprop, {"bias_correction": True}), None),
    "rmsprop, momentum": Row(
        (optax.rmsprop, {"decay": 0.99, "eps_in_sqrt": False, "momentum": 0.9}),
        (torch.optim.RMSprop, {"momentum": 0.9}),
        0.003,
    ),
    "rmsprop, nesterov": Row(
        (optax.rmsprop, {"momentum": 0.9, "nesterov": True}), None, 0.003
    ),
    "rmsprop, centered": Row(
        (optax.rmsprop, {"decay": 0.99, "eps_in_sqrt": False, "centered": True}),
        (torch.optim.RMSprop, {"centered": True}),
        equal=True,
    ),
    "adagrad": Row(
        (optax.adagrad, {"initial_accumulator_value": 0.1, "eps": 0.0}),
        (torch.optim.Adagrad, {"initial_accumulator_value": 0.1, "eps": 0.0}),
        0.3,
        equal=True,
    ),
    "adagrad, lr_decay": Row(None, (torch.optim.Adagrad, {"lr_decay": 1e-4}), 0.3),
    "adadelta": Row((optax.adadelta, {}), (torch.optim.Adadelta, {}), 1.0, equal=True),
    "adamax": Row((optax.adamax, {}), (torch.optim.Adamax, {}), equal=True),
    "adamaxw": Row((optax.adamaxw, {"weight_decay": 0.0}), None),
    "adabelief": Row((optax.adabelief, {}), None),
    "yogi": Row((optax.yogi, {}), None),
}


def start(case: Case) -> Params:
    """Small weights, all of one sign."""
    return {name: np.full(x.shape, 0.01) for name, x in case.optimum.items()}


def cosine(rate: float, step: Any, steps: int) -> Any:
    """A learning rate that falls to zero, the same for numbers and tracers."""
    xp = jnp if isinstance(step, jax.Array) else math
    return rate * 0.5 * (1 + xp.cos(math.pi * step / steps))


def train_jax(
    name: str,
    row: Row,
    steps: int,
    schedule: bool = True,
    trail: bool = False,
    dtype: str = "float64",
    l1_ratio: float | None = None,
    **kwargs: Any,
) -> Params:
    """Trains by `l1jax.proximal`; gives the last parameters, or those of all steps."""
    problem = case(name, l1_ratio)
    X, y = jnp.asarray(problem.X, dtype), jnp.asarray(problem.y, dtype)
    factory, settings = row.jax
    rate = row.learning_rate(problem)
    tx = l1jax.proximal(
        factory,
        (lambda step: cosine(rate, step, steps)) if schedule else rate,
        problem.strength,
        penalty=problem.penalty(l1jax),
        **settings,
        **kwargs,
    )

    @jax.jit
    def run(params: Params) -> tuple[Params, Params]:
        def body(carry: Any, _: Any) -> tuple[Any, Any]:
            params, state = carry
            grads = problem.gradient(jnp, X, y, params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params if trail else None

        (last, _), all_of_them = jax.lax.scan(
            body, (params, tx.init(params)), length=steps
        )
        return last, all_of_them

    params = {k: jnp.asarray(v, dtype) for k, v in start(problem).items()}
    return {k: np.asarray(v) for k, v in run(params)[trail].items()}


def train_torch(
    name: str,
    row: Row,
    steps: int,
    schedule: bool = True,
    trail: bool = False,
    dtype: str = "float64",
    l1_ratio: float | None = None,
    **kwargs: Any,
) -> Params:
    """Trains by `l1torch.Proximal`; gives what `train_jax` gives."""
    problem = case(name, l1_ratio)
    precision = getattr(torch, dtype)
    X, y = (torch.tensor(a, dtype=precision) for a in (problem.X, problem.y))
    make, settings = row.torch
    rate = row.learning_rate(problem)
    params = {
        k: torch.nn.Parameter(torch.tensor(v, dtype=precision))
        for k, v in start(problem).items()
    }
    base = make(params.items(), lr=rate, **settings)
    optimizer = l1torch.Proximal(
        base, problem.strength, penalty=problem.penalty(l1torch), **kwargs
    )
    trails = {k: np.empty((steps, *v.shape), dtype) for k, v in params.items() if trail}
    for step in range(steps):
        if schedule:
            base.param_groups[0]["lr"] = cosine(rate, step, steps)
        detached = {k: v.detach() for k, v in params.items()}
        for k, grad in problem.gradient(torch, X, y, detached).items():
            params[k].grad = grad
        optimizer.step()
        for k in trails:
            trails[k][step] = params[k].detach().numpy()
    return trails or {k: v.detach().numpy() for k, v in params.items()}


TRAIN = {"jax": train_jax, "torch": train_torch}
