"""The base of penalties that couple the elements of an array."""

import abc
import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.numerics.prox import apply_prox_formula, from_zero
from l1jax.numerics.sharding import gathering
from l1jax.penalties.base import Penalty, operands


class Coupled(Penalty):
    """A convex penalty whose subdifferential it can project onto.

    A subclass defines `_residual(x, v, strength)`, what is left of `v` after its
    projection onto `strength * d penalty(x)`, and `_prox(x, t)`, the prox for a
    threshold above 0. Sharded arrays are gathered.
    """

    convex = True

    @abc.abstractmethod
    def _residual(self, x: jax.Array, v: jax.Array, strength: jax.Array) -> jax.Array:
        pass

    @abc.abstractmethod
    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        pass

    def _terms(self, x: jax.Array) -> jax.Array:
        # A norm is its subgradient times x: no term is negative.
        return x * self.subgradient(jax.lax.stop_gradient(x))

    @gathering()
    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        """Sum `strength * _terms(x)`."""
        x, strength = operands(x, strength)
        self.require_fit("x", x.shape, strength.shape)
        return jnp.sum(strength * self._terms(x))

    @gathering()
    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        """Return the subgradient that is nearest to 0."""
        wide, strength = operands(x, strength)
        self.require_fit("x", wide.shape, strength.shape)
        slope = 0.0 - self._residual(wide, jnp.zeros_like(wide), strength)
        return slope.astype(jnp.asarray(x).dtype)

    @gathering()
    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        """Apply `_prox`, or the identity where the threshold is 0."""
        formula = functools.partial(from_zero, self._prox)
        return apply_prox_formula(formula, x, threshold)

    @gathering()
    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        """Return, per element, what is left of `-grad` after its projection."""
        x, grad, strength = operands(x, grad, strength)
        self.require_fit("x", x.shape, strength.shape)
        return jnp.abs(self._residual(x, -grad, strength))
