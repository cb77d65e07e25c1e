"""A convex penalty written out as a sum of known terms, from which its dual follows."""

import dataclasses

import numpy as np
from jax.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class PenaltyFormula:
    """The terms of a convex penalty of one array, at unit strength.

    For an array x whose elements j lie in groups g, it stands for::

      sum_j (slopes_j |x_j| + ridge_j / 2 x_j^2) + sum_g group_slopes_g |x_g|_2

    and for infinity where `x_j < 0` at a `nonnegative_j`. Fields that belong to
    elements are numbers, or arrays that broadcast to the shape of x. `Penalty.formula`
    returns it; `duality_gap` and `solve_linear` read it.

    Example:
      >>> PenaltyFormula(slopes=0.5, ridge=0.5).ridge  # elastic_net(0.5)
      0.5
    """

    slopes: ArrayLike = 0.0
    """How steep the kink at zero is, >= 0. Infinity holds an element at zero."""
    ridge: ArrayLike = 0.0
    """The curvature, >= 0 and finite."""
    nonnegative: ArrayLike = False
    """Whether elements must be >= 0. Their slopes must be positive then."""
    owners: np.ndarray | None = None
    """The number of each element's group, from 0, an integer array of the shape of x;
    None if there are no groups. With groups there can be neither ridge nor bound, and
    the slopes must be finite."""
    group_slopes: np.ndarray | None = None
    """The factor of each group's norm, of shape (groups,). All are positive, or all are
    0, as if there were no groups."""
