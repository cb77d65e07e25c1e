"""The full-batch solver, certificates, the strength that leaves no weight, refitting.

It knows no grid of strengths. Start with `full_batch`.
"""

from l1jax.solvers.full_batch import Solution, solve
from l1jax.solvers.optimality import OptimalityResidual, optimality_residual
from l1jax.solvers.refitting import refit
from l1jax.solvers.zero_solution import lambda_max

__all__ = [
    "OptimalityResidual",
    "Solution",
    "lambda_max",
    "optimality_residual",
    "refit",
    "solve",
]
