"""Solutions for many strengths: one after the other, or all at once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from l1torch.parameters.masks import Mask, selected
from l1torch.parameters.trees import named_leaves
from l1torch.penalties.base import Penalty
from l1torch.penalties.penalty_values import penalty_value
from l1torch.solvers.full_batch import find_solution
from l1torch.solvers.optimality import (
    OptimalityResidual,
    optimality_residual,
)

Params = Tensor | Mapping[str, Tensor]

Fitted = Any
"""Parameters in the form of those passed in: a tensor, or a dict by name."""
"""A tensor, or a mapping from names to tensors."""


class Settings(NamedTuple):
    """How each strength is solved: see `regularisation_path`."""

    penalty: Penalty
    mask: Mask
    tol: float
    max_iterations: int
    optimizer: Callable[[Any, Any], torch.optim.Optimizer] | None
    steps: int | None
    warm_start: bool
    vectorised: bool


class Fits(NamedTuple):
    """Solutions with a leading axis of strengths."""

    params: Any
    objective: np.ndarray
    loss: np.ndarray
    residual: OptimalityResidual


def fit_all(
    loss: Callable[[Any], Tensor],
    start: Params,
    strengths: np.ndarray,
    settings: Settings,
) -> Fits:
    """Solve for every strength, from the one before or all from `start`."""
    if settings.vectorised:
        stacked = _trained_at_once(loss, start, strengths, settings)
    else:
        parts = []
        for strength in strengths.tolist():
            first = parts[-1] if parts and settings.warm_start else start
            parts.append(_fit(loss, first, strength, settings))
        stacked = _stack(parts)
    return _measure_all(loss, stacked, strengths, settings)


def _measure_all(
    loss: Callable[[Any], Tensor],
    params: Params,
    strengths: np.ndarray,
    settings: Settings,
) -> Fits:
    """Measure solutions that have a leading axis of strengths."""
    found = []
    for i, strength in enumerate(strengths.tolist()):
        part = map_tensors(lambda x, i=i: x[i].clone().requires_grad_(), params)
        found.append(_measured(loss, part, strength, settings))
    return Fits(
        params=params,
        objective=np.array([one.objective for one in found]),
        loss=np.array([one.loss for one in found]),
        residual=OptimalityResidual(
            largest=np.array([one.largest for one in found]),
            norm=np.array([one.norm for one in found]),
        ),
    )


def map_tensors(function: Callable[[Tensor], Any], params: Params) -> Any:
    """Apply a function to a tensor, or to each of a mapping; `None` stays."""
    if isinstance(params, Tensor):
        return function(params)
    return {name: None if x is None else function(x) for name, x in params.items()}


def require_vectorisable(settings: Settings) -> None:
    """Raise where strengths cannot be solved at once."""
    if settings.optimizer is None:
        raise ValueError(
            "vectorised must be False for solve, got True: solve decides by values, "
            "which torch.func.vmap does not show. Pass vectorised=False, or optimizer= "
            "and steps=."
        )
    if not settings.penalty.separable:
        raise ValueError(
            f"vectorised must be False for the penalty {settings.penalty!r}, got True: "
            "it would couple or confuse the strengths. Pass vectorised=False."
        )


def _fit(
    loss: Callable[[Any], Tensor], start: Params, strength: float, settings: Settings
) -> Params:
    if settings.optimizer is not None:
        make, steps = settings.optimizer, settings.steps
        return _trained(loss, start, lambda named: make(named, strength), steps)
    return find_solution(
        loss,
        start,
        strength,
        penalty=settings.penalty,
        mask=settings.mask,
        tol=settings.tol,
        max_iterations=settings.max_iterations,
    ).params


def _trained(
    loss: Callable[[Any], Tensor],
    params: Params,
    make: Callable[[Any], torch.optim.Optimizer],
    steps: int,
) -> Params:
    """Take full-batch steps."""
    params = map_tensors(lambda x: torch.nn.Parameter(x.clone()), params)
    optimizer = make(_tensors(params))
    for _ in range(steps):
        optimizer.zero_grad()
        loss(params).backward()
        optimizer.step()
    return map_tensors(lambda x: x.detach(), params)


def _trained_at_once(
    loss: Callable[[Any], Tensor],
    start: Params,
    strengths: np.ndarray,
    settings: Settings,
) -> Params:
    """Take full-batch steps of all strengths at once.

    The parameters of all strengths are one tensor to the optimizer, which does to each
    element what it would do to it alone; the sum of the losses has the gradients of
    each.
    """
    many, spread = len(strengths), {}
    flags = selected(settings.mask, start)
    for (name, x), flag in zip(named_leaves(start), flags, strict=True):
        if x is None:
            continue
        shape = (many, *([1] * x.dim()))
        given = torch.tensor(strengths, dtype=x.dtype, device=x.device).view(shape)
        # With the axis of strengths in front, a mask may take a bias for a weight.
        spread[name] = given if flag else torch.zeros_like(given)

    def make(named: Any) -> torch.optim.Optimizer:
        optimizer = settings.optimizer(named, spread)
        if getattr(optimizer, "metric", "coordinate") == "tensor":
            raise ValueError(
                "vectorised must be False with metric='tensor', got True: it would mix "
                "the strengths. Pass vectorised=False."
            )
        return optimizer

    stacked = map_tensors(lambda x: x.expand(many, *x.shape).contiguous(), start)
    losses = torch.func.vmap(loss)
    return _trained(lambda params: losses(params).sum(), stacked, make, settings.steps)


class _Measures(NamedTuple):
    """What one solution reaches."""

    objective: float
    loss: float
    largest: float
    """The largest violation of the optimality conditions."""
    norm: float
    """The Euclidean norm of all violations."""


def _measured(
    loss: Callable[[Any], Tensor], params: Params, strength: float, settings: Settings
) -> _Measures:
    penalty, mask = settings.penalty, settings.mask
    value = loss(params)
    leaves = [x for _, x in _tensors(params)]
    found = iter(torch.autograd.grad(value, leaves, allow_unused=True))
    grads = map_tensors(lambda _: next(found), params)
    with torch.no_grad():
        residual = optimality_residual(
            grads, params, strength, penalty=penalty, mask=mask
        )
        penalised = penalty_value(params, strength, penalty=penalty, mask=mask)
    return _Measures(
        objective=float(value.detach() + penalised),
        loss=float(value.detach()),
        largest=float(residual.largest),
        norm=float(residual.norm),
    )


def _stack(parts: Sequence[Params]) -> Params:
    if isinstance(parts[0], Tensor):
        return torch.stack(list(parts))
    return {
        name: None if x is None else torch.stack([part[name] for part in parts])
        for name, x in parts[0].items()
    }


def _tensors(params: Params) -> list[tuple[str, Tensor]]:
    """List the parameters by name, without `None`."""
    return [(name, x) for name, x in named_leaves(params) if x is not None]
