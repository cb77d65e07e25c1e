"""Which arrays a model has, their names, which are weights, and which of them are zero.

It knows no strength and no penalty. Start with `masks`.
"""

from l1torch.parameters.masks import by_path, weights_only
from l1torch.parameters.sparsity import (
    ArraySparsity,
    Control,
    SparsityReport,
    sparsity_report,
)

__all__ = [
    "ArraySparsity",
    "Control",
    "SparsityReport",
    "by_path",
    "sparsity_report",
    "weights_only",
]
