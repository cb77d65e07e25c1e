"""The parameter groups of an optimizer: names, and the strength under the key `l1`."""

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from l1torch.numerics.checks import (
    as_number,
    check_number,
    described,
    require_broadcast,
)
from l1torch.numerics.elementwise import Number
from l1torch.parameters.trees import Group

_ADDED = (
    "_orig_mod",  # by torch.compile
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",  # by Lightning
)


@functools.lru_cache(maxsize=2**16)
def plain_name(name: str) -> str:
    """Takes out of a parameter's name what wrappers of its module put in.

    What is kept by name is kept by this one: a checkpoint of the bare model fits the
    one that is compiled or distributed, and the other way round.
    """
    first, *rest = parts = [part for part in name.split(".") if part not in _ADDED]
    # DDP and its like wrap whole models.
    return plain_name(".".join(rest)) if first == "module" and rest else ".".join(parts)


def by_plain_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """Names what is kept for each parameter by `plain_name`.

    Raises:
      TypeError: a name is no string.
      ValueError: two of the names are the same without what wrappers put in.
    """
    for name in values:
        if not isinstance(name, str):
            raise TypeError(
                "strength must map names to numbers, got the name "
                f"{described(name)}. Pass one such as 'weight'."
            )
    plain = {plain_name(name): value for name, value in values.items()}
    if len(plain) < len(values):
        raise ValueError(
            "strength must have names that differ in more than what wrappers add, "
            f"such as 'module.', got {sorted(values)}. Rename a submodule, or give "
            "groups a key 'l1' of their own."
        )
    return plain


def named_params(group: Group) -> list[tuple[str, Tensor]]:
    """Lists `(name, parameter)` of a group; the position stands for a lacking name."""
    names = group.get("param_names") or map(str, range(len(group["params"])))
    return list(zip(names, group["params"], strict=True))


def all_params(groups: list[Group]) -> dict[str, Tensor] | list[Tensor]:
    """Gathers the parameters of all groups, by name where they have names."""
    if "param_names" not in groups[0]:
        return [param for group in groups for param in group["params"]]
    pairs = [pair for group in groups for pair in named_params(group)]
    params = dict(pairs)
    if len(params) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(
            f"optimizer must have distinct parameter names, got {twice} twice. Give "
            "each model's names a prefix, as named_parameters(prefix=...) does."
        )
    return params


def strengths_of(group: Group) -> list[Number]:
    """Reads and checks the strength of each parameter of a group."""
    if "l1" not in group:
        raise ValueError(
            f"param_groups must have the key 'l1', got {sorted(group)}. Load state "
            "dicts through the wrapper, which puts the strength back."
        )
    strength = group["l1"]
    if not isinstance(strength, Mapping):
        strength = as_number(strength)
        check_number("strength (key 'l1')", strength)
        if isinstance(strength, Tensor):
            for name, param in named_params(group):
                _require_fit(strength, name, param)
        return [strength] * len(group["params"])
    if "param_names" not in group:
        raise ValueError(
            f"strength maps the names {sorted(strength)}, got parameters without. "
            "Build the optimizer from model.named_parameters()."
        )
    values, plain = [], by_plain_name(strength)
    for name, param in named_params(group):
        if plain_name(name) not in plain:
            raise ValueError(
                f"strength has no entry for '{name}', got {sorted(strength)}. Map "
                "every name to a number, whether or not it is penalised, or give the "
                "group a key 'l1' of its own."
            )
        values.append(as_number(plain[plain_name(name)]))
        check_number(f"strength['{name}']", values[-1])
        _require_fit(values[-1], name, param)
    return values


def _require_fit(strength: Number, name: str, param: Tensor) -> None:
    require_broadcast("strength", strength, name, param.shape)
    if not isinstance(strength, Tensor) or strength.dim() == 0:
        return
    if hasattr(param, "to_local") and not hasattr(strength, "to_local"):
        raise ValueError(
            f"strength must be sharded as its parameter '{name}' is, got a plain "
            f"tensor of shape {tuple(strength.shape)}. Pass torch.distributed.tensor."
            "distribute_tensor(strength, param.device_mesh, param.placements)."
        )
