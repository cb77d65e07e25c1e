"""Penalties: objects that know their value, subgradient, prox and optimality.

A penalty has unit strength. `strength` below is a number or a tensor that broadcasts
to `x`, in units of the loss per unit of the penalty; `threshold` is `step size *
strength`.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from l1torch.hyperparameters import (
    Number,
    Strength,
    check_number,
    check_strength,
    is_schedule,
    nonnegative,
    require_broadcast,
    strengths_at,
)
from l1torch.leaves import (
    blocks_with,
    compute_dtype,
    local,
    named_leaves,
    require_real_floating,
)
from l1torch.masks import Mask, selected, weights_only
from l1torch.prox import prox_elastic_net, prox_nonnegative_l1, soft_threshold

_LARGEST = {dtype: torch.finfo(dtype).max for dtype in (torch.float32, torch.float64)}


class Penalty(abc.ABC):
    """What a penalty is: four functions of tensors of any shape.

    Derive from it, as a frozen dataclass, to bring a penalty of your own. The methods
    accept half precision: they compute in float32; `subgradient` and `prox` return the
    dtype of `x`, `value` and `optimality_distance`, being measurements, float32. JAX on
    CPU takes subnormal numbers for zero, torch does not.
    """

    finite: bool = True
    """Whether the value is finite everywhere. A penalty that holds a constraint is not,
    and has no subgradient outside it: it works through its prox only."""

    separable: bool = False
    """Whether it is a sum over the elements, so that any part of an array may be
    treated by itself. Say so of your own penalty if it is: it saves memory."""

    least_slope: float = 0.0
    """The least size of a subgradient at `x != 0`, of those that oppose a step away
    from zero. Where it is 0 the `max_ratio` of proximal optimizers has no effect: a cap
    is only safe if the slope cannot fall below it."""

    @abc.abstractmethod
    def value(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        """Sums `strength * penalty(x_i)` to a scalar.

        Its derivative is `subgradient`, with 0 where the penalty has a kink at zero.
        """

    @abc.abstractmethod
    def subgradient(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        """Gives the element of smallest norm of `strength *` the subdifferential."""

    @abc.abstractmethod
    def prox(self, x: Tensor, threshold: Number) -> Tensor:
        """Solves `argmin_u 1/2 |u - x|^2 + threshold * penalty(u)`, exact zeros kept.

        Raises ValueError for a negative or NaN threshold, see `l1torch.prox`.
        """

    def prox_(self, x: Tensor, threshold: Number) -> None:
        """Writes `prox(x, threshold)` into `x`; zeros may be -0.0.

        For a separable penalty it needs no memory of `x`'s size on CPU. A threshold
        tensor may be trusted to hold no negative numbers.
        """
        if not self.separable:
            x.copy_(self.prox(x, threshold))
            return
        for x_block, t_block in blocks_with(threshold, x):
            x_block.copy_(self.prox(x_block, t_block))

    @abc.abstractmethod
    def optimality_distance(
        self, x: Tensor, grad: Tensor, strength: Number = 1.0
    ) -> Tensor:
        """Gives, per element, the distance of `-grad` to `strength * d penalty(x)`.

        With `grad` the gradient of the loss without its penalty, `x` is a stationary
        point of `loss + strength * penalty` if and only if every element is 0. An `x`
        outside the penalty's domain is infinitely far.
        """


@dataclasses.dataclass(frozen=True)
class _L1(Penalty):
    separable = True
    least_slope = 1.0

    def value(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        x, strength = _operands(x, strength)
        return torch.sum(strength * _abs(x))

    def subgradient(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        wide, strength = _operands(x, strength)
        return (strength * _sign(wide)).to(x.dtype)

    def prox(self, x: Tensor, threshold: Number) -> Tensor:
        return soft_threshold(x, threshold)

    def prox_(self, x: Tensor, threshold: Number) -> None:
        largest = _LARGEST.get(x.dtype)
        if isinstance(threshold, Tensor):
            for x_block, t in blocks_with(threshold, x):
                wide = x_block.to(compute_dtype(x.dtype))
                x_block.copy_(wide - torch.clamp(wide, -t, t))
        elif largest and 0 <= threshold <= largest:
            # One kernel and no temporaries. It would round a threshold to half
            # precision, and takes a finite Python number that it trusts to be >= 0.
            torch.nn.functional.softshrink(local(x), threshold, out=local(x))
        else:
            super().prox_(x, threshold)

    def optimality_distance(
        self, x: Tensor, grad: Tensor, strength: Number = 1.0
    ) -> Tensor:
        x, grad, strength = _operands(x, grad, strength)
        at_zero = torch.clamp(grad.abs() - strength, min=0)
        return torch.where(x == 0, at_zero, (grad + strength * _sign(x)).abs())


@dataclasses.dataclass(frozen=True)
class _ElasticNet(Penalty):
    l1_ratio: float
    separable = True

    @property
    def least_slope(self) -> float:  # type: ignore[override]
        """The slope at zero."""
        return self.l1_ratio

    def value(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        x, strength = _operands(x, strength)
        mean_slope = self.l1_ratio + ((1 - self.l1_ratio) / 2 * x).abs()
        return torch.sum(strength * (_abs(x) * mean_slope))

    def subgradient(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        wide, strength = _operands(x, strength)
        slope = strength * self._slope(wide)
        return (slope * _sign(wide)).to(x.dtype)

    def prox(self, x: Tensor, threshold: Number) -> Tensor:
        return prox_elastic_net(x, threshold, self.l1_ratio)

    def optimality_distance(
        self, x: Tensor, grad: Tensor, strength: Number = 1.0
    ) -> Tensor:
        x, grad, strength = _operands(x, grad, strength)
        at_zero = torch.clamp(grad.abs() - strength * self.l1_ratio, min=0)
        slope = strength * self._slope(x)
        return torch.where(x == 0, at_zero, (grad + slope * _sign(x)).abs())

    def _slope(self, x: Tensor) -> Tensor:
        return self.l1_ratio + ((1 - self.l1_ratio) * x).abs()


@dataclasses.dataclass(frozen=True)
class _NonnegativeL1(Penalty):
    finite = False
    separable = True
    least_slope = 1.0

    def value(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        x, strength = _operands(x, strength)
        infeasible = (x < 0).any()
        return torch.sum(strength * _abs(x)).masked_fill(infeasible, math.inf)

    def subgradient(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        wide, strength = _operands(x, strength)
        slope = (strength * _sign(wide)).masked_fill(wide < 0, math.nan)
        return slope.to(x.dtype)

    def prox(self, x: Tensor, threshold: Number) -> Tensor:
        return prox_nonnegative_l1(x, threshold)

    def optimality_distance(
        self, x: Tensor, grad: Tensor, strength: Number = 1.0
    ) -> Tensor:
        x, grad, strength = _operands(x, grad, strength)
        slope = grad + strength
        at_zero = (-slope).masked_fill(slope >= 0, 0)
        distance = torch.where(x == 0, at_zero, slope.abs() + 0 * x)
        return distance.masked_fill(x < 0, math.inf)


def l1() -> Penalty:
    """Gives `|x|_1 = sum |x_i|`, the lasso penalty (Tibshirani, 1996).

    Its prox is `soft_threshold`; the subgradient is `sign(x)` with `sign(0) = 0`.

    Example:
      >>> l1().prox(torch.tensor([3.0, -0.5]), 1.0)
      tensor([2., 0.])
    """
    return _L1()


def elastic_net(l1_ratio: float) -> Penalty:
    """Gives `l1_ratio |x|_1 + (1 - l1_ratio)/2 |x|_2^2` (Zou and Hastie, 2005).

    With `strength` this is scikit-learn's `ElasticNet(alpha=strength, l1_ratio)`.

    Args:
      l1_ratio: the share of L1, a Python number in [0, 1]. 1 is the lasso; 0 is ridge
        and has no zeros.

    Raises:
      TypeError: `l1_ratio` is not a number.
      ValueError: it lies outside [0, 1].

    Example:
      >>> elastic_net(0.5).prox(torch.tensor([3.5, -0.5]), 1.0)
      tensor([2., 0.])
    """
    if isinstance(l1_ratio, bool) or not isinstance(l1_ratio, int | float):
        raise TypeError(
            f"l1_ratio must be a Python number in [0, 1], got {l1_ratio!r} of type "
            f"{type(l1_ratio).__name__}. Pass 1.0 for the lasso, 0.0 for ridge."
        )
    if not 0 <= l1_ratio <= 1:
        raise ValueError(
            f"l1_ratio must lie in [0, 1], got {l1_ratio!r}. Pass 1.0 for the lasso, "
            "0.0 for ridge."
        )
    return _ElasticNet(float(l1_ratio))


def nonnegative_l1() -> Penalty:
    """Gives `sum x_i` for `x >= 0` and infinity elsewhere.

    The penalty of scikit-learn's `Lasso(positive=True)`. Its prox is
    `max(x - threshold, 0)`. Below zero there is no subgradient (NaN), so that
    `add_subgradient` refuses it.

    Example:
      >>> nonnegative_l1().prox(torch.tensor([3.0, -0.5]), 1.0)
      tensor([2., 0.])
    """
    return _NonnegativeL1()


def require_penalty(penalty: Penalty) -> None:
    """Raises TypeError for what is not a `Penalty`."""
    if not isinstance(penalty, Penalty):
        raise TypeError(
            f"penalty must be a Penalty, got {penalty!r} of type "
            f"{type(penalty).__name__}. Pass l1(), elastic_net(l1_ratio), ... with "
            "their parentheses."
        )


def penalty_value(
    params: Any,
    strength: Strength,
    penalty: Penalty = l1(),
    mask: Mask = weights_only,
) -> Tensor:
    """Sums `strength * penalty` over the penalised leaves: to report, or for a loss.

    Differentiated, it gives the penalty's subgradient: 0 at a weight of 0. Added to a
    loss it finds no exact zeros; for these use `proximal_step` or `Proximal`.

    Args:
      params: a module, or a mapping from names to tensors.
      strength: number, tensor, or mapping from names to these; in units of the loss.
      penalty: the penalty, of unit strength.
      mask: the parameters to count, see `weights_only`; `None` counts all.

    Returns:
      Scalar in the widest dtype of the penalised parameters, at least float32.

    Raises:
      TypeError: no penalty; a strength that is no number (a schedule: call it with
        your step count); a penalised parameter that is not real floating.
      ValueError: negative or NaN strength; a strength or mask that does not fit.

    Example:
      >>> params = {"w": torch.tensor([1.0, -2.0]), "b": torch.tensor(5.0)}
      >>> penalty_value(params, 0.5)
      tensor(1.5000)
    """
    leaves = strength.values() if isinstance(strength, Mapping) else [strength]
    if any(is_schedule(leaf) for leaf in leaves):
        raise TypeError(
            f"strength must be a number here, got the schedule {strength!r}. Call it "
            "with your step count and pass the result."
        )
    check_strength(strength)
    require_penalty(penalty)
    total: Tensor | float = 0.0
    rows = zip(
        named_leaves(params),
        selected(mask, params),
        strengths_at(strength, 0, params),
        strict=True,
    )
    for (name, leaf), penalised, leaf_strength in rows:
        if penalised:
            require_real_floating(name, leaf)
            total = total + penalty.value(leaf, leaf_strength)
    return torch.as_tensor(total)


def _operands(x: Tensor, *others: Number) -> tuple[Tensor, ...]:
    require_real_floating("x", x)
    *tensors, strength = others
    check_number("strength", strength)
    require_broadcast("strength", strength, "x", x.shape)
    dtype = compute_dtype(x.dtype)
    tensors = [t.to(dtype) for t in (x, *tensors)]
    return *tensors, nonnegative(strength, dtype, x.device)


def _sign(x: Tensor) -> Tensor:
    # torch.sign(nan) is 0.
    return torch.where(x.isnan(), x, x.sign())


def _abs(x: Tensor) -> Tensor:
    return x * _sign(x).detach()
