"""Signs, sizes and dtypes, element by element, with the derivatives the twins share."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import DTypeLike


def largest(x: jax.Array) -> jax.Array:
    """Return the largest element, or 0 if all are negative or there are none."""
    return jnp.max(x, initial=0)


def sign(x: jax.Array) -> jax.Array:
    """Return the sign: 0.0 for zeros of both signs, NaN for NaN."""
    # jnp.sign(-0.0) is -0.0, torch's is 0.0.
    return jnp.where(x == 0, 0, jnp.sign(x))


def absolute(x: jax.Array) -> jax.Array:
    """Return the absolute value, with derivative 0 at zero; that of jnp.abs is 1."""
    return x * jax.lax.stop_gradient(sign(x))


def is_array(value: object, numbers: bool = True) -> bool:
    """Return whether JAX takes a value for an array, a placeholder, or a number."""
    if isinstance(value, jax.Array | jax.ShapeDtypeStruct):
        return True
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind not in "OSUMm"  # objects, words, dates
    if isinstance(value, int):
        return numbers and abs(value) < 2**63
    return numbers and isinstance(value, float | complex)


def is_real_floating(dtype: DTypeLike) -> bool:
    """Return whether a dtype is real floating point of 16 bits or more."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize > 1


def compute_dtype(dtype: DTypeLike) -> np.dtype:
    """Return the dtype to compute in: float32 for half precision, else the same."""
    dtype = jnp.dtype(dtype)
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype


def widest_dtype(*dtypes: DTypeLike) -> np.dtype:
    """Return the widest dtype to compute in, at least float32.

    JAX's own promotion is not used: in its strict mode it refuses mixed dtypes.
    """
    kinds = [compute_dtype(dtype) for dtype in dtypes]
    return max(kinds, key=lambda kind: kind.itemsize, default=jnp.dtype(jnp.float32))


def dtype_of(leaf: object) -> np.dtype:
    """Return the dtype of a leaf, a Python number or a `jax.ShapeDtypeStruct`."""
    if hasattr(leaf, "dtype"):
        return leaf.dtype
    return jnp.result_type(leaf) if is_array(leaf) else np.dtype(object)


def as_float(value: ArrayLike) -> ArrayLike:
    """Return an int as a float, infinity if it is too large; anything else as it is."""
    if type(value) is not int:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def nonnegative(value: ArrayLike, dtype: DTypeLike) -> jax.Array:
    """Return a value in `dtype`, NaN where it is negative."""
    value = jnp.asarray(as_float(value), dtype)
    # The NaN is numpy's: making one in JAX would set off jax_debug_nans.
    return jnp.where(value >= 0, value, np.full((), np.nan, dtype))
