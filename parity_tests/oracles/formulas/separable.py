"""Formulas of the separable penalties: the weighted L1 and the non-convex ones."""

from collections.abc import Callable

import numpy as np

from parity_tests.oracles.formulas.entry import Element, Entry

Elementwise = Callable[[np.ndarray], np.ndarray]


def mcp(scale: float, gamma: float) -> Elementwise:
    """Zhang (2010), as published, for lambda = scale, divided by lambda."""
    end = gamma * scale
    return lambda u: np.where(np.abs(u) <= end, np.abs(u) - u**2 / (2 * end), end / 2)


def scad(scale: float, a: float) -> Elementwise:
    """Fan and Li (2001), as published, for lambda = scale, divided by lambda."""

    def value(u: np.ndarray) -> np.ndarray:
        u = np.abs(u)
        middle = (2 * a * scale * u - u**2 - scale**2) / (2 * (a - 1) * scale)
        outside = np.where(u <= a * scale, middle, scale * (a + 1) / 2)
        return np.where(u <= scale, u, outside)

    return value


ELEMENTS: dict[str, Element] = {
    "mcp(0.8, 3.0)": Element(lambda lib: lib.mcp(0.8, 3.0), mcp(0.8, 3.0)),
    "mcp(0.5, 1.2)": Element(lambda lib: lib.mcp(0.5, 1.2), mcp(0.5, 1.2)),
    "scad(0.8, 3.7)": Element(lambda lib: lib.scad(0.8, 3.7), scad(0.8, 3.7)),
    "capped_l1(0.7)": Element(
        lambda lib: lib.capped_l1(0.7),
        lambda u: np.minimum(np.abs(u), 0.7),
    ),
    "log_sum(0.3)": Element(
        lambda lib: lib.log_sum(0.3),
        lambda u: np.log(1 + np.abs(u) / 0.3),
    ),
    "lp(0.5)": Element(lambda lib: lib.lp(0.5), lambda u: np.sqrt(np.abs(u))),
    "lp(2/3)": Element(lambda lib: lib.lp(2 / 3), lambda u: np.cbrt(u**2)),
    "lp(0.9)": Element(lambda lib: lib.lp(0.9), lambda u: np.abs(u) ** 0.9),
    "l0()": Element(lambda lib: lib.l0(), lambda u: np.where(u == 0, 0.0, 1.0)),
}
"""The penalties that are not convex."""

WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0, np.inf, 0.25])


def weighted(u: np.ndarray) -> float:
    """The L1 norm with `WEIGHTS`; infinite where an infinite weight is not at zero."""
    if np.abs(u[..., 4]).max() > 1e-9:
        return np.inf
    return float((np.abs(u) * np.where(np.isinf(WEIGHTS), 0, WEIGHTS)).sum())


def _total(value: Elementwise) -> Callable[[np.ndarray], float]:
    return lambda u: float(value(u).sum())


PENALTIES: dict[str, Entry] = {
    **{name: Entry(row.make, _total(row.value)) for name, row in ELEMENTS.items()},
    "weighted_l1": Entry(lambda lib: lib.weighted_l1(WEIGHTS), weighted, (6,)),
    "weighted_l1(finite)": Entry(
        lambda lib: lib.weighted_l1([*WEIGHTS[:4].tolist(), 3.0, 0.25]),
        lambda u: float((np.abs(u) * [0.5, 2.0, 0.0, 1.0, 3.0, 0.25]).sum()),
        (6,),
    ),
    "adaptive_l1": Entry(
        lambda lib: lib.adaptive_l1(np.array([2.0, 0.5, 1.0, -4.0, 0.1, -0.3])),
        lambda u: float((np.abs(u) / [2.0, 0.5, 1.0, 4.0, 0.1, 0.3]).sum()),
        (6,),
    ),
}
