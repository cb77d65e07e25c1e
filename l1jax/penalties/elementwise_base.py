"""The base of penalties that treat every element by one formula."""

import abc

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.numerics.elementwise import absolute, sign
from l1jax.numerics.prox import apply_prox_formula, freed
from l1jax.penalties.base import Penalty, operands

SCALES = "[1e-18, 1e18]"
"""The scales whose squares and reciprocals single precision holds."""


class Elementwise(Penalty):
    """A sum of one function of the magnitudes `a = |x_i|`, which a subclass defines."""

    separable = True

    @abc.abstractmethod
    def _height(self, a: jax.Array) -> jax.Array:
        """Return the value."""

    @abc.abstractmethod
    def _slope(self, a: jax.Array) -> jax.Array:
        """Return the derivative of the value; at 0 it may be anything but NaN."""

    @abc.abstractmethod
    def _shrunk(self, a: jax.Array, t: jax.Array) -> jax.Array:
        """Return the prox for a threshold; its zeros may have any sign."""

    @abc.abstractmethod
    def _at_zero(self, grad: jax.Array, strength: jax.Array) -> jax.Array:
        """Return the distance of `-grad` to the subdifferential at 0."""

    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        """Sum `strength * _height(|x_i|)`."""
        x, strength = operands(x, strength)
        return jnp.sum(strength * self._height(absolute(x)))

    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        """Return `strength * _slope(|x|) sign(x)`."""
        wide, strength = operands(x, strength)
        slope = strength * self._slope(jnp.abs(wide))
        return (slope * sign(wide)).astype(jnp.asarray(x).dtype)

    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        """Apply `_shrunk` to the magnitudes."""

        def formula(x: jax.Array, t: jax.Array) -> jax.Array:
            return freed(sign(x) * self._shrunk(jnp.abs(x), t), x, t)

        return apply_prox_formula(formula, x, threshold)

    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        """Return the distance to the slope, and at zero to the subdifferential."""
        x, grad, strength = operands(x, grad, strength)
        # Around products that go into a sum, abs: see prox_elastic_net.
        slope = jnp.abs(strength * self._slope(jnp.abs(x)))
        distance = jnp.abs(grad + slope * sign(x))
        return jnp.where(x == 0, self._at_zero(grad, strength), distance)


def exceeds_root(a: jax.Array, t: jax.Array, factor: float) -> jax.Array:
    """Mark where `a > sqrt(factor * t)`, for `a >= 0`, without overflow."""
    return (a > 0) & (t / jnp.where(a > 0, a, 1) * factor < a)
