"""What a strength may be: a number, a schedule, a target sparsity; and its prior.

It knows no penalty, and not how a strength becomes a step. Start with `values`.
"""

from l1torch.strengths.priors import laplace_scale, laplace_strength
from l1torch.strengths.schedules import strength_schedule
from l1torch.strengths.targets import TargetSparsity, target_sparsity

__all__ = [
    "TargetSparsity",
    "laplace_scale",
    "laplace_strength",
    "strength_schedule",
    "target_sparsity",
]
