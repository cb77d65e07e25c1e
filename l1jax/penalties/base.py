"""What a penalty is: the interface that every penalty and every transform meets.

A penalty has unit strength. `strength` below is a number or an array that broadcasts
to `x`, in units of the loss per unit of the penalty; `threshold` is `step size *
strength`.
"""

import abc
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.numerics.checks import check_number, real_array, require_broadcast
from l1jax.numerics.elementwise import compute_dtype, nonnegative, widest_dtype
from l1jax.penalties.penalty_formula import PenaltyFormula


class PenaltyRow(NamedTuple):
    """A penalised array of a tree."""

    path: str
    """Its dotted path."""
    array: ArrayLike
    strength: ArrayLike
    """Its strength; for a prox, its threshold."""


class DistanceRow(NamedTuple):
    """A penalised array of a tree, and the gradient of the loss with respect to it."""

    path: str
    """Its dotted path."""
    array: ArrayLike
    grad: ArrayLike
    strength: ArrayLike


class Penalty(abc.ABC):
    """What a penalty is: a few functions of arrays of any shape.

    Derive from it, as a frozen dataclass, to bring a penalty of your own: the four
    abstract methods are enough. The methods accept half precision: they compute in
    float32; `subgradient` and `prox` return the dtype of `x`, `value`, `lambda_max` and
    `optimality_distance`, being measurements, float32. JAX on CPU takes subnormal
    numbers for zero, torch does not.

    The methods whose names begin with `tree_` are what the transforms call. They take a
    row for each penalised array.
    """

    convex: bool = False
    """Whether it is convex, so that its prox has one value and does not expand."""

    finite: bool = True
    """Whether the value is finite everywhere. A penalty that holds a constraint is not,
    and has no subgradient outside it: only its prox can be used."""

    constraint: bool = False
    """Whether it is a set, and its prox the projection onto this: a strength has no
    effect then."""

    separable: bool = False
    """Whether it is a sum over the elements, all treated alike, so that any part of an
    array may be treated by itself. Say so of your own penalty if it is: it saves
    memory."""

    joint: bool = False
    """Whether it couples the arrays of a tree, which are then treated together."""

    least_slope: float = 0.0
    """The least size of a subgradient at `x != 0`, of those that oppose a step away
    from zero. Where it is 0 the `max_ratio` of proximal optimizers has no effect: a cap
    is only safe if the slope cannot fall below it."""

    prox_is_soft_threshold: bool = False
    """Whether `prox` is `soft_threshold` itself, as that of `l1()` is. Quicker ways to
    the same numbers are open then, and so is the cumulative penalty of `window`."""

    makes_zeros: bool = True
    """Whether the prox makes more exact zeros the stronger the penalty is, so that a
    target sparsity can be met."""

    @property
    def has_subgradient(self) -> bool:
        """Whether `add_subgradient` may follow its subgradient."""
        return self.finite

    @property
    def takes_metric(self) -> bool:
        """Whether `prox` takes a threshold for each element, and solves it exactly."""
        return self.separable

    def at(self, path: str, shape: tuple[int, ...]) -> "Penalty":
        """Return the penalty of one array, known by its dotted path and its shape."""
        del path, shape
        return self

    def require_fit(
        self, path: str, shape: tuple[int, ...], strength_shape: tuple[int, ...] = ()
    ) -> None:
        """Raise ValueError for an array or a strength that the penalty cannot take."""
        del path, shape, strength_shape

    @abc.abstractmethod
    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        """Sum `strength * penalty(x_i)` to a scalar.

        Its derivative is `subgradient`, with 0 where the penalty has a kink at zero.
        """

    @abc.abstractmethod
    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        """Return the element of least norm of `strength * d penalty(x)`."""

    @abc.abstractmethod
    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        """Solve `argmin_u 1/2 |u - x|^2 + threshold * penalty(u)`, exact zeros kept.

        A threshold for each element is a diagonal metric: `argmin_u sum_i (u_i -
        x_i)^2 / (2 threshold_i) + penalty(u)`, if `takes_metric`.

        Raises:
          ValueError: the threshold is negative or NaN; an array of thresholds gives NaN
            there instead.
        """

    @abc.abstractmethod
    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        """Return, per element, the distance of `-grad` to `strength * d penalty(x)`.

        With `grad` the gradient of the loss without its penalty, `x` is a stationary
        point of `loss + strength * penalty` if and only if every element is 0. An `x`
        outside the penalty's domain is infinitely far.
        """

    def lambda_max(self, grad: ArrayLike) -> jax.Array:
        """Return the least strength at which `x = 0` is stationary, a scalar.

        Args:
          grad: the gradient of the loss at `x = 0`, of what is not penalised too.

        Raises:
          ValueError: the penalty has none: it is a constraint, or does not say.
        """
        raise ValueError(
            f"penalty {self!r} has no lambda_max: "
            + (
                "a constraint has no strength. Choose its size instead."
                if self.constraint
                else "its class does not define one. Define it, or search."
            )
        )

    def formula(self, shape: tuple[int, ...]) -> PenaltyFormula | None:
        """Return the penalty of an array as a sum of known terms; None if it is none.

        A penalty of your own that returns one has a duality gap, and can be used with
        `solve_linear` and all that builds on it. It must be convex, and equal `value`:
        `sum_j (slopes_j |x_j| + ridge_j / 2 x_j^2)`, perhaps with norms of groups, see
        `PenaltyFormula`. An elastic net writes::

          def formula(self, shape):
              return PenaltyFormula(slopes=self.l1_ratio, ridge=1 - self.l1_ratio)

        Args:
          shape: the shape of the coefficients, (features,) or (features, classes).
        """
        del shape
        return None

    def tree_value(self, rows: Sequence[PenaltyRow]) -> jax.Array | float:
        """Sum the value over arrays with their strengths."""
        values = [
            jnp.asarray(self.at(path, jnp.shape(x)).value(x, s)) for path, x, s in rows
        ]
        dtype = widest_dtype(*(value.dtype for value in values))
        return sum(value.astype(dtype) for value in values)

    def tree_prox(self, rows: Sequence[PenaltyRow]) -> list[jax.Array]:
        """Solve the proximal problem of arrays with their thresholds."""
        return [self.at(path, jnp.shape(x)).prox(x, t) for path, x, t in rows]

    def tree_optimality_distance(self, rows: Sequence[DistanceRow]) -> list[jax.Array]:
        """Return the distances of arrays with their gradients and strengths."""
        return [
            self.at(path, jnp.shape(x)).optimality_distance(x, grad, s)
            for path, x, grad, s in rows
        ]


def require_penalty(penalty: Penalty) -> None:
    """Raise TypeError for what is not a `Penalty`."""
    if not isinstance(penalty, Penalty):
        raise TypeError(
            f"penalty must be a Penalty, got {penalty!r} of type "
            f"{type(penalty).__name__}. Pass l1(), elastic_net(l1_ratio), ... with "
            "their parentheses."
        )


def require_subgradient(penalty: Penalty) -> None:
    """Raise ValueError for a penalty that has no subgradient to follow."""
    require_penalty(penalty)
    if not penalty.has_subgradient:
        raise ValueError(
            f"penalty {penalty!r} holds a constraint or counts, so that it has no "
            "subgradient to follow. Use proximal_step with this penalty."
        )


def operands(x: ArrayLike, *others: ArrayLike) -> tuple[jax.Array, ...]:
    """Check `x`, perhaps a gradient, and a strength, and cast them to compute with.

    A negative strength becomes NaN.
    """
    x = real_array("x", x)
    *grads, strength = others
    grads = [gradient_like(grad, x) for grad in grads]
    check_number("strength", strength)
    require_broadcast("strength", strength, "x", x.shape)
    dtype = compute_dtype(x.dtype)
    wide = (jnp.asarray(a, dtype) for a in (x, *grads))
    return *wide, nonnegative(strength, dtype)


def gradient_operand(grad: ArrayLike) -> jax.Array:
    """Check the argument of `lambda_max`, and cast it to compute with."""
    grad = real_array("grad", grad)
    return grad.astype(compute_dtype(grad.dtype))


def gradient_like(grad: ArrayLike, x: jax.Array) -> jax.Array:
    """Return a gradient as an array, which must have the shape of `x`."""
    grad = real_array("grad", grad)
    if grad.shape != x.shape:
        raise ValueError(
            f"grad must have the shape of x, {x.shape}, got {grad.shape}. Pass the "
            "gradient of the loss at x."
        )
    return grad
