"""Refitting: the same model without its penalty, on the weights that are not zero."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from l1jax.parameters.masks import Mask, selected, weights_only
from l1jax.parameters.trees import Tree, is_none
from l1jax.penalties.separable import l1
from l1jax.solvers.full_batch import (
    Solution,
    find_solution,
    require_arrays,
    warn_unless_converged,
)


def refit(
    loss: Callable[[Tree], jax.Array],
    params: Tree,
    *,
    mask: Mask = weights_only,
    tol: float = 1e-6,
    max_iterations: int = 10_000,
) -> Solution:
    """Minimise the loss without its penalty over the weights that are not zero.

    A penalty pulls the weights that it keeps towards zero as well. This takes the bias
    out (Belloni and Chernozhukov, 2013: least squares after the lasso): weights of
    exactly 0 stay so, all others are fitted by `solve`, on the full batch. In a
    training by minibatches take `freeze_zeros` and a strength of 0 instead.

    Args:
      loss: the mean loss without penalty, a function from the parameters to a scalar.
      params: where the zeros are, and where to begin.
      mask: the leaves whose zeros are held, see `weights_only`; `None` for all.
      tol: the largest element of the gradient on the support at which to stop, in
        [0, 1).
      max_iterations: when to give up, with a warning.

    Returns:
      The `Solution` of strength 0; its `residual` is the gradient on the support.

    Raises:
      TypeError, ValueError: as `solve`.

    Example:
      >>> def loss(params):
      ...     return jnp.sum((params["w"] - jnp.array([3.0, 1.0])) ** 2)
      >>> print(refit(loss, {"w": jnp.array([2.5, 0.0])}).params["w"].round(3))
      [3. 0.]
    """
    require_arrays(params)
    leaves, treedef = jax.tree.flatten(params, is_leaf=is_none)
    held = [
        jnp.asarray(x) == 0 if chosen and x is not None else None
        for x, chosen in zip(leaves, selected(mask, params), strict=True)
    ]

    def on_support(params: Tree) -> jax.Array:
        kept = [
            x if zeros is None else jnp.where(zeros, jnp.zeros_like(x), x)
            for x, zeros in zip(
                jax.tree.leaves(params, is_leaf=is_none), held, strict=True
            )
        ]
        return loss(jax.tree.unflatten(treedef, kept))

    solution = find_solution(
        on_support,
        params,
        0.0,
        penalty=l1(),
        mask=mask,
        tol=tol,
        max_iterations=max_iterations,
    )
    warn_unless_converged(solution, tol, max_iterations)
    return solution
