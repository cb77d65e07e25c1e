"""L1 regularisation with exact zeros for torch.optim; the twin of `l1jax`."""

try:
    import numpy  # noqa: F401
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"l1torch needs numpy and torch: {error}. Install them by "
        "`pip install 'l1twins[torch]'`.",
        name=error.name,
    ) from error

from l1torch.certificates import OptimalityResidual, optimality_residual
from l1torch.clipping import clip_by_global_l1_norm
from l1torch.constraints import implied_radius, l1_ball, n_of_m, top_k
from l1torch.controllers import Control
from l1torch.counting import l0, log_sum, lp
from l1torch.duality import DualityGap, duality_gap
from l1torch.group_penalties import group_l1, sparse_group_l1
from l1torch.laplace import laplace_scale, laplace_strength
from l1torch.layout import layouts
from l1torch.linear import LinearSolution, solve_linear
from l1torch.linear_paths import KeptFeatures, keep_features, linear_path
from l1torch.low_rank import nuclear
from l1torch.masks import by_path, weights_only
from l1torch.nonconvex import capped_l1, mcp, scad
from l1torch.optimizers import Proximal
from l1torch.ordered import owl, slope
from l1torch.path import PathPoint, RegularisationPath, regularisation_path
from l1torch.penalties import (
    elastic_net,
    l1,
    nonnegative_l1,
    penalty_value,
)
from l1torch.penalty import Penalty
from l1torch.plotting import plot_path
from l1torch.prox import soft_threshold
from l1torch.schedules import strength_schedule
from l1torch.selection import CrossValidation, cross_validate, information_criterion
from l1torch.solvers import Solution, solve
from l1torch.sparsity import ArraySparsity, SparsityReport, sparsity_report
from l1torch.step_sizes import EffectiveStep, register_step_size
from l1torch.subgradients import Subgradient
from l1torch.support import FrozenZeros, freeze_zeros, refit
from l1torch.targets import TargetSparsity, target_sparsity
from l1torch.transforms import (
    AddSubgradientState,
    GradientTransformation,
    ProximalStepState,
    add_subgradient,
    apply_updates,
    proximal_step,
)
from l1torch.variation import fused_lasso, total_variation
from l1torch.weighted import adaptive_l1, weighted_l1
from l1torch.zero_solution import lambda_max

__version__ = "0.1.0"

__all__ = [
    "AddSubgradientState",
    "ArraySparsity",
    "Control",
    "CrossValidation",
    "DualityGap",
    "EffectiveStep",
    "FrozenZeros",
    "GradientTransformation",
    "KeptFeatures",
    "LinearSolution",
    "OptimalityResidual",
    "PathPoint",
    "Penalty",
    "Proximal",
    "ProximalStepState",
    "RegularisationPath",
    "Solution",
    "SparsityReport",
    "Subgradient",
    "TargetSparsity",
    "__version__",
    "adaptive_l1",
    "add_subgradient",
    "apply_updates",
    "by_path",
    "capped_l1",
    "clip_by_global_l1_norm",
    "cross_validate",
    "duality_gap",
    "elastic_net",
    "freeze_zeros",
    "fused_lasso",
    "group_l1",
    "implied_radius",
    "information_criterion",
    "keep_features",
    "l0",
    "l1",
    "l1_ball",
    "lambda_max",
    "laplace_scale",
    "laplace_strength",
    "layouts",
    "linear_path",
    "log_sum",
    "lp",
    "mcp",
    "n_of_m",
    "nonnegative_l1",
    "nuclear",
    "optimality_residual",
    "owl",
    "penalty_value",
    "plot_path",
    "proximal_step",
    "refit",
    "register_step_size",
    "regularisation_path",
    "scad",
    "slope",
    "soft_threshold",
    "solve",
    "solve_linear",
    "sparse_group_l1",
    "sparsity_report",
    "strength_schedule",
    "target_sparsity",
    "top_k",
    "total_variation",
    "weighted_l1",
    "weights_only",
]
