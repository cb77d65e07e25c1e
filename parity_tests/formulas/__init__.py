"""Every penalty as a formula of numpy, for tests that know nothing of the library."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from parity_tests import oracles
from parity_tests.formulas import constraints, groups, separable, structured


class Entry(NamedTuple):
    """A penalty, and what it is."""

    make: Callable[[Any], Any]
    """From `l1jax` or `l1torch` to the penalty."""

    value: Callable[[np.ndarray], float]
    """The penalty of a whole array in float64; infinity outside its domain."""

    shape: tuple[int, ...] = (6,)
    """Of an array that it can take."""


def _elastic_net(ratio: float) -> Callable[[np.ndarray], float]:
    value = oracles.elastic_net_value(ratio)
    return lambda u: float(value(u).sum())


PENALTIES = {
    "l1()": Entry(lambda lib: lib.l1(), lambda u: float(np.abs(u).sum())),
    "elastic_net(0.3)": Entry(lambda lib: lib.elastic_net(0.3), _elastic_net(0.3)),
    "nonnegative_l1()": Entry(
        lambda lib: lib.nonnegative_l1(),
        lambda u: float(oracles.nonnegative_l1_value(u).sum()),
    ),
} | {
    name: Entry(*row)
    for module in (separable, groups, constraints, structured)
    for name, row in module.PENALTIES.items()
}
"""By the name that a user would write."""
