"""The two frameworks behind one face, so that one test body serves both."""

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import l1jax
import l1jax.prox
import l1torch
import l1torch.prox

DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Twin:
    """One framework: its library, and what tests need to talk to it."""

    name: str
    lib: ModuleType
    prox: ModuleType
    array: Callable[..., Any]
    """`array(numpy values, dtype name)`."""
    dtype: Callable[[Any], str]
    jit: Callable[[Callable[..., Any]], Callable[..., Any]]
    grad: Callable[[Callable[[Any], Any]], Callable[[Any], Any]]
    """`grad(f)(x)` of a scalar function of one array."""
    apply_updates: Callable[[Any, Any], Any]

    def numpy(self, x: Any) -> np.ndarray:
        """Gives the values as numpy, half precision as float32."""
        if isinstance(x, torch.Tensor):
            x = x.detach()
            return (x.float() if x.dtype.itemsize < 4 else x).numpy()
        x = np.asarray(x)
        return x.astype(np.float32) if x.dtype.itemsize == 2 else x

    def tree(self, arrays: dict[str, Any], dtype: str = "float64") -> dict[str, Any]:
        """Makes a flat tree of arrays."""
        return {name: self.array(value, dtype) for name, value in arrays.items()}


def _jax_array(values: Any, dtype: str = "float64") -> jax.Array:
    return jnp.asarray(_rounded(values, dtype), dtype)


def _torch_array(values: Any, dtype: str = "float64") -> torch.Tensor:
    return torch.from_numpy(_rounded(values, dtype)).to(getattr(torch, dtype))


def _rounded(values: Any, dtype: str) -> np.ndarray:
    # The frameworks differ in rounding double to half precision, but not from single.
    half = dtype in ("bfloat16", "float16")
    return np.array(values, np.float32 if half else None)


def _torch_grad(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def gradient(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().clone().requires_grad_()
        return torch.autograd.grad(f(x), x)[0]

    return gradient


JAX = Twin(
    name="jax",
    lib=l1jax,
    prox=l1jax.prox,
    array=_jax_array,
    dtype=lambda x: jnp.dtype(x.dtype).name,
    jit=jax.jit,
    grad=jax.grad,
    apply_updates=optax.apply_updates,
)

TORCH = Twin(
    name="torch",
    lib=l1torch,
    prox=l1torch.prox,
    array=_torch_array,
    dtype=lambda x: str(x.dtype).removeprefix("torch."),
    jit=lambda f: f,
    grad=_torch_grad,
    apply_updates=l1torch.apply_updates,
)

TWINS = (JAX, TORCH)


def assert_bitwise(actual: np.ndarray, desired: np.ndarray) -> None:
    """Fails unless dtype, shape and bits agree, any NaN being as good as another.

    XLA on CPU takes subnormal numbers for zero, in intermediate results too: values may
    differ by the smallest normal number, but two zeros not in their sign.
    """
    assert actual.dtype == desired.dtype
    assert actual.shape == desired.shape
    nan = np.isnan(desired)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    with np.errstate(invalid="ignore", over="ignore"):
        close = np.abs(actual - desired) <= np.finfo(desired.dtype).tiny
    rest = ~nan & ~(close & (actual != desired))
    bits = f"u{actual.dtype.itemsize}"
    np.testing.assert_array_equal(
        actual[rest].view(bits), desired[rest].view(bits), strict=True
    )
