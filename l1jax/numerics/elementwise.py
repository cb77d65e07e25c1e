"""Signs, sizes and dtypes, element by element, with the derivatives the twins share."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def largest(x: jax.Array) -> jax.Array:
    """The largest element, at least 0: of no elements, too."""
    return jnp.max(x, initial=0)


def sign(x: jax.Array) -> jax.Array:
    """The sign, 0.0 of zeros of both signs, and NaN of NaN."""
    # jnp.sign(-0.0) is -0.0, torch's is 0.0.
    return jnp.where(x == 0, 0, jnp.sign(x))


def absolute(x: jax.Array) -> jax.Array:
    """The absolute value, whose derivative at zero is 0; that of jnp.abs is 1."""
    return x * jax.lax.stop_gradient(sign(x))


def is_array(value: Any, numbers: bool = True) -> bool:
    """Tells what JAX takes for an array, with numbers or without, and placeholders."""
    if isinstance(value, jax.Array | jax.ShapeDtypeStruct):
        return True
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind not in "OSUMm"  # objects, words, dates
    if isinstance(value, int):
        return numbers and abs(value) < 2**63
    return numbers and isinstance(value, float | complex)


def is_real_floating(dtype: Any) -> bool:
    """Tells real floating point of 16 bits or more."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize > 1


def compute_dtype(dtype: Any) -> Any:
    """Gives the dtype of prox arithmetic: float32 for half precision, else the same."""
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else jnp.dtype(dtype)


def widest_dtype(*dtypes: Any) -> Any:
    """Gives the dtype of what joins arrays, at least float32, by no implicit rule."""
    kinds = [jnp.dtype(compute_dtype(dtype)) for dtype in dtypes]
    return max(kinds, key=lambda kind: kind.itemsize, default=jnp.dtype(jnp.float32))


def dtype_of(leaf: Any) -> Any:
    """Gives a leaf's dtype; also of Python numbers and `jax.ShapeDtypeStruct`."""
    if hasattr(leaf, "dtype"):
        return leaf.dtype
    return jnp.result_type(leaf) if is_array(leaf) else np.dtype(object)


def as_float(value: ArrayLike) -> ArrayLike:
    """Gives an int as a float, infinity if it is too large; anything else as it is."""
    if type(value) is not int:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def nonnegative(value: ArrayLike, dtype: Any) -> jax.Array:
    """Casts to `dtype`; what is negative becomes NaN."""
    value = jnp.asarray(as_float(value), dtype)
    # The NaN is numpy's: making one in JAX would set off jax_debug_nans.
    return jnp.where(value >= 0, value, np.full((), np.nan, dtype))
