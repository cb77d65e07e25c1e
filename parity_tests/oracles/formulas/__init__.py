"""Every penalty as a formula of numpy, for tests that know nothing of the library."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from parity_tests.oracles import optima
from parity_tests.oracles.formulas import constraints, groups, separable, structured
from parity_tests.oracles.formulas.entry import Entry


def _elastic_net(ratio: float) -> Callable[[np.ndarray], float]:
    value = optima.elastic_net_value(ratio)
    return lambda u: float(value(u).sum())


PENALTIES = {
    "l1()": Entry(lambda lib: lib.l1(), lambda u: float(np.abs(u).sum())),
    "elastic_net(0.3)": Entry(lambda lib: lib.elastic_net(0.3), _elastic_net(0.3)),
    "nonnegative_l1()": Entry(
        lambda lib: lib.nonnegative_l1(),
        lambda u: float(optima.nonnegative_l1_value(u).sum()),
    ),
    **separable.PENALTIES,
    **groups.PENALTIES,
    **constraints.PENALTIES,
    **structured.PENALTIES,
}
"""By the name that a user would write."""

QUICK = (
    "l1()",
    "weighted_l1",
    "mcp(0.8, 3.0)",
    "log_sum(0.3)",
    "lp(0.5)",
    "l0()",
    "group_l1(0, block=2)",
    "l1_ball(1.5)",
    "top_k(2)",
    "n_of_m(1, 3)",
    "nuclear()",
    "fused_lasso(0.4)",
)
"""One of each kind: the others, which vary it, are for a slow run."""


def slow_unless_quick(name: str) -> Any:
    """The marks of a test of this penalty."""
    return () if name in QUICK else pytest.mark.slow
