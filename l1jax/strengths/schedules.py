"""Schedules of the strength: wait, warm up, hold, cool down."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.numerics.checks import LARGEST, check_int, check_real
from l1jax.strengths.ramps import ramp, step_count
from l1jax.strengths.values import Schedule


def strength_schedule(
    strength: float,
    *,
    delay: int = 0,
    warm_up: int = 0,
    hold: int | None = None,
    cool_down: int = 0,
    start: float = 0.0,
    end: float = 0.0,
    power: float = 1.0,
) -> Schedule:
    """Return a schedule that waits, warms up, holds, and cools down.

    With the parts one after the other, in steps from 0::

      delay      start
      warm_up    start + (strength - start) * (1 - (1 - x)^power), x from 0 to 1
      hold       strength
      cool_down  strength + (end - strength) * (1 - (1 - x)^power)
      then       end, if there is a cool-down

    The ends of each part are met exactly, and no value lies outside of its two numbers.
    `power=1` is a straight line; `power=3` is steep first and flat at its end, the ramp
    of gradual pruning (Zhu and Gupta, 2017). A warm-up over the first tenth of the
    training spares weights whose second moments the optimizer does not know yet; a
    cool-down to 0 fits the weights that are left without shrinking them, best with
    `freeze_zeros`. Wherever a strength is taken any function of the step count can
    stand in its place, such as optax's schedules: this one has a twin in torch.

    Args:
      strength: the value to hold, a finite Python number >= 0.
      delay: steps at `start`.
      warm_up: steps from `start` to `strength`.
      hold: steps at `strength`; `None` for all that remain.
      cool_down: steps from `strength` to `end`; 0 for none.
      start: the first value, a finite number >= 0.
      end: the last value, a finite number >= 0.
      power: the shape of both ramps, a finite number > 0.

    Returns:
      A function from the step count, from 0, to the strength. It has the precision of
      JAX's default floats, where the twin's has that of Python's.

    Raises:
      TypeError: a length that is not an int, a value that is not a number.
      ValueError: one that is negative or not finite; a cool-down without `hold`; where
        it is called, a number beyond the range of JAX's default floats.

    Example:
      >>> schedule = strength_schedule(1.0, warm_up=4, hold=2, cool_down=2)
      >>> print([float(schedule(t)) for t in range(9)])
      [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.5, 0.0]
    """
    lengths = {"delay": delay, "warm_up": warm_up, "cool_down": cool_down}
    for argument, value in (lengths | ({} if hold is None else {"hold": hold})).items():
        check_int(argument, value, "0 to leave it out", least=0, most=LARGEST)
    strength = check_real("strength", strength, "[0, inf)", "one such as 1e-3")
    start = check_real("start", start, "[0, inf)", "one such as 0.0")
    end = check_real("end", end, "[0, inf)", "one such as 0.0")
    power = check_real("power", power, "(0, inf)", "1.0 or 3.0")
    if cool_down and hold is None:
        raise ValueError(
            f"hold must be given with cool_down={cool_down!r}, got None: a strength "
            "that is held for ever does not cool down. Pass the steps to hold it."
        )

    def schedule(count: ArrayLike) -> jax.Array:
        count = step_count("count", count)
        warmed = ramp(count, delay, delay + warm_up, start, strength, power)
        if not cool_down:
            return warmed
        begin = delay + warm_up + hold
        cooled = ramp(count, begin, begin + cool_down, strength, end, power)
        step = jnp.asarray(count, cooled.dtype)
        return jnp.where(step > float(begin), cooled, warmed)

    return schedule
