"""Proximal operators: pure functions of tensors, each the one argmin it solves.

Arithmetic is in the tensor's own precision, in float32 for half precision, and the
result is rounded once to the tensor's dtype. NaN stays NaN, zeros come out as +0.0, a
threshold of 0 is the identity. A threshold is `step size * strength`: it is in units of
the parameter, and it is the only place where the strength enters. A threshold tensor
gives NaN where it is negative.

XLA on CPU flushes subnormal numbers to zero; apart from those, and from the NaN bits,
every function here is bitwise equal to its twin in `l1jax.numerics.prox`.
"""

import math
import numbers
from collections.abc import Callable

import torch
from torch import Tensor

from l1torch.numerics.checks import check_number, require_broadcast, require_real_tensor
from l1torch.numerics.elementwise import Number, compute_dtype, nonnegative


def soft_threshold(x: Tensor, threshold: Number) -> Tensor:
    r"""Solve `argmin_u 1/2 |u - x|^2 + threshold * |u|_1`.

    .. math:: \mathrm{prox}_t(x) = \mathrm{sign}(x) \max(|x| - t, 0)

    The closed form is `x - clip(x, -threshold, threshold)` (Donoho, 1995).

    Args:
      x: real floating tensor of any shape.
      threshold: number or tensor >= 0 that broadcasts to `x`; infinity gives 0 for
        every finite `x`.

    Returns:
      Tensor of `x`'s shape and dtype.

    Raises:
      TypeError: `x` is not real floating, `threshold` not a real number.
      ValueError: `threshold` is negative, NaN or does not broadcast to `x`.

    Example:
      >>> import torch
      >>> soft_threshold(torch.tensor([3.0, -0.5, -2.0]), 1.0)
      tensor([ 2.,  0., -1.])
    """
    return apply_prox_formula(soft_threshold_unchecked, x, threshold)


def prox_nonnegative_l1(x: Tensor, threshold: Number) -> Tensor:
    """Solve `argmin_{u >= 0} 1/2 |u - x|^2 + threshold * sum(u)`.

    The closed form is `max(x - threshold, 0)`. Arguments, result and errors are those
    of `soft_threshold`.
    """
    return apply_prox_formula(lambda x, t: (x - t).clamp(min=0), x, threshold)


def prox_elastic_net(x: Tensor, threshold: Number, l1_ratio: float) -> Tensor:
    """Solve the elastic net's proximal problem (Zou and Hastie, 2005).

    `argmin_u 1/2 |u - x|^2 + threshold * (l1_ratio |u|_1 + (1 - l1_ratio)/2 |u|^2)`,
    which is `soft_threshold(x, threshold * l1_ratio) / (1 + threshold * (1 -
    l1_ratio))`. An infinite threshold gives NaN where `l1_ratio` is 0.

    Args:
      x: real floating tensor of any shape.
      threshold: as in `soft_threshold`.
      l1_ratio: the share of L1, in [0, 1]; 1 is `soft_threshold`, 0 is ridge.

    Returns:
      As `soft_threshold`, with the same errors.
    """

    def formula(x: Tensor, t: Tensor) -> Tensor:
        shrunk = soft_threshold_unchecked(x, t * l1_ratio)
        if l1_ratio == 1:
            return shrunk
        return shrunk * (1 / (1 + t * (1 - l1_ratio)))

    return apply_prox_formula(formula, x, threshold)


def soft_threshold_unchecked(x: Tensor, t: Tensor) -> Tensor:
    """Return the soft threshold of tensors that are checked already."""
    if not torch.is_grad_enabled():
        return x - x.clamp(-t, t)
    # The same, but without a threshold it has the derivative of the identity at zero,
    # and elsewhere that from above with respect to the threshold.
    held = (x.abs() <= t) & (t > 0)
    moved = x - x.sign() * torch.where(held, 0, t)  # no 0 * inf
    return torch.where(held, x - x, moved)


def freed(moved: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Return a prox with the derivative of `x` where `x` and the threshold are zero.

    With a threshold of 0 the prox is the identity, but the derivative of a formula with
    a kink at `x = 0` is another.
    """
    if not torch.is_grad_enabled():
        return moved
    return torch.where((x == 0) & (t == 0), x, moved)


def from_zero(
    formula: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor
) -> Tensor:
    """Return `formula(x, t)`, or `x` itself where the threshold is 0.

    There the derivative with respect to `x` is that of the identity, and the one with
    respect to the threshold is that of the formula, from above.
    """
    u = formula(torch.where(t > 0, x, x.detach()), t)
    slope = torch.where(torch.isfinite(u), u - u.detach(), 0)
    return torch.where(t > 0, u, x + t.detach() + slope)


def apply_prox_formula(
    formula: Callable[[Tensor, Tensor], Tensor], x: Tensor, threshold: Number
) -> Tensor:
    """Check the arguments, compute `formula(x, threshold)` and round it once."""
    require_real_tensor("x", x)
    if not isinstance(threshold, numbers.Real) or threshold != math.inf:
        check_number("threshold", threshold)
    require_broadcast("threshold", threshold, "x", x.shape)
    dtype = compute_dtype(x.dtype)
    t = nonnegative(threshold, dtype, x.device)
    # A threshold of 0, underflow or a maximum may give -0.0, which adding +0.0 makes
    # positive.
    return formula(x.to(dtype), t).to(x.dtype) + 0.0
