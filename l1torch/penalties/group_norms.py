"""The norms of groups, and their proximal operators, on the view of a `Grouping`."""

import torch
from torch import Tensor

from l1torch.penalties.groups import Grouping

_HALVINGS = 8
_NEWTON_STEPS = {torch.float32: 5, torch.float64: 7}


def group_norm(x: Tensor, grouping: Grouping) -> Tensor:
    """Return the Euclidean norm of each group, with derivative 0 at zero."""
    power = _power(x, grouping)
    squares = grouping.total(torch.abs((x * grouping.spread(power)) ** 2))
    root = torch.sqrt(torch.where(squares == 0, 1, squares))
    return torch.where(squares == 0, 0, root / power)


def shrink_by_norm(x: Tensor, a: Tensor, grouping: Grouping) -> Tensor:
    """Shrink the norm of each group by `a`, which is constant in it."""
    norm = grouping.spread(group_norm(x, grouping))
    falls = (norm <= a) & (a > 0)
    left = 1 - a / torch.where(falls | (norm == 0), 1, norm)
    return x * torch.where(falls, 0, left)


def shrink_in_metric(x: Tensor, a: Tensor, grouping: Grouping) -> Tensor:
    """Solve `argmin_u sum_i (u_i - x_i)^2 / (2 a_i) + |u_g|` for each group.

    `u_i = x_i * theta / (theta + a_i)`, where `theta`, the norm of `u_g`, is the root
    of `f(theta) = |x / (theta + a)| = 1`, or 0 if `f(0) <= 1`. Newton's method on `1/f`
    (More and Sorensen, 1983), which is concave and increasing, climbs to the root from
    any point below it; the exponent of the root is bisected first. These few steps
    reach rounding errors even if `a` varies by a factor of 1e24 in a group. Steps are
    kept within bounds, because rounding would carry one past them where `f` is flat.
    """

    def sums(y: Tensor, a: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        below = grouping.spread(theta) + a
        below = torch.where(below == 0, 1, below)
        squares = torch.abs((y / below) ** 2)
        return grouping.total(squares), grouping.total(squares / below)

    def newton(y: Tensor, a: Tensor, theta: Tensor) -> Tensor:
        square, slope = sums(y, a, theta)
        square = torch.where(slope == 0, 1, square)
        slope = torch.where(slope == 0, 1, slope)
        return square * (torch.sqrt(square) - 1) / slope

    power = grouping.spread(_power(x, grouping))
    y, a = x * power, a * power
    fixed_y, fixed_a = y.detach(), a.detach()
    theta = grouping.top(torch.abs(fixed_y) - fixed_a)
    above = torch.maximum(group_norm(fixed_y, grouping), theta)
    least = above * 1e-22  # still a normal number in float32
    is_zero = (theta == 0) & (sums(fixed_y, fixed_a, theta)[0] <= 1)
    for _ in range(_HALVINGS):
        middle = torch.sqrt(torch.maximum(theta, least)) * torch.sqrt(above)
        is_below = sums(fixed_y, fixed_a, middle)[0] >= 1
        theta = torch.where(is_below, middle, theta)
        above = torch.where(is_below, above, middle)
    for _ in range(_NEWTON_STEPS[x.dtype] - 1):
        step = torch.clamp(newton(fixed_y, fixed_a, theta), min=0)
        theta = torch.minimum(theta + step, above)
    # The derivatives of the root are those of the last step.
    theta = torch.minimum(theta + newton(y, a, theta), above)
    theta = torch.where(is_zero, 0, theta)
    theta = grouping.spread(theta)
    below = theta + a
    share = theta / torch.where(below == 0, 1, below)
    # An element without a threshold moves freely, even in a zero group.
    return x * torch.where(a == 0, 1, share)


def _power(x: Tensor, grouping: Grouping) -> Tensor:
    """Return a power of 2 for each group, by which its squares stay within range."""
    largest = grouping.top(torch.abs(x.detach()))
    bits = 256 if x.dtype == torch.float64 else 32
    power = torch.ones_like(largest)
    power = torch.where(largest > 2.0**bits, 2.0 ** (-2.5 * bits), power)
    return torch.where(largest < 2.0**-bits, 2.0 ** (2.5 * bits), power)
