"""From an effective step to the threshold of a prox: the metric and the cap."""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from l1jax.numerics.checks import check_choice, check_real
from l1jax.numerics.elementwise import nonnegative
from l1jax.penalties.base import Penalty
from l1jax.thresholds.effective_steps import EffectiveStep

Metric = Literal["coordinate", "tensor", "none"]


def check_metric(metric: Metric, penalty: Penalty) -> None:
    """Raise ValueError for an unknown metric, or one that the penalty cannot take."""
    check_choice("metric", metric, get_args(Metric))
    if metric == "coordinate" and not penalty.takes_metric:
        raise ValueError(
            f"metric must not be 'coordinate' with {penalty!r}, whose prox cannot take "
            "a threshold for each coordinate. Pass metric='tensor', which is the same "
            "after SGD, or set `separable` in your penalty if it is a sum over the "
            "coordinates."
        )


def check_max_ratio(max_ratio: ArrayLike) -> ArrayLike:
    """Return a number above 1, perhaps infinity, or raise."""
    if isinstance(max_ratio, jax.Array):
        if max_ratio.shape or not jnp.issubdtype(max_ratio.dtype, jnp.floating):
            raise TypeError(
                "max_ratio must be a floating scalar, got an array of shape "
                f"{max_ratio.shape} and dtype {max_ratio.dtype}. Pass 10.0."
            )
        return (
            max_ratio  # its value is not known yet: `threshold_of` makes a bad one NaN
        )
    return check_real(
        "max_ratio",
        max_ratio,
        "(1, inf]",
        "10.0, or math.inf for no cap: at 1 and below it changes the solution",
    )


def threshold_of(
    step: EffectiveStep,
    strength: ArrayLike,
    metric: Metric,
    max_ratio: ArrayLike,
    least_slope: float,
    dtype: DTypeLike,
) -> jax.Array:
    """Return `scale * min(strength / D, max_ratio * reach)` for one leaf.

    `D` is the denominator under `metric="coordinate"` and its root mean square under
    `"tensor"`; under `"none"` it is 1, without a cap.

    At a stationary point a weight's pull by the loss is at most `scale * reach`. A
    threshold that is larger than this holds a zero and is not met by a weight that is
    not zero: above a ratio of 1 the cap moves no stationary point. A penalty whose
    slope may fall to `least_slope` needs a threshold that is larger by this factor.
    """
    strength = nonnegative(strength, dtype)
    pull = nonnegative(step.scale, dtype) * strength
    if metric == "none":
        return pull
    tiny = jnp.finfo(dtype).tiny
    denominator = jnp.asarray(step.denominator, dtype)
    reach = jnp.maximum(jnp.asarray(step.reach, dtype), tiny)
    if metric == "tensor":
        squares = jnp.sum(jnp.square(denominator))
        denominator = jnp.sqrt(squares / max(denominator.size, 1))  # no elements: 0
        reach = jnp.max(reach, initial=tiny)
    if isinstance(max_ratio, jax.Array):
        max_ratio = jnp.where(max_ratio > 1, max_ratio, jnp.nan)
    limit = max_ratio / least_slope if least_slope else math.inf
    # min(strength / D, limit * reach), where D may be 0.
    floor = jnp.maximum(strength / (jnp.asarray(limit, dtype) * reach), tiny)
    return pull / jnp.maximum(denominator, floor)
