"""L1 regularisation with exact zeros for optax; the twin of `l1torch`."""

try:
    import jax  # noqa: F401
    import optax  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"l1jax needs jax and optax: {error}. Install them by "
        "`pip install 'l1twins[jax]'`.",
        name=error.name,
    ) from error

from l1jax.certificates import OptimalityResidual, optimality_residual
from l1jax.clipping import clip_by_global_l1_norm
from l1jax.constraints import implied_radius, l1_ball, n_of_m, top_k
from l1jax.controllers import Control
from l1jax.counting import l0, log_sum, lp
from l1jax.duality import DualityGap, duality_gap
from l1jax.group_penalties import group_l1, sparse_group_l1
from l1jax.laplace import laplace_scale, laplace_strength
from l1jax.layout import layouts
from l1jax.linear import LinearSolution, solve_linear
from l1jax.linear_paths import KeptFeatures, keep_features, linear_path
from l1jax.low_rank import nuclear
from l1jax.masks import by_path, weights_only
from l1jax.nonconvex import capped_l1, mcp, scad
from l1jax.optimizers import ProximalState, proximal
from l1jax.ordered import owl, slope
from l1jax.path import PathPoint, RegularisationPath, regularisation_path
from l1jax.penalties import (
    elastic_net,
    l1,
    nonnegative_l1,
    penalty_value,
)
from l1jax.penalty import Penalty
from l1jax.plotting import plot_path
from l1jax.prox import soft_threshold
from l1jax.schedules import strength_schedule
from l1jax.selection import CrossValidation, cross_validate, information_criterion
from l1jax.solvers import Solution, solve
from l1jax.sparsity import ArraySparsity, SparsityReport, sparsity_report
from l1jax.step_sizes import EffectiveStep, register_step_size
from l1jax.support import freeze_zeros, refit
from l1jax.targets import TargetSparsity, target_sparsity
from l1jax.transforms import (
    AddSubgradientState,
    ProximalStepState,
    add_subgradient,
    proximal_step,
)
from l1jax.variation import fused_lasso, total_variation
from l1jax.weighted import adaptive_l1, weighted_l1
from l1jax.zero_solution import lambda_max

__version__ = "0.1.0"

__all__ = [
    "AddSubgradientState",
    "ArraySparsity",
    "Control",
    "CrossValidation",
    "DualityGap",
    "EffectiveStep",
    "KeptFeatures",
    "LinearSolution",
    "OptimalityResidual",
    "PathPoint",
    "Penalty",
    "ProximalState",
    "ProximalStepState",
    "RegularisationPath",
    "Solution",
    "SparsityReport",
    "TargetSparsity",
    "__version__",
    "adaptive_l1",
    "add_subgradient",
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
    "proximal",
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
