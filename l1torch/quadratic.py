"""Quadratics with an L1 term, to full precision in a few Newton steps, on the host."""

import math
import sys

import torch
from torch import Tensor

_LONGEST = 1e8
"""How little the proximal term of the last problems weighs."""


def minimise(
    H: Tensor,
    c: Tensor,
    slopes: Tensor,
    floor: Tensor,
    start: Tensor,
    tol: float,
    max_steps: int = 500,
) -> Tensor:
    """Minimises `1/2 w'Hw - c'w + sum slopes |w|` over `w >= floor`, exact zeros kept.

    The proximal point method: each of its problems adds `sum_j h_j (w_j - w0_j)^2 /
    (2 stretch)`, with h the diagonal of H, and is solved on the dual side by a
    semismooth Newton method with a line search, as in Li, Sun and Toh (2018), written
    in terms of H. A Newton step solves a linear system on the support only, and few are
    needed. H may be singular: more columns than samples, or columns twice.

    Args:
      H: positive semidefinite, of shape (m, m).
      c: of shape (m,).
      slopes: the weights of the L1 term, >= 0 and finite, of shape (m,).
      floor: minus infinity, or 0 for what must not be negative, of shape (m,).
      start: of shape (m,).
      tol: the largest violation of the optimality conditions to leave, in units of c.
      max_steps: the most Newton steps to take.

    Returns:
      The solution, of shape (m,), or the best point found.
    """
    if not len(start):
        return start
    # A column of zeros has no curvature: any positive number will do.
    h = torch.where(H.diagonal() > 0, H.diagonal(), 1)
    # What rounding leaves of a violation.
    tol = max(tol, 10 * sys.float_info.epsilon * float(c.abs().max()))
    w, Hw, stretch, steps = start, H @ start, 100.0, 0
    best, least, stalled = start, math.inf, 0
    while steps < max_steps:
        violation = largest_violation(w, Hw - c, slopes, floor)
        # The last digits: a violation that does not fall any more is rounding. Columns
        # that are nearly equal trade weights only after a long stretch.
        if violation < least:
            best, least, stalled = w, violation, 0
        elif stretch == _LONGEST:
            stalled += 1
        if violation <= tol or stalled > 2:
            break
        w, taken = _proximal_point(H, c, slopes, floor, w, Hw, h / stretch, tol / 10)
        Hw, steps = H @ w, steps + taken
        stretch = min(10 * stretch, _LONGEST)
    return best


def largest_violation(w: Tensor, grad: Tensor, slopes: Tensor, floor: Tensor) -> float:
    """The largest distance of `-grad` to the slopes of the L1 term at `w`."""
    at_zero = torch.clamp(torch.where(floor < 0, grad.abs(), -grad) - slopes, min=0)
    away = (grad + slopes * torch.sign(w)).abs()
    return float(torch.where(w == 0, at_zero, away).max())


def _proximal_point(
    H: Tensor,
    c: Tensor,
    slopes: Tensor,
    floor: Tensor,
    centre: Tensor,
    H_centre: Tensor,
    metric: Tensor,
    tol: float,
) -> tuple[Tensor, int]:
    """Solves one problem of the proximal point method; gives the Newton steps too.

    Its dual is a function of `v`, smooth and convex, whose gradient is `H (v - w(v))`.
    """

    def primal(Hv: Tensor) -> tuple[Tensor, Tensor]:
        z = centre + (c - Hv) / metric
        t = slopes / metric
        return c - Hv, torch.maximum(z - torch.clamp(z, -t, t), floor)

    def dual(v: Tensor, Hv: Tensor, q: Tensor, w: Tensor) -> float:
        moved = w - centre
        penalty = slopes @ w.abs() + moved @ (metric * moved) / 2
        return float(v @ Hv / 2 + q @ w - penalty)

    v, Hv = centre, H_centre
    q, w = primal(Hv)
    value = dual(v, Hv, q, w)
    for step in range(50):
        error = v - w
        slope = Hv - H @ w
        goal = float((metric * (w - centre)).abs().max()) / 10
        if step > 0 and slope.abs().max() <= max(goal, tol):
            break
        support = torch.nonzero(w).flatten()
        direction = -error
        direction[support] = 0
        rest = (H @ direction)[support]
        system = H[support[:, None], support]
        system.diagonal().add_(metric[support])
        direction[support] = torch.linalg.solve(
            system, -metric[support] * error[support] - rest
        )
        H_direction = H @ direction
        decrease = float(direction @ slope)
        size = 1.0
        while True:
            new_v, new_Hv = v + size * direction, Hv + size * H_direction
            new_q, new_w = primal(new_Hv)
            new_value = dual(new_v, new_Hv, new_q, new_w)
            # Near the end rounding hides the decrease.
            if new_value <= value + 1e-4 * size * decrease or size < 1e-3:
                break
            size /= 2
        v, Hv, q, w, value = new_v, new_Hv, new_q, new_w, new_value
    return w, step
