"""Signs, sizes, dtypes and products, element by element, as the other twin has them."""

import functools
import math

import torch
from torch import Tensor

Number = float | Tensor
"""A real number or tensor."""


def largest(x: Tensor) -> Tensor:
    """The largest element, at least 0: of no elements, too."""
    return x.amax().clamp(min=0) if x.numel() else x.new_zeros(())


def sign(x: Tensor) -> Tensor:
    """The sign, 0.0 of zeros of both signs, and NaN of NaN."""
    # torch.sign(nan) is 0.
    return torch.where(x.isnan(), x, x.sign())


def absolute(x: Tensor) -> Tensor:
    """The absolute value, whose derivative at zero is 0."""
    return x * sign(x).detach()


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Gives the dtype of prox arithmetic: float32 for half precision, else the same."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def is_real_floating(dtype: torch.dtype) -> bool:
    """Tells real floating point of 16 bits or more."""
    return dtype.is_floating_point and dtype.itemsize > 1


def as_float(value: Number) -> Number:
    """Gives an int as a float, infinity if it is too large; anything else as it is."""
    if type(value) is not int:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def nonnegative(value: Number, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Makes a tensor of `dtype` on `device`; what is negative becomes NaN."""
    if not isinstance(value, Tensor):
        return torch.full((), float(value), dtype=dtype, device=device)
    value = value.to(device=device, dtype=dtype)
    return value.masked_fill(~(value >= 0), math.nan)


def shape_of(value: Number) -> tuple[int, ...]:
    """The shape of a number or tensor."""
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def product(step_size: Number, strength: Number, dtype: torch.dtype) -> Number:
    """Multiplies in `dtype`, as JAX does; a float for floats, else a tensor."""
    tensors = [x for x in (step_size, strength) if isinstance(x, Tensor)]
    if not tensors:
        return _product_of_numbers(step_size, strength, dtype)
    device = tensors[0].device
    return nonnegative(step_size, dtype, device) * nonnegative(strength, dtype, device)


@functools.lru_cache
def _product_of_numbers(a: float, b: float, dtype: torch.dtype) -> float:
    # Kept, since all parameters of a group ask for the same. Under torch.compile this
    # breaks the graph; a graph of the whole step, base and prox, came out wrong.
    x, y = (torch.full((), value, dtype=dtype, device="cpu") for value in (a, b))
    return (x * y).item()
