"""A full-batch solver that stops when its certificate says so."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l1torch.numerics.checks import LARGEST, check_int, check_real, require_known_float
from l1torch.parameters.masks import Mask, weights_only
from l1torch.penalties.base import Penalty
from l1torch.penalties.separable import l1
from l1torch.solvers.fista import Problem
from l1torch.solvers.optimality import OptimalityResidual, penalised_rows
from l1torch.strengths.values import Strength


class Solution(NamedTuple):
    """What `solve` ends at."""

    params: dict[str, Tensor]
    """The parameters by name."""
    objective: Tensor
    """`loss + strength * penalty`, a scalar."""
    loss: Tensor
    """The loss alone, a scalar."""
    residual: OptimalityResidual
    """The certificate at `params`, see `optimality_residual`."""
    iterations: int
    """Steps taken."""
    converged: bool
    """Whether `residual.largest <= tol`, and the loss is finite."""


def solve(
    loss: Callable[[dict[str, Tensor]], Tensor],
    params: Mapping[str, Tensor],
    strength: Strength,
    *,
    penalty: Penalty = l1(),
    mask: Mask = weights_only,
    tol: float = 1e-6,
    max_iterations: int = 10_000,
) -> Solution:
    """Minimise `loss + strength * penalty` on all data, to an accuracy that you name.

    Accelerated proximal gradient (FISTA: Beck and Teboulle, 2009): a proximal step from
    a point y ahead of the iterates x, which goes on in the direction of their move::

      x_new = prox(y - gradient(y) / L, strength / L)
      y     = x_new + (t - 1) / t_new * (x_new - x)

    There is no learning rate to choose. L is found by backtracking: it doubles until
    the loss lies below the quadratic that L makes of it, and falls by a tenth before
    each step, so that steps grow where the loss is flat. Where rounding hides a change
    of the loss, the change of its gradient is looked at instead. The momentum t starts
    again when it leads uphill (O'Donoghue and Candes, 2015).

    It stops at the first x whose `optimality_residual` is at most `tol`. An iteration
    takes two evaluations of the loss with its gradient, and one more where it
    backtracks, every seventh time or so. The loss must be smooth, and the same
    function each time: the whole data, no dropout. For linear models `solve_linear` is
    faster; networks on minibatches are for `Proximal`.

    If loss and penalty are convex, the result is optimal. Otherwise (a network, or
    `mcp`) it is stationary, and depends on the start.

    Args:
      loss: maps parameters to the mean loss, a scalar, without the penalty.
      params: where to start, a mapping from names to real floating tensors of any
        shapes, such as `dict(model.named_parameters())`, or one tensor. They stay as
        they are. For a model, `loss` calls `torch.func.functional_call`.
      strength: lambda, per unit of the mean loss: a number >= 0, a tensor that
        broadcasts to its parameter, or a mapping from parameter names to these. A
        constraint takes any: it has no effect.
      penalty: the penalty, of unit strength, or a constraint.
      mask: the parameters that are penalised, see `weights_only`; `None` means all.
        The others are fitted without a penalty.
      tol: the residual to reach, in [0, 1), in units of the gradient of the loss: with
        `1e-3 * strength` each condition holds to 0.1 %. In single precision residuals
        end near 1e-7 times the terms that the gradient adds up.
      max_iterations: the most steps to take, >= 1.

    Returns:
      A `Solution`. Where `converged` is False, `residual` tells how far it is: after
      `max_iterations`; after 1000 steps, and half of all, in which rounding has hidden
      any progress of residual and objective; or at a NaN, which stays visible. A
      UserWarning says so.

    Raises:
      TypeError: a loss that gives no real scalar; parameters that are not real
        floating; a strength that is no number (a schedule, a target).
      ValueError: a strength, mask or penalty that does not fit the parameters; `tol` or
        `max_iterations` out of range; a loss, gradient or strength that is not finite
        at the start.

    Example:
      >>> X, y = torch.eye(3), torch.tensor([3.0, -2.0, 0.5])
      >>> found = solve(
      ...     lambda p: 0.5 * ((X @ p["w"] - y) ** 2).sum(), {"w": torch.zeros(3)}, 1.0
      ... )
      >>> found.params["w"].round(decimals=4), found.converged
      (tensor([ 2., -1.,  0.]), True)
    """
    solution = find_solution(
        loss,
        params,
        strength,
        penalty=penalty,
        mask=mask,
        tol=tol,
        max_iterations=max_iterations,
    )
    warn_unless_converged(solution, tol, max_iterations)
    return solution


def find_solution(
    loss: Callable[[Any], Tensor],
    params: Mapping[str, Tensor],
    strength: Strength,
    *,
    penalty: Penalty,
    mask: Mask,
    tol: float,
    max_iterations: int,
) -> Solution:
    """Solve as `solve` does, and leave it to the caller to warn."""
    tol, max_iterations = check_limits(tol, max_iterations)
    require_tensors(params)
    rows = penalised_rows(params, strength, penalty, mask)
    rows = [row for row in rows if row[1] is not None]
    for name, x, _ in rows:
        if not x.dtype.is_floating_point:
            raise TypeError(
                f"params['{name}'] has dtype {x.dtype}; what is fitted must be real "
                "floating point. Convert it, or close the loss over it."
            )
        require_known_float(f"params['{name}']", x.dtype)
    with torch.no_grad():
        problem = Problem(loss, params, rows, penalty)
        start = problem.start()
        if not (start.point.loss.isfinite() and not start.residual.norm.isnan()):
            raise ValueError(
                f"loss must be finite at params, and so must its gradient and the "
                f"strength; got a loss of {start.point.loss} and a residual of "
                f"{start.residual.norm}. Look for NaN in the data, or start elsewhere."
            )
        end = problem.run(start, tol, max_iterations)
        return Solution(
            params=problem.rebuilt(end.point.leaves),
            objective=problem.objective(end.point),
            loss=end.point.loss,
            residual=end.residual,
            iterations=end.iterations,
            converged=bool((end.residual.largest <= tol) & end.point.loss.isfinite()),
        )


def check_limits(tol: float, max_iterations: int) -> tuple[float, int]:
    """Return a tolerance and a number of iterations that solvers can take, or raise."""
    return (
        check_real("tol", tol, "[0, 1)", "one such as 1e-6"),
        check_int("max_iterations", max_iterations, "one such as 10_000", most=LARGEST),
    )


def require_tensors(params: Any) -> None:
    """Raise TypeError for what is neither tensors by name nor one tensor."""
    leaves = params.values() if isinstance(params, Mapping) else [params]
    if not all(leaf is None or isinstance(leaf, Tensor) for leaf in leaves):
        raise TypeError(
            "params must be a mapping from names to tensors, or one tensor, got "
            f"{params!r}. Pass dict(model.named_parameters())."
        )
    for leaf in leaves:
        if hasattr(leaf, "full_tensor"):
            raise TypeError(
                "params must be whole tensors, got a DTensor. Pass "
                "param.full_tensor(), or train the shards with Proximal."
            )


def warn_unless_converged(solution: Solution, tol: float, max_iterations: int) -> None:
    """Warn, at the line that called the caller, of a solution that falls short."""
    if solution.converged:
        return
    iterations, reached = solution.iterations, float(solution.residual.largest)
    if math.isnan(reached) or not math.isfinite(solution.loss):
        remedy = "Loss or gradient became NaN: look at the loss, or start elsewhere"
    elif iterations < max_iterations:
        remedy = "Rounding hides all progress: raise tol, or use double precision"
    else:
        remedy = "Raise max_iterations or tol, or bring the data to one scale"
    warnings.warn(
        f"solve has not converged: after {iterations} iterations the residual is "
        f"{reached:.3g}, above tol={float(tol):.3g}. {remedy}.",
        UserWarning,
        stacklevel=3,
    )
