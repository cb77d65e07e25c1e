"""The library's operations as the parity report compares them, element by element."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from parity_tests.frameworks.twin import Twin

SHAPE = (24, 25)
METHODS = {
    "value": "value",
    "subgradient": "subgradient",
    "prox": "prox",
    "distance": "optimality_distance",
}
"""What the report calls a penalty's methods."""
STRENGTH = 0.7


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Return values and gradients, the same numbers on every machine.

    Between 1e-6 and 16 in size, with zeros, and gradients equal to the value itself.
    """
    k = np.arange(2 * math.prod(SHAPE))
    mixed = (k * 2654435761) % 2**32  # Knuth's multiplicative hash
    signed = mixed / 2.0**31 - 1
    x, grad = (signed * 2.0 ** (mixed % 13 - 8)).reshape(2, *SHAPE)
    x.flat[::7] = 0.0
    grad.flat[::11] = np.abs(x.flat[::11])
    return x, grad


def _threshold(by_element: bool) -> Callable[..., Any]:
    def run(twin: Twin, x: Any, grad: Any) -> Any:
        return twin.prox.soft_threshold(x, abs(grad) if by_element else STRENGTH)

    return run


@dataclasses.dataclass(frozen=True)
class Reported:
    """A penalty, and what of it there is to be compared."""

    make: Callable[[Any], Any]
    """From library to penalty."""
    places: float = 0.0
    """How far the frameworks may be apart: 0, or as sums, decompositions and powers
    come out otherwise, units in the last place of the largest number."""
    finite: bool = True
    metric: bool = True
    subgradient: bool = True

    def operations(self, name: str) -> dict[str, Callable[..., Any]]:
        """The methods by name, as functions of twin, values and gradients."""
        found = {
            f"{name}.{shown}": self._method(method)
            for shown, method in METHODS.items()
            if self.subgradient or method != "subgradient"
        }
        if self.metric:
            found[f"{name}.prox, by element"] = self._by_element
        return found

    def _method(self, method: str) -> Callable[..., Any]:
        def run(twin: Twin, x: Any, grad: Any) -> Any:
            rest = (grad,) if method == "optimality_distance" else ()
            x = abs(x) if not self.finite else x  # for some, their domain
            return getattr(self.make(twin.lib), method)(x, *rest, STRENGTH)

        return run

    def _by_element(self, twin: Twin, x: Any, grad: Any) -> Any:
        return self.make(twin.lib).prox(x, abs(grad))


def _transform(name: str, *arguments: float) -> Callable[..., Any]:
    def run(twin: Twin, x: Any, grad: Any) -> Any:
        tx = getattr(twin.lib, name)(STRENGTH, *arguments)
        params = {"w": x}
        updates, _ = tx.update({"w": grad}, tx.init(params), params)
        return twin.apply_updates(params, updates)["w"]

    return run


_WEIGHTS = np.linspace(0.0, 2.0, SHAPE[1])
_THIRDS = {"a": (*range(0, 25, 3),), "b": (*range(1, 25, 3),), "c": (*range(2, 25, 3),)}
_Set = functools.partial(Reported, places=4.0, finite=False, subgradient=False)
_Group = functools.partial(Reported, places=4.0)
_Whole = functools.partial(Reported, places=4.0, metric=False)

PENALTIES = {
    "l1()": Reported(lambda lib: lib.l1()),
    "elastic_net(0.3)": Reported(lambda lib: lib.elastic_net(0.3)),
    "nonnegative_l1()": Reported(lambda lib: lib.nonnegative_l1(), finite=False),
    "weighted_l1(0 to 2)": Reported(lambda lib: lib.weighted_l1(_WEIGHTS)),
    "mcp(1.0)": Reported(lambda lib: lib.mcp(1.0)),
    "scad(1.0)": Reported(lambda lib: lib.scad(1.0)),
    "capped_l1(1.5)": Reported(lambda lib: lib.capped_l1(1.5)),
    "log_sum(0.5)": Reported(lambda lib: lib.log_sum(0.5)),
    "lp(1/2)": Reported(lambda lib: lib.lp(1 / 2)),
    "lp(2/3)": Reported(lambda lib: lib.lp(2 / 3), places=4.0),
    "l0()": Reported(lambda lib: lib.l0(), subgradient=False),
    "group_l1(1)": _Group(lambda lib: lib.group_l1(1)),
    "group_l1(1, block=5)": _Group(lambda lib: lib.group_l1(1, block=5)),
    "group_l1(1, groups)": _Group(lambda lib: lib.group_l1(1, groups=_THIRDS)),
    "sparse_group_l1(0.4, 1)": _Group(lambda lib: lib.sparse_group_l1(0.4, 1)),
    "l1_ball(9.0)": _Set(lambda lib: lib.l1_ball(9.0)),
    "top_k(50)": _Set(lambda lib: lib.top_k(50)),
    "n_of_m(2, 4, 0)": _Set(lambda lib: lib.n_of_m(2, 4, 0)),
    "nuclear()": _Whole(lambda lib: lib.nuclear(), places=64.0),
    "slope(0.1)": _Whole(lambda lib: lib.slope(0.1)),
    "total_variation()": _Whole(lambda lib: lib.total_variation()),
    "fused_lasso(0.5)": _Whole(lambda lib: lib.fused_lasso(0.5)),
}

OPERATIONS: dict[str, Callable[[Twin, Any, Any], Any]] = {
    "soft_threshold": _threshold(by_element=False),
    "soft_threshold, by element": _threshold(by_element=True),
    **{
        name: run
        for penalty, reported in PENALTIES.items()
        for name, run in reported.operations(penalty).items()
    },
    "add_subgradient": _transform("add_subgradient"),
    "proximal_step": _transform("proximal_step", 0.3),
}
"""From twin, values and gradients to the result, an array or a scalar."""

SUMS = tuple(name for name in OPERATIONS if name.endswith(".value"))
"""Those that add many numbers, which every framework does in an order of its own."""

INEXACT = {
    name: reported.places
    for penalty, reported in PENALTIES.items()
    for name in reported.operations(penalty)
    if reported.places and name not in SUMS
}
"""Those that need sums, decompositions or powers on the way, and how far they may be
apart, in units in the last place of the largest number."""


def compute(twin: Twin, device: Any, name: str, dtype: str) -> tuple[np.ndarray, str]:
    """Run an operation, compiled in JAX; return the values and their dtype."""
    with twin.on(device):
        x, grad = (twin.array(values, dtype) for values in inputs())
        result = twin.jit(lambda x, grad: OPERATIONS[name](twin, x, grad))(x, grad)
        return twin.numpy(result), twin.dtype(result)


def ulps_of_largest(a: np.ndarray, b: np.ndarray, dtype: str) -> float:
    """The largest distance in units in the last place of the largest number.

    Where large numbers cancel, a small rest has but few places that mean something.
    """
    special = ~(np.isfinite(a) & np.isfinite(b))
    if not np.array_equal(a[special], b[special], equal_nan=True):
        return np.inf
    a, b = (values[~special].astype(np.float64) for values in (a, b))
    places = {"bfloat16": 7, "float16": 10, "float32": 23, "float64": 52}[dtype]
    largest = np.abs(np.append(a, b)).max(initial=0)
    if not largest:
        return 0.0
    return float(
        np.abs(a - b).max(initial=0) / 2.0 ** (np.frexp(largest)[1] - 1 - places)
    )


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
    """Number floating point values by their order, as unsigned integers."""
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
