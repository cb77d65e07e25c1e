"""The parameters that a transformation penalises, with their strengths."""

import itertools
from collections.abc import Mapping

from torch import Tensor

from l1torch.numerics.elementwise import Number
from l1torch.parameters.masks import Mask, selected
from l1torch.parameters.trees import (
    named_leaves,
    require_dense,
    require_real_floating,
    require_same_tree,
)
from l1torch.penalties.base import Penalty, require_fit
from l1torch.strengths.values import (
    PenalisedLeaf,
    Schedule,
    Strength,
    check_schedules,
    strengths_at,
)


def check_params(
    params: Mapping[str, Tensor],
    mask: Mask,
    strength: Strength,
    learning_rate: Number | Schedule | None,
    penalty: Penalty,
) -> None:
    """Raise at `init` for what does not fit the parameters, or cannot be penalised."""
    leaves, flags = named_leaves(params), selected(mask, params)
    for name, leaf in itertools.compress(leaves, flags):
        require_real_floating(name, leaf)
    strengths = check_schedules(strength, learning_rate, params)
    for (name, leaf), value in itertools.compress(
        zip(leaves, strengths, strict=True), flags
    ):
        require_fit(penalty, name, leaf, value)


def penalised_leaves(
    updates: Mapping[str, Tensor],
    params: Mapping[str, Tensor] | None,
    strength: Strength,
    mask: Mask,
    count: int,
    joint: bool = False,
) -> list[PenalisedLeaf]:
    """List the penalised parameters with their strengths.

    One whose update is `None` takes no step and counts as not penalised.

    Raises:
      ValueError: missing parameters, updates of other names, or of some only under a
        joint penalty.
    """
    if params is None:
        raise ValueError(
            "params must be given, got None. Call update(updates, state, params)."
        )
    require_same_tree(updates, params)
    rows = zip(
        named_leaves(params),
        selected(mask, params),
        strengths_at(strength, count, params),
        strict=True,
    )
    found, still = [], []
    for (name, param), penalised, param_strength in rows:
        if penalised and updates[name] is not None:
            require_real_floating(name, param)
            require_dense(f"updates['{name}']", updates[name])
            found.append(PenalisedLeaf(name, param, param_strength))
        elif penalised and joint and param is not None:
            still.append(name)
    if found and still:
        raise ValueError(
            f"updates of {still} are None, but the penalty holds for all penalised "
            "tensors together. Leave those that do not move out with mask=."
        )
    return found
