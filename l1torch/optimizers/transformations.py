"""Gradient transformations as optax has them, for torch's trees of tensors."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from l1torch.parameters.trees import require_params, require_same_tree

TransformState = Any
"""What a transformation keeps from step to step, such as a `ProximalStepState`."""


class GradientTransformation(NamedTuple):
    """A pair of pure functions, as optax has it."""

    init: Callable[[Mapping[str, Tensor]], TransformState]
    """`init(params) -> state`."""
    update: Callable[..., tuple[dict[str, Tensor], TransformState]]
    """`update(updates, state, params) -> (updates, state)`."""


def apply_updates(
    params: Mapping[str, Tensor], updates: Mapping[str, Tensor | None]
) -> dict[str, Tensor]:
    """Add the updates and round to the parameters' dtypes, as optax's function does.

    It can be differentiated: with the parameters of a module, call it under
    `torch.no_grad()`, or the graph grows from step to step.

    Args:
      params: tensors by name.
      updates: tensors by the same names; a parameter whose update is `None` stays.

    Returns:
      A new dict; `params` and its tensors are left as they are.

    Raises:
      ValueError: the names or shapes differ.
    """
    require_params(params)
    require_same_tree(updates, params)
    return {
        name: param
        if updates[name] is None
        else (param + updates[name]).to(param.dtype)
        for name, param in params.items()
    }
