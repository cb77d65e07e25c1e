"""A full-batch solver that stops when its certificate says so."""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.numerics.checks import (
    LARGEST,
    check_int,
    check_real,
    described,
    require_known_float,
)
from l1jax.numerics.elementwise import dtype_of
from l1jax.parameters.masks import Mask, weights_only
from l1jax.parameters.trees import PyTree, Tree, parameters_of
from l1jax.penalties.base import Penalty
from l1jax.penalties.separable import l1
from l1jax.solvers.fista import Problem
from l1jax.solvers.optimality import OptimalityResidual, penalised_rows
from l1jax.strengths.values import Strength


class Solution(NamedTuple):
    """What `solve` ends at."""

    params: PyTree
    """The parameters: a tree as given."""
    objective: jax.Array
    """`loss + strength * penalty`, a scalar."""
    loss: jax.Array
    """The loss alone, a scalar."""
    residual: OptimalityResidual
    """The certificate at `params`, see `optimality_residual`."""
    iterations: jax.Array
    """Steps taken, an int32 scalar."""
    converged: jax.Array
    """Whether `residual.largest <= tol`, and the loss is finite, a bool scalar."""


def solve(
    loss: Callable[[Tree], ArrayLike],
    params: Tree,
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
    faster; networks on minibatches are for `proximal`.

    If loss and penalty are convex, the result is optimal. Otherwise (a network, or
    `mcp`) it is stationary, and depends on the start.

    A call by itself compiles anew. For many of them put it into a compiled function,
    the data closed over or an argument. It may be vmapped over strengths or starts: all
    then run until the last has ended, each with the result that it has alone.

    Args:
      loss: maps parameters to the mean loss, a scalar, without the penalty.
      params: where to start, a tree of real floating arrays of any shapes.
      strength: lambda, per unit of the mean loss: a number >= 0, an array that
        broadcasts to its parameter, or a tree of these that is a prefix of the
        parameters'. A constraint takes any: it has no effect.
      penalty: the penalty, of unit strength, or a constraint.
      mask: the leaves that are penalised, see `weights_only`; `None` means all. The
        others are fitted without a penalty.
      tol: the residual to reach, in [0, 1), in units of the gradient of the loss: with
        `1e-3 * strength` each condition holds to 0.1 %. In single precision residuals
        end near 1e-7 times the terms that the gradient adds up.
      max_iterations: the most steps to take, >= 1.

    Returns:
      A `Solution`. Where `converged` is False, `residual` tells how far it is: after
      `max_iterations`; after 1000 steps, and half of all, in which rounding has hidden
      any progress of residual and objective; or at a NaN, which stays visible. A
      UserWarning says so outside of compiled functions.

    Raises:
      TypeError: a loss that gives no real scalar; parameters that are not real
        floating; a strength that is no number (a schedule, a target).
      ValueError: a strength, mask or penalty that does not fit the parameters; `tol` or
        `max_iterations` out of range; a loss, gradient or strength that is not finite
        at the start.

    Example:
      >>> X, y = jnp.eye(3), jnp.array([3.0, -2.0, 0.5])
      >>> found = solve(lambda w: 0.5 * jnp.sum((X @ w - y) ** 2), jnp.zeros(3), 1.0)
      >>> print(jnp.round(found.params, 4), found.converged)
      [ 2. -1.  0.] True
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
    loss: Callable[[Any], ArrayLike],
    params: Any,
    strength: Strength,
    *,
    penalty: Penalty,
    mask: Mask,
    tol: float,
    max_iterations: int,
) -> Solution:
    """Solve as `solve` does, and leave it to the caller to warn."""
    tol, max_iterations = check_limits(tol, max_iterations)
    require_arrays(params)
    rows = penalised_rows(params, strength, penalty, mask)
    leaves, treedef = jax.tree.flatten(params)
    rows = [row for row in rows if row[1] is not None]
    for path, x, _ in rows:
        if not jnp.issubdtype(dtype_of(x), jnp.floating):
            raise TypeError(
                f"params['{path}'] has dtype {dtype_of(x)}; what is fitted must be "
                "real floating point. Convert it, or close the loss over it."
            )
        require_known_float(f"params['{path}']", dtype_of(x))
    require_scalar(loss, params)
    problem = Problem(
        lambda leaves: loss(jax.tree.unflatten(treedef, leaves)), rows, penalty
    )

    @jax.jit
    def run(leaves: list[jax.Array]) -> Solution:
        end = problem.run(problem.start(leaves), tol, max_iterations)
        return Solution(
            params=jax.tree.unflatten(treedef, end.point.leaves),
            objective=problem.objective(end.point),
            loss=end.point.loss,
            residual=end.residual,
            iterations=end.iterations,
            converged=(end.residual.largest <= tol) & jnp.isfinite(end.point.loss),
        )

    solution = run([jnp.asarray(x, dtype_of(x)) for x in leaves])
    finite = jnp.isfinite(solution.loss) & ~jnp.isnan(solution.residual.norm)
    if known(finite | (solution.iterations > 0)) is False:
        raise ValueError(
            "loss must be finite at params, and so must its gradient and the strength; "
            f"got a loss of {solution.loss} and a residual of "
            f"{solution.residual.norm}. Look for NaN in the data, or start elsewhere."
        )
    return solution


def check_limits(tol: float, max_iterations: int) -> tuple[float, int]:
    """Return a tolerance and a number of iterations that solvers can take, or raise."""
    return (
        check_real("tol", tol, "[0, 1)", "one such as 1e-6"),
        check_int("max_iterations", max_iterations, "one such as 10_000", most=LARGEST),
    )


def require_arrays(params: Any) -> None:
    """Raise TypeError for what holds more than parameters: a flax `nnx.Module`."""
    own = parameters_of(params)
    if jax.tree.structure(own) != jax.tree.structure(params):
        raise TypeError(
            "params must be a tree of arrays to fit, got flax modules or variables "
            f"that are no parameters, of type {type(params).__name__}. Split them, "
            "graphdef, params, rest = nnx.split(model, nnx.Param, ...), pass params, "
            "and let the loss use nnx.merge(graphdef, params, rest)."
        )


def require_scalar(loss: Callable[[Any], ArrayLike], params: Any) -> None:
    """Raise TypeError for a loss that gives anything but one real number."""
    if not callable(loss):
        raise TypeError(
            f"loss must be a function of the parameters, got {described(loss)}. Pass "
            "one that returns the mean loss."
        )
    try:
        found = jax.eval_shape(loss, params)
    except TypeError as error:
        raise TypeError(f"loss could not be called with params: {error}") from error
    leaf = isinstance(found, jax.ShapeDtypeStruct)
    if not (leaf and found.shape == () and jnp.issubdtype(found.dtype, jnp.floating)):
        raise TypeError(
            f"loss must return a real floating scalar, got {found}. Return the mean "
            "loss alone: a loss for each sample, or with further results, has no "
            "gradient."
        )


def known(flag: jax.Array) -> bool | None:
    """Return a flag as a Python bool; None inside compiled functions."""
    try:
        return bool(flag)
    except jax.errors.ConcretizationTypeError:
        return None


def warn_unless_converged(solution: Solution, tol: float, max_iterations: int) -> None:
    """Warn, at the line that called the caller, of a solution that falls short."""
    if known(solution.converged) is not False:
        return
    iterations, reached = int(solution.iterations), float(solution.residual.largest)
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
