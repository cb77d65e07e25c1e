"""From an optimizer's state and a strength to the threshold of its proximal step.

It knows how optimizers step, and takes no step itself. Start with `effective_steps`.
"""

import l1jax.thresholds.optimizer_steps  # noqa: F401 (it fills the registry)
from l1jax.thresholds.effective_steps import EffectiveStep, register_step_size

__all__ = ["EffectiveStep", "register_step_size"]
