"""From one number to another, in steps, without leaving what lies between them."""


def ramp(
    step: float, first: float, last: float, start: float, end: float, power: float
) -> float:
    """Return `start` up to the step `first`, `end` from the step `last` on.

    Between them it is `end + (start - end) * left^power`, where `left` falls from 1 to
    0. `start` and `end` are met exactly; no value lies outside of them by rounding.
    """
    if step >= last:
        return end
    if step <= first:
        return start
    left = (last - step) / (last - first)
    value = end + (start - end) * left**power
    return min(max(value, min(start, end)), max(start, end))
