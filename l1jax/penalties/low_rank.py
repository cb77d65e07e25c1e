"""The nuclear norm: matrices of low rank."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.numerics.checks import real_array
from l1jax.numerics.elementwise import largest
from l1jax.numerics.prox import apply_prox_formula, from_zero
from l1jax.numerics.sharding import gathering
from l1jax.penalties.base import Penalty, gradient_operand, operands


@dataclasses.dataclass(frozen=True)
class _Nuclear(Penalty):
    convex = True

    def require_fit(
        self, path: str, shape: tuple[int, ...], strength_shape: tuple[int, ...] = ()
    ) -> None:
        _require_matrices(path, shape)
        _require_one_a_matrix("strength", strength_shape, path, shape)

    @gathering()
    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        x, strength = operands(x, strength)
        self.require_fit("x", x.shape, strength.shape)
        # A norm is its subgradient times x.
        return jnp.sum(strength * (x * self.subgradient(jax.lax.stop_gradient(x))))

    @gathering()
    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        wide, strength = operands(x, strength)
        self.require_fit("x", wide.shape, strength.shape)
        u, v = _leading(wide, jnp.finfo(jnp.asarray(x).dtype).eps)
        return (strength * (u @ v)).astype(jnp.asarray(x).dtype)

    @gathering()
    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        def formula(x: jax.Array, t: jax.Array) -> jax.Array:
            _require_matrices("x", x.shape)
            _require_one_a_matrix("threshold", t.shape, "x", x.shape)
            return from_zero(_shrink_singular_values, x, t)

        return apply_prox_formula(formula, x, threshold)

    @gathering()
    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        eps = jnp.finfo(real_array("x", x).dtype).eps
        x, grad, strength = operands(x, grad, strength)
        self.require_fit("x", x.shape, strength.shape)
        u, v = _leading(x, eps)
        # What neither the rows nor the columns of x reach; there the subdifferential is
        # a ball of the spectral norm, and what is left of a projection onto it a prox.
        free = grad - u @ (u.mT @ grad)
        free = free - (free @ v.mT) @ v
        beyond = _shrink_singular_values(free, strength)
        return jnp.abs(grad - free + strength * (u @ v) + beyond)

    @gathering()
    def lambda_max(self, grad: ArrayLike) -> jax.Array:
        grad = gradient_operand(grad)
        _require_matrices("grad", grad.shape)
        return largest(_svd(grad).sizes)


def _shrink_singular_values(x: jax.Array, t: jax.Array) -> jax.Array:
    here = jax.lax.stop_gradient(x)
    t = jnp.broadcast_to(t, (*x.shape[:-2], 1, 1))
    level = jax.lax.stop_gradient(t)
    u, sizes, v = _svd(here)
    shrunk = jnp.maximum(sizes - level[..., 0], 0)
    p = (u * shrunk[..., None, :]) @ v
    # The rest is zero; only its derivative is not. That of an SVD has poles where
    # singular values are equal, which that of the prox has not.
    active = sizes > level[..., 0]
    h = x - here
    finite = jnp.where(jnp.isfinite(t), t, 0)
    dt = finite - jax.lax.stop_gradient(finite)
    left, right = u.mT @ h, h @ v.mT
    inner = u.mT @ right
    ratio = jnp.where(active, shrunk / jnp.where(active, sizes, 1), 0)
    outside = ratio[..., None] * (left - inner @ v)
    along_u = _divided_differences(inner, sizes, shrunk, active) @ v + outside
    along_v = (right - u @ inner) * ratio[..., None, :] - dt * (
        u * active[..., None, :].astype(u.dtype)
    )
    return p + (u @ along_u + along_v @ v)


def _divided_differences(
    a: jax.Array, sizes: jax.Array, shrunk: jax.Array, active: jax.Array
) -> jax.Array:
    # The derivative of a function of the singular values, in their vectors' basis.
    both = active[..., :, None] & active[..., None, :]
    either = active[..., :, None] | active[..., None, :]
    one = either & ~both
    spread = jnp.where(one, sizes[..., :, None] - sizes[..., None, :], 1)
    change = (shrunk[..., :, None] - shrunk[..., None, :]) / spread
    total = jnp.where(either, sizes[..., :, None] + sizes[..., None, :], 1)
    mean = jnp.where(either, (shrunk[..., :, None] + shrunk[..., None, :]) / total, 0)
    symmetric = jnp.where(both, 1, jnp.where(one, change, 0)) * (a + a.mT)
    return (symmetric + mean * (a - a.mT)) / 2


def _leading(x: jax.Array, eps: float) -> tuple[jax.Array, jax.Array]:
    # The singular vectors, those of the singular values that count as zero set to 0.
    u, sizes, v = _svd(x)
    least = 4 * max(x.shape[-2:]) * float(eps) * sizes[..., :1]
    counts = jnp.where(sizes > least, 1, 0 * sizes)
    return u * counts[..., None, :], counts[..., None] * v


class _SVD(NamedTuple):
    u: jax.Array
    sizes: jax.Array
    """The singular values, the largest first."""
    v: jax.Array
    """The right singular vectors as rows."""


def _svd(x: jax.Array) -> _SVD:
    # A matrix with a NaN or an infinity gets singular values of NaN.
    *batch, m, n = x.shape
    if x.size == 0:
        k = min(m, n)
        shapes = ((*batch, m, k), (*batch, k), (*batch, k, n))
        return _SVD(*(jnp.zeros(shape, x.dtype) for shape in shapes))
    flaw = jnp.sum(0 * x, (-2, -1), keepdims=True)
    u, sizes, v = jnp.linalg.svd(jnp.where(flaw == 0, x, 0), full_matrices=False)
    return _SVD(u, sizes + flaw[..., 0], v)


def _require_matrices(path: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise ValueError(
            f"the parameter '{path}' of shape {tuple(shape)} is no matrix, which the "
            "nuclear norm is for. Leave it out with mask=, or reshape it."
        )


def _require_one_a_matrix(
    argument: str, value_shape: tuple[int, ...], path: str, shape: tuple[int, ...]
) -> None:
    if any(size != 1 for size in value_shape[-2:]):
        raise ValueError(
            f"{argument} of shape {tuple(value_shape)} differs inside the matrices of "
            f"the parameter '{path}' of shape {tuple(shape)}, which the nuclear norm "
            "couples. Pass a scalar, or one number for each: shape (..., 1, 1)."
        )


def nuclear() -> Penalty:
    r"""Return the nuclear norm, the sum of the singular values.

    .. math::

       \mathrm{prox}_t(x) = U \, \mathrm{diag}(\max(\sigma - t, 0)) \, V^T,
       \quad x = U \, \mathrm{diag}(\sigma) \, V^T

    Of the matrices of the last two axes; leading axes are a batch. Reshape other
    parameters first: the kernel of a convolution means something else in each layout.
    It gives matrices of low rank, not zeros, except where all singular values fall.

    The prox subtracts the threshold from the singular values, down to 0 (Cai, Candes
    and Shen, 2010). The threshold, and the strength, is a scalar or one number for each
    matrix, of shape `(..., 1, 1)`: there is no prox in a metric. It costs an SVD, O(m n
    min(m, n)). It is as exact as the SVD: what it has lowered to 0 comes back, in the
    product, as singular values of the size of rounding. So `subgradient` and
    `optimality_distance` count as zero what is below `4 max(m, n) eps` of the largest,
    `eps` being that of `x`'s dtype. In half precision rounding raises the rank.

    First derivatives through the prox are finite everywhere; higher ones are not given.
    The subgradient is `U V^T` of the singular values that are not zero.
    `optimality_distance` is, element by element, what is left of `-grad` after its
    projection onto the subdifferential. `lambda_max` is the largest singular value. One
    NaN or infinity makes its matrix NaN.

    Example:
      >>> print(nuclear().prox(jnp.array([[3.0, 0.0], [0.0, 0.5]]), 1.0))
      [[2. 0.]
       [0. 0.]]
    """
    return _Nuclear()
