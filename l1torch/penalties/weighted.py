"""L1 with a weight for each element: known from the start, or from a first estimate."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from l1torch.numerics.checks import as_numbers, broadcasts_to, check_real
from l1torch.numerics.elementwise import Number, absolute, compute_dtype, largest, sign
from l1torch.numerics.prox import apply_prox_formula, soft_threshold_unchecked
from l1torch.numerics.sharding import sharded_like
from l1torch.parameters.trees import describe, named_leaves
from l1torch.penalties.base import Penalty, gradient_operand, operands
from l1torch.penalties.penalty_formula import PenaltyFormula

Numbers = float | Tensor | np.ndarray | Sequence[float]
"""A number or an array of numbers."""

Weights = Numbers | Mapping[str, Numbers] | torch.nn.Module
"""Numbers, or numbers by the names of the penalised parameters."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _WeightedL1(Penalty):
    weights: Tensor | Mapping[str, Tensor]
    least_slope: float
    """The smallest positive weight. The cap of proximal optimizers acts before the
    weight does: with it the capped threshold, times any weight, still holds a zero."""

    finite: bool
    convex = True
    takes_metric = True  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"weighted_l1(weights of {self._shapes()})"

    def _shapes(self) -> str:
        return describe(named_leaves(self.weights))

    def at(self, path: str, shape: tuple[int, ...]) -> Penalty:
        if not isinstance(self.weights, Mapping):
            return self
        if path not in self.weights:
            raise ValueError(
                f"weights have nothing for '{path}'; they are for "
                f"{self._shapes()}. Pass weights for every penalised "
                "parameter, 1.0 for plain L1, or leave it out with mask=."
            )
        return dataclasses.replace(self, weights=self.weights[path])

    def require_fit(
        self, path: str, shape: tuple[int, ...], strength_shape: tuple[int, ...] = ()
    ) -> None:
        weights = self.at(path, shape).weights
        if not broadcasts_to(weights.shape, shape):
            raise ValueError(
                f"weights of shape {tuple(weights.shape)} do not broadcast to the "
                f"parameter '{path}' of shape {shape}. Pass a tensor of its shape, or "
                "a mapping from the parameters' names to such tensors."
            )

    def value(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        x, strength = operands(x, strength)
        weights, forced = self._finite_weights(x)
        total = torch.sum(strength * (weights * absolute(x)))
        return total.masked_fill((forced & (x.abs() > 0)).any(), math.inf)

    def subgradient(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        wide, strength = operands(x, strength)
        weights, forced = self._finite_weights(wide)
        slope = strength * weights * sign(wide)
        slope = slope.masked_fill(forced & (wide.abs() > 0), math.nan)
        return slope.to(x.dtype)

    def prox(self, x: Tensor, threshold: Number) -> Tensor:
        return apply_prox_formula(
            lambda x, t: soft_threshold_unchecked(x, self._times_weights(t, x)),
            x,
            threshold,
        )

    def optimality_distance(
        self, x: Tensor, grad: Tensor, strength: Number = 1.0
    ) -> Tensor:
        x, grad, strength = operands(x, grad, strength)
        slope = self._times_weights(strength, x)
        at_zero = (grad.abs() - slope).clamp(min=0)
        direction = torch.where(x == 0, 1, sign(x))  # no 0 * inf
        return torch.where(x == 0, at_zero, (grad + slope * direction).abs())

    def lambda_max(self, grad: Tensor) -> Tensor:
        grad = gradient_operand(grad)
        weights, forced = self._finite_weights(grad)
        counts = (weights > 0) & ~forced
        ratio = grad.abs() / torch.where(counts, weights, 1)
        return largest(torch.where(counts, ratio, 0))

    def _times_weights(self, t: Tensor, x: Tensor) -> Tensor:
        """Return `t * weights`: 0 for a weight of 0, infinity for one of infinity."""
        weights, forced = self._finite_weights(x)
        # No 0 * inf, and NaN stays NaN.
        product = torch.where(weights == 0, t.clamp(max=0), t) * weights
        return product.masked_fill(forced & (t >= 0), math.inf)

    def _finite_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of `x`, 1 for infinite ones, and where these are."""
        own = self._own_weights()
        self.require_fit("x", tuple(x.shape))
        weights = own.to(device=x.device, dtype=x.dtype)
        if hasattr(x, "to_local"):
            weights = sharded_like(weights.expand(x.shape), x)
        forced = weights == math.inf
        return weights.masked_fill(forced, 1), forced

    def _own_weights(self) -> Tensor:
        """Return the weights of one array; raise where they are known by path."""
        if isinstance(self.weights, Mapping):
            raise ValueError(
                f"weights are known by path, for {self._shapes()}. "
                "Call at(path, shape) for the penalty of one array."
            )
        return self.weights

    def formula(self, shape: tuple[int, ...]) -> PenaltyFormula:
        return PenaltyFormula(slopes=self._own_weights())


def weighted_l1(weights: Weights) -> Penalty:
    r"""Return `sum w_i |x_i|` with weights `w_i >= 0`.

    .. math:: \mathrm{prox}_t(x)_i = \mathrm{sign}(x_i) \max(|x_i| - t w_i, 0)

    A weight of 0 leaves its element alone. An infinite one holds it at zero: the prox
    is 0 there at every threshold, 0 included, and `add_subgradient` refuses it. The
    prox is `soft_threshold(x, threshold * weights)`, convex, exact under a metric.

    `lambda_max` leaves out the elements of weight 0, which are to be fitted first.

    Args:
      weights: a number, tensor or array that broadcasts to every penalised parameter,
        or a mapping by dotted name, `{"layer.weight": tensor}`. They are copied, and
        used on the parameter's device: have them there already to spare a transfer at
        every step. A DTensor takes its own part of them.

    Raises:
      TypeError: weights that are not real numbers.
      ValueError: a weight that is negative or NaN, or no weight at all; at `init`,
        weights that lack a penalised parameter or do not broadcast to it.

    Example:
      >>> penalty = weighted_l1([1.0, 0.0, math.inf])
      >>> penalty.prox(torch.tensor([3.0, 3.0, 3.0]), 1.0)
      tensor([2., 3., 0.])
    """
    return _penalty(_arrays("weights", weights, "be >= 0", lambda given: given))


def adaptive_l1(pilot: Weights, power: float = 1.0) -> Penalty:
    r"""Return the adaptive lasso (Zou, 2006): weights `1 / |pilot|^power`.

    .. math:: \sum_i |x_i| / |\mathrm{pilot}_i|^{\mathrm{power}}

    The pilot is a first estimate of the parameters: least squares, ridge, or a network
    trained without a penalty. What is large in it is hardly shrunk; what is 0 in it
    gets an infinite weight, and stays 0. See `weighted_l1`.

    Args:
      pilot: parameters, a module or a mapping with the names of those to penalise (a
        tensor for a tensor). What is not penalised is better left out.
      power: a Python number above 0, gamma in the paper.

    Raises:
      TypeError: a pilot or power that is not a real number.
      ValueError: a pilot that holds NaN; a power that is not finite and above 0.

    Example:
      >>> penalty = adaptive_l1({"w": torch.tensor([2.0, 0.5, 0.0])})
      >>> penalty.at("w", (3,)).prox(torch.tensor([3.0, 3.0, 3.0]), 1.0)
      tensor([2.5000, 1.0000, 0.0000])
    """
    power = check_real(
        "power", power, "(0, inf)", "1.0, or 2.0 to trust the pilot more"
    )

    def weights(estimate: Tensor) -> Tensor:
        return 1 / estimate.abs() ** power

    return _penalty(_arrays("pilot", pilot, "hold no NaN", weights))


def _arrays(
    argument: str, given: Weights, wanted: str, weights_of: Callable[[Tensor], Tensor]
) -> Tensor | dict[str, Tensor]:
    """Return the weights as tensors, by name if they are given by name."""
    if not isinstance(given, Mapping | torch.nn.Module):
        return _array(argument, given, wanted, weights_of)
    leaves = [(path, leaf) for path, leaf in named_leaves(given) if leaf is not None]
    if not leaves:
        raise ValueError(
            f"{argument} must not be empty, got {given!r}. Pass an array for each "
            "penalised parameter, by its dotted name."
        )
    return {p: _array(f"{argument}['{p}']", x, wanted, weights_of) for p, x in leaves}


def _array(
    argument: str, given: object, wanted: str, weights_of: Callable[[Tensor], Tensor]
) -> Tensor:
    if hasattr(given, "full_tensor"):
        given = given.full_tensor()  # of a DTensor
    array = as_numbers(argument, given)
    array = array.detach().clone()  # a copy: the penalty is a constant
    if not array.is_floating_point():
        array = array.double()
    weights = weights_of(array.to(compute_dtype(array.dtype)))
    bad = (~(weights >= 0)).nonzero()
    if len(bad):
        index = tuple(bad[0].tolist())
        raise ValueError(
            f"{argument} must {wanted}, got {array[index].item()} at index {index}. As "
            "a weight, 0.0 leaves an element alone and infinity holds it at zero."
        )
    return weights


def _penalty(weights: Tensor | dict[str, Tensor]) -> Penalty:
    arrays = list(weights.values()) if isinstance(weights, dict) else [weights]
    positive = [w[(w > 0) & (w < math.inf)] for w in arrays]
    least = min([w.min().item() for w in positive if w.numel()], default=math.inf)
    return _WeightedL1(
        weights,
        least_slope=least if least < math.inf else 0.0,
        finite=not any(w.isinf().any() for w in arrays),
    )
