"""Linear models: losses, duality gaps, Newton's method, paths, cross-validation.

It knows no networks: a model here is one matrix of coefficients. Start with `fitting`.
"""

from l1jax.linear.duality import DualityGap, duality_gap
from l1jax.linear.feature_count import KeptFeatures, keep_features
from l1jax.linear.fitting import solve_linear
from l1jax.linear.model_selection import (
    CrossValidation,
    cross_validate,
    information_criterion,
)
from l1jax.linear.paths import linear_path
from l1jax.linear.problem import LinearSolution

__all__ = [
    "CrossValidation",
    "DualityGap",
    "KeptFeatures",
    "LinearSolution",
    "cross_validate",
    "duality_gap",
    "information_criterion",
    "keep_features",
    "linear_path",
    "solve_linear",
]
