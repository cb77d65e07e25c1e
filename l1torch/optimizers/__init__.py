"""What a user trains with: proximal optimizers, transforms, clipping, frozen zeros.

It knows no data and no loss. Start with `proximal_optimizers`.
"""

from l1torch.optimizers.clipping import clip_by_global_l1_norm
from l1torch.optimizers.frozen_zeros import FrozenZeros, freeze_zeros
from l1torch.optimizers.proximal_optimizers import Proximal
from l1torch.optimizers.proximal_steps import ProximalStepState, proximal_step
from l1torch.optimizers.subgradients import (
    AddSubgradientState,
    Subgradient,
    add_subgradient,
)
from l1torch.optimizers.transformations import GradientTransformation, apply_updates

__all__ = [
    "AddSubgradientState",
    "FrozenZeros",
    "GradientTransformation",
    "Proximal",
    "ProximalStepState",
    "Subgradient",
    "add_subgradient",
    "apply_updates",
    "clip_by_global_l1_norm",
    "freeze_zeros",
    "proximal_step",
]
