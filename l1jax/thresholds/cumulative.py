"""The windowed cumulative penalty: shrinkage that was not used is kept for later.

A weight that belongs at zero is pushed off by the noise of a minibatch's gradient
whenever this exceeds the strength. Tsuruoka, Tsujii and Ananiadou (2009) let the
penalty that a weight could have received accumulate, so that it takes back more than
one step's noise. Here it accumulates over `window` steps, in the optimizer's metric.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from l1jax.numerics.checks import LARGEST, check_int
from l1jax.penalties.base import Penalty

_EXAMPLE = "10, or math.inf; name it in static_args under inject_hyperparams"


def check_window(window: float, penalty: Penalty) -> float:
    """Return a whole number >= 1, or infinity; above 1 the penalty must be L1."""
    if not (isinstance(window, float) and window == math.inf):
        window = check_int("window", window, _EXAMPLE, most=LARGEST)
    if window > 1 and not penalty.prox_is_soft_threshold:
        raise ValueError(
            f"window must be 1 with {penalty!r}, got {window!r}: the cumulative "
            "penalty is defined for l1(). Pass window=1."
        )
    return window


class Shrunk(NamedTuple):
    """An array after a cumulative prox, and its budgets."""

    x: jax.Array
    plus: jax.Array
    """What a positive weight still owes, >= 0."""
    minus: jax.Array
    """What a negative weight still owes, >= 0."""


def cumulative_prox(
    x: jax.Array,
    threshold: jax.Array,
    plus: jax.Array,
    minus: jax.Array,
    window: float,
) -> Shrunk:
    """Soft-threshold by what has accumulated, and return the budgets anew.

    Each budget grows by the threshold, to at most `window` times it, and falls by what
    is used; using one raises the other. With `window` 1 this is the soft threshold.
    """
    plus, minus = plus + threshold, minus + threshold
    if window != math.inf:
        plus, minus = (jnp.minimum(b, window * threshold) for b in (plus, minus))
    used = jnp.clip(x, -minus, plus)
    return Shrunk(x - used, plus - used, minus + used)
