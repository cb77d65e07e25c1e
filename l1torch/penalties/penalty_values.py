"""The value of a penalty on a whole tree of parameters, for reports and losses."""

from collections.abc import Mapping

import torch
from torch import Tensor

from l1torch.parameters.masks import Mask, selected, weights_only
from l1torch.parameters.trees import Params, named_leaves, require_real_floating
from l1torch.penalties.base import Penalty, PenaltyRow, require_penalty
from l1torch.penalties.separable import l1
from l1torch.strengths.values import (
    Strength,
    check_strength,
    is_schedule,
    strengths_at,
)


def penalty_value(
    params: Params,
    strength: Strength,
    penalty: Penalty = l1(),
    mask: Mask = weights_only,
) -> Tensor:
    """Sum `strength * penalty` over the penalised leaves: to report, or for a loss.

    Differentiated, it gives the penalty's subgradient: 0 at a weight of 0. Added to a
    loss it finds no exact zeros; for these use `proximal_step` or `Proximal`.

    Args:
      params: a module, or a mapping from names to tensors.
      strength: number, tensor, or mapping from names to these; in units of the loss.
      penalty: the penalty, of unit strength.
      mask: the parameters to count, see `weights_only`; `None` counts all.

    Returns:
      Scalar in the widest dtype of the penalised parameters, at least float32.

    Raises:
      TypeError: no penalty; a strength that is no number (a schedule: call it with
        your step count); a penalised parameter that is not real floating.
      ValueError: negative or NaN strength; a strength or mask that does not fit.

    Example:
      >>> params = {"w": torch.tensor([1.0, -2.0]), "b": torch.tensor(5.0)}
      >>> penalty_value(params, 0.5)
      tensor(1.5000)
    """
    leaves = strength.values() if isinstance(strength, Mapping) else [strength]
    if any(is_schedule(leaf) for leaf in leaves):
        raise TypeError(
            f"strength must be a number here, got the schedule {strength!r}. Call it "
            "with your step count and pass the result."
        )
    check_strength(strength)
    require_penalty(penalty)
    rows = zip(
        named_leaves(params),
        selected(mask, params),
        strengths_at(strength, 0, params),
        strict=True,
    )
    chosen = []
    for (name, leaf), penalised, leaf_strength in rows:
        if penalised:
            require_real_floating(name, leaf)
            chosen.append(PenaltyRow(name, leaf, leaf_strength))
    return torch.as_tensor(penalty.tree_value(chosen))
