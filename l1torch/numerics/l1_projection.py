"""Projection onto the L1 ball, and what is needed to find it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from l1torch.numerics.elementwise import largest, sign
from l1torch.numerics.order_statistics import count, greatest, total
from l1torch.numerics.prox import soft_threshold_unchecked

_FREE = 2.0**60  # an infinite threshold, in units of the largest finite one


def relative(
    thresholds: Sequence[Tensor], wholes: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Divide thresholds by the largest finite one: a projection knows only ratios.

    The largest becomes exactly 1, and so do all if all are zero. Otherwise a zero
    becomes tiny, so that every element can move, and infinity becomes huge.
    """
    top = greatest(
        [largest(t.masked_fill(~t.isfinite(), 0)) for t in thresholds], wholes
    )
    top = top.detach()
    tiny = torch.finfo(top.dtype).tiny
    inverse = 1 / top.masked_fill(top < tiny, 1)
    ratios = []
    for t in thresholds:
        ratio = torch.where(t.isinf(), _FREE, t * inverse)
        # A product with the reciprocal may miss 1; this does not, and has its slope.
        one = 1 + (ratio - ratio.detach())
        bounded = ratio.clamp(tiny**0.75, _FREE)
        ratios.append(torch.where(t == top, one, bounded))
    return ratios


def l1_norm(arrays: Sequence[Tensor], wholes: Sequence[Tensor] | None = None) -> Tensor:
    """Return the sum of the absolute values of all tensors, without a derivative."""
    return total([x.detach().abs().sum() for x in arrays], wholes)


def project_l1_ball(
    arrays: Sequence[Tensor],
    metrics: Sequence[Tensor],
    radius: float,
    wholes: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Solve `argmin_u sum_i (u_i - x_i)^2 / (2 metric_i)` with `|u|_1 <= radius`.

    The solution is `soft_threshold(x, tau * metric)`. Newton's method finds tau: it
    comes from below, never overshoots, and ends as soon as no further element becomes
    zero, after 3 to 10 passes (Michelot, 1986; Condat, 2016). Each of them waits for
    the device.

    Args:
      arrays: of one dtype, to be computed in.
      metrics: for each array one that broadcasts to it, greater than 0, the largest of
        them about 1.
      radius: the largest sum, >= 0.
      wholes: the DTensors of which the arrays are shards.
    """
    if radius == 0:
        return [torch.where(x.isnan(), x, 0) for x in arrays]
    if bool(l1_norm(arrays, wholes) <= radius):
        return list(arrays)
    fixed = [x.detach() for x in arrays]
    fixed_metrics = [t.detach() for t in metrics]
    # No element is larger than the radius in the end, which bounds tau from below. What
    # is left above this bound is of the radius' size: the arrays may be far from the
    # ball and cost no digits. The bound gives way to its own rounding errors.
    bound = greatest(
        [
            largest((x.abs() - radius) / t)
            for x, t in zip(fixed, fixed_metrics, strict=True)
        ],
        wholes,
    )
    bound = bound * (1 - 4 * torch.finfo(bound.dtype).eps)

    def newton(
        tau: Tensor, arrays: Sequence[Tensor], metrics: Sequence[Tensor]
    ) -> Tensor:
        sums, masses = [], []
        for x, t in zip(arrays, metrics, strict=True):
            over = x.abs() - tau * t
            active = over > 0
            sums.append(over.clamp(min=0).sum())
            masses.append((active * t).sum() if t.dim() else count(active) * t)
        mass = total(masses, wholes)
        some = mass > 0
        excess = total(sums, wholes) - radius
        mass = torch.where(some, mass, 1)
        fixed = mass.detach()
        step = excess / fixed
        if torch.is_grad_enabled():
            # The derivative of a quotient divides by the square. Where that is 0, the
            # mass is held: its share in the derivative is the excess, 0 in the end.
            held = fixed * fixed < torch.finfo(fixed.dtype).tiny
            step = torch.where(held, step, excess / torch.where(held, 1, mass))
        return torch.where(some, tau + step, tau)

    with torch.no_grad():
        # Tau only grows, so that what is zero stays zero and can be left out.
        previous = torch.zeros_like(bound)
        left, left_metrics = _larger(fixed, fixed_metrics, bound)
        left = [x - bound * t for x, t in zip(left, left_metrics, strict=True)]
        tau = newton(previous, left, left_metrics)
        while bool(tau > previous):
            left, left_metrics = _larger(left, left_metrics, tau)
            previous, tau = tau, newton(tau, left, left_metrics)
    near = [
        soft_threshold_unchecked(x, bound * t)
        for x, t in zip(arrays, metrics, strict=True)
    ]
    if torch.is_grad_enabled():
        # The loop has no derivative; it has found the set of active elements.
        step = newton(previous, near, metrics)
        tau = tau + (step - step.detach())
    # Below 0 by rounding alone: the derivative stays.
    tau = torch.where(tau < 0, tau - tau.detach(), tau)
    return [
        soft_threshold_unchecked(x, tau * t) for x, t in zip(near, metrics, strict=True)
    ]


def nearest_slope(
    arrays: Sequence[Tensor],
    grads: Sequence[Tensor],
    wholes: Sequence[Tensor] | None = None,
) -> Tensor:
    """Return the `mu >= 0` for which `mu * d|x|_1` is nearest to `-grads`.

    Nearest in the 2-norm, it is the mean of the outward pulls, `-grad_i sign(x_i)`, and
    of those `|grad_i|` at zeros that exceed it, found from below as in
    `project_l1_ball`.

    Args:
      arrays: of one dtype, to be computed in.
      grads: for each array one of its shape and dtype.
      wholes: the DTensors of which the arrays are shards.
    """
    zeros = [x == 0 for x in arrays]
    pulls = [
        torch.where(zero, grad.abs(), -grad * sign(x))
        for zero, x, grad in zip(zeros, arrays, grads, strict=True)
    ]

    def mean(mu: Tensor) -> Tensor:
        chosen = [
            ~(zero & (pull <= mu)) for zero, pull in zip(zeros, pulls, strict=True)
        ]
        sums = [
            pull.where(mark, 0).sum() for mark, pull in zip(chosen, pulls, strict=True)
        ]
        number = total([count(mark) for mark in chosen], wholes).clamp(min=1)
        return total(sums, wholes) / number

    mu = torch.zeros_like(arrays[0].sum())
    following = mean(mu)
    while bool(following > mu):
        mu, following = following, mean(following)
    return mu


def _larger(
    arrays: Sequence[Tensor], metrics: Sequence[Tensor], tau: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Return, as vectors, the sizes above `tau * metric`, and their metrics."""
    sizes, rest = [], []
    for x, t in zip(arrays, metrics, strict=True):
        size = x.abs()
        left = ~(size <= tau * t)  # keeps NaN, so that it stays visible
        sizes.append(size[left])
        rest.append(t.expand(x.shape)[left] if t.dim() else t)
    return sizes, rest
