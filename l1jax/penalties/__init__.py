"""Every penalty, and the constraints, which are penalties of value 0 or infinity.

It knows no optimizer: a prox takes a threshold, whatever its source. Start with `base`.
"""

from l1jax.penalties.base import Penalty
from l1jax.penalties.cardinality import n_of_m, top_k
from l1jax.penalties.folded_concave import capped_l1, mcp, scad
from l1jax.penalties.fused import fused_lasso, total_variation
from l1jax.penalties.group_lasso import group_l1, sparse_group_l1
from l1jax.penalties.group_layouts import layouts
from l1jax.penalties.l0_surrogates import l0, log_sum, lp
from l1jax.penalties.l1_balls import implied_radius, l1_ball
from l1jax.penalties.low_rank import nuclear
from l1jax.penalties.ordered import owl, slope
from l1jax.penalties.penalty_formula import PenaltyFormula
from l1jax.penalties.penalty_values import penalty_value
from l1jax.penalties.separable import elastic_net, l1, nonnegative_l1
from l1jax.penalties.weighted import adaptive_l1, weighted_l1

__all__ = [
    "Penalty",
    "PenaltyFormula",
    "adaptive_l1",
    "capped_l1",
    "elastic_net",
    "fused_lasso",
    "group_l1",
    "implied_radius",
    "l0",
    "l1",
    "l1_ball",
    "layouts",
    "log_sum",
    "lp",
    "mcp",
    "n_of_m",
    "nonnegative_l1",
    "nuclear",
    "owl",
    "penalty_value",
    "scad",
    "slope",
    "sparse_group_l1",
    "top_k",
    "total_variation",
    "weighted_l1",
]
