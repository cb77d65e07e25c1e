"""The Bayesian reading of L1: a Laplace prior, and its scale for a strength."""

import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from l1torch.numerics.checks import check_real, described

_Numbers = TypeVar("_Numbers", float, np.ndarray, Tensor)


def laplace_scale(strength: _Numbers, n: float) -> _Numbers:
    """Return the scale of the Laplace prior that a strength of L1 amounts to.

    With `loss_i = -log p(y_i | w)`, the `w` that minimises `1/n sum_i loss_i + strength
    * |w|_1` is the most probable one given the data (the MAP estimate) for independent
    `w_j ~ Laplace(0, b)` of density `exp(-|w_j| / b) / (2 b)`, where `b = 1 / (n *
    strength)` (Tibshirani, 1996): n times the objective is `-log p(w | y)` up to a
    constant. More samples at the same strength mean a narrower prior.

    The loss must be the full negative log-likelihood. Cross-entropy is. The squared
    loss `1/(2n) |X w - y|^2` is that of unit noise variance; for noise of variance `v`
    it is `v` times too large, so that the scale is `v * laplace_scale(strength, n)`.

    The exact zeros are the mode's: the posterior itself gives zero no probability.

    Args:
      strength: number or tensor > 0, in units of the mean loss.
      n: the number of samples that the loss is the mean of.

    Returns:
      `1 / (n * strength)`, in units of the weights: a float, or a tensor.

    Raises:
      TypeError: an argument is no real number or tensor.
      ValueError: a Python number is not finite and > 0.

    Example:
      >>> laplace_scale(0.01, n=50)
      2.0
    """
    return 1 / (_positive("n", n) * _positive("strength", strength))


def laplace_strength(scale: _Numbers, n: float) -> _Numbers:
    """Return the strength of L1 for a Laplace prior of a scale: `1 / (n * scale)`.

    The inverse of `laplace_scale`, which says what is meant. With the squared loss
    `1/(2n) |X w - y|^2` and noise of variance `v`, the strength is `v *
    laplace_strength(scale, n)`.

    Args:
      scale: number or tensor > 0, in units of the weights.
      n: the number of samples that the loss is the mean of.

    Returns:
      `1 / (n * scale)`, in units of the loss: a float, or what the arguments are.

    Raises:
      TypeError: as `laplace_scale`.
      ValueError: as `laplace_scale`.

    Example:
      >>> laplace_strength(2.0, n=50)
      0.01
    """
    return 1 / (_positive("n", n) * _positive("scale", scale))


def _positive(argument: str, value: _Numbers) -> _Numbers:
    """Return a number or tensor that is positive and finite, or raise.

    In a tensor other elements become NaN, without waiting for the device.
    """
    if not isinstance(value, Tensor | np.ndarray):
        return check_real(argument, value, "(0, inf)", "one such as 1e-3")
    if isinstance(value, np.ndarray):
        wrong = value.dtype.kind not in "iuf"
    else:
        wrong = value.is_complex() or value.dtype == torch.bool
    if wrong:
        raise TypeError(
            f"{argument} must be an array of real numbers, got dtype {value.dtype}. "
            "Pass one of floats > 0."
        )
    if isinstance(value, Tensor):
        usual = value.is_floating_point() and value.dtype.itemsize > 1
        value = value if usual else value.double()
        return value.masked_fill(~((value > 0) & value.isfinite()), math.nan)
    if not ((value > 0) & np.isfinite(value)).all():
        raise ValueError(
            f"{argument} must be finite and > 0, got {described(value)}. A strength of "
            "0 has no proper prior."
        )
    return value
