"""The twins' group penalties agree; slopes of their prox, and JAX's transformations."""

import functools

import jax
import numpy as np
import pytest

from parity_tests.frameworks.twins import JAX, TWINS
from parity_tests.oracles.formulas.groups import PENALTIES
from parity_tests.penalties.group_cases import (
    FAST,
    compiled,
    draw,
    each_case,
    marked,
    penalty_of,
    solved,
    thresholds,
)

METHODS = ("value", "subgradient", "prox", "optimality_distance", "lambda_max")


def arguments(twin, method, x, grad, t, dtype):
    x, grad, t = (twin.array(v, dtype) for v in (x, grad, t))
    return {
        "value": (x,),
        "subgradient": (x,),
        "prox": (x, t),
        "optimality_distance": (x, grad),
        "lambda_max": (grad,),
    }[method]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [marked(JAX, name) for name in PENALTIES])
def test_twins_agree_to_four_ulp(name, method, dtype):
    name = name[1]
    rng = np.random.default_rng(9)
    shape = PENALTIES[name].shape
    for _ in range(10 if "prox" in method else 4):
        x, grad = 10 ** rng.uniform(-3, 3) * rng.normal(size=(2, *shape))
        x.flat[0] = 0
        scale = np.abs([x, grad]).max()
        for t in thresholds(rng, shape):
            results = [
                twin.numpy(
                    compiled(twin, name, method)(
                        *arguments(twin, method, x, grad, scale * t, dtype)
                    )
                )
                for twin in TWINS
            ]
            largest = max(scale, np.abs(results).max()) if method != "prox" else scale
            ulp = np.spacing(np.asarray(largest, dtype))
            assert np.abs(results[0] - results[1]).max() <= 4 * ulp
            if method == "prox":
                np.testing.assert_array_equal(results[0] == 0, results[1] == 0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_twins_agree_on_large_arrays(dtype):
    rng = np.random.default_rng(10)
    x = rng.normal(size=(300, 2000))
    metric = 10 ** rng.uniform(-4, 0, size=x.shape)
    for kwargs in ({}, {"axis": 0}, {"axis": 1}, {"axis": 1, "block": 8}):
        for t in (np.array(0.02), 0.05 * metric):
            results = []
            for twin in TWINS:
                prox = twin.jit(twin.lib.sparse_group_l1(0.1, **kwargs).prox)
                y = prox(twin.array(x, dtype), twin.array(t, dtype))
                results.append(twin.numpy(y))
            ulp = np.spacing(np.asarray(np.abs(x).max(), dtype))
            assert np.abs(results[0] - results[1]).max() <= 4 * ulp
            np.testing.assert_array_equal(results[0] == 0, results[1] == 0)


@functools.cache
def slopes(twin, name):
    """The derivatives of `weights * prox(x, t)` by x and by t, compiled."""

    def weighted(x, t, weights):
        return (weights * penalty_of(twin, name).prox(x, t)).sum()

    return twin.jit(
        lambda x, t, weights: (
            twin.grad(lambda x: weighted(x, t, weights))(x),
            twin.grad(lambda t: weighted(x, t, weights))(t),
        )
    )


@each_case
def test_gradients_through_the_prox(case):
    # Against central differences, where no element or group is about to be zero.
    twin, name = case
    shape = PENALTIES[name].shape
    rng = np.random.default_rng(11)
    x, weights = 2 * rng.normal(size=(2, *shape))
    for t in thresholds(rng, shape):
        t, h = 0.3 * t, 1e-6

        def total(x, t):
            return (weights * solved(twin, name, x, t)).sum()

        arrays = (twin.array(v) for v in (x, t, weights))
        by_x, by_t = map(twin.numpy, slopes(twin, name)(*arrays))
        for found, dx, dt in ((by_x, h, 0), (by_t, 0, h)):
            steps = np.eye(found.size).reshape(-1, *found.shape)
            expected = [
                (total(x + e * dx, t + e * dt) - total(x - e * dx, t - e * dt))
                / (2 * h)
                for e in steps
            ]
            np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5, atol=1e-7)


@each_case
def test_gradients_at_zeros_are_numbers(case):
    twin, name = case
    x = draw(name)
    x.flat[0] = 0
    weights = twin.array(np.ones_like(x))
    for start in (x, 0 * x, 1e-9 * x):
        for t in (np.array(0.3), np.full(x.shape, 0.3), 0 * x, np.array(0.0)):
            found = slopes(twin, name)(twin.array(start), twin.array(t), weights)
            assert all(np.isfinite(twin.numpy(slope)).all() for slope in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_jax_transformations(name):
    # No NaN inside, abstract values, a batch, and no second compilation.
    penalty = penalty_of(JAX, name)
    shape = PENALTIES[name].shape
    x = draw(name, 12, (4,))
    x[0] = 0
    x[1].flat[0] = 0
    for t in (np.array(0.3), np.full(shape, 0.3), np.zeros(shape)):
        batch = jax.jit(jax.vmap(penalty.prox, (0, None)))(x, jax.numpy.asarray(t))
        with jax.debug_nans(True):
            single = [penalty.prox(JAX.array(row), JAX.array(t)) for row in x]
            jax.grad(lambda x, t=t: penalty.prox(x, JAX.array(t)).sum())(x[0])
            jax.grad(penalty.value)(x[0])
            penalty.optimality_distance(x[0], x[2])
        np.testing.assert_allclose(batch, single, rtol=1e-14, atol=1e-15)
    half = jax.ShapeDtypeStruct(shape, "bfloat16")
    assert jax.eval_shape(lambda x: penalty.prox(x, 0.1), half).dtype == "bfloat16"
