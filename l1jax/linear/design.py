"""A linear model's data: what is large stays in JAX, what is small is double precision.

JAX without x64 has no double precision, which a duality gap of 1e-6 needs. Products
with all of X run where X is; columns that are picked out of it, and what must be
certain, are computed by numpy on the host.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from l1jax.numerics.checks import as_numbers
from l1jax.numerics.elementwise import dtype_of

Array = np.ndarray

_BLOCK = 2**20
"""How many numbers are converted to double precision at a time."""


class Design:
    """The matrix X of shape (n, p), checked."""

    def __init__(self, X: ArrayLike) -> None:
        X = as_numbers("X", X)
        if jnp.ndim(X) != 2 or 0 in jnp.shape(X):
            raise ValueError(
                "X must have the shape (samples, features), one or more of each, got "
                f"shape {jnp.shape(X)}. Pass X[:, None] for a single feature."
            )
        self.n, self.p = jnp.shape(X)
        self.dtype = result_dtype(X)
        self._host = np.asarray(X)  # no copy on CPU
        if not jnp.issubdtype(dtype_of(X), jnp.floating):
            self._host = self._host.astype(np.float64)
        # One pass without a copy: a sum is finite only if all its terms are.
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(np.sum(self._host, dtype=np.float64))
        if not finite and not np.isfinite(self._host).all():
            row, column = np.argwhere(~np.isfinite(self._host))[0]
            raise ValueError(
                f"X must be finite, got {self._host[row, column]} in row {row}, column "
                f"{column}. Drop or fill in what is missing."
            )
        on_device = isinstance(X, jax.Array) and next(iter(X.devices())).platform
        self._device = X if on_device not in (False, "cpu") else None

    def gradient(self, residual: Array, precise: bool = True) -> Array:
        """Return `X' residual / n`, of shape (p, k), for a residual of shape (n, k).

        Args:
          residual: the derivative of each sample's loss by its scores.
          precise: whether in double precision; else in the precision of X.
        """
        # Multiply rows by X: its memory lies in rows and is then read once, in order.
        rows = residual.T / self.n
        if self._host.dtype == np.float64:
            return (rows @ self._host).T
        if not precise and self._host.dtype == np.float32:
            if self._device is not None:
                product = _product(jnp.asarray(rows, jnp.float32), self._device)
            else:
                product = rows.astype(np.float32) @ self._host
            return np.asarray(product, np.float64).T
        total = np.zeros((rows.shape[0], self.p))
        size = max(1, _BLOCK // self.p)
        for start in range(0, self.n, size):
            block = self._host[start : start + size].astype(np.float64)
            total += rows[:, start : start + size] @ block
        return total.T

    def columns(self, features: Array) -> Array:
        """Copy some columns, in double precision."""
        return self._host[:, features].astype(np.float64)

    def scores(self, coef: Array) -> Array:
        """Return `X coef`, of shape (n, k), in double precision."""
        support = np.flatnonzero(coef.any(1))
        return self.columns(support) @ coef[support]


@jax.jit
def _product(rows: jax.Array, X: jax.Array) -> jax.Array:
    return jnp.matmul(rows, X, precision="highest")


def as_data(X: Any, y: Any) -> tuple[ArrayLike, ArrayLike]:
    """Return features and labels as arrays; bool labels as 0 and 1."""
    return as_numbers("X", X), as_numbers("y", y, labels=True)


def result_dtype(X: ArrayLike) -> Any:
    """The dtype of the results: that of X, if it is floating, as JAX can hold it."""
    floating = jnp.issubdtype(dtype_of(X), jnp.floating)
    return jax.dtypes.canonicalize_dtype(dtype_of(X) if floating else np.float64)


def double(argument: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return an array of a shape on the host in double precision, checked."""
    value = as_numbers(argument, value)
    if jnp.shape(value) != shape:
        raise ValueError(
            f"{argument} must have the shape {shape}, got {jnp.shape(value)}. Look at "
            "the shapes of X and y."
        )
    return np.asarray(value).astype(np.float64)
