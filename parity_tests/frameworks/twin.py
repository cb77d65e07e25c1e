"""What a framework must tell of itself, so that one test body serves both."""

import contextlib
import dataclasses
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Twin:
    """One framework: its library, and what tests need to talk to it."""

    name: str
    lib: ModuleType
    prox: ModuleType
    array: Callable[..., Any]
    """`array(numpy values, dtype name)`."""
    numpy: Callable[[Any], np.ndarray]
    """The values as numpy, half precision as float32."""
    dtype: Callable[[Any], str]
    jit: Callable[[Callable[..., Any]], Callable[..., Any]]
    grad: Callable[[Callable[[Any], Any]], Callable[[Any], Any]]
    """`grad(f)(x)` of a scalar function of one array."""
    apply_updates: Callable[[Any, Any], Any]
    train: Callable[..., dict[str, np.ndarray]]
    """Trains a row of `oracles.convergence_matrix` on one of its cases."""
    set_up: Callable[[], None]
    """What a process does once: double precision, and no idle threads."""
    versions: Callable[[], dict[str, str]]
    """The versions of the framework's packages."""
    device: Callable[[str], Any]
    """The first device of a kind, "cpu", "gpu" or "tpu"; None where there is none."""
    on: Callable[[Any], contextlib.AbstractContextManager[Any]]
    """A context in which new arrays are made on a device."""

    def module(self, path: str) -> ModuleType:
        """Return a module of the library, by its path below the package."""
        return importlib.import_module(f"{self.lib.__name__}.{path}")

    def tree(self, arrays: dict[str, Any], dtype: str = "float64") -> dict[str, Any]:
        """Make a flat tree of arrays."""
        return {name: self.array(value, dtype) for name, value in arrays.items()}


def rounded(values: Any, dtype: str) -> np.ndarray:
    """Take values to single precision where a framework is to round them to half.

    The frameworks differ in rounding double to half precision, but not from single.
    """
    half = dtype in ("bfloat16", "float16")
    return np.array(values, np.float32 if half else None)


def installed() -> tuple[Twin, ...]:
    """Return the twins whose framework is installed, JAX first."""
    found = []
    for name in ("jax", "torch"):
        try:
            found.append(
                importlib.import_module(f"parity_tests.frameworks.{name}_twin").TWIN
            )
        except ModuleNotFoundError as error:
            if error.name not in ("jax", "jaxlib", "optax", "torch"):
                raise
    return tuple(found)
