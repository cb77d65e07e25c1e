"""The library's operations as the parity report compares them, element by element."""

from collections.abc import Callable
from typing import Any

import numpy as np

from parity_tests.twin import Twin

SIZE = 600
STRENGTH = 0.7


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Gives values and gradients, the same numbers on every machine.

    Between 1e-6 and 16 in size, with zeros, and gradients equal to the value itself.
    """
    k = np.arange(2 * SIZE)
    mixed = (k * 2654435761) % 2**32  # Knuth's multiplicative hash
    signed = mixed / 2.0**31 - 1
    x, grad = (signed * 2.0 ** (mixed % 13 - 8)).reshape(2, SIZE)
    x[::7] = 0.0
    grad[::11] = np.abs(x[::11])
    return x, grad


def _threshold(by_element: bool) -> Callable[..., Any]:
    def run(twin: Twin, x: Any, grad: Any) -> Any:
        return twin.prox.soft_threshold(x, abs(grad) if by_element else STRENGTH)

    return run


def _of_penalty(make: Callable[[Any], Any], method: str) -> Callable[..., Any]:
    def run(twin: Twin, x: Any, grad: Any) -> Any:
        penalty = make(twin.lib)
        rest = (grad,) if method == "optimality_distance" else ()
        x = abs(x) if not penalty.finite else x  # its domain
        return getattr(penalty, method)(x, *rest, STRENGTH)

    return run


def _transform(name: str, *arguments: float) -> Callable[..., Any]:
    def run(twin: Twin, x: Any, grad: Any) -> Any:
        tx = getattr(twin.lib, name)(STRENGTH, *arguments)
        params = {"w": x}
        updates, _ = tx.update({"w": grad}, tx.init(params), params)
        return twin.apply_updates(params, updates)["w"]

    return run


PENALTIES = {
    "l1()": lambda lib: lib.l1(),
    "elastic_net(0.3)": lambda lib: lib.elastic_net(0.3),
    "nonnegative_l1()": lambda lib: lib.nonnegative_l1(),
}
METHODS = ("value", "subgradient", "prox", "optimality_distance")

OPERATIONS: dict[str, Callable[[Twin, Any, Any], Any]] = {
    "soft_threshold": _threshold(by_element=False),
    "soft_threshold, by element": _threshold(by_element=True),
    **{
        f"{name}.{method}": _of_penalty(make, method)
        for name, make in PENALTIES.items()
        for method in METHODS
    },
    "add_subgradient": _transform("add_subgradient"),
    "proximal_step": _transform("proximal_step", 0.3),
}
"""From twin, values and gradients to the result, an array or a scalar."""

SUMS = tuple(name for name in OPERATIONS if name.endswith(".value"))
"""Those that add many numbers, which every framework does in an order of its own."""


def compute(twin: Twin, device: Any, name: str, dtype: str) -> tuple[np.ndarray, str]:
    """Runs an operation, compiled in JAX; gives the values and their dtype."""
    with twin.on(device):
        x, grad = (twin.array(values, dtype) for values in inputs())
        result = twin.jit(lambda x, grad: OPERATIONS[name](twin, x, grad))(x, grad)
        return twin.numpy(result), twin.dtype(result)


def ulps(a: np.ndarray, b: np.ndarray, dtype: str) -> float:
    """The largest distance in units in the last place of `dtype`.

    Counts the numbers from one to the other, so that zeros of different sign are one
    apart. Subnormal numbers count as zero, for which XLA takes them. NaN is no distance
    from NaN, and infinitely far from anything else.
    """
    nan = np.isnan(a)
    if (nan != np.isnan(b)).any():
        return np.inf
    a, b = (_order(np.atleast_1d(v)[~np.atleast_1d(nan)], dtype) for v in (a, b))
    return float((np.maximum(a, b) - np.minimum(a, b)).max(initial=0))


def _order(values: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers floating point values by their order, as unsigned integers."""
    tiny = np.finfo(np.float16 if dtype == "float16" else values.dtype).tiny
    values = np.where(np.abs(values) < tiny, np.copysign(0, values), values)
    if dtype == "float16":
        values = values.astype(np.float16)
    width = 8 * values.dtype.itemsize
    bits = values.view(f"u{width // 8}").astype(np.uint64)
    if dtype == "bfloat16":  # the upper half of a float32
        bits, width = bits >> np.uint64(16), 16
    negative = bits >> np.uint64(width - 1) == 1
    top, ones = np.uint64(1 << (width - 1)), np.uint64((1 << width) - 1)
    return np.where(negative, ones - bits, bits + top)
