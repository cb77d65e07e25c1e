"""What a user trains with: proximal optimizers, transforms, clipping, frozen zeros.

It knows no data and no loss. Start with `proximal_optimizers`.
"""

from l1jax.optimizers.clipping import clip_by_global_l1_norm
from l1jax.optimizers.frozen_zeros import freeze_zeros
from l1jax.optimizers.proximal_optimizers import ProximalState, proximal
from l1jax.optimizers.proximal_steps import ProximalStepState, proximal_step
from l1jax.optimizers.subgradients import AddSubgradientState, add_subgradient

__all__ = [
    "AddSubgradientState",
    "ProximalState",
    "ProximalStepState",
    "add_subgradient",
    "clip_by_global_l1_norm",
    "freeze_zeros",
    "proximal",
    "proximal_step",
]
