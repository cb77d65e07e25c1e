"""The L1 ball: the constraint in the place of the L1 penalty, and its radius."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from l1torch.numerics.checks import check_choice, check_real
from l1torch.numerics.elementwise import sign
from l1torch.numerics.l1_projection import l1_norm, nearest_slope, project_l1_ball
from l1torch.parameters.masks import Mask, weights_only
from l1torch.parameters.trees import Params
from l1torch.penalties.base import Penalty
from l1torch.penalties.cardinality import SCOPES
from l1torch.penalties.constraint_base import Constraint
from l1torch.penalties.penalty_values import penalty_value
from l1torch.penalties.separable import l1


@dataclasses.dataclass(frozen=True)
class _L1Ball(Constraint):
    radius: float
    scope: str
    convex = True

    @property
    def joint(self) -> bool:  # type: ignore[override]
        """Whether the sum goes over all arrays."""
        return self.scope == "tree"

    def inside(
        self, arrays: Sequence[Tensor], slack: float, wholes: Sequence[Tensor]
    ) -> Tensor:
        return l1_norm(arrays, wholes) <= self.radius * (1 + slack)

    def project(
        self,
        arrays: Sequence[Tensor],
        metrics: Sequence[Tensor],
        wholes: Sequence[Tensor],
    ) -> list[Tensor]:
        return project_l1_ball(arrays, metrics, self.radius, wholes)

    def distances(
        self,
        arrays: Sequence[Tensor],
        grads: Sequence[Tensor],
        slack: float,
        wholes: Sequence[Tensor],
    ) -> list[Tensor]:
        if self.radius == 0:
            return [torch.zeros_like(grad) for grad in grads]
        full = l1_norm(arrays, wholes) >= self.radius * (1 - slack)
        tau = torch.where(full, nearest_slope(arrays, grads, wholes), 0)
        return [
            torch.where(
                x == 0, (grad.abs() - tau).clamp(min=0), (grad + tau * sign(x)).abs()
            )
            for x, grad in zip(arrays, grads, strict=True)
        ]


def l1_ball(radius: float, *, scope: str = "array") -> Penalty:
    r"""Return the constraint `|x|_1 <= radius`, the lasso as Tibshirani (1996) put it.

    .. math::

       \mathrm{prox}_t(x)_i = \mathrm{sign}(x_i) \max(|x_i| - \tau, 0),
       \quad \sum_i \max(|x_i| - \tau, 0) = \mathrm{radius}

    Its prox is the projection `argmin_u |u - x|` over the ball: `soft_threshold(x,
    tau)` with the one tau that takes the sum to the radius, and `x` itself inside. An
    array of thresholds t is a metric: `argmin_u sum_i (u_i - x_i)^2 / t_i`, which is
    `soft_threshold(x, tau * t)`. Elements whose t is 0 move only after all others are
    0, those whose t is infinite move first.

    The projection is unique and does not expand. It costs one pass for the sum, and 3
    to 10 more if `x` is outside (Michelot, 1986; Duchi et al., 2008; Condat, 2016), in
    place of a sort. Its value allows for rounding: 64 units of the precision that is
    computed in, or one of the array's.

    The optimality distance is, element by element, what is left of `-grad` after its
    projection onto the normal cone, the multiples of the norm's subdifferential.

    A penalty of some strength and a ball of some radius describe the same solutions:
    see `implied_radius`. The strength that is passed to a transform has no effect here.

    Args:
      radius: the largest sum of absolute values, a finite Python number >= 0.
      scope: "array": each array has a ball of its own. "tree": one ball for all of
        them together.

    Raises:
      TypeError: `radius` is not a number.
      ValueError: `radius` is negative or not finite; `scope` is neither of the two.

    Example:
      >>> l1_ball(2.0).prox(torch.tensor([3.0, -0.5, -2.0]), 1.0)
      tensor([ 1.5000,  0.0000, -0.5000])
    """
    radius = check_real("radius", radius, "[0, inf)", "one such as 10.0")
    return _L1Ball(radius, check_choice("scope", scope, SCOPES))


def implied_radius(params: Params, mask: Mask = weights_only) -> Tensor:
    """Sum `|w|` over the penalised leaves: the radius that belongs to a strength.

    A minimiser of `loss + strength * |w|_1` also minimises the loss over the ball of
    this radius, `l1_ball(float(implied_radius(w)), scope="tree")`: any `w'` in the ball
    has no larger norm, so a smaller loss would make a smaller sum. The other way round,
    for a convex loss, the strength is the ball's multiplier: `-grad_i sign(w_i)` at
    every weight that is not zero.

    Args:
      params: a module, or a mapping from names to tensors.
      mask: the leaves to count, see `weights_only`; `None` counts all.

    Returns:
      Scalar in the widest dtype of the penalised leaves, at least float32.

    Raises:
      TypeError: as `penalty_value`.
      ValueError: as `penalty_value`.

    Example:
      >>> params = {"w": torch.tensor([1.0, -2.0]), "b": torch.tensor(5.0)}
      >>> implied_radius(params)
      tensor(3.)
    """
    return penalty_value(params, 1.0, l1(), mask)
