"""Numbers of weights: the best of all supports, and blocks along any axis."""

import itertools

import numpy as np
import pytest

from parity_tests.penalties.sets import NAMES, SETS, draws, prox

# JAX compiles for long; test_acceptance.py has quick tests of both.
pytestmark = pytest.mark.slow_in_jax

COUNTS = [row for row in NAMES if "ball" not in str(row)]


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_the_best_of_all_supports(twin, name):
    value = SETS[name].value
    supports = np.array(list(itertools.product([0, 1], repeat=6)))
    supports = supports[[value(s) == 0 for s in supports]]
    for x, t in draws():
        for metric in (0.3, t):
            p = prox(twin, name, x, metric)
            cost = ((supports * x - x) ** 2 / metric).sum(1)
            assert value(p) == 0
            assert np.isin(p, [0, *x]).all()
            np.testing.assert_allclose(((p - x) ** 2 / metric).sum(), cost.min())


def test_n_of_m_along_other_axes(twin):
    x = np.random.default_rng(0).normal(size=(2, 8, 3)).round(1)
    blocks = np.moveaxis(x, 1, -1).reshape(-1, 4)
    expected = np.zeros_like(blocks)
    for i, block in enumerate(blocks):
        kept = np.argsort(-np.abs(block), kind="stable")[:2]
        expected[i, kept] = block[kept]
    expected = np.moveaxis(expected.reshape(2, 3, 8), -1, 1)
    for axis in (1, -2):
        penalty = twin.lib.n_of_m(2, 4, axis)
        p = twin.numpy(twin.jit(penalty.prox)(twin.array(x), 1.0))
        np.testing.assert_array_equal(p, expected)
