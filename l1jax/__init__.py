"""L1 regularisation with exact zeros for optax; the twin of `l1torch`."""

from importlib.metadata import version as _version

from l1jax.masks import by_path, weights_only
from l1jax.optimizers import ProximalState, proximal
from l1jax.penalties import (
    Penalty,
    elastic_net,
    l1,
    nonnegative_l1,
    penalty_value,
)
from l1jax.prox import soft_threshold
from l1jax.sparsity import ArraySparsity, SparsityReport, sparsity_report
from l1jax.step_sizes import EffectiveStep, register_step_size
from l1jax.transforms import (
    AddSubgradientState,
    ProximalStepState,
    add_subgradient,
    proximal_step,
)

__version__ = _version("l1twins")

__all__ = [
    "AddSubgradientState",
    "ArraySparsity",
    "EffectiveStep",
    "Penalty",
    "ProximalState",
    "ProximalStepState",
    "SparsityReport",
    "__version__",
    "add_subgradient",
    "by_path",
    "elastic_net",
    "l1",
    "nonnegative_l1",
    "penalty_value",
    "proximal",
    "proximal_step",
    "register_step_size",
    "soft_threshold",
    "sparsity_report",
    "weights_only",
]
