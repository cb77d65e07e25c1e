"""Arithmetic on arrays: proximal formulas, projections, quantiles, checks of numbers.

It knows no parameter tree, no penalty and no optimizer. Start with `prox`.
"""

from l1torch.numerics.prox import soft_threshold

__all__ = ["soft_threshold"]
