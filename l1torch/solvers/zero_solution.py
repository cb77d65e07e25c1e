"""The strength above which all penalised weights are zero."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l1torch.parameters.masks import Mask, weights_only
from l1torch.penalties.base import Penalty
from l1torch.penalties.separable import l1
from l1torch.solvers.fista import Problem, value_of
from l1torch.solvers.full_batch import (
    Solution,
    check_limits,
    find_solution,
    require_tensors,
    warn_unless_converged,
)
from l1torch.solvers.optimality import penalised_rows


def lambda_max(
    loss: Callable[[dict[str, Tensor]], Tensor],
    params: Mapping[str, Tensor],
    *,
    penalty: Penalty = l1(),
    mask: Mask = weights_only,
    tol: float = 1e-6,
    max_iterations: int = 10_000,
) -> Tensor:
    """Find the smallest strength at which all penalised weights are zero.

    The penalised weights are set to zero, what is not penalised (the intercept) is
    fitted, and of the gradient g there the penalty takes what it needs to hold all at
    zero: `max |g|` for `l1()`, `max |g| / l1_ratio` for the elastic net, the largest
    norm of a group over its weight for `group_l1()`. For a convex loss and penalty a
    path of strengths begins here (Friedman, Hastie and Tibshirani, 2010).

    For a deep network it means nothing: with all weights at zero no gradient passes to
    the hidden layers, so that zero is stationary at every strength. If a tensor has no
    gradient at all, while others are penalised too, an error says so where theirs is
    no more than rounding and `tol` leave, else a warning. Choose a sparsity instead:
    `target_sparsity`. Of a single tensor without gradient, as where a linear model's y
    is constant, `lambda_max` is 0.

    Args:
      loss: maps parameters to the mean loss, a scalar, without the penalty.
      params: a mapping from names to real floating tensors, or one tensor. Only what is
        not penalised is begun from.
      penalty: the penalty, of unit strength; it must define a `lambda_max`.
      mask: the parameters that are penalised, see `weights_only`; `None` means all.
      tol: the largest gradient to leave of what is not penalised, in [0, 1), see
        `solve`.
      max_iterations: the most steps to take for it.

    Returns:
      A scalar, in units of the loss per unit of the penalty; infinite if no strength
      makes all weights zero, as for ridge.

    Raises:
      TypeError: as `solve`.
      ValueError: a penalty without one, such as a constraint; a network, where all
        gradients vanish; else as `solve`.

    Example:
      >>> X, y = torch.eye(2), torch.tensor([3.0, -4.0])
      >>> loss = lambda params: 0.25 * ((X @ params["w"] - y) ** 2).sum()
      >>> lambda_max(loss, {"w": torch.ones(2)})
      tensor(2.)
    """
    tol, max_iterations = check_limits(tol, max_iterations)
    require_tensors(params)
    for name, x, s in penalised_rows(params, 0.0, penalty, mask):
        if x is not None and s is not None:  # what has none raises before any work
            penalty.at(name, tuple(x.shape)).lambda_max(torch.zeros_like(x))
    at_zero = zero_solution(loss, params, penalty, mask, tol, max_iterations)
    if at_zero.fitted is not None:
        warn_unless_converged(at_zero.fitted, tol, max_iterations)
    return lambda_at_zero(loss, at_zero.params, penalty, mask, tol)


class ZeroSolution(NamedTuple):
    """Parameters whose penalised weights are zero."""

    params: Any
    """All parameters; what is not penalised has been fitted."""
    fitted: Solution | None
    """How it was fitted; None where there was nothing to fit."""


def zero_solution(
    loss: Callable[[Any], Tensor],
    params: Mapping[str, Tensor],
    penalty: Penalty,
    mask: Mask,
    tol: float,
    max_iterations: int,
) -> ZeroSolution:
    """Set the penalised tensors to zero, and fit the others, without a warning."""
    rows = penalised_rows(params, 0.0, penalty, mask)
    rows = [row for row in rows if row[1] is not None]
    zeros = {name: torch.zeros_like(x) for name, x, s in rows if s is not None}

    def filled(free: Mapping[str, Tensor]) -> Any:
        if isinstance(params, Tensor):
            return zeros[""]
        return {**params, **zeros, **free}

    free = {name: x.detach() for name, x, s in rows if s is None}
    fitted = None
    if _is_used(free, lambda free: loss(filled(free))):
        fitted = find_solution(
            lambda free: loss(filled(free)),
            free,
            0.0,
            penalty=l1(),
            mask=None,
            tol=tol,
            max_iterations=max_iterations,
        )
        free = fitted.params
    return ZeroSolution(filled(free), fitted)


def _is_used(
    params: Mapping[str, Tensor], loss: Callable[[Mapping[str, Tensor]], Tensor]
) -> bool:
    """Tell whether a loss depends on any of some parameters."""
    if not params:
        return False
    with torch.enable_grad():
        value = value_of(
            loss, {name: x.clone().requires_grad_() for name, x in params.items()}
        )
    return getattr(value, "requires_grad", True)  # else `solve` says what is wrong


def lambda_at_zero(
    loss: Callable[[Any], Tensor],
    at_zero: Any,
    penalty: Penalty,
    mask: Mask,
    tol: float,
) -> Tensor:
    """Return `lambda_max`, from what `zero_solution` found."""
    rows = penalised_rows(at_zero, 0.0, penalty, mask)
    rows = [row for row in rows if row[1] is not None]
    problem = Problem(loss, at_zero, rows, penalty)
    grads = problem.at(problem.leaves).grads
    penalised = [
        (name, x, grad)
        for (name, x, s), grad in zip(rows, grads, strict=True)
        if s is not None
    ]
    largest = max(float(grad.abs().max()) for _, _, grad in penalised)
    value = float(loss(at_zero).detach())
    rounding = 100 * max(torch.finfo(grad.dtype).eps for _, _, grad in penalised)
    nothing = largest <= max(tol, rounding * abs(value))
    _require_gradient(nothing, penalised)
    _warn_if_some_vanish(penalised)
    return functools.reduce(
        torch.maximum,
        [penalty.at(name, tuple(x.shape)).lambda_max(g) for name, x, g in penalised],
    )


def _require_gradient(nothing: bool, rows: list[tuple[str, Tensor, Tensor]]) -> None:
    """Raise where all that is left of the gradients is what the fit leaves."""
    gone = [name for name, _, grad in rows if not grad.any()]
    if gone and len(rows) > 1 and nothing:
        raise ValueError(
            "params have no lambda_max: no gradient is above rounding where all "
            f"penalised weights are zero, and that of {gone} is 0. A network of "
            "several layers is stationary there at every strength. Choose a sparsity "
            "by target_sparsity, or, for a path, pass strengths= and warm_start=False."
        )


def _warn_if_some_vanish(rows: list[tuple[str, Tensor, Tensor]]) -> None:
    gone = [name for name, _, grad in rows if not grad.any()]
    if gone and len(rows) > 1:
        warnings.warn(
            f"lambda_max sees no gradient of {gone} where all penalised weights are "
            "zero: in a network of several layers zero is stationary at every "
            "strength, and lambda_max means nothing. Choose a sparsity by "
            "target_sparsity instead.",
            UserWarning,
            stacklevel=4,
        )
