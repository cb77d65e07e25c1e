"""The tensors of a model: their dotted names, and values spread over them."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from l1torch.numerics.checks import described, require_known_float

Params = (
    torch.nn.Module
    | Tensor
    | Mapping[str, Tensor | None]
    | Sequence[Tensor | None]
    | Sequence[tuple[str, Tensor]]
)
"""A module, a mapping from names to tensors, a sequence of tensors or of pairs of names
and tensors, or one tensor. `None` stands for no tensor."""

Leaf = Any
"""A tensor, None for no tensor, or, before it is checked, what was given for one."""

_T = TypeVar("_T")

Group = dict[str, Any]
"""One of `optimizer.param_groups`."""


def named_leaves(params: Params, argument: str = "params") -> list[tuple[str, Leaf]]:
    """List `(dotted name, tensor)` of a module, a mapping, a sequence or one tensor.

    The names of a sequence are its indices, unless it holds pairs of names and tensors;
    that of a bare tensor is empty. `None` is a leaf of a mapping.
    """
    if isinstance(params, torch.nn.Module):
        return list(params.named_parameters())
    if isinstance(params, Mapping):
        return list(params.items())
    if isinstance(params, Tensor):
        return [("", params)]
    if _is_pairs(params):
        return list(params)
    if isinstance(params, Sequence) and not isinstance(params, str):
        return [(str(i), leaf) for i, leaf in enumerate(params)]
    raise TypeError(
        f"{argument} must be a module, a mapping from names to tensors, or a sequence "
        f"of tensors, got {described(params)}. Pass dict(model.named_parameters())."
    )


def has_names(params: Params) -> bool:
    """Return whether the leaves are known by name, not by position."""
    known = isinstance(params, torch.nn.Module | Mapping | Tensor)
    return known or _is_pairs(params)


def spread(
    prefix: _T | Mapping[str, _T] | Sequence[_T], params: Params, argument: str
) -> list[_T]:
    """Return the value that `prefix` has for each leaf of `named_leaves(params)`.

    Args:
      prefix: one value, or a mapping (or sequence) with a value for each leaf.
      params: the parameters.
      argument: what the user calls `prefix`, for the error.

    Raises:
      ValueError: `prefix` is a mapping with other names, a sequence of another length.
    """
    leaves = named_leaves(params)
    names = [name for name, _ in leaves]
    if isinstance(prefix, Mapping):
        if set(prefix) == set(names):
            return [prefix[name] for name in names]
    elif isinstance(prefix, list | tuple):
        if len(prefix) == len(names):
            return list(prefix)
    else:
        return [prefix] * len(names)
    raise ValueError(
        f"{argument} does not fit the parameters: it has "
        f"{sorted(prefix) if isinstance(prefix, Mapping) else len(prefix)}. Pass one "
        f"value, or a mapping with one for each of {describe(leaves)}."
    )


def require_same_tree(
    updates: Params, params: Params, argument: str = "updates"
) -> None:
    """Raise ValueError unless updates and parameters match, name by name.

    A `None` update stands for a parameter that takes no step and matches any tensor.
    """
    require_params(params)
    wants, has = named_leaves(params), named_leaves(updates, argument)
    for name, update in has:
        if update is not None and not isinstance(update, Tensor):
            _require_floating(argument, name, update)
    if {name for name, _ in wants} != {name for name, _ in has}:
        raise ValueError(
            f"{argument} must have the same names as params; {argument} hold "
            f"{describe(has)}, params hold {describe(wants)}. Pass the gradients of "
            "these very parameters."
        )
    found = dict(has)
    for name, param in wants:
        update = found[name]
        if update is None or param is None:
            continue
        if not isinstance(param, Tensor) or param.dtype.is_floating_point:
            _require_floating(argument, name, update)
        if update.shape != param.shape:
            raise ValueError(
                f"{argument}['{name}'] has shape {tuple(update.shape)} but the "
                f"parameter has shape {tuple(param.shape)}. Pass the gradients of "
                "these very parameters."
            )


def require_real_floating(name: str, leaf: Tensor) -> None:
    """Raise TypeError for a tensor that cannot be penalised: integer, bool, complex."""
    if not isinstance(leaf, Tensor):
        raise TypeError(
            f"params['{name}'] must be a tensor, got {described(leaf)}. Pass the "
            "parameters of your model, such as {'w': torch.ones(3)}."
        )
    if not leaf.is_floating_point():
        raise TypeError(
            f"params['{name}'] has dtype {leaf.dtype}; a penalised parameter must be "
            "real floating point. Leave it out with mask=, or convert it."
        )
    require_known_float(f"params['{name}']", leaf.dtype)


def require_params(params: Params) -> None:
    """Raise TypeError unless all leaves are tensors, known by strings.

    What is penalised, `require_real_floating` checks.
    """
    for name, leaf in named_leaves(params):
        if not isinstance(name, str):
            raise TypeError(
                f"params must be known by strings, got {described(name)}. Pass "
                "dict(model.named_parameters())."
            )
        if leaf is not None and not isinstance(leaf, Tensor):
            require_real_floating(name, leaf)


def require_updates(updates: Mapping[str, Tensor]) -> None:
    """Raise TypeError unless all updates are tensors of floating point."""
    if not isinstance(updates, Mapping):
        raise TypeError(
            f"updates must be a mapping from names to tensors, got "
            f"{described(updates)}. Pass {{'w': tensor}}, as the parameters are."
        )
    for name, leaf in updates.items():
        known = isinstance(leaf, Tensor) and leaf.dtype.is_complex
        if leaf is not None and not known:
            _require_floating("updates", name, leaf)


def _require_floating(argument: str, name: str, leaf: object) -> None:
    known = isinstance(leaf, Tensor)
    if not known or not leaf.dtype.is_floating_point:
        got = f"dtype {leaf.dtype}" if known else described(leaf)
        raise TypeError(
            f"{argument}['{name}'] must be a tensor of real floating point, as its "
            f"parameter is, got {got}. Pass the gradients of these very parameters."
        )


def require_dense(argument: str, tensor: Tensor) -> None:
    """Raise TypeError for a sparse tensor."""
    if tensor.layout != torch.strided:
        raise TypeError(
            f"{argument} has layout {tensor.layout}; a penalty moves every weight, "
            "whether or not it has a gradient. Use dense gradients (sparse=False in "
            "torch.nn.Embedding), or leave the parameter out with mask=."
        )


def describe(leaves: list[tuple[str, Leaf]]) -> str:
    """Return the leaves as `name shape, name shape, ...` for an error message."""
    shown = [
        f"'{name}' {tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf}"
        for name, leaf in leaves[:20]
    ]
    if len(leaves) > len(shown):
        shown.append(f"... and {len(leaves) - len(shown)} more")
    return ", ".join(shown) or "no tensors"


def _is_pairs(params: Params) -> bool:
    return isinstance(params, list | tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in params
    )
