"""The convex penalties of single weights: L1, the elastic net, non-negative L1."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.numerics.checks import check_real
from l1jax.numerics.elementwise import absolute, largest, sign
from l1jax.numerics.prox import prox_elastic_net, prox_nonnegative_l1, soft_threshold
from l1jax.penalties.base import (
    Penalty,
    gradient_operand,
    operands,
)
from l1jax.penalties.penalty_formula import PenaltyFormula


@dataclasses.dataclass(frozen=True)
class _L1(Penalty):
    convex = True
    separable = True
    least_slope = 1.0
    prox_is_soft_threshold = True

    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        x, strength = operands(x, strength)
        return jnp.sum(strength * absolute(x))

    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        wide, strength = operands(x, strength)
        return (strength * sign(wide)).astype(jnp.asarray(x).dtype)

    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        return soft_threshold(x, threshold)

    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        x, grad, strength = operands(x, grad, strength)
        at_zero = jnp.maximum(jnp.abs(grad) - strength, 0)
        return jnp.where(x == 0, at_zero, jnp.abs(grad + strength * sign(x)))

    def lambda_max(self, grad: ArrayLike) -> jax.Array:
        return largest(jnp.abs(gradient_operand(grad)))

    def formula(self, shape: tuple[int, ...]) -> PenaltyFormula:
        return PenaltyFormula(slopes=1.0)


@dataclasses.dataclass(frozen=True)
class _ElasticNet(Penalty):
    l1_ratio: float
    convex = True
    separable = True

    @property
    def least_slope(self) -> float:  # type: ignore[override]
        """The slope at zero."""
        return self.l1_ratio

    @property
    def makes_zeros(self) -> bool:  # type: ignore[override]
        """Whether there is a share of L1."""
        return self.l1_ratio > 0

    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        x, strength = operands(x, strength)
        # The abs around the product: see prox_elastic_net.
        mean_slope = self.l1_ratio + jnp.abs((1 - self.l1_ratio) / 2 * x)
        return jnp.sum(strength * (absolute(x) * mean_slope))

    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        wide, strength = operands(x, strength)
        slope = strength * self._slope(wide)
        return (slope * sign(wide)).astype(jnp.asarray(x).dtype)

    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        return prox_elastic_net(x, threshold, self.l1_ratio)

    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        x, grad, strength = operands(x, grad, strength)
        at_zero = jnp.maximum(jnp.abs(grad) - jnp.abs(strength * self.l1_ratio), 0)
        slope = jnp.abs(strength * self._slope(x))
        return jnp.where(x == 0, at_zero, jnp.abs(grad + slope * sign(x)))

    def lambda_max(self, grad: ArrayLike) -> jax.Array:
        # Without a kink at zero only a gradient of 0 keeps zero stationary.
        grad = largest(jnp.abs(gradient_operand(grad)))
        factor = 1 / self.l1_ratio if self.l1_ratio else jnp.inf
        return jnp.where(grad == 0, jnp.zeros_like(grad), grad * factor)

    def _slope(self, x: jax.Array) -> jax.Array:
        return self.l1_ratio + jnp.abs((1 - self.l1_ratio) * x)

    def formula(self, shape: tuple[int, ...]) -> PenaltyFormula:
        return PenaltyFormula(slopes=self.l1_ratio, ridge=1 - self.l1_ratio)


@dataclasses.dataclass(frozen=True)
class _NonnegativeL1(Penalty):
    finite = False
    convex = True
    separable = True
    least_slope = 1.0

    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        x, strength = operands(x, strength)
        infeasible = jnp.any(x < 0)
        return jnp.where(infeasible, jnp.inf, jnp.sum(strength * absolute(x)))

    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        wide, strength = operands(x, strength)
        slope = jnp.where(wide < 0, jnp.nan, strength * sign(wide))
        return slope.astype(jnp.asarray(x).dtype)

    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        return prox_nonnegative_l1(x, threshold)

    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        x, grad, strength = operands(x, grad, strength)
        slope = grad + strength
        at_zero = jnp.where(slope >= 0, jnp.zeros_like(slope), -slope)
        distance = jnp.where(x == 0, at_zero, jnp.abs(slope) + 0 * x)
        return jnp.where(x < 0, jnp.inf, distance)

    def lambda_max(self, grad: ArrayLike) -> jax.Array:
        return largest(-gradient_operand(grad))

    def formula(self, shape: tuple[int, ...]) -> PenaltyFormula:
        return PenaltyFormula(slopes=1.0, nonnegative=True)


def l1() -> Penalty:
    r"""Return `|x|_1 = sum |x_i|`, the lasso penalty (Tibshirani, 1996).

    .. math:: \mathrm{prox}_t(x) = \mathrm{sign}(x) \max(|x| - t, 0)

    Its prox is `soft_threshold`; the subgradient is `sign(x)` with `sign(0) = 0`.

    Example:
      >>> print(l1().prox(jnp.array([3.0, -0.5]), 1.0))
      [2. 0.]
    """
    return _L1()


def elastic_net(l1_ratio: float) -> Penalty:
    r"""Return `l1_ratio |x|_1 + (1 - l1_ratio)/2 |x|_2^2` (Zou and Hastie, 2005).

    .. math::

       \mathrm{prox}_t(x) = \mathrm{sign}(x) \max(|x| - t r, 0) / (1 + t (1 - r)),
       \quad r = \mathrm{l1\_ratio}

    With `strength` this is scikit-learn's `ElasticNet(alpha=strength, l1_ratio)`.

    Args:
      l1_ratio: the share of L1, a Python number in [0, 1]. 1 is the lasso; 0 is ridge
        and has no zeros.

    Raises:
      TypeError: `l1_ratio` is not a number.
      ValueError: it lies outside [0, 1].

    Example:
      >>> print(elastic_net(0.5).prox(jnp.array([3.5, -0.5]), 1.0))
      [2. 0.]
    """
    l1_ratio = check_real(
        "l1_ratio", l1_ratio, "[0, 1]", "1.0 for the lasso, 0.0 for ridge"
    )
    return _ElasticNet(l1_ratio)


def nonnegative_l1() -> Penalty:
    r"""Return `sum x_i` for `x >= 0` and infinity elsewhere.

    .. math:: \mathrm{prox}_t(x) = \max(x - t, 0)

    The penalty of scikit-learn's `Lasso(positive=True)`. Its prox is
    `max(x - threshold, 0)`. Below zero there is no subgradient (NaN), so that
    `add_subgradient` refuses it.

    Example:
      >>> print(nonnegative_l1().prox(jnp.array([3.0, -0.5]), 1.0))
      [2. 0.]
    """
    return _NonnegativeL1()
