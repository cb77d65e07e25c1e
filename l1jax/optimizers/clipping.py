"""Clipping of gradients by their L1 norm, which does not regularise."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from l1jax.numerics.checks import check_scalar
from l1jax.numerics.elementwise import compute_dtype, dtype_of
from l1jax.numerics.order_statistics import total
from l1jax.parameters.trees import require_updates


def clip_by_global_l1_norm(max_norm: ArrayLike) -> optax.GradientTransformation:
    """Scale gradients down to an L1 norm: `g * min(1, max_norm / sum |g|)`.

    The sum runs over all leaves, as in `optax.clip_by_global_norm`, which takes the L2
    norm; the direction stays. For n gradients of one size the L1 norm is `sqrt(n)`
    times the L2 norm, so that `max_norm` must be chosen for the model. torch's own is
    `torch.nn.utils.clip_grad_norm_(params, max_norm, norm_type=1)`, which divides by
    `sum |g| + 1e-6`.

    This bounds the step, and penalises no weight: it makes no zeros. For these chain
    it before a proximal optimizer, never after one (Pascanu, Mikolov and Bengio, 2013,
    has clipping by norm). Where it is still active at the solution, and scales by s
    there, the solution is that of the strength `strength / s`.

    Args:
      max_norm: the largest L1 norm of all gradients together, in units of a gradient: a
        scalar > 0; schedules go through `optax.inject_hyperparams`.

    Returns:
      A transformation without state, whose updates keep the dtype of the gradients;
      their norm is `max_norm` to rounding. It needs no parameters. Norms are summed in
      float32 for half precision, else in the dtype of the gradients. A gradient that is
      NaN or infinite, or a sum that overflows, makes all updates NaN.

    Raises:
      TypeError: a `max_norm` that is not a real number.
      ValueError: a number that is not positive and finite, or what is not a scalar. In
        a `jax.Array` such a number makes all updates NaN.

    Example:
      >>> tx = optax.chain(clip_by_global_l1_norm(1.0), optax.sgd(0.1))
      >>> clip = clip_by_global_l1_norm(1.0)
      >>> print(clip.update({"w": jnp.array([3.0, -1.0])}, clip.init(None))[0]["w"])
      [ 0.75 -0.25]
    """
    check_scalar("max_norm", max_norm)
    if not isinstance(max_norm, jax.Array) and np.any(np.asarray(max_norm) == 0):
        raise ValueError(
            f"max_norm must be positive, got {max_norm!r}. Pass the largest L1 norm "
            "that all gradients together may have."
        )

    def clip(updates: Any, params: Any = None) -> Any:
        del params
        require_updates(updates)
        leaves = jax.tree.leaves(updates)
        if not leaves:
            return updates
        norm = total([jnp.sum(jnp.abs(_widened(leaf))) for leaf in leaves])
        most = jnp.asarray(max_norm, norm.dtype)
        # The NaN is numpy's: making one in JAX would set off jax_debug_nans.
        nan = np.full((), np.nan, norm.dtype)
        valid = jnp.isfinite(norm) & (most > 0)
        scale = jnp.where(valid, most / jnp.maximum(norm, most), nan)
        return jax.tree.map(functools.partial(_scaled, scale=scale), updates)

    return optax.stateless(clip)


def _widened(leaf: jax.Array) -> jax.Array:
    return jnp.asarray(leaf, compute_dtype(dtype_of(leaf)))


def _scaled(leaf: jax.Array, scale: jax.Array) -> jax.Array:
    wide = _widened(leaf)
    real = jnp.finfo(wide.dtype).dtype  # of a complex gradient, its parts'
    return (wide * scale.astype(real)).astype(dtype_of(leaf))
