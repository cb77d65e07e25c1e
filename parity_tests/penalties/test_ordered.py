import functools
import itertools
import pickle

import numpy as np
import pytest

from parity_tests.frameworks.twins import (
    DTYPES,
    LIBS,
    TWINS,
    assert_bitwise,
)
from parity_tests.oracles.formulas.structured import (
    left_of_projection,
    owl_value,
    owl_vertices,
    slope_weights,
)

WEIGHTS = {
    "oscar": (2.0, 1.5, 1.0, 0.5, 0.0),
    "l1": (1.0,) * 5,
    "maximum": (1.5, 0.0, 0.0, 0.0, 0.0),
    "slope": tuple(slope_weights(0.3, 5)),
}
named = pytest.mark.parametrize("name", WEIGHTS)


# JAX compiles for long; test_acceptance.py has quick tests of both.
pytestmark = pytest.mark.slow_in_jax


@functools.cache
def penalty(twin_name, name):
    module = LIBS[twin_name]
    return module.slope(0.3) if name == "slope" else module.owl(WEIGHTS[name])


def call(twin, name, method, *arguments, dtype="float64", jit=lambda f: f):
    arrays = (twin.array(a, dtype) for a in arguments)
    return twin.numpy(jit(getattr(penalty(twin.name, name), method))(*arrays))


def cases(n, count=16):
    """Values and thresholds; halves with many ties every second time."""
    rng = np.random.default_rng(n)
    for i in range(count):
        x = rng.normal(size=n) if i % 2 else rng.integers(-4, 5, size=n) / 2
        yield x, rng.exponential() if i % 2 else rng.integers(1, 6) / 4


def best_clusters(x, weights, t):
    """The prox by trying all orders, and all ways to cut them into clusters."""
    n, best, argmin = len(x), np.inf, None
    for order in itertools.permutations(range(n)):
        order = list(order)
        y = np.abs(x)[order] - t * weights
        for cuts in itertools.product((False, True), repeat=n - 1):
            pieces = np.split(y, np.flatnonzero(cuts) + 1)
            levels = [np.full(len(p), max(p.mean(), 0)) for p in pieces]
            u = np.zeros(n)
            u[order] = np.concatenate(levels)
            u *= np.sign(x)
            loss = ((u - x) ** 2).sum() / 2 + t * owl_value(weights)(u)
            if loss < best:
                best, argmin = loss, u
    return argmin


def test_prox_is_the_best_of_all_clusters(twin):
    module, weights = twin.lib, (2.0, 1.0, 0.2)
    p = module.owl(weights)
    for x, t in cases(3, 12):
        u = twin.numpy(p.prox(twin.array(x), t))
        expected = best_clusters(x, np.array(weights), t)
        np.testing.assert_allclose(u, expected, atol=1e-14)


@named
def test_prox_and_distances_against_the_polyhedron(twin, name):
    vertices, rng = owl_vertices(WEIGHTS[name]), np.random.default_rng(0)
    zero = np.zeros(5)
    for x, t in cases(5, 8):
        y, v = np.round(x), rng.normal(size=5)
        p = call(twin, name, "prox", x, t)
        for actual, expected in (
            (p, left_of_projection(t * vertices, zero, x)),
            (
                call(twin, name, "optimality_distance", y, -v, t),
                np.abs(left_of_projection(t * vertices, y, v)),
            ),
            (
                call(twin, name, "subgradient", y, t),
                -left_of_projection(t * vertices, y, zero),
            ),
        ):
            np.testing.assert_allclose(actual, expected, atol=1e-13)
        distance = call(twin, name, "optimality_distance", p, p - x, t)
        assert distance.max() <= 1e-15 * (1 + np.abs(x).max())
        value = call(twin, name, "value", x, t)
        np.testing.assert_allclose(value, t * (vertices @ x).max(), rtol=1e-14)
        bound = call(twin, name, "lambda_max", v)
        for factor, stationary in ((1 + 1e-9, True), (1 - 1e-6, False)):
            left = left_of_projection(factor * bound * vertices, zero, v)
            assert (np.abs(left).max() <= 1e-12) == stationary


def test_large_arrays(twin):
    module = twin.lib
    n, rng = 400, np.random.default_rng(1)
    for weights in (np.linspace(1, 0, n), np.arange(n) < 200.0, slope_weights(0.3, n)):
        p, value = module.owl(weights), owl_value(weights)
        x, y = rng.normal(size=(2, n))
        for t in (0.03, 0.5):
            u, q = (twin.numpy(p.prox(twin.array(z), t)) for z in (x, y))
            for z in (0 * x, x, y, u * 0.999, u + 1e-3 * rng.normal(size=n)):
                left = 2 * t * (value(u) - value(z))
                right = ((z - x) ** 2 - (z - u) ** 2 - (u - x) ** 2).sum()
                assert left <= right + 1e-11 * (1 + (z**2).sum())
            assert ((u - q) ** 2).sum() <= ((u - q) * (x - y)).sum() + 1e-12
            # The sizes keep their order, the signs too; ties are exact.
            order = np.argsort(-np.abs(x))
            assert (np.diff(np.abs(u)[order]) <= 0).all()
            assert (u * x >= 0).all()
            distance = p.optimality_distance(twin.array(u), twin.array(u - x), t)
            assert twin.numpy(distance).max() <= 1e-14


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("slope", "float32")]
    + [
        pytest.param(name, dtype, marks=pytest.mark.slow)
        for name in WEIGHTS
        for dtype in DTYPES
    ],
)
def test_twins_are_bitwise_equal(name, dtype):
    rng, compiled = np.random.default_rng(2), {}
    for x, t in cases(5, 40):
        y, grad = np.round(x), rng.normal(size=5)
        for method, arguments in (
            ("prox", (x, t)),
            ("subgradient", (y, t)),
            ("optimality_distance", (y, grad, t)),
        ):
            ours, theirs = (
                call(
                    twin,
                    name,
                    method,
                    *arguments,
                    dtype=dtype,
                    jit=lambda f, key=(twin.name, method), twin=twin: (
                        compiled.setdefault(key, twin.jit(f))
                    ),
                )
                for twin in TWINS
            )
            assert_bitwise(ours, theirs)


@named
def test_derivatives(twin, name):
    p, h = penalty(twin.name, name), 1e-6
    x = np.array([2.0, 0.0, -2.0, 0.5, 0.0])
    slope = twin.numpy(twin.grad(lambda x: p.value(x, 0.7))(twin.array(x)))
    expected = call(twin, name, "subgradient", x, 0.7)
    np.testing.assert_allclose(slope, expected, atol=1e-15)
    x, c = np.random.default_rng(3).normal(size=(2, 5))
    gradient = twin.grad(lambda x: (twin.array(c) * p.prox(x, 0.2)).sum())
    by_x = twin.numpy(gradient(twin.array(x)))
    for i, d in enumerate(np.eye(5)):
        ahead, back = (call(twin, name, "prox", x + e * d, 0.2) @ c for e in (h, -h))
        np.testing.assert_allclose(by_x[i], (ahead - back) / (2 * h), atol=1e-8)
    assert np.isfinite(twin.numpy(gradient(twin.array(0 * x)))).all()


@pytest.mark.parametrize("name", ["oscar", "slope"])
def test_special_values(twin, name):
    x = np.array([0.5, -0.0, -2.0, 0.25, 1.0])
    y = call(twin, name, "prox", x, 0.0)
    np.testing.assert_array_equal(y, x)
    assert not np.signbit(y[1])
    for t in (np.inf, call(twin, name, "lambda_max", x)):
        y = call(twin, name, "prox", x, t)
        np.testing.assert_array_equal(y, 0 * np.abs(x))
        assert not np.signbit(y).any()
    for bad in (np.nan, np.inf):
        at = np.where(x == 1, bad, x)
        assert not np.isfinite(call(twin, name, "prox", at, 0.5)).any()
        for t in (0.0, np.inf):
            assert not np.isfinite(call(twin, name, "prox", at, t)[4])
    nan = np.where(x == 1, np.nan, x)
    for method, arguments in (
        ("prox", (x, -1.0)),
        ("subgradient", (x, -1.0)),
        ("subgradient", (nan, 1.0)),
        ("optimality_distance", (nan, x, 1.0)),
        ("optimality_distance", (x, nan, 1.0)),
        ("value", (nan, 1.0)),
    ):
        assert np.isnan(call(twin, name, method, *arguments)).any(), method


def test_weights_of_slope_and_empty_arrays(twin):
    p = twin.lib.slope(0.1)
    one = twin.numpy(p.subgradient(twin.array(3.0)))
    np.testing.assert_allclose(one, slope_weights(0.1, 1)[0], rtol=1e-15)
    weights = twin.numpy(p.subgradient(twin.array(np.arange(50.0, 0, -1))))
    np.testing.assert_allclose(weights, slope_weights(0.1, 50), rtol=1e-14)
    empty = twin.array(np.ones((0, 3)))
    assert twin.numpy(p.prox(empty, 1.0)).shape == (0, 3)
    assert twin.numpy(p.value(empty)) == twin.numpy(p.lambda_max(empty)) == 0


def test_bad_input(twin):
    module = twin.lib
    for weights in ((), (1.0, 2.0), (1.0, -1.0), (0.0, 0.0), (np.inf, 1.0), (np.nan,)):
        with pytest.raises(ValueError, match="weights must be finite numbers >= 0"):
            module.owl(weights)
    for q in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=f"q must be .* in .* got {q}"):
            module.slope(q)
    with pytest.raises(TypeError, match="q must be a Python number"):
        module.slope("0.1")
    p, x = module.owl([2, 1]), twin.array(np.ones(3))
    for use in (lambda: p.prox(x, 1.0), lambda: p.require_fit("w", (3,))):
        with pytest.raises(ValueError, match="2 weights, but '(x|w)' has 3 elements"):
            use()
    p.require_fit("w", (2, 1), (1, 1))
    x = twin.array(np.ones(2))
    for use in (lambda: p.prox(x, x), lambda: p.value(x, x)):
        with pytest.raises(ValueError, match=r"of shape \(2,\) differs from element"):
            use()
    assert pickle.loads(pickle.dumps(p)) == p == module.owl((2.0, 1.0))
    assert hash(p) == hash(module.owl((2.0, 1.0)))
    assert p.convex
    assert not p.takes_metric
