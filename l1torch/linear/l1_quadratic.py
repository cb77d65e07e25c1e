"""Quadratics with a penalty, to full precision in a few Newton steps, on the host."""

import math
import sys

import torch
from torch import Tensor

from l1torch.linear.penalty_terms import PenaltyTerms

_LONGEST = 1e8
"""How little the proximal term of the last problems weighs."""


def minimise(
    H: Tensor,
    c: Tensor,
    terms: PenaltyTerms,
    start: Tensor,
    tol: float,
    max_steps: int = 500,
) -> Tensor:
    """Minimise `1/2 w'Hw - c'w + terms.value(w)`, exact zeros kept.

    The proximal point method: each of its problems adds `sum_j h_j (w_j - w0_j)^2 /
    (2 stretch)`, with h the diagonal of H, its largest number in a group, and is solved
    on the dual side by a semismooth Newton method with a line search, as in Li, Sun and
    Toh (2018), and for groups in Zhang, Zhang, Sun and Toh (2020), written in terms of
    H. A Newton step solves a linear system on the support only, and few are needed. H
    may be singular: more columns than samples, or columns twice; and neither the scale
    of columns nor how they are correlated matters much.

    Args:
      H: positive semidefinite, of shape (m, m).
      c: of shape (m,).
      terms: the penalty, with finite slopes, of shape (m,).
      start: of shape (m,), where the penalty is finite.
      tol: the largest violation of the optimality conditions to leave, in units of c.
      max_steps: the most Newton steps to take.

    Returns:
      The solution, of shape (m,), or the best point found.
    """
    if not len(start):
        return start
    # A column of zeros has no curvature: any positive number will do.
    h = H.diagonal() if terms.groups is None else terms.groups.largest(H.diagonal())
    h = torch.where(h > 0, h, 1)
    # No violation can be made smaller than what rounding leaves.
    rounding = sys.float_info.epsilon * float(c.abs().max())
    tol = max(tol, 10 * rounding)
    w, Hw, stretch, steps = start, H @ start, 100.0, 0
    best, least, stalled = start, math.inf, 0
    while steps < max_steps:
        violation = float(terms.violation(w, Hw - c).max())
        # A violation that rises in its last digits is rounding. One that stays the same
        # may come from columns that are nearly equal: they exchange their weights only
        # after the proximal term has been stretched.
        if violation < least:
            best, least, stalled = w, violation, 0
        elif violation > 2 * least or stretch == _LONGEST:
            stalled += 1
        if violation <= tol or stalled > 2:
            break
        # The stretch magnifies the rounding of the inner problem, too.
        inner = max(tol / 10, rounding * stretch)
        w, taken = _proximal_point(H, c, terms, w, Hw, h / stretch, inner)
        Hw, steps = H @ w, steps + taken
        stretch = min(10 * stretch, _LONGEST)
    return best


def _proximal_point(
    H: Tensor,
    c: Tensor,
    terms: PenaltyTerms,
    centre: Tensor,
    H_centre: Tensor,
    metric: Tensor,
    tol: float,
) -> tuple[Tensor, int]:
    """Solve one problem of the proximal point method; return w and the Newton steps.

    Its dual is a function of `v`, smooth and convex, whose gradient is `H (v - w(v))`.
    """

    def primal(Hv: Tensor) -> tuple[Tensor, Tensor]:
        return c - Hv, terms.prox(centre + (c - Hv) / metric, metric)

    def dual(v: Tensor, Hv: Tensor, q: Tensor, w: Tensor) -> float:
        moved = w - centre
        penalty = terms.value(w) + moved @ (metric * moved) / 2
        return float(v @ Hv / 2 + q @ w - penalty)

    v, Hv = centre, H_centre
    q, w = primal(Hv)
    value = dual(v, Hv, q, w)
    largest, hidden = math.inf, False
    for step in range(50):
        error = v - w
        slope = Hv - H @ w
        goal = float((metric * (w - centre)).abs().max()) / 10
        before, largest = largest, float(slope.abs().max())
        rounded = hidden and largest > before / 2
        if step > 0 and (largest <= max(goal, tol) or rounded):
            break
        support = torch.nonzero(w).flatten()
        direction = -error
        direction[support] = 0
        rest = (H @ direction)[support]
        # `curvature` is the inverse of the derivative of w by q.
        curvature = torch.diag(metric[support]) + terms.hessian(w, support)
        direction[support] = torch.linalg.solve(
            H[support[:, None], support] + curvature, -curvature @ error[support] - rest
        )
        H_direction = H @ direction
        decrease = float(direction @ slope)
        # Near the end the decrease is smaller than the rounding of the value.
        rounding = 4 * sys.float_info.epsilon * abs(value)
        hidden, size = -decrease < rounding, 1.0
        while True:
            new_v, new_Hv = v + size * direction, Hv + size * H_direction
            new_q, new_w = primal(new_Hv)
            new_value = dual(new_v, new_Hv, new_q, new_w)
            if new_value <= value + 1e-4 * size * decrease + rounding or size < 1e-3:
                break
            size /= 2
        v, Hv, q, w, value = new_v, new_Hv, new_q, new_w, new_value
    return w, step
