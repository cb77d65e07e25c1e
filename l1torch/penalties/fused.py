"""Total variation along the last axis, and the chain problem behind it and SLOPE."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from l1torch.checks import check_real
from l1torch.hyperparameters import Number
from l1torch.penalty import Penalty, gradient_operand, largest, operands, sign
from l1torch.prox import from_zero, shrink, solve
from l1torch.sharding import gathering


@dataclasses.dataclass(frozen=True)
class _FusedLasso(Penalty):
    l1_ratio: float
    convex = True

    def require_fit(
        self, path: str, shape: tuple[int, ...], strength_shape: tuple[int, ...] = ()
    ) -> None:
        _require_one_a_row("strength", strength_shape, path, shape)

    @gathering()
    def value(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        x, strength = operands(x, strength)
        self.require_fit("x", x.shape, strength.shape)
        here = x.detach()
        variation = (1 - self.l1_ratio) * _jumps(here).abs()
        terms = variation + self.l1_ratio * here.abs()
        # Only the derivative of what is added is not 0: that of |jump| would be wrong
        # where neighbours are equal.
        moved = (x - here) * self.subgradient(here)
        return torch.sum(strength * (terms + moved))

    @gathering()
    def subgradient(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        wide, strength = operands(x, strength)
        slope = 0.0 - self._residual(wide, torch.zeros_like(wide), strength)
        return slope.to(x.dtype)

    @gathering()
    def prox(self, x: Tensor, threshold: Number) -> Tensor:
        def formula(x: Tensor, t: Tensor) -> Tensor:
            _require_one_a_row("threshold", t.shape, "x", x.shape)
            u = x
            if self.l1_ratio < 1:
                t_variation = t * (1 - self.l1_ratio)
                cut = torch.zeros_like(x, dtype=torch.int32)
                u = fuse(x, t_variation, t_variation, cut)
            if self.l1_ratio > 0:
                u = shrink(u, t * self.l1_ratio)
            return u

        return solve(functools.partial(from_zero, formula), x, threshold)

    @gathering()
    def optimality_distance(
        self, x: Tensor, grad: Tensor, strength: Number = 1.0
    ) -> Tensor:
        x, grad, strength = operands(x, grad, strength)
        return self._residual(x, -grad, strength).abs()

    @gathering()
    def lambda_max(self, grad: Tensor) -> Tensor:
        grad = gradient_operand(grad)
        flaw = torch.where(grad.isnan(), grad, 0).sum()  # hidden by comparisons
        return self._lambda_max(grad) + flaw

    def _lambda_max(self, grad: Tensor) -> Tensor:
        if grad.ndim == 0 or grad.numel() == 0 or self.l1_ratio == 1:
            factor = 1 / self.l1_ratio if self.l1_ratio else math.inf
            bound = largest(grad.abs())
            return torch.where(bound == 0, 0, bound * factor)
        if self.l1_ratio > 0:
            return largest(_greatest_ratio(grad, self.l1_ratio))
        sums = torch.cumsum(grad, -1)
        rounding = 4 * grad.shape[-1] ** 0.5 * torch.finfo(grad.dtype).eps
        size = torch.sum(grad.abs(), -1)
        balanced = sums[..., -1].abs() <= rounding * size
        bound = largest(sums[..., :-1].abs())
        return torch.where(balanced.all(), bound, math.inf)

    def _residual(self, x: Tensor, v: Tensor, strength: Tensor) -> Tensor:
        # What is left of v after its projection onto strength * d penalty(x). Between
        # two jumps of x this is a prox of v, in which the jumps' slopes are known.
        self.require_fit("x", x.shape, strength.shape)
        t_l1 = strength * self.l1_ratio
        t_variation = strength * (1 - self.l1_ratio)
        jumps = _jumps(x)
        cut = (jumps > 0).int() - (jumps < 0).int()
        u = fuse(v - t_l1 * sign(x), t_variation, t_variation, cut)
        u = torch.where(x == 0, shrink(u, t_l1), u)
        # NaN that comparisons have hidden.
        return torch.where(torch.isnan(x + strength), x + strength, u)


def fuse(x: Tensor, rise: Tensor, fall: Tensor, cut: Tensor) -> Tensor:
    """Solves the chain problem along the last axis.

    `argmin_u 1/2 |u - x|^2 + sum_i rise max(u_i - u_(i-1), 0) + fall max(u_(i-1) -
    u_i, 0)`. Equal `rise` and `fall` are total variation; `rise = inf, fall = 0` is the
    best fit that does not increase (isotonic regression).

    Starts from one piece of the mean level and splits every piece into what lies above
    its level and what lies below (Chambolle and Darbon, 2009; Hochbaum, 2001), until
    none splits. A piece has one value, so that all its elements are equal.

    Args:
      x: floating tensor.
      rise: scalar, or tensor with one number for each row, >= 0.
      fall: as `rise`.
      cut: integers of `x`'s shape. At i, 1 where it is known that u_i > u_(i-1), -1
        where u_i < u_(i-1), so that this term is linear; 0 elsewhere.
    """
    if x.ndim == 0 or x.shape[-1] < 2:
        return x
    known = cut
    fixed = (x.detach(), rise.detach(), fall.detach())
    new = torch.ones_like(cut)
    while new.any():
        loaded, level = _levels(*fixed, cut)
        above = _above(loaded - level, _starts(cut), *fixed[1:]).int()
        new = torch.where(_starts(cut), 0, above - _shift(above, 1))
        cut = cut + new
    # By rounding, a piece may be split whose parts are equal, or in the wrong order.
    jumps = _jumps(_levels(*fixed, cut)[1])
    right = torch.where(cut > 0, jumps > 0, jumps < 0)
    return _levels(x, rise, fall, torch.where((known != 0) | right, cut, 0))[1]


def _levels(
    x: Tensor, rise: Tensor, fall: Tensor, cut: Tensor
) -> tuple[Tensor, Tensor]:
    # x with the slopes of the cut terms taken off, and of this the mean of each piece.
    load = torch.where(cut > 0, rise, torch.where(cut < 0, -fall, 0))
    loaded = x - load + _shift(load, -1)
    starts = _starts(cut)

    def add(first: Sequence[Tensor], then: Sequence[Tensor]) -> list[Tensor]:
        return [torch.where(then[1], then[0], first[0] + then[0]), first[1] | then[1]]

    index = torch.arange(x.shape[-1], device=x.device).expand(x.shape)
    first = torch.where(starts, index, 0).cummax(-1).values
    last = _next(_ends(starts))
    sums = torch.gather(_scan(add, [loaded, starts])[0], -1, last)
    return loaded, sums / (last - first + 1).to(x.dtype)


def _above(d: Tensor, starts: Tensor, rise: Tensor, fall: Tensor) -> Tensor:
    # The least set, in each piece, of largest sum(d) - rise * (ways in) - fall * (ways
    # out): by dynamic programming, gain_i = clip(gain_(i-1), -rise, fall) + d_i. Maps
    # g -> clip(g + a, low, high) are closed under composition, so that it is a scan.
    clipped = torch.clamp(d, -rise, fall)
    low, high = torch.where(starts, clipped, -rise), torch.where(starts, clipped, fall)

    def follow(f: Sequence[Tensor], g: Sequence[Tensor]) -> list[Tensor]:
        bounds = [torch.clamp(f[i] + g[0], g[1], g[2]) for i in (1, 2)]
        return [f[0] + g[0], *bounds]

    gain = torch.where(starts, 0, _shift(_scan(follow, [d, low, high])[1], 1)) + d
    ends = _ends(starts)
    decided = ends | (gain > fall) | (gain <= -rise)
    inside = torch.where(ends, gain > 0, gain > fall)
    return torch.gather(inside, -1, _next(decided))


def _greatest_ratio(grad: Tensor, l1_ratio: float) -> Tensor:
    # The dual norm of each row: the greatest |sum(grad)| / penalty over the indicators
    # of intervals, by Dinkelbach's iteration (1967), both signs side by side.
    v = torch.stack([grad, -grad])
    starts = _starts(torch.zeros_like(v, dtype=torch.int32))
    s, climbs = v.new_zeros((*v.shape[:-1], 1)), True
    while climbs:
        cost = s * (1 - l1_ratio)
        inside = _above(v - s * l1_ratio, starts, cost, cost)
        ends = ~starts & (inside ^ _shift(inside, 1))
        total, size, ends = (
            torch.sum(torch.where(chosen, what, 0), -1, keepdim=True, dtype=v.dtype)
            for chosen, what in ((inside, v), (inside, 1), (ends, 1))
        )
        weight = l1_ratio * size.clamp(min=1) + (1 - l1_ratio) * ends
        ratio = torch.maximum(total / weight, s)
        s, climbs = ratio, (ratio > s).any()
    return s


def _scan(
    combine: Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]],
    items: list[Tensor],
) -> list[Tensor]:
    # The inclusive scan along the last axis, by doubling (Hillis and Steele, 1986). The
    # first item must not depend on what combine is given before it.
    step = 1
    while step < items[0].shape[-1]:
        items = combine([_shift(item, step) for item in items], items)
        step *= 2
    return items


def _shift(x: Tensor, by: int) -> Tensor:
    filler = x.new_zeros((*x.shape[:-1], abs(by)))
    if by > 0:
        return torch.cat([filler, x[..., :-by]], -1)
    return torch.cat([x[..., -by:], filler], -1)


def _jumps(x: Tensor) -> Tensor:
    if x.ndim == 0 or x.shape[-1] == 0:
        return torch.zeros_like(x)
    first = torch.zeros_like(x[..., :1])
    return torch.cat([first, x[..., 1:] - x[..., :-1]], -1)


def _starts(cut: Tensor) -> Tensor:
    index = torch.arange(cut.shape[-1], device=cut.device)
    return (cut != 0) | (index == 0)


def _ends(starts: Tensor) -> Tensor:
    return torch.cat([starts[..., 1:], starts[..., :1]], -1)


def _next(chosen: Tensor) -> Tensor:
    # The index of the next chosen element, itself counted; the last one must be chosen.
    n = chosen.shape[-1]
    index = torch.arange(n, device=chosen.device)
    index = torch.where(chosen, index, n - 1)
    return index.flip(-1).cummin(-1).values.flip(-1)


def _require_one_a_row(
    argument: str, value_shape: tuple[int, ...], path: str, shape: tuple[int, ...]
) -> None:
    if tuple(value_shape[-1:]) not in ((), (1,)):
        raise ValueError(
            f"{argument} of shape {tuple(value_shape)} differs along the last axis of "
            f"the parameter '{path}' of shape {tuple(shape)}, which total variation "
            "couples. Pass a scalar, or one number for each row: shape (..., 1)."
        )


def total_variation() -> Penalty:
    """Gives `sum_i |x_(i+1) - x_i|` along the last axis (Rudin, Osher, Fatemi, 1992).

    Leading axes are a batch of signals; move another axis to the end, or reshape, for
    variation along it. It gives flat pieces, whose elements are equal to the last bit,
    not zeros. The strength, and the threshold, is a scalar or one number for each row,
    of shape `(..., 1)`: there is no prox in a metric that differs inside a row.

    The prox is exact up to rounding. It costs O(n log n) for rows of n elements, times
    the rounds of splitting: as many as it takes to tell the pieces' levels apart, about
    log2 of their number for most data, at most n. In torch each round waits for the
    device; a DTensor is gathered in every process. One NaN or infinity leaves no finite
    number in its row.

    The subgradient is constant on flat pieces, in units of the loss per unit of `x`.
    `optimality_distance` is, element by element, what is left of `-grad` after its
    projection onto the subdifferential. A constant costs nothing, so that `lambda_max`
    is infinite unless every row of the gradient sums to zero, up to rounding.

    Example:
      >>> total_variation().prox(torch.tensor([0.0, 1.0, 5.0, 6.0]), 1.0)
      tensor([1., 1., 5., 5.])
    """
    return _FusedLasso(0.0)


def fused_lasso(l1_ratio: float) -> Penalty:
    """Gives `l1_ratio |x|_1 + (1 - l1_ratio) sum_i |x_(i+1) - x_i|` (Tibshirani, 2005).

    Its prox is the soft threshold of total variation's (Friedman et al., 2007), so that
    whole pieces are zero. Axes, cost and limits are those of `total_variation`;
    `lambda_max` is finite for `l1_ratio > 0`, and takes a few such rounds.

    Args:
      l1_ratio: the share of L1, a Python number in [0, 1]. 1 is the lasso, 0 is total
        variation.

    Raises:
      TypeError: `l1_ratio` is not a number.
      ValueError: it lies outside [0, 1].

    Example:
      >>> fused_lasso(0.5).prox(torch.tensor([0.0, 1.0, 5.0, 6.0]), 2.0)
      tensor([0., 0., 4., 4.])
    """
    l1_ratio = check_real(
        "l1_ratio", l1_ratio, "[0, 1]", "1.0 for the lasso, 0.0 for steps"
    )
    return _FusedLasso(l1_ratio)
