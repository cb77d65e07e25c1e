"""torch's side of the tests: its tensors, its devices, and how it trains."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import l1torch
import l1torch.numerics.prox
from parity_tests.frameworks.twin import Twin, rounded
from parity_tests.oracles.convergence_matrix import Params, Row, case, cosine, start


def _array(values: Any, dtype: str = "float64") -> torch.Tensor:
    return torch.tensor(rounded(values, dtype)).to(getattr(torch, dtype))


def _numpy(x: Any) -> np.ndarray:
    if not isinstance(x, torch.Tensor):
        return np.asarray(x)
    x = x.detach().cpu()
    return (x.float() if x.dtype.itemsize < 4 else x).numpy()


def _grad(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def gradient(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().clone().requires_grad_()
        return torch.autograd.grad(f(x), x)[0]

    return gradient


def _device(kind: str) -> torch.device | None:
    if kind == "gpu":
        return torch.device("cuda", 0) if torch.cuda.is_available() else None
    return torch.device("cpu") if kind == "cpu" else None


def train(
    name: str,
    row: Row,
    steps: int,
    schedule: bool = True,
    trail: bool = False,
    dtype: str = "float64",
    l1_ratio: float | None = None,
    **kwargs: Any,
) -> Params:
    """Train by `l1torch.Proximal`; return what `jax_twin.train` returns."""
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
    trails = {
        k: torch.empty((steps, *v.shape), dtype=precision)
        for k, v in params.items()
        if trail
    }
    for step in range(steps):
        if schedule:
            base.param_groups[0]["lr"] = cosine(rate, step, steps)
        detached = {k: v.detach() for k, v in params.items()}
        for k, grad in problem.gradient(torch, X, y, detached).items():
            params[k].grad = grad
        optimizer.step()
        for k in trails:
            trails[k][step] = params[k].detach()
    return {k: _numpy(v) for k, v in (trails or params).items()}


TWIN = Twin(
    name="torch",
    lib=l1torch,
    prox=l1torch.numerics.prox,
    array=_array,
    numpy=_numpy,
    dtype=lambda x: str(x.dtype).removeprefix("torch."),
    jit=lambda f: f,
    grad=_grad,
    apply_updates=l1torch.apply_updates,
    train=train,
    # Small tensors: threads that wait for each other on busy cores take ages.
    set_up=lambda: torch.set_num_threads(1),
    versions=lambda: {"torch": torch.__version__},
    device=_device,
    on=lambda device: device,  # a torch.device is the context itself
)
