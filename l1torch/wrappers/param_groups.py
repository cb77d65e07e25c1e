"""The parameter groups of an optimizer: names, and what stands under our own keys.

Under `l1` is the strength of the group: a number, a tensor, or a mapping from names to
these. Under `l1_count`, if the strength follows a schedule or a target, are the steps
taken. Under `l1_default` is whether the strength came from the wrapper, and not with
the group: a later wrapper around the same base replaces its own kind only.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from l1torch.numerics.checks import (
    as_number,
    check_number,
    described,
    require_broadcast,
)
from l1torch.numerics.elementwise import Number
from l1torch.parameters.trees import Group

StrengthOfGroup = Number | Mapping[str, Number]
"""What stands under the key `l1`."""

_T = TypeVar("_T")

_ADDED = (
    "_orig_mod",  # by torch.compile
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",  # by Lightning
)


@functools.lru_cache(maxsize=2**16)
def plain_name(name: str) -> str:
    """Return a parameter's name without what wrappers of its module put in.

    What is kept by name is kept by this one: a checkpoint of the bare model fits the
    one that is compiled or distributed, and the other way round.
    """
    first, *rest = parts = [part for part in name.split(".") if part not in _ADDED]
    # DDP wraps whole models only: `module` further inside is the user's own name.
    return plain_name(".".join(rest)) if first == "module" and rest else ".".join(parts)


def by_plain_name(values: Mapping[str, _T]) -> dict[str, _T]:
    """Return what is kept for each parameter by its `plain_name`.

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
    """List `(name, parameter)` of a group; the position stands for a lacking name."""
    names = group.get("param_names") or map(str, range(len(group["params"])))
    return list(zip(names, group["params"], strict=True))


def has_own_strength(group: Group) -> bool:
    """Tell whether a group came with a strength of its own."""
    return "l1" in group and not group.get("l1_default")


def group_strength(group: Group) -> StrengthOfGroup:
    """Return the strength of a group that has one."""
    return group["l1"]


def set_group_strength(group: Group, strength: StrengthOfGroup) -> None:
    """Keep a new strength in a group."""
    group["l1"] = strength


def is_counted(group: Group) -> bool:
    """Tell whether the strength of a group follows a schedule or a target."""
    return "l1_count" in group


def steps_taken(groups: Sequence[Group]) -> int:
    """Return how many steps the strengths of groups have followed; 0 of none."""
    return max((group["l1_count"] for group in groups if is_counted(group)), default=0)


def count_step(group: Group) -> None:
    """Count a step of a group whose strength follows a schedule or a target."""
    if is_counted(group):
        group["l1_count"] += 1


def set_steps_taken(group: Group, count: int | None) -> None:
    """Keep the steps taken in a group; None for a strength that follows nothing."""
    if count is None:
        group.pop("l1_count", None)
    else:
        group["l1_count"] = count


def strength_settings(
    strength: StrengthOfGroup, *, counted: bool = False, default: bool = True
) -> Group:
    """Return the keys of a group before the first step.

    Args:
      strength: its strength.
      counted: whether this follows a schedule or a target.
      default: whether it comes from the wrapper, and not with the group.
    """
    count = {"l1_count": 0} if counted else {}
    return {"l1": strength, **count, "l1_default": default}


def all_params(groups: list[Group]) -> dict[str, Tensor] | list[Tensor]:
    """Gather the parameters of all groups, by name where they have names."""
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
    """Read and check the strength of each parameter of a group."""
    if "l1" not in group:
        raise ValueError(
            f"param_groups must have the key 'l1', got {sorted(group)}. Load state "
            "dicts through the wrapper, which puts the strength back."
        )
    strength = group_strength(group)
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
