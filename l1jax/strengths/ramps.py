"""From one number to another, in steps, without leaving what lies between them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from l1jax.numerics.checks import check_real, described


def step_count(argument: str, step: ArrayLike) -> ArrayLike:
    """Check a number of steps; of an array, what is negative or NaN becomes NaN.

    Raises:
      TypeError: not a real number or array.
      ValueError: a Python number that is negative, infinite or NaN.
    """
    if not isinstance(step, jax.Array) and np.ndim(step) == 0:
        return check_real(argument, step, "[0, inf)", "a number of steps such as 0")
    array = isinstance(step, jax.Array | np.ndarray)
    kinds = jnp.floating, jnp.integer
    if not array or not any(jnp.issubdtype(step.dtype, kind) for kind in kinds):
        raise TypeError(
            f"{argument} must be a number of steps, got {described(step)}. Pass one "
            "such as 0, or an array of such."
        )
    step = jnp.asarray(step, jnp.result_type(float))
    return jnp.where(step >= 0, step, np.full((), np.nan, step.dtype))


def ramp(
    step: ArrayLike, first: float, last: float, start: float, end: float, power: float
) -> jax.Array:
    """Return `start` up to the step `first`, `end` from the step `last` on.

    Between them it is `end + (start - end) * left^power`, where `left` falls from 1 to
    0. `start` and `end` are met exactly; no value lies outside of them by rounding. The
    precision is that of JAX's default floats.

    Raises:
      ValueError: `start` or `end` is not finite in that precision.
    """
    # int32 by itself would give float32.
    dtype = jnp.result_type(float)
    limits = np.finfo(dtype)
    if max(start, end) > float(limits.max):
        raise ValueError(
            f"a schedule must stay below {float(limits.max):.2g} in {dtype}, got "
            f"{max(start, end)!r}. Pass a smaller number, or set jax_enable_x64."
        )
    start, end = (np.asarray(value, dtype) for value in (start, end))
    step = jnp.asarray(step, dtype)
    length = max(last - first, float(limits.tiny))  # 0 / 0 would trip debug_nans
    left = jnp.clip((float(last) - step) / length, 0, 1)
    value = end + (start - end) * left ** min(power, float(limits.max))
    value = jnp.clip(value, np.minimum(start, end), np.maximum(start, end))
    value = jnp.where(step <= float(first), start, value)
    return jnp.where(step >= float(last), end, value)
