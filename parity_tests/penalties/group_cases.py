"""The group penalties in either framework, compiled, and what they are tried on."""

import functools

import numpy as np
import pytest

from parity_tests.frameworks.twins import JAX, TWINS
from parity_tests.oracles.formulas.groups import PENALTIES


@functools.cache
def penalty_of(twin, name):
    """Return a penalty of the formulas, by its name."""
    return PENALTIES[name].make(twin.lib)


@functools.cache
def compiled(twin, name, method):
    """Return one of its methods, compiled."""
    return twin.jit(getattr(penalty_of(twin, name), method))


# JAX compiles each function anew, so that most of its cases are slow tests; torch runs
# them all, and the twins are compared.
FAST = ("sparse_group_l1(0.3, groups={'a': [0, 3], ...})",)


def marked(twin, name):
    """Return a case, slow where JAX would compile it."""
    marks = pytest.mark.slow if twin is JAX and name not in FAST else ()
    return pytest.param((twin, name), marks=marks, id=f"{twin.name}-{name}")


each_case = pytest.mark.parametrize(
    "case", [marked(twin, name) for twin in TWINS for name in PENALTIES]
)


def draw(name, seed=0, count=()):
    """Return random weights of the shape that fits a penalty."""
    return np.random.default_rng(seed).normal(size=(*count, *PENALTIES[name].shape))


def solved(twin, name, x, t, dtype="float64"):
    """Return the prox of a penalty, in numpy."""
    prox = compiled(twin, name, "prox")
    return twin.numpy(prox(twin.array(x, dtype), twin.array(t, dtype)))


def thresholds(rng, shape):
    """Yield a scalar, and metrics within a factor of 10 and of 1e6."""
    yield np.array(rng.uniform(0.1, 1))
    yield rng.uniform(0.1, 1, size=shape)
    yield 10 ** rng.uniform(-5, 1, size=shape)
