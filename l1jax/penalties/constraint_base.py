"""What a constraint is: a penalty that is 0 inside a set and infinite outside it."""

import abc
import math
import numbers
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from l1jax.numerics.checks import check_number, real_array, require_broadcast
from l1jax.numerics.elementwise import compute_dtype, nonnegative, widest_dtype
from l1jax.numerics.l1_projection import relative
from l1jax.numerics.order_statistics import any_of
from l1jax.penalties.base import DistanceRow, Penalty, PenaltyRow, gradient_like


class Constraint(Penalty):
    """A set: it says what is inside, projects, and knows its normal cone.

    The three methods that a set defines take arrays of one dtype, to be computed in:
    one array, or, if the set is joint, all arrays of a tree.
    """

    finite = False
    constraint = True
    takes_metric = True  # type: ignore[assignment]

    @abc.abstractmethod
    def inside(self, arrays: Sequence[jax.Array], slack: float) -> jax.Array:
        """Return whether arrays are in the set, up to a relative error `slack`."""

    @abc.abstractmethod
    def project(
        self, arrays: Sequence[jax.Array], metrics: Sequence[jax.Array]
    ) -> list[jax.Array]:
        """Return the nearest point of the set."""

    @abc.abstractmethod
    def distances(
        self, arrays: Sequence[jax.Array], grads: Sequence[jax.Array], slack: float
    ) -> list[jax.Array]:
        """Return the distance of `-grads` to the normal cone at arrays inside."""

    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        """Return 0 inside and infinity outside."""
        return self._value([PenaltyRow("x", x, strength)])

    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        """Return 0 inside and NaN outside."""
        value, x = self.value(x, strength), jnp.asarray(x)
        # The NaN is numpy's: making one in JAX would set off jax_debug_nans.
        return jnp.where(value == 0, jnp.zeros_like(x), np.full((), np.nan, x.dtype))

    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        """Project onto the set, in the metric of the thresholds."""
        return self._prox([PenaltyRow("x", x, threshold)])[0]

    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        """Return, per element, the distance of `-grad` to the set's normal cone."""
        return self._distances([PenaltyRow("x", x, strength)], [grad])[0]

    def tree_value(self, rows: Sequence[PenaltyRow]) -> jax.Array | float:
        """Sum the value over arrays with their strengths."""
        return self._value(rows) if self.joint and rows else super().tree_value(rows)

    def tree_prox(self, rows: Sequence[PenaltyRow]) -> list[jax.Array]:
        """Project arrays, in the metric of their thresholds."""
        return self._prox(rows) if self.joint and rows else super().tree_prox(rows)

    def tree_optimality_distance(self, rows: Sequence[DistanceRow]) -> list[jax.Array]:
        """Return the distances of arrays with their gradients and strengths."""
        if not (self.joint and rows):
            return super().tree_optimality_distance(rows)
        grads = [grad for _, _, grad, _ in rows]
        plain = [PenaltyRow(path, x, s) for path, x, _, s in rows]
        return self._distances(plain, grads)

    def _value(self, rows: Sequence[PenaltyRow]) -> jax.Array:
        arrays, _ = self._operands("strength", rows)
        inside = self.inside(arrays, _slack(rows))
        nan = any_of([jnp.isnan(x) for x in arrays])
        outside = jnp.where(nan, jnp.nan, jnp.inf)
        return jnp.where(inside & ~nan, 0, outside).astype(arrays[0].dtype)

    def _prox(self, rows: Sequence[PenaltyRow]) -> list[jax.Array]:
        arrays, thresholds = self._operands("threshold", rows)
        projected = self.project(arrays, relative(thresholds))
        rounded = (
            u.astype(jnp.asarray(x).dtype)
            for u, (_, x, _) in zip(projected, rows, strict=True)
        )
        # Unlike a zero, the absolute value has a derivative, that of u.
        return [jnp.where(u == 0, jnp.abs(u), u) for u in rounded]

    def _distances(
        self, rows: Sequence[PenaltyRow], grads: Sequence[ArrayLike]
    ) -> list[jax.Array]:
        arrays, _ = self._operands("strength", rows)
        grads = [
            gradient_like(grad, x).astype(x.dtype)
            for grad, x in zip(grads, arrays, strict=True)
        ]
        slack = _slack(rows)
        inside = self.inside(arrays, slack)
        found = []
        for x, d, (_, given, _) in zip(
            arrays, self.distances(arrays, grads, slack), rows, strict=True
        ):
            d = jnp.where(jnp.isnan(x), x, jnp.where(inside, d, jnp.inf))
            found.append(d.astype(compute_dtype(jnp.asarray(given).dtype)))
        return found

    def _operands(
        self, argument: str, rows: Sequence[PenaltyRow]
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Check rows, and cast arrays and thresholds to the widest dtype.

        An element becomes NaN where its threshold is NaN, which most projections would
        hide.
        """
        for path, x, t in rows:
            real_array(path, x)
            self.require_fit(path, jnp.shape(x))
            infinite = isinstance(t, numbers.Real) and t == math.inf
            if argument == "strength" or not infinite:
                check_number(argument, t)
            require_broadcast(argument, t, path, jnp.shape(x))
        dtype = widest_dtype(*(jnp.asarray(x).dtype for _, x, _ in rows))
        thresholds = [nonnegative(t, dtype) for _, _, t in rows]
        arrays = [
            jnp.where(jnp.isnan(t), t, jnp.asarray(x, dtype))
            for t, (_, x, _) in zip(thresholds, rows, strict=True)
        ]
        return arrays, thresholds


def _slack(rows: Sequence[PenaltyRow]) -> float:
    """Return the relative error of a sum, or of its elements if that is larger."""
    eps = [float(jnp.finfo(jnp.asarray(x).dtype).eps) for _, x, _ in rows]
    return max(*eps, 64 * min(*eps, float(jnp.finfo(jnp.float32).eps)))
