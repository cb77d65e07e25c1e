"""L1 regularisation with exact zeros for torch.optim; the twin of `l1jax`."""

from importlib.metadata import version as _version

from l1torch.masks import by_path, weights_only
from l1torch.optimizers import Proximal
from l1torch.penalties import (
    Penalty,
    elastic_net,
    l1,
    nonnegative_l1,
    penalty_value,
)
from l1torch.prox import soft_threshold
from l1torch.sparsity import ArraySparsity, SparsityReport, sparsity_report
from l1torch.step_sizes import EffectiveStep, register_step_size
from l1torch.subgradients import Subgradient
from l1torch.transforms import (
    AddSubgradientState,
    GradientTransformation,
    ProximalStepState,
    add_subgradient,
    apply_updates,
    proximal_step,
)

__version__ = _version("l1twins")

__all__ = [
    "AddSubgradientState",
    "ArraySparsity",
    "EffectiveStep",
    "GradientTransformation",
    "Penalty",
    "Proximal",
    "ProximalStepState",
    "SparsityReport",
    "Subgradient",
    "__version__",
    "add_subgradient",
    "apply_updates",
    "by_path",
    "elastic_net",
    "l1",
    "nonnegative_l1",
    "penalty_value",
    "proximal_step",
    "register_step_size",
    "soft_threshold",
    "sparsity_report",
    "weights_only",
]
