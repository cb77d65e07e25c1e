"""The strength above which all penalised weights are zero."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.parameters.masks import Mask, weights_only
from l1jax.parameters.trees import Tree
from l1jax.penalties.base import Penalty
from l1jax.penalties.separable import l1
from l1jax.solvers.full_batch import (
    Solution,
    check_limits,
    find_solution,
    known,
    require_arrays,
    require_scalar,
    warn_unless_converged,
)
from l1jax.solvers.optimality import penalised_rows


def lambda_max(
    loss: Callable[[Tree], ArrayLike],
    params: Tree,
    *,
    penalty: Penalty = l1(),
    mask: Mask = weights_only,
    tol: float = 1e-6,
    max_iterations: int = 10_000,
) -> jax.Array:
    """Find the smallest strength at which all penalised weights are zero.

    The penalised weights are set to zero, what is not penalised (the intercept) is
    fitted, and of the gradient g there the penalty takes what it needs to hold all at
    zero: `max |g|` for `l1()`, `max |g| / l1_ratio` for the elastic net, the largest
    norm of a group over its weight for `group_l1()`. For a convex loss and penalty a
    path of strengths begins here (Friedman, Hastie and Tibshirani, 2010).

    For a deep network it means nothing: with all weights at zero no gradient passes to
    the hidden layers, so that zero is stationary at every strength. If an array has no
    gradient at all, while others are penalised too, an error says so where theirs is
    no more than rounding and `tol` leave, else a warning. Choose a sparsity instead:
    `target_sparsity`. Of a single array without gradient, as where a linear model's y
    is constant, `lambda_max` is 0.

    Args:
      loss: maps parameters to the mean loss, a scalar, without the penalty.
      params: a tree of real floating arrays. Only what is not penalised is begun from.
      penalty: the penalty, of unit strength; it must define a `lambda_max`.
      mask: the leaves that are penalised, see `weights_only`; `None` means all.
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
      >>> X, y = jnp.eye(2), jnp.array([3.0, -4.0])
      >>> loss = lambda params: 0.25 * jnp.sum((X @ params["w"] - y) ** 2)
      >>> print(lambda_max(loss, {"w": jnp.ones(2)}))
      2.0
    """
    tol, max_iterations = check_limits(tol, max_iterations)
    require_arrays(params)
    for path, x, s in penalised_rows(params, 0.0, penalty, mask):
        if x is not None and s is not None:  # what has none raises before any work
            jax.eval_shape(penalty.at(path, jnp.shape(x)).lambda_max, jnp.asarray(x))
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
    loss: Callable[[Any], ArrayLike],
    params: Any,
    penalty: Penalty,
    mask: Mask,
    tol: float,
    max_iterations: int,
) -> ZeroSolution:
    """Set the penalised leaves to zero, and fit the others, without a warning."""
    rows = penalised_rows(params, 0.0, penalty, mask)
    rows = [row for row in rows if row[1] is not None]
    leaves, treedef = jax.tree.flatten(params)

    def filled(free: list[Any]) -> Any:
        values = iter(free)
        return jax.tree.unflatten(
            treedef,
            [next(values) if s is None else jnp.zeros_like(x) for _, x, s in rows],
        )

    free = [x for x, (_, _, s) in zip(leaves, rows, strict=True) if s is None]
    fitted = None
    if free:
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


def lambda_at_zero(
    loss: Callable[[Any], ArrayLike],
    at_zero: Any,
    penalty: Penalty,
    mask: Mask,
    tol: float,
) -> jax.Array:
    """Return `lambda_max`, from what `zero_solution` found."""
    require_scalar(loss, at_zero)
    rows = penalised_rows(at_zero, 0.0, penalty, mask)
    rows = [row for row in rows if row[1] is not None]

    @jax.jit
    def measured(params: Any) -> tuple[jax.Array, list[jax.Array], jax.Array]:
        value, tree = jax.value_and_grad(loss)(params)
        grads = jax.tree.leaves(tree)
        found = [
            penalty.at(path, jnp.shape(x)).lambda_max(grad)
            for (path, x, s), grad in zip(rows, grads, strict=True)
            if s is not None
        ]
        some = [jnp.any(grad != 0) for grad in grads]
        sizes = [
            (jnp.max(jnp.abs(grad)), 100 * jnp.finfo(grad.dtype).eps * jnp.abs(value))
            for (_, _, s), grad in zip(rows, grads, strict=True)
            if s is not None
        ]
        largest, rounding = (
            functools.reduce(jnp.maximum, x) for x in zip(*sizes, strict=True)
        )
        nothing = largest <= jnp.maximum(rounding, tol)
        return functools.reduce(jnp.maximum, found), some, nothing

    found, some, nothing = measured(at_zero)
    penalised = [
        (path, flag)
        for (path, _, s), flag in zip(rows, some, strict=True)
        if s is not None
    ]
    _require_gradient(nothing, penalised)
    _warn_if_some_vanish(penalised)
    return found


def _require_gradient(nothing: jax.Array, rows: list[tuple[str, jax.Array]]) -> None:
    """Raise where all that is left of the gradients is what the fit leaves."""
    gone = [path for path, some in rows if known(some) is False]
    if gone and len(rows) > 1 and known(nothing):
        raise ValueError(
            "params have no lambda_max: no gradient is above rounding where all "
            f"penalised weights are zero, and that of {gone} is 0. A network of "
            "several layers is stationary there at every strength. Choose a sparsity "
            "by target_sparsity, or, for a path, pass strengths= and warm_start=False."
        )


def _warn_if_some_vanish(rows: list[tuple[str, jax.Array]]) -> None:
    gone = [path for path, some in rows if known(some) is False]
    if gone and len(rows) > 1:
        warnings.warn(
            f"lambda_max sees no gradient of {gone} where all penalised weights are "
            "zero: in a network of several layers zero is stationary at every "
            "strength, and lambda_max means nothing. Choose a sparsity by "
            "target_sparsity instead.",
            UserWarning,
            stacklevel=4,
        )
