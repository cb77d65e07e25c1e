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

from l1torch.linear import (
    CrossValidation,
    DualityGap,
    KeptFeatures,
    LinearSolution,
    cross_validate,
    duality_gap,
    information_criterion,
    keep_features,
    linear_path,
    solve_linear,
)
from l1torch.numerics import soft_threshold
from l1torch.optimizers import (
    AddSubgradientState,
    FrozenZeros,
    GradientTransformation,
    Proximal,
    ProximalStepState,
    Subgradient,
    add_subgradient,
    apply_updates,
    clip_by_global_l1_norm,
    freeze_zeros,
    proximal_step,
)
from l1torch.parameters import (
    ArraySparsity,
    Control,
    SparsityReport,
    by_path,
    sparsity_report,
    weights_only,
)
from l1torch.paths import PathPoint, RegularisationPath, plot_path, regularisation_path
from l1torch.penalties import (
    Penalty,
    PenaltyFormula,
    adaptive_l1,
    capped_l1,
    elastic_net,
    fused_lasso,
    group_l1,
    implied_radius,
    l0,
    l1,
    l1_ball,
    layouts,
    log_sum,
    lp,
    mcp,
    n_of_m,
    nonnegative_l1,
    nuclear,
    owl,
    penalty_value,
    scad,
    slope,
    sparse_group_l1,
    top_k,
    total_variation,
    weighted_l1,
)
from l1torch.solvers import (
    OptimalityResidual,
    Solution,
    lambda_max,
    optimality_residual,
    refit,
    solve,
)
from l1torch.strengths import (
    TargetSparsity,
    laplace_scale,
    laplace_strength,
    strength_schedule,
    target_sparsity,
)
from l1torch.thresholds import EffectiveStep, register_step_size

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
    "PenaltyFormula",
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

# A pickle names the package, and does not know its rooms.
for _name in __all__:
    if isinstance(_public := globals()[_name], type):
        _public.__module__ = __name__
