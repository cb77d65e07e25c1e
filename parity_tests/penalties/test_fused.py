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
    fused_lasso_value,
    fused_lasso_vertices,
    left_of_projection,
)

ratios = pytest.mark.parametrize("ratio", [0.0, 0.4, 1.0])


# JAX compiles for long; test_acceptance.py has quick tests of both.
pytestmark = pytest.mark.slow_in_jax


@functools.cache
def penalty(twin_name, ratio):
    module = LIBS[twin_name]
    return module.fused_lasso(ratio) if ratio else module.total_variation()


def call(twin, ratio, method, *arguments, dtype="float64"):
    arrays = (twin.array(a, dtype) for a in arguments)
    return twin.numpy(getattr(penalty(twin.name, ratio), method)(*arrays))


@functools.cache
def signals(n):
    """Noise, walks, steps, and thirds with many ties, row by row; thresholds, too."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(12, n))
    x[3:6] = np.cumsum(x[3:6], 1)
    x[6:9] = np.repeat(x[6:9], 3, 1)[:, :n] + 0.1 * x[9:12]
    x[9:12] = rng.integers(-3, 4, size=(3, n)) / 3
    t = rng.exponential(size=(12, 1))
    t[9:12] = [[1 / 3], [2 / 3], [2]]
    return x, t


def variation_residual(u, slopes, t):
    """How far `-slopes` is from `t *` the subdifferential, in the dual's numbers."""
    sums, jumps = np.cumsum(slopes, -1), np.sign(np.diff(u))
    inner = sums[:, :-1]
    free = np.maximum(np.abs(inner) - t, 0)
    off = np.where(jumps == 0, free, np.abs(inner - t * jumps))
    return np.maximum(np.abs(sums[:, -1]), off.max(1))


@pytest.mark.parametrize("n", [2, 6, 97, pytest.param(2500, marks=pytest.mark.slow)])
def test_the_dual_of_the_prox_is_feasible_and_tight(twin, n):
    x, t = signals(n)
    u = call(twin, 0.0, "prox", x, t)
    residual = variation_residual(u, u - x, t)
    assert (residual <= 4e-15 * n**0.5 * np.abs(x).max(1)).all()
    distance = call(twin, 0.0, "optimality_distance", u, u - x, t)
    assert (distance <= 1e-15 * n**0.5 * np.abs(x).max(1, keepdims=True)).all()


@ratios
def test_prox_and_distances_against_the_polyhedron(twin, ratio):
    vertices = fused_lasso_vertices(ratio, 6)
    (x, t), v = signals(6), np.random.default_rng(0).normal(size=(12, 6))
    p = call(twin, ratio, "prox", x, t)
    y = np.round(x)
    distance = call(twin, ratio, "optimality_distance", y, -v, t)
    slope = call(twin, ratio, "subgradient", y, t)
    zero = np.zeros(6)
    for i in range(12):
        scaled = t[i] * vertices
        for actual, expected in (
            (p[i], left_of_projection(scaled, zero, x[i])),
            (distance[i], np.abs(left_of_projection(scaled, y[i], v[i]))),
            (slope[i], -left_of_projection(scaled, y[i], zero)),
        ):
            np.testing.assert_allclose(actual, expected, atol=2e-14)


@ratios
def test_three_point_inequality_and_firm_nonexpansiveness(twin, ratio):
    value = fused_lasso_value(ratio)
    rng = np.random.default_rng(1)
    x, t = signals(97)
    y = x + rng.normal(size=x.shape)
    p, q = (call(twin, ratio, "prox", z, t) for z in (x, y))
    assert (((p - q) ** 2).sum(1) <= ((p - q) * (x - y)).sum(1) * (1 + 1e-12)).all()
    for i in range(12):
        for u in (0 * x[i], x[i], p[i] + 1e-3 * rng.normal(size=97), y[i]):
            left = 2 * t[i] * (value(p[i]) - value(u))
            right = ((u - x[i]) ** 2 - (u - p[i]) ** 2 - (p[i] - x[i]) ** 2).sum()
            assert left <= right + 1e-13 * ((x[i] ** 2).sum() + (u**2).sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ratio", "dtype"),
    [(0.4, "float64"), (0.0, "float32")]
    + [
        pytest.param(ratio, dtype, marks=pytest.mark.slow)
        for ratio in (0.0, 0.4, 1.0)
        for dtype in DTYPES
    ],
)
def test_twins_are_bitwise_equal(ratio, dtype):
    x, t = signals(97)
    grad, y = np.random.default_rng(2).normal(size=x.shape), np.round(x)
    for method, arguments in (
        ("prox", (x, t)),
        ("subgradient", (y, t)),
        ("optimality_distance", (y, grad, t)),
    ):
        ours, theirs = (
            twin.numpy(
                twin.jit(getattr(penalty(twin.name, ratio), method))(
                    *(twin.array(a, dtype) for a in arguments)
                )
            )
            for twin in TWINS
        )
        assert_bitwise(ours, theirs)


def test_pieces_are_equal_and_zeros_are_exact(twin):
    x, t = signals(97)
    u = call(twin, 0.4, "prox", x, t)
    assert ((u == 0).any(1) | (t[:, 0] < 0.5)).all()
    jumps = np.abs(np.diff(u[:9]))  # not of the thirds, which stand on knives' edges
    assert jumps[jumps != 0].min() > 1e-9
    assert (jumps == 0).mean() > 0.3


@ratios
def test_rows_are_apart_and_have_their_own_thresholds(twin, ratio):
    x = signals(6)[0].reshape(2, 6, 6)
    t = np.array([0.1, 1.0, 0.0, np.inf, 3.0, 0.5] * 2).reshape(2, 6, 1)
    together = call(twin, ratio, "prox", x, t)
    for index in ((0, 0), (1, 1), (1, 4)):
        alone = call(twin, ratio, "prox", x[index], t[index][0])
        np.testing.assert_array_equal(together[index], alone)
    np.testing.assert_array_equal(together[0, 2], x[0, 2])
    flat = together[:, 3]
    means = x[:, 3].mean(1, keepdims=True) * (ratio == 0)
    assert (flat == flat[:, :1]).all()
    np.testing.assert_allclose(flat, means + 0 * flat, atol=1e-15)


@ratios
def test_value_and_its_derivative(twin, ratio):
    x = np.array([[2.0, 0.0, 0.0, 1.0, 1.0, -3.0], [0.5, 0.5, 0.25, 0.0, 0.0, 0.0]])
    expected = 0.7 * fused_lasso_value(ratio)(x)
    np.testing.assert_allclose(call(twin, ratio, "value", x, 0.7), expected, rtol=1e-15)
    p = penalty(twin.name, ratio)
    slope = twin.grad(lambda x: p.value(x, 0.7))(twin.array(x))
    np.testing.assert_allclose(
        twin.numpy(slope), call(twin, ratio, "subgradient", x, 0.7), atol=1e-15
    )
    by_strength = twin.grad(lambda s: p.value(twin.array(x), s))(twin.array(0.7))
    np.testing.assert_allclose(twin.numpy(by_strength), expected / 0.7, rtol=1e-14)


@ratios
def test_gradient_through_the_prox(twin, ratio):
    x, t = signals(6)
    x, t, h = x[:9], t[:9], 1e-6
    c = np.random.default_rng(5).normal(size=x.shape)
    p = penalty(twin.name, ratio)

    def scalar(z, t):
        return (twin.array(c) * p.prox(z, t)).sum()

    def slope(x, t, dx, dt):
        ahead, back = (
            (c * call(twin, ratio, "prox", x + e * dx, t + e * dt)).sum(1)
            for e in (h, -h)
        )
        return (ahead - back) / (2 * h)

    by_x = twin.numpy(twin.grad(lambda z: scalar(z, twin.array(t)))(twin.array(x)))
    by_t = twin.numpy(twin.grad(lambda t: scalar(twin.array(x), t))(twin.array(t)))
    for i, direction in enumerate(np.eye(6)):
        np.testing.assert_allclose(by_x[:, i], slope(x, t, direction, 0), atol=1e-8)
    np.testing.assert_allclose(by_t[:, 0], slope(x, t, 0, 1), atol=1e-8)
    flat = twin.grad(lambda z: scalar(z, twin.array(t)))(twin.array(0 * x))
    assert np.isfinite(twin.numpy(flat)).all()


@ratios
def test_lambda_max(twin, ratio):
    # The dual norm: the greatest <v, u> / penalty(u), which intervals attain.
    value, rng = fused_lasso_value(ratio), np.random.default_rng(6)
    v = np.r_[rng.normal(size=(4, 6)), rng.integers(-4, 5, size=(4, 6)) / 4]
    if ratio == 0:
        v[:, -1] = -v[:, :-1].sum(1)
    steps = np.r_[np.zeros((1, 6)), np.tril(np.ones((6, 6)))]
    tests = [b - a for a, b in itertools.combinations(steps, 2)]
    tests += list(rng.integers(-1, 2, size=(200, 6)).astype(float))
    tests = [u / value(u) for u in tests if value(u) > 0]
    bounds = np.array([call(twin, ratio, "lambda_max", row) for row in v])
    expected = np.abs(v @ np.transpose(tests)).max(1)
    np.testing.assert_allclose(bounds, expected, rtol=1e-14, atol=1e-15)
    whole = call(twin, ratio, "lambda_max", v)
    np.testing.assert_allclose(whole, bounds.max(), rtol=1e-15)
    for factor, stationary in ((1 + 1e-9, True), (1 - 1e-6, False)):
        strength = factor * bounds[:, None]
        distance = call(twin, ratio, "optimality_distance", 0 * v, v, strength)
        assert ((distance.max(1) <= 1e-14) == stationary).all()
    if ratio == 0:
        assert call(twin, ratio, "lambda_max", np.array([1.0, 0.5])) == np.inf


@ratios
@pytest.mark.parametrize(
    "dtype",
    [pytest.param(d, marks=pytest.mark.slow if d != "float64" else ()) for d in DTYPES],
)
def test_special_values(twin, ratio, dtype):
    p = penalty(twin.name, ratio)
    x = np.array([0.5, -0.0, -2.0, 0.25])
    for t in (0.0, twin.array(0.0)):
        y = twin.numpy(p.prox(twin.array(x, dtype), t))
        np.testing.assert_array_equal(y, x)
        assert not np.signbit(y[1])
    assert np.isnan(twin.numpy(p.prox(twin.array(x, dtype), twin.array(-1.0)))).all()
    assert np.isnan(twin.numpy(p.subgradient(twin.array(x), twin.array(-1.0)))).all()
    for bad in (np.nan, np.inf):
        y = call(twin, ratio, "prox", [[1.0, bad, 2.0], [1.0, 2.0, 3.0]], 1.0)
        assert not np.isfinite(y[0, 1])
        assert np.isfinite(y[1]).all()
    nan = np.array([1.0, np.nan, 2.0])
    assert np.isnan(call(twin, ratio, "subgradient", nan, 1.0)[1])
    assert np.isnan(call(twin, ratio, "optimality_distance", nan, 0 * x[:3], 1.0)[1])
    for one in (nan, np.array(np.nan)):
        assert np.isnan(call(twin, ratio, "lambda_max", one))
    for shape in ((), (0,), (1,), (3, 0), (2, 1)):
        y = call(twin, ratio, "prox", np.full(shape, 3.0), 1.0)
        np.testing.assert_array_equal(y, np.full(shape, 3.0 - ratio))
        distance = call(twin, ratio, "optimality_distance", y, y - 3, 1.0)
        assert distance.shape == shape
        assert distance.max(initial=0) <= 1e-15


def test_bad_input(twin):
    module = twin.lib
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"l1_ratio must be .* got {ratio}"):
            module.fused_lasso(ratio)
    with pytest.raises(TypeError, match="l1_ratio must be .* got '1'"):
        module.fused_lasso("1")
    p, x, each = module.total_variation(), np.ones((2, 3)), twin.array(np.ones((2, 3)))
    for method in (p.prox, p.subgradient, p.value):
        with pytest.raises(ValueError, match=r"of shape \(2, 3\) differs along the"):
            method(twin.array(x), each)
    with pytest.raises(ValueError, match=r"parameter 'a.w' of shape \(2, 3\)"):
        p.require_fit("a.w", (2, 3), (3,))
    p.require_fit("a.w", (2, 3), (2, 1))
    with pytest.raises(ValueError, match="threshold must be .* got -1"):
        p.prox(twin.array(x), -1.0)
    assert pickle.loads(pickle.dumps(p)) == p == module.fused_lasso(0)
    assert p.convex
    assert p.has_subgradient
    assert not p.takes_metric
