"""The ordered weighted L1 penalties: OWL, and SLOPE."""

import abc
import dataclasses
import functools
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from l1jax.numerics.chains import fuse
from l1jax.numerics.checks import check_real, described
from l1jax.numerics.elementwise import sign
from l1jax.numerics.sharding import gathering
from l1jax.penalties.base import Penalty, gradient_operand
from l1jax.penalties.coupled_base import Coupled


class _Ordered(Coupled):
    @abc.abstractmethod
    def _weights(self, name: str, size: int) -> np.ndarray:
        """Return the weights of an array of `size` elements, the largest first."""

    def require_fit(
        self, path: str, shape: tuple[int, ...], strength_shape: tuple[int, ...] = ()
    ) -> None:
        self._weights(path, math.prod(shape))
        _require_one_number("strength", strength_shape, path)

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        self.require_fit("x", x.shape)
        _require_one_number("threshold", t.shape, "x")
        # From this threshold on all is zero; beyond, rounding would be of its size.
        enough = self.lambda_max(jax.lax.stop_gradient(x))
        u = self._residual(jnp.zeros_like(x), x, jnp.minimum(t, enough))
        return jnp.where(t < enough, u, 0 * enough)

    @gathering()
    def lambda_max(self, grad: ArrayLike) -> jax.Array:
        grad = gradient_operand(grad)
        weights = jnp.asarray(self._weights("grad", grad.size), grad.dtype)
        sizes = -jnp.sort(-jnp.abs(grad.reshape(-1)))
        return jnp.max(jnp.cumsum(sizes) / jnp.cumsum(weights), initial=0)

    def _residual(self, x: jax.Array, v: jax.Array, strength: jax.Array) -> jax.Array:
        # Elements of one size are a cluster, whose slopes form a permutahedron. The
        # projection onto it leaves the isotonic regression of the sorted v - weights.
        shape, x, v = x.shape, x.reshape(-1), v.reshape(-1)
        weights = jnp.asarray(self._weights("x", x.size), x.dtype)
        direction = jax.lax.stop_gradient(sign(jnp.where(x == 0, v, x)))
        direction = jnp.where(direction == 0, 1, direction)
        along, size = v * direction, jnp.abs(x)
        order = jax.lax.stop_gradient(jnp.lexsort((-along, -size)))
        size = size[order]
        # The abs keeps the product out of the difference: see prox_elastic_net.
        y = along[order] - jnp.abs(strength.reshape(()) * weights)
        cut = -(_previous(size) > size).astype(jnp.int32)
        u = fuse(y, jnp.inf, 0.0, cut)
        u = jnp.where((size == 0) & (u < 0), 0, u)
        u = jnp.zeros_like(u).at[order].set(u, unique_indices=True) * direction
        # Comparisons have hidden NaN.
        nan = strength.reshape(()) + x
        return jnp.where(jnp.isnan(nan), nan, u).reshape(shape)


@dataclasses.dataclass(frozen=True)
class _Owl(_Ordered):
    weights: tuple[float, ...]

    def __repr__(self) -> str:
        return f"owl({_shortened(self.weights)})"

    def _weights(self, name: str, size: int) -> np.ndarray:
        if len(self.weights) != size:
            raise ValueError(
                f"owl has {len(self.weights)} weights, but '{name}' has {size} "
                "elements. Pass one weight for each element, or use slope(q)."
            )
        return self._array

    @functools.cached_property
    def _array(self) -> np.ndarray:
        return np.array(self.weights)


@dataclasses.dataclass(frozen=True)
class _Slope(_Ordered):
    q: float

    def _weights(self, name: str, size: int) -> np.ndarray:
        return _benjamini_hochberg(self.q, size)


@functools.lru_cache(maxsize=64)
def _benjamini_hochberg(q: float, size: int) -> np.ndarray:
    quantile = statistics.NormalDist().inv_cdf
    return np.array([-quantile(i * q / (2 * size)) for i in range(1, size + 1)])


def _previous(x: jax.Array) -> jax.Array:
    return jnp.concatenate([x[:1], x[:-1]])


def _require_one_number(argument: str, shape: tuple[int, ...], path: str) -> None:
    if math.prod(shape) != 1:
        raise ValueError(
            f"{argument} of shape {tuple(shape)} differs from element to element of "
            f"the parameter '{path}', all of which an ordered penalty couples. Pass "
            "one number."
        )


def owl(weights: Iterable[SupportsFloat]) -> Penalty:
    r"""Return `sum_i weights_i |x|_(i)`, the ordered weighted L1 norm.

    .. math:: \sum_i w_i |x|_{(i)}, \quad |x|_{(1)} \geq |x|_{(2)} \geq \ldots

    `|x|_(1) >= |x|_(2) >= ...` are the sizes of all elements of the array, sorted
    (Zeng and Figueiredo, 2014; Bogdan et al., 2015). Equal weights are L1; weights
    (1, 0, ..., 0) the maximum norm; linear ones OSCAR. Falling weights draw correlated
    elements together into clusters, whose sizes are equal to the last bit.

    The prox sorts, subtracts the weights, and fits a sequence that does not increase
    (isotonic regression), exactly up to rounding. It costs a sort and O(n log n) for
    each round of `total_variation`'s splitting. One NaN or infinity leaves no finite
    number. The threshold, and the strength, is one number: there is no prox in a
    metric. A sharded array is gathered.

    The subgradient gives all elements of one size the mean of their weights.
    `optimality_distance` is, element by element, what is left of `-grad` after its
    projection onto the subdifferential; sizes count as equal if they are to the last
    bit.

    Args:
      weights: one number for each element of the array, the first > 0, none larger than
        the one before it, >= 0.

    Raises:
      TypeError: they are no sequence.
      ValueError: they are none, not finite, negative, increasing or all zero. When
        used, the array has another number of elements.

    Example:
      >>> print(owl([3.0, 1.0, 0.5]).prox(jnp.array([4.0, -3.5, 0.25]), 1.0))
      [ 1.75 -1.75  0.  ]
    """
    if isinstance(weights, str | Mapping) or not hasattr(weights, "__iter__"):
        raise TypeError(
            f"weights must be a sequence of numbers, got {weights!r} of type "
            f"{type(weights).__name__}. Pass one for each element, the largest first."
        )
    try:
        weights = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            f"weights must be a sequence of numbers, got {described(weights)}: "
            f"{error}. Pass one for each element, the largest first."
        ) from error
    finite = all(math.isfinite(weight) and weight >= 0 for weight in weights)
    falling = all(a >= b for a, b in itertools.pairwise(weights))
    if not weights or not finite or not falling or weights[0] == 0:
        raise ValueError(
            "weights must be finite numbers >= 0, the largest first and > 0, got "
            f"{_shortened(weights)}. Pass sorted(weights, reverse=True)."
        )
    return _Owl(weights)


def slope(q: float) -> Penalty:
    r"""Return SLOPE: `owl` with the weights of Benjamini and Hochberg (Bogdan, 2015).

    .. math:: w_i = \Phi^{-1}(1 - i q / (2 n))

    `weights_i = Phi^-1(1 - i q / (2n))` for an array of n elements, with `Phi` the
    standard normal distribution function. For orthogonal designs and unit noise, at a
    strength of 1 per unit of noise, `q` bounds the false discovery rate. Cost and
    limits are those of `owl`; the weights of each size are computed once, in Python.

    Args:
      q: the target rate, a Python number in (0, 1).

    Raises:
      TypeError: `q` is not a number.
      ValueError: it lies outside (0, 1).

    Example:
      >>> print(slope(0.1).subgradient(jnp.array([3.0, 0.0])).round(2))
      [1.96 0.  ]
    """
    return _Slope(check_real("q", q, "(0, 1)", "the false discovery rate, such as 0.1"))


def _shortened(weights: tuple[float, ...]) -> str:
    return repr(weights) if len(weights) <= 10 else f"{weights[:10]!r} and more"
