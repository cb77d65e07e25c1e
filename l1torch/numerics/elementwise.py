"""Signs, sizes, dtypes and products, element by element, as the other twin has them."""

import functools
import math

import torch
from torch import Tensor

Number = float | Tensor
"""A real number or tensor."""


def largest(x: Tensor) -> Tensor:
    """Return the largest element, or 0 if all are negative or there are none."""
    return x.amax().clamp(min=0) if x.numel() else x.new_zeros(())


def sign(x: Tensor) -> Tensor:
    """Return the sign: 0.0 for zeros of both signs, NaN for NaN."""
    # torch.sign(nan) is 0.
    return torch.where(x.isnan(), x, x.sign())


def absolute(x: Tensor) -> Tensor:
    """Return the absolute value, with derivative 0 at zero."""
    return x * sign(x).detach()


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: float32 for half precision, else the same."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def is_real_floating(dtype: torch.dtype) -> bool:
    """Return whether a dtype is real floating point of 16 bits or more."""
    return dtype.is_floating_point and dtype.itemsize > 1


def as_float(value: Number) -> Number:
    """Return an int as a float, infinity if it is too large; anything else as it is."""
    if type(value) is not int:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def nonnegative(value: Number, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a value as a tensor of `dtype` on `device`, NaN where it is negative."""
    if not isinstance(value, Tensor):
        return torch.full((), float(value), dtype=dtype, device=device)
    value = value.to(device=device, dtype=dtype)
    return value.masked_fill(~(value >= 0), math.nan)


def shape_of(value: Number) -> tuple[int, ...]:
    """Return the shape of a tensor, or that of a number, ()."""
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def product(step_size: Number, strength: Number, dtype: torch.dtype) -> Number:
    """Return the product in `dtype`, as JAX does: a tensor, or of floats a float."""
    tensors = [x for x in (step_size, strength) if isinstance(x, Tensor)]
    if not tensors:
        return _product_of_numbers(step_size, strength, dtype)
    device = tensors[0].device
    return nonnegative(step_size, dtype, device) * nonnegative(strength, dtype, device)


@functools.lru_cache
def _product_of_numbers(a: float, b: float, dtype: torch.dtype) -> float:
    # Cached, since all parameters of a group ask for the same product. torch.compile
    # breaks the graph here, as it must: one graph of base step and prox computes wrong
    # results.
    x, y = (torch.full((), value, dtype=dtype, device="cpu") for value in (a, b))
    return (x * y).item()
