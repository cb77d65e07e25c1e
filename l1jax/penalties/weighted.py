"""L1 with a weight for each element: known from the start, or from a first estimate."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from l1jax.numerics.checks import as_numbers, broadcasts_to, check_real
from l1jax.numerics.elementwise import absolute, compute_dtype, largest, sign
from l1jax.numerics.prox import apply_prox_formula, soft_threshold_unchecked
from l1jax.parameters.trees import PyTree, describe, named_leaves, parameters_of
from l1jax.penalties.base import Penalty, gradient_operand, operands
from l1jax.penalties.penalty_formula import PenaltyFormula

Weights = ArrayLike | Sequence[float] | PyTree
"""A number or an array, or a tree of them by the paths of the penalised arrays."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _WeightedL1(Penalty):
    weights: np.ndarray | Mapping[str, np.ndarray]
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
                f"weights of shape {weights.shape} do not broadcast to the parameter "
                f"'{path}' of shape {shape}. Pass an array of its shape, or a mapping "
                "from the parameters' paths to such arrays."
            )

    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        x, strength = operands(x, strength)
        weights, forced = self._finite_weights(x)
        total = jnp.sum(strength * (weights * absolute(x)))
        return jnp.where(jnp.any(forced & (jnp.abs(x) > 0)), jnp.inf, total)

    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        wide, strength = operands(x, strength)
        weights, forced = self._finite_weights(wide)
        slope = strength * weights * sign(wide)
        slope = jnp.where(forced & (jnp.abs(wide) > 0), jnp.nan, slope)
        return slope.astype(jnp.asarray(x).dtype)

    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        return apply_prox_formula(
            lambda x, t: soft_threshold_unchecked(x, self._times_weights(t, x)),
            x,
            threshold,
        )

    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        x, grad, strength = operands(x, grad, strength)
        slope = self._times_weights(strength, x)
        at_zero = jnp.maximum(jnp.abs(grad) - slope, 0)
        direction = jnp.where(x == 0, 1, sign(x))  # no 0 * inf
        return jnp.where(x == 0, at_zero, jnp.abs(grad + slope * direction))

    def lambda_max(self, grad: ArrayLike) -> jax.Array:
        grad = gradient_operand(grad)
        weights, forced = self._finite_weights(grad)
        counts = (weights > 0) & ~forced
        ratio = jnp.abs(grad) / jnp.where(counts, weights, 1)
        return largest(jnp.where(counts, ratio, 0))

    def _times_weights(self, t: jax.Array, x: jax.Array) -> jax.Array:
        """Return `t * weights`: 0 for a weight of 0, infinity for one of infinity."""
        weights, forced = self._finite_weights(x)
        # No 0 * inf, and NaN stays NaN. The abs: see prox_elastic_net.
        product = jnp.abs(jnp.where(weights == 0, jnp.minimum(t, 0), t) * weights)
        return jnp.where(forced & (t >= 0), jnp.inf, product)

    def _finite_weights(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the weights of `x`, 1 for infinite ones, and where these are."""
        own = self._own_weights()
        self.require_fit("x", x.shape)
        weights = jnp.asarray(own, x.dtype)
        forced = weights == jnp.inf
        return jnp.where(forced, 1, weights), forced

    def _own_weights(self) -> np.ndarray:
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
      weights: a number or array that broadcasts to every penalised array, or a mapping
        (a tree) by dotted path: `{"layer.kernel": array}`, or `{"layer": {"kernel":
        array}}`. They are copied to the host, and constants to a compiled function; a
        strength for each element, an argument to it, is another way to weight.

    Raises:
      TypeError: weights that are not real numbers.
      ValueError: a weight that is negative or NaN, or no weight at all; at `init`,
        weights that lack a penalised parameter or do not broadcast to it.

    Example:
      >>> penalty = weighted_l1([1.0, 0.0, jnp.inf])
      >>> print(penalty.prox(jnp.array([3.0, 3.0, 3.0]), 1.0))
      [2. 3. 0.]
    """
    return _penalty(_arrays("weights", weights, "be >= 0", lambda given: given))


def adaptive_l1(pilot: Weights, power: float = 1.0) -> Penalty:
    r"""Return the adaptive lasso (Zou, 2006): weights `1 / |pilot|^power`.

    .. math:: \sum_i |x_i| / |\mathrm{pilot}_i|^{\mathrm{power}}

    The pilot is a first estimate of the parameters: least squares, ridge, or a network
    trained without a penalty. What is large in it is hardly shrunk; what is 0 in it
    gets an infinite weight, and stays 0. See `weighted_l1`.

    Args:
      pilot: parameters, of the tree of those to penalise (an array for an array). What
        is not penalised is better left out.
      power: a Python number above 0, gamma in the paper.

    Raises:
      TypeError: a pilot or power that is not a real number.
      ValueError: a pilot that holds NaN; a power that is not finite and above 0.

    Example:
      >>> penalty = adaptive_l1({"w": jnp.array([2.0, 0.5, 0.0])})
      >>> print(penalty.at("w", (3,)).prox(jnp.array([3.0, 3.0, 3.0]), 1.0))
      [2.5 1.  0. ]
    """
    power = check_real(
        "power", power, "(0, inf)", "1.0, or 2.0 to trust the pilot more"
    )

    def weights(estimate: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", over="ignore"):
            return 1 / np.abs(estimate) ** estimate.dtype.type(power)

    return _penalty(_arrays("pilot", pilot, "hold no NaN", weights))


def _arrays(
    argument: str,
    given: Weights,
    wanted: str,
    weights_of: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray | dict[str, np.ndarray]:
    """Return the weights as arrays on the host, by path if they are given by path."""
    given = parameters_of(given)
    one = given is None or isinstance(given, list | tuple)
    if one or jax.tree_util.all_leaves([given]):
        return _array(argument, given, wanted, weights_of)
    leaves = [(path, leaf) for path, leaf in named_leaves(given) if leaf is not None]
    if not leaves:
        raise ValueError(
            f"{argument} must not be empty, got {given!r}. Pass an array for each "
            "penalised parameter, by its dotted path."
        )
    return {p: _array(f"{argument}['{p}']", x, wanted, weights_of) for p, x in leaves}


def _array(
    argument: str,
    given: object,
    wanted: str,
    weights_of: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    array = np.array(as_numbers(argument, given))  # a copy: the penalty is a constant
    if jnp.issubdtype(array.dtype, jnp.integer):
        array = array.astype(np.float64)
    weights = weights_of(array.astype(compute_dtype(array.dtype)))
    bad = np.argwhere(~(weights >= 0))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        raise ValueError(
            f"{argument} must {wanted}, got {array[index]} at index {index}. As a "
            "weight, 0.0 leaves an element alone and infinity holds it at zero."
        )
    return weights


def _penalty(weights: np.ndarray | dict[str, np.ndarray]) -> Penalty:
    arrays = list(weights.values()) if isinstance(weights, dict) else [weights]
    positive = [w[(w > 0) & (w < np.inf)].min(initial=np.inf) for w in arrays]
    least = float(min(positive))
    return _WeightedL1(
        weights,
        least_slope=least if least < math.inf else 0.0,
        finite=not any(np.isinf(w).any() for w in arrays),
    )
