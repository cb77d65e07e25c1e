import functools
import pickle

import numpy as np
import pytest

from parity_tests.frameworks.twins import DTYPES, LIBS, TWINS
from parity_tests.oracles.formulas.structured import nuclear_value

EPS = {"float32": 2.0**-23, "float64": 2.0**-52, "bfloat16": 2.0**-8, "float16": 2e-3}
SHAPES = [(2, 3), (4, 4), (2, 5, 3)]


# JAX compiles for long; test_acceptance.py has quick tests of both.
pytestmark = pytest.mark.slow_in_jax


@functools.cache
def penalty(twin_name):
    return LIBS[twin_name].nuclear()


def call(twin, method, *arguments, dtype="float64"):
    arrays = (twin.array(a, dtype) for a in arguments)
    return twin.numpy(getattr(penalty(twin.name), method)(*arrays))


def matrices(shape):
    """Of full rank, of rank one, with equal singular values, zero."""
    rng = np.random.default_rng(0)
    yield rng.normal(size=shape)
    yield rng.normal(size=(*shape[:-1], 1)) * rng.normal(size=shape[-1])
    yield np.broadcast_to(np.eye(*shape[-2:]), shape).copy()
    yield np.zeros(shape)


def test_on_diagonal_matrices_it_is_l1(twin):
    d = np.array([3.0, -0.5, 0.0, 1.5])
    p = call(twin, "prox", np.diag(d), 1.0)
    np.testing.assert_allclose(p, np.diag([2.0, 0.0, 0.0, 0.5]), atol=1e-15)
    np.testing.assert_allclose(call(twin, "value", np.diag(d), 0.7), 3.5, rtol=1e-15)
    slope = call(twin, "subgradient", np.diag(d), 0.7)
    np.testing.assert_allclose(slope, np.diag([0.7, -0.7, 0, 0.7]), atol=1e-15)
    grad = np.diag([0.1, 0.2, 1.0, -0.3])
    distance = call(twin, "optimality_distance", np.diag(d), grad, 0.7)
    np.testing.assert_allclose(distance, np.diag([0.8, 0.5, 0.3, 0.4]), atol=1e-15)
    assert call(twin, "lambda_max", np.diag(d)) == 3.0


def test_distance_against_the_dual_ball(twin):
    # The nearest slope by Frank-Wolfe's away steps would be slow; here the distance is
    # checked by what defines a projection: no slope lies further along what is left.
    rng = np.random.default_rng(2)
    u, _, v = np.linalg.svd(rng.normal(size=(4, 3)), full_matrices=False)
    x, grad = (u[:, :1] * 2.0) @ v[:1], rng.normal(size=(4, 3))
    rows, columns = np.eye(4) - u[:, :1] @ u[:, :1].T, np.eye(3) - v[:1].T @ v[:1]
    for strength in (0.3, 0.9, 2.0):
        target = -grad
        size = call(twin, "optimality_distance", x, grad, strength)
        # Recover the signs by the closed set's own least distance.
        outer = rows @ target @ columns
        a, s, b = np.linalg.svd(outer, full_matrices=False)
        slope = strength * u[:, :1] @ v[:1] + (a * np.minimum(s, strength)) @ b
        left = target - slope
        np.testing.assert_allclose(size, np.abs(left), atol=1e-14)
        for _ in range(200):
            w = rows @ rng.normal(size=(4, 3)) @ columns
            w *= strength / np.linalg.norm(w, 2)
            other = strength * u[:, :1] @ v[:1] + w
            assert (left * (other - slope)).sum() <= 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_its_derivative(twin, shape):
    p = penalty(twin.name)
    for x in matrices(shape):
        value = call(twin, "value", x, 0.7)
        np.testing.assert_allclose(value, 0.7 * nuclear_value(x), rtol=1e-14)
        slope = twin.numpy(twin.grad(lambda x: p.value(x, 0.7))(twin.array(x)))
        np.testing.assert_allclose(slope, call(twin, "subgradient", x, 0.7), atol=1e-14)
        # The element of smallest norm: those of the zero singular values are left out.
        norms = np.linalg.norm(slope, axis=(-2, -1)) ** 2 / 0.49
        np.testing.assert_allclose(norms, np.linalg.matrix_rank(x), atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (3, 3)])
def test_gradient_through_the_prox(twin, shape):
    rng, h = np.random.default_rng(3), 1e-6
    x, c, d = rng.normal(size=(3, *shape))
    p = penalty(twin.name)
    for t in (0.5, 1.5):
        gradient = twin.grad(lambda x, t=t: (twin.array(c) * p.prox(x, t)).sum())
        actual = (twin.numpy(gradient(twin.array(x))) * d).sum()
        ahead, back = ((c * call(twin, "prox", x + e * d, t)).sum() for e in (h, -h))
        np.testing.assert_allclose(actual, (ahead - back) / (2 * h), atol=1e-8)
        by_t = twin.grad(lambda t: (twin.array(c) * p.prox(twin.array(x), t)).sum())
        ahead, back = ((c * call(twin, "prox", x, t + e)).sum() for e in (h, -h))
        actual = twin.numpy(by_t(twin.array(t)))
        np.testing.assert_allclose(actual, (ahead - back) / (2 * h), atol=1e-8)
        for degenerate in (np.zeros(shape), 2 * np.eye(*shape), np.eye(*shape)):
            assert np.isfinite(twin.numpy(gradient(twin.array(degenerate)))).all()
    # With equal singular values, too.
    x = 2 * np.eye(*shape)
    ahead, back = ((c * call(twin, "prox", x + e * d, 0.5)).sum() for e in (h, -h))
    gradient = twin.grad(lambda x: (twin.array(c) * p.prox(x, 0.5)).sum())
    actual = (twin.numpy(gradient(twin.array(x))) * d).sum()
    np.testing.assert_allclose(actual, (ahead - back) / (2 * h), atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_twins_agree(dtype):
    rng = np.random.default_rng(4)
    for shape in SHAPES:
        for x in matrices(shape):
            grad = rng.normal(size=shape)
            for method, arguments in (
                ("prox", (x, 0.8)),
                ("prox", (x, np.full((*shape[:-2], 1, 1), 0.8))),
                ("subgradient", (x, 0.8)),
                ("optimality_distance", (x, grad, 0.8)),
                ("value", (x, 0.8)),
            ):
                results = [
                    twin.numpy(
                        twin.jit(getattr(penalty(twin.name), method))(
                            *(twin.array(a, dtype) for a in arguments)
                        )
                    )
                    for twin in TWINS
                ]
                scale = 1 + max(np.abs(x).max(), np.abs(grad).max())
                limit = 8 * EPS[dtype] * scale * max(shape)
                assert np.abs(results[0] - results[1]).max() <= limit


def test_thresholds(twin):
    x = np.random.default_rng(5).normal(size=(3, 2, 4))
    x[0, 0, 0] = -0.0
    t = np.array([0.0, 0.7, np.inf]).reshape(3, 1, 1)
    p = call(twin, "prox", x, t)
    np.testing.assert_array_equal(p[0], x[0])
    np.testing.assert_allclose(p[1], call(twin, "prox", x[1], 0.7), atol=1e-15)
    np.testing.assert_array_equal(p[2], np.zeros((2, 4)))
    top = np.linalg.svd(x[1], compute_uv=False)[0]
    none = call(twin, "prox", x[1], top * (1 + 1e-12))
    np.testing.assert_array_equal(none, np.zeros((2, 4)))
    for zeros in (p, none):
        assert not np.signbit(zeros[zeros == 0]).any()
    np.testing.assert_allclose(call(twin, "lambda_max", x[1]), top, rtol=1e-14)
    assert np.isnan(call(twin, "prox", x[1], -1.0)).all()
    assert np.linalg.matrix_rank(call(twin, "prox", x[1], top * 0.999)) == 1


def test_special_values(twin):
    x = np.random.default_rng(6).normal(size=(3, 2, 4))
    x[0, 0, 1], x[1, 1, 1] = np.nan, np.inf
    for method, arguments in (
        ("prox", (x, 0.5)),
        ("subgradient", (x, 0.5)),
        ("optimality_distance", (x, np.ones_like(x), 0.5)),
        ("optimality_distance", (np.ones_like(x), x, 0.5)),
    ):
        y = call(twin, method, *arguments)
        assert np.isnan(y[:2]).all(), method
        assert np.isfinite(y[2]).all(), method
    assert np.isnan(call(twin, "value", x))
    for shape in ((0, 3), (3, 0), (0, 2, 3), (2, 0, 3)):
        empty = np.ones(shape)
        assert call(twin, "prox", empty, 1.0).shape == shape
        assert call(twin, "subgradient", empty).shape == shape
        assert call(twin, "optimality_distance", empty, empty).shape == shape
        assert call(twin, "value", empty) == call(twin, "lambda_max", empty) == 0


def test_bad_input(twin):
    p, x = penalty(twin.name), twin.array(np.ones((2, 3)))
    for shape in ((), (3,)):
        with pytest.raises(ValueError, match="'a.w' of shape .* is no matrix"):
            p.require_fit("a.w", shape)
        with pytest.raises(ValueError, match="is no matrix"):
            p.prox(twin.array(np.ones(shape)), 1.0)
    for use in (lambda: p.prox(x, x), lambda: p.value(x, x)):
        with pytest.raises(ValueError, match=r"of shape \(2, 3\) differs inside"):
            use()
    with pytest.raises(ValueError, match="threshold must be .* got -1"):
        p.prox(x, -1.0)
    assert pickle.loads(pickle.dumps(p)) == p
    assert p.convex
    assert not p.takes_metric
