"""Penalties: objects that know their value, subgradient, prox and optimality.

A penalty has unit strength. `strength` below is a number or an array that broadcasts
to `x`, in units of the loss per unit of the penalty; `threshold` is `step size *
strength`.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.hyperparameters import (
    check_number,
    check_strength,
    nonnegative,
    require_broadcast,
    strengths_at,
)
from l1jax.leaves import compute_dtype, named_leaves, require_real_floating
from l1jax.masks import Mask, selected, weights_only
from l1jax.prox import prox_elastic_net, prox_nonnegative_l1, soft_threshold


class Penalty(abc.ABC):
    """What a penalty is: four functions of arrays of any shape.

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
    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        """Sums `strength * penalty(x_i)` to a scalar.

        Its derivative is `subgradient`, with 0 where the penalty has a kink at zero.
        """

    @abc.abstractmethod
    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        """Gives the element of smallest norm of `strength *` the subdifferential."""

    @abc.abstractmethod
    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        """Solves `argmin_u 1/2 |u - x|^2 + threshold * penalty(u)`, exact zeros kept.

        Raises ValueError for a negative or NaN threshold, see `l1jax.prox`.
        """

    @abc.abstractmethod
    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        """Gives, per element, the distance of `-grad` to `strength * d penalty(x)`.

        With `grad` the gradient of the loss without its penalty, `x` is a stationary
        point of `loss + strength * penalty` if and only if every element is 0. An `x`
        outside the penalty's domain is infinitely far.
        """


@dataclasses.dataclass(frozen=True)
class _L1(Penalty):
    separable = True
    least_slope = 1.0

    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        x, strength = _operands(x, strength)
        return jnp.sum(strength * _abs(x))

    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        wide, strength = _operands(x, strength)
        return (strength * _sign(wide)).astype(jnp.asarray(x).dtype)

    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        return soft_threshold(x, threshold)

    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        x, grad, strength = _operands(x, grad, strength)
        at_zero = jnp.maximum(jnp.abs(grad) - strength, 0)
        return jnp.where(x == 0, at_zero, jnp.abs(grad + strength * _sign(x)))


@dataclasses.dataclass(frozen=True)
class _ElasticNet(Penalty):
    l1_ratio: float
    separable = True

    @property
    def least_slope(self) -> float:  # type: ignore[override]
        """The slope at zero."""
        return self.l1_ratio

    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        x, strength = _operands(x, strength)
        # The abs around the product: see prox_elastic_net.
        mean_slope = self.l1_ratio + jnp.abs((1 - self.l1_ratio) / 2 * x)
        return jnp.sum(strength * (_abs(x) * mean_slope))

    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        wide, strength = _operands(x, strength)
        slope = strength * self._slope(wide)
        return (slope * _sign(wide)).astype(jnp.asarray(x).dtype)

    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        return prox_elastic_net(x, threshold, self.l1_ratio)

    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        x, grad, strength = _operands(x, grad, strength)
        at_zero = jnp.maximum(jnp.abs(grad) - jnp.abs(strength * self.l1_ratio), 0)
        slope = jnp.abs(strength * self._slope(x))
        return jnp.where(x == 0, at_zero, jnp.abs(grad + slope * _sign(x)))

    def _slope(self, x: jax.Array) -> jax.Array:
        return self.l1_ratio + jnp.abs((1 - self.l1_ratio) * x)


@dataclasses.dataclass(frozen=True)
class _NonnegativeL1(Penalty):
    finite = False
    separable = True
    least_slope = 1.0

    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        x, strength = _operands(x, strength)
        infeasible = jnp.any(x < 0)
        return jnp.where(infeasible, jnp.inf, jnp.sum(strength * _abs(x)))

    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        wide, strength = _operands(x, strength)
        slope = jnp.where(wide < 0, jnp.nan, strength * _sign(wide))
        return slope.astype(jnp.asarray(x).dtype)

    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        return prox_nonnegative_l1(x, threshold)

    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        x, grad, strength = _operands(x, grad, strength)
        slope = grad + strength
        at_zero = jnp.where(slope >= 0, jnp.zeros_like(slope), -slope)
        distance = jnp.where(x == 0, at_zero, jnp.abs(slope) + 0 * x)
        return jnp.where(x < 0, jnp.inf, distance)


def l1() -> Penalty:
    """Gives `|x|_1 = sum |x_i|`, the lasso penalty (Tibshirani, 1996).

    Its prox is `soft_threshold`; the subgradient is `sign(x)` with `sign(0) = 0`.

    Example:
      >>> print(l1().prox(jnp.array([3.0, -0.5]), 1.0))
      [2. 0.]
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
      >>> print(elastic_net(0.5).prox(jnp.array([3.5, -0.5]), 1.0))
      [2. 0.]
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
      >>> print(nonnegative_l1().prox(jnp.array([3.0, -0.5]), 1.0))
      [2. 0.]
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
    strength: Any,
    penalty: Penalty = l1(),
    mask: Mask = weights_only,
) -> jax.Array:
    """Sums `strength * penalty` over the penalised leaves: to report, or for a loss.

    Differentiated, it gives the penalty's subgradient: 0 at a weight of 0, where
    `jax.grad(jnp.abs)` gives 1. Added to a loss it finds no exact zeros; for these use
    `proximal_step`.

    Args:
      params: tree of arrays.
      strength: number, array, or tree of these that is a prefix of `params`; in units
        of the loss.
      penalty: the penalty, of unit strength.
      mask: the leaves to count, see `weights_only`; `None` counts all.

    Returns:
      Scalar in the widest dtype of the penalised leaves, at least float32.

    Raises:
      TypeError: no penalty; a strength that is no number (a schedule: call it with
        your step count); a penalised leaf that is not real floating.
      ValueError: negative or NaN strength; a strength or mask that does not fit.

    Example:
      >>> params = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(5.0)}
      >>> print(penalty_value(params, 0.5))
      1.5
    """
    if any(callable(leaf) for leaf in jax.tree.leaves(strength)):
        raise TypeError(
            f"strength must be a number here, got the schedule {strength!r}. Call it "
            "with your step count and pass the result."
        )
    check_strength(strength)
    require_penalty(penalty)
    total = jnp.zeros([], jnp.float32)
    rows = zip(
        named_leaves(params),
        selected(mask, params),
        strengths_at(strength, 0, params),
        strict=True,
    )
    for (path, leaf), penalised, leaf_strength in rows:
        if penalised:
            require_real_floating(path, leaf)
            total = total + penalty.value(leaf, leaf_strength)
    return total


def _operands(x: ArrayLike, *others: ArrayLike) -> tuple[jax.Array, ...]:
    x = jnp.asarray(x)
    require_real_floating("x", x)
    *arrays, strength = others
    check_number("strength", strength)
    require_broadcast("strength", strength, "x", x.shape)
    dtype = compute_dtype(x.dtype)
    wide = (jnp.asarray(a, dtype) for a in (x, *arrays))
    return *wide, nonnegative(strength, dtype)


def _sign(x: jax.Array) -> jax.Array:
    # jnp.sign(-0.0) is -0.0, torch's is 0.0.
    return jnp.where(x == 0, jnp.zeros_like(x), jnp.sign(x))


def _abs(x: jax.Array) -> jax.Array:
    # |x| whose derivative at zero is 0; that of jnp.abs is 1.
    return x * jax.lax.stop_gradient(_sign(x))
