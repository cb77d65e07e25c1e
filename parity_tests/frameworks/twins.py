"""Both twins, for the tests that compare them."""

import numpy as np

from parity_tests.frameworks.jax_twin import TWIN as JAX
from parity_tests.frameworks.torch_twin import TWIN as TORCH
from parity_tests.frameworks.twin import DTYPES, Twin

__all__ = ["DTYPES", "JAX", "LIBS", "TORCH", "TRAIN", "TWINS", "Twin", "assert_bitwise"]

TWINS = (JAX, TORCH)
LIBS = {twin.name: twin.lib for twin in TWINS}
TRAIN = {twin.name: twin.train for twin in TWINS}


def assert_bitwise(actual: np.ndarray, desired: np.ndarray) -> None:
    """Fail unless dtype, shape and bits agree, any NaN being as good as another.

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
