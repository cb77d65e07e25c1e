"""The windowed cumulative penalty: shrinkage that was not used up is kept for later.

A weight that belongs at zero is pushed off by the noise of a minibatch's gradient
whenever this exceeds the strength. Tsuruoka, Tsujii and Ananiadou (2009) let the
penalty that a weight could have received accumulate, so that it takes back more than
one step's noise. Here it accumulates over `window` steps, in the optimizer's metric.
"""

import math

import torch
from torch import Tensor

from l1torch.numerics.checks import LARGEST, check_int
from l1torch.numerics.elementwise import Number
from l1torch.penalties.base import Penalty

BUDGETS = ("l1_plus", "l1_minus")
"""The keys of the two budgets in an optimizer's state."""


def check_window(window: float, penalty: Penalty) -> float:
    """Return a whole number >= 1, or infinity; other than 1, the penalty must be L1."""
    if not (isinstance(window, float) and window == math.inf):
        window = check_int(
            "window", window, "1 for the ordinary prox, or math.inf", most=LARGEST
        )
    if window > 1 and not penalty.prox_is_soft_threshold:
        raise ValueError(
            f"window must be 1 with {penalty!r}, got {window!r}: the cumulative "
            "penalty is defined for l1(). Pass window=1."
        )
    return window


def cumulative_prox_(
    x: Tensor, threshold: Number, plus: Tensor, minus: Tensor, window: float
) -> None:
    """Soft-threshold `x` in place by what has accumulated in the two budgets.

    `plus` is what a positive weight still owes, `minus` a negative one, both >= 0.
    Each grows by the threshold, to at most `window` times it, and falls by what is
    used; using one raises the other. With `window` 1 this is the soft threshold.
    """
    for budget in (plus, minus):
        budget.add_(threshold)
        if window != math.inf:
            most = window * threshold
            if isinstance(most, Tensor):
                torch.minimum(budget, most, out=budget)
            else:
                budget.clamp_(max=most)
    used = torch.clamp(x.to(plus.dtype), -minus, plus)
    x.copy_(x - used)
    plus.sub_(used)
    minus.add_(used)
