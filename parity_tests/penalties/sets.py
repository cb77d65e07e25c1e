"""The sets that constraints hold weights in, compiled, and points to project."""

import functools

import numpy as np
import pytest

from parity_tests.oracles.formulas import constraints as formulas

SETS = formulas.PENALTIES


@functools.cache
def everything(twin, name):
    """Return all methods, by their names, in one compiled function."""
    penalty = SETS[name].make(twin.lib)

    def compute(x, grad, t):
        return {
            "value": penalty.value(x, t),
            "subgradient": penalty.subgradient(x, t),
            "prox": penalty.prox(x, t),
            "optimality_distance": penalty.optimality_distance(x, grad, t),
        }

    return twin.jit(compute)


def call(twin, name, x, grad=0.0, t=1.0, dtype="float64"):
    """Return in numpy what each method gives for six weights."""
    given = (twin.array(np.broadcast_to(v, 6), dtype) for v in (x, grad, t))
    found = everything(twin, name)(*given)
    return {which: twin.numpy(result) for which, result in found.items()}


def prox(twin, name, x, t=1.0, dtype="float64"):
    """Return the projection of six weights."""
    return call(twin, name, x, t=t, dtype=dtype)["prox"]


@functools.cache
def scalar_prox(twin, name):
    """Return the compiled prox, for thresholds that are scalars."""
    return twin.jit(SETS[name].make(twin.lib).prox)


# The others run the same code, at its edges.
TYPICAL = ("l1_ball(1.5)", "top_k(2)", "n_of_m(1, 3)")
NAMES = [n if n in TYPICAL else pytest.param(n, marks=pytest.mark.slow) for n in SETS]


each_set = pytest.mark.parametrize("name", NAMES)


def draws(count=30, seed=0):
    """Yield points near a set's corners and far away, some with equals, and metrics."""
    rng = np.random.default_rng(seed)
    for case in range(count):
        x = rng.normal(size=6) * (0.1, 1, 10)[case % 3]
        x[rng.random(6) < 0.2] = 0
        yield x.round(1) if case % 5 == 0 else x, 10.0 ** rng.uniform(-2, 2, 6)
