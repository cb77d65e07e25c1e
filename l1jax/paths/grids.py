"""The strengths of a path, and the arguments that go with them: checked, spaced."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from l1jax.numerics.checks import LARGEST, as_numbers, check_int, check_real
from l1jax.solvers.full_batch import check_limits


def spaced_strengths(largest: float, count: int, ratio: float) -> np.ndarray:
    """Return `count` log-spaced strengths from `largest` to `ratio * largest`."""
    if largest == 0:
        raise ValueError(
            "lambda_max must be positive, got 0: there is nothing to fit, as y is "
            "constant, or does not correlate with what is penalised. Look at the data, "
            "and at the loss."
        )
    if not math.isfinite(largest):
        raise ValueError(
            f"lambda_max must be finite, got {largest}: the penalty has no largest "
            "strength, as a ridge has none, or the gradients are not finite. Take a "
            "penalty with a share of L1, or, for a path, pass strengths=."
        )
    exponents = [i / (count - 1) if i else 0.0 for i in range(count)]
    return np.array([largest * ratio**exponent for exponent in exponents])


def check_spacing(count: int, ratio: float, strengths: Any = None) -> None:
    """Raise unless count and ratio are valid, or left out where strengths are given."""
    check_int("count", count, "one such as 100", most=10**6)
    check_real("ratio", ratio, "(0, 1)", "the smallest over the largest, such as 1e-3")
    if strengths is not None and (count, ratio) != (100, 1e-3):
        raise ValueError(
            f"count and ratio must be left out where strengths are given, got "
            f"count={count!r} and ratio={ratio!r}. Pass strengths=None to space some."
        )


def check_strengths(strengths: Sequence[float]) -> np.ndarray:
    """Raise unless they are positive, finite and strictly falling."""
    values = as_numbers("strengths", strengths)
    values = np.asarray(values, float)
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"strengths must be a sequence of at least one number, got shape "
            f"{values.shape}. Pass one such as [0.1, 0.01], or None."
        )
    if not (np.isfinite(values).all() and (values > 0).all()):
        bad = values[~(np.isfinite(values) & (values > 0))]
        raise ValueError(
            f"strengths must be positive and finite, got {shorten(bad)}. Leave these "
            "out; a strength of 0 is the loss alone."
        )
    if not (np.diff(values) < 0).all():
        raise ValueError(
            f"strengths must be strictly decreasing, got {shorten(values)}. Sort them, "
            "the largest first, and drop what is there twice."
        )
    return values


def check_settings(
    optimizer: Any, steps: int | None, max_iterations: int, tol: float
) -> None:
    """Raise unless optimizer, steps, iterations and tolerance are valid."""
    if optimizer is not None and not callable(optimizer):
        raise TypeError(
            f"optimizer must be a function of the strength, got {optimizer!r}. Pass "
            "one such as lambda s: l1jax.proximal(optax.adam, 1e-2, s)."
        )
    if (optimizer is None) != (steps is None):
        raise ValueError(
            f"steps must be given if and only if optimizer is, got steps={steps!r} and "
            f"optimizer={optimizer!r}. Pass both, or leave both to solve."
        )
    if steps is not None:
        check_int("steps", steps, "one such as 100", most=LARGEST)
    check_limits(tol, max_iterations)


def require_finite_loss(value: Any) -> None:
    """Raise unless it is a finite scalar."""
    if jnp.shape(value) != ():
        raise TypeError(
            f"loss must return a scalar, got shape {jnp.shape(value)}. Return the mean "
            "over the data."
        )
    if not math.isfinite(value):
        raise ValueError(
            f"loss must be finite at the start of the path, got {float(value)}. Look "
            "for NaN in the data."
        )


def shorten(values: np.ndarray, shown: int = 5) -> str:
    """Write the first few numbers for a message."""
    texts = [f"{value:.3g}" for value in values[:shown]]
    rest = len(values) - len(texts)
    return ", ".join(texts) + (f" and {rest} more" if rest else "")
