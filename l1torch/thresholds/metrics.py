"""From an effective step to the threshold of a prox: the metric and the cap."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from l1torch.numerics.blocks import blocks, blocks_with
from l1torch.numerics.checks import check_choice, check_real
from l1torch.numerics.elementwise import Number, compute_dtype, product, shape_of
from l1torch.numerics.second_moments import SecondMomentRoot
from l1torch.penalties.base import Penalty
from l1torch.thresholds.effective_steps import EffectiveStep, has_no_denominator

Metric = Literal["coordinate", "tensor", "none"]


@dataclasses.dataclass(frozen=True)
class RootThreshold:
    """The threshold `pull / max(root, floor)` of each element, not yet worked out."""

    pull: Number
    """Scalar: the learning rate with its gain times the strength."""
    root: SecondMomentRoot
    floor: Number
    """Scalar: the least denominator, by the cap."""

    def tensor(self) -> Tensor:
        """Work it out, as a new tensor."""
        root = self.root.tensor()
        return _quotient(self.pull, root, self.floor, root.dtype)


Threshold = Number | RootThreshold
"""A threshold: a number, a tensor that broadcasts to the parameter, or one to come."""


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


def check_max_ratio(max_ratio: float) -> float:
    """Return a number above 1, which infinity is, or raise."""
    return check_real(
        "max_ratio",
        max_ratio,
        "(1, inf]",
        "10.0, or math.inf for no cap: at 1 and below it changes the solution",
    )


def threshold_of(
    step: EffectiveStep,
    strength: Number,
    metric: Metric,
    max_ratio: float,
    least_slope: float,
    dtype: torch.dtype,
) -> Threshold:
    """Return `scale * min(strength / D, max_ratio * reach)` for a parameter or part.

    Where `D` is a `SecondMomentRoot` and the strength a scalar it is not worked out.
    `D` is the denominator under `metric="coordinate"`; under `"none"` it is 1, without
    a cap. For `"tensor"` reduce the denominator to its root mean square beforehand, and
    the reach to its maximum.

    At a stationary point a weight's pull by the loss is at most `scale * reach`. A
    threshold that is larger than this holds a zero and is not met by a weight that is
    not zero: above a ratio of 1 the cap moves no stationary point. A penalty whose
    slope may fall to `least_slope` needs the more threshold for the same pull.
    """
    pull = product(step.scale, strength, dtype)
    denominator, reach = step.denominator, step.reach
    if metric == "none" or has_no_denominator(step):
        return pull
    floor = _floor(strength, reach, max_ratio, least_slope, dtype)
    if isinstance(denominator, SecondMomentRoot):
        if not shape_of(pull) and not shape_of(floor):
            return RootThreshold(pull, denominator, floor)
        denominator = denominator.tensor()
    if not isinstance(denominator, Tensor):
        device = next((x.device for x in (floor, pull) if isinstance(x, Tensor)), None)
        denominator = torch.full((), denominator, dtype=dtype, device=device)
    return _quotient(pull, denominator, floor, dtype)


def threshold_blocks(
    x: Tensor, threshold: Threshold
) -> Iterator[tuple[Tensor, Number]]:
    """Yield `blocks` of `x`, each with its part of the threshold, worked out."""
    if not isinstance(threshold, RootThreshold):
        yield from blocks_with(threshold, x)
        return
    dtype = compute_dtype(x.dtype)
    for part, second in blocks(x, threshold.root.second):
        root = dataclasses.replace(threshold.root, second=second.to(dtype))
        yield part, dataclasses.replace(threshold, root=root).tensor()


def _quotient(
    pull: Number, denominator: Tensor, floor: Number, dtype: torch.dtype
) -> Tensor:
    """Return `pull / max(denominator, floor)`."""
    if isinstance(floor, Tensor):
        denominator = torch.maximum(denominator, floor)
    else:
        denominator = denominator.clamp(min=floor)
    if not isinstance(pull, Tensor):
        # A number divided by a tensor takes torch two passes: a reciprocal, a product.
        pull = torch.full((), pull, dtype=dtype)
    return pull / denominator


def _floor(
    strength: Number,
    reach: Number,
    max_ratio: float,
    least_slope: float,
    dtype: torch.dtype,
) -> Number:
    """Return the least denominator that keeps `strength / D` below `max_ratio * reach`.

    It is positive, so that a denominator of 0 does no harm.
    """
    limit = max_ratio / least_slope if least_slope else math.inf
    tiny = torch.finfo(dtype).tiny
    reach = reach.clamp(min=tiny) if isinstance(reach, Tensor) else max(reach, tiny)
    floor = strength / (limit * reach)
    return floor.clamp(min=tiny) if isinstance(floor, Tensor) else max(floor, tiny)
