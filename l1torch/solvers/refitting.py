"""Refitting: the same model without its penalty, on the weights that are not zero."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from l1torch.parameters.masks import Mask, selected, weights_only
from l1torch.parameters.trees import named_leaves
from l1torch.penalties.separable import l1
from l1torch.solvers.full_batch import (
    Solution,
    find_solution,
    warn_unless_converged,
)


def refit(
    loss: Callable[[dict[str, Tensor]], Tensor],
    params: Mapping[str, Tensor],
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
      params: where the zeros are, and where to begin; tensors by name.
      mask: the parameters whose zeros are held, see `weights_only`; `None` for all.
      tol: the largest element of the gradient on the support at which to stop, in
        [0, 1).
      max_iterations: when to give up, with a warning.

    Returns:
      The `Solution` of strength 0; its `residual` is the gradient on the support.

    Raises:
      TypeError, ValueError: as `solve`.

    Example:
      >>> import torch
      >>> def loss(params):
      ...     return (params["w"] - torch.tensor([3.0, 1.0])).square().sum()
      >>> refit(loss, {"w": torch.tensor([2.5, 0.0])}).params["w"].round(decimals=3)
      tensor([3., 0.])
    """
    held = {
        name: x.detach() == 0
        for (name, x), chosen in zip(
            named_leaves(params), selected(mask, params), strict=True
        )
        if chosen and x is not None
    }

    def on_support(params: Any) -> Tensor:
        if isinstance(params, Tensor):
            return loss(params.masked_fill(held[""], 0) if held else params)
        return loss(
            {
                name: x.masked_fill(held[name], 0) if name in held else x
                for name, x in params.items()
            }
        )

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
