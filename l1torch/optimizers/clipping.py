"""Clipping of gradients by their L1 norm; no regularisation, for all its name."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from l1torch.numerics.checks import check_scalar
from l1torch.numerics.elementwise import Number, compute_dtype
from l1torch.numerics.order_statistics import total
from l1torch.numerics.sharding import local
from l1torch.optimizers.transformations import (
    GradientTransformation,
)
from l1torch.parameters.trees import require_updates


def clip_by_global_l1_norm(max_norm: Number) -> GradientTransformation:
    """Scale gradients down to an L1 norm: `g * min(1, max_norm / sum |g|)`.

    The sum runs over all tensors; the direction stays. For n gradients of one size the
    L1 norm is `sqrt(n)` times the L2 norm, so that `max_norm` must be chosen for the
    model. This is for dicts of gradients, as `torch.func` gives them. With an optimizer
    call `torch.nn.utils.clip_grad_norm_(params, max_norm, norm_type=1)` before its
    `step`; that one divides by `sum |g| + 1e-6`.

    This bounds the step, and penalises no weight: it makes no zeros. For these apply it
    before a proximal optimizer, never after one (Pascanu, Mikolov and Bengio, 2013, has
    clipping by norm). Where it is still active at the solution, and scales by s there,
    the solution is that of the strength `strength / s`.

    Args:
      max_norm: the largest L1 norm of all gradients together, in units of a gradient: a
        scalar > 0.

    Returns:
      A transformation without state, whose updates keep the dtype of the gradients;
      their norm is `max_norm` to rounding. It needs no parameters. Norms are summed in
      float32 for half precision, else in the dtype of the gradients. A gradient that is
      NaN or infinite, or a sum that overflows, makes all updates NaN.

    Raises:
      TypeError: a `max_norm` that is not a real number; at `update`, a sparse gradient.
      ValueError: a number that is not positive and finite, or what is not a scalar. In
        a tensor such a number makes all updates NaN.

    Example:
      >>> clip = clip_by_global_l1_norm(1.0)
      >>> clip.update({"w": torch.tensor([3.0, -1.0])}, clip.init({}))[0]
      {'w': tensor([ 0.7500, -0.2500])}
    """
    check_scalar("max_norm", max_norm)
    if not isinstance(max_norm, Tensor) and max_norm == 0:
        raise ValueError(
            f"max_norm must be positive, got {max_norm!r}. Pass the largest L1 norm "
            "that all gradients together may have."
        )

    def init_fn(params: Mapping[str, Tensor]) -> tuple[()]:
        del params
        return ()

    def update_fn(
        updates: Mapping[str, Tensor], state: tuple[()], params: Any = None
    ) -> tuple[dict[str, Tensor], tuple[()]]:
        del params
        require_updates(updates)
        found = {name: leaf for name, leaf in updates.items() if leaf is not None}
        _require_dense(found)
        if not found:
            return dict(updates), state
        leaves = list(found.values())
        device = local(leaves[0]).device
        norms = [_widened(local(leaf)).abs().sum().to(device) for leaf in leaves]
        norm = total(norms, leaves)
        most = torch.as_tensor(max_norm, dtype=norm.dtype, device=device)
        valid = norm.isfinite() & (most > 0)
        scale = (most / torch.maximum(norm, most)).masked_fill(~valid, math.nan)
        return dict(updates) | {k: _scaled(v, scale) for k, v in found.items()}, state

    return GradientTransformation(init_fn, update_fn)


def _widened(leaf: Tensor) -> Tensor:
    return leaf.to(compute_dtype(leaf.dtype))


def _scaled(leaf: Tensor, scale: Tensor) -> Tensor:
    wide = _widened(leaf)
    return (wide * scale.to(wide.device, wide.real.dtype)).to(leaf.dtype)


def _require_dense(updates: Mapping[str, Tensor]) -> None:
    for name, leaf in updates.items():
        if leaf.layout != torch.strided:
            raise TypeError(
                f"updates['{name}'] has layout {leaf.layout}; it may hold an entry in "
                "several parts, which a norm would not see. Use dense gradients "
                "(sparse=False in torch.nn.Embedding)."
            )
