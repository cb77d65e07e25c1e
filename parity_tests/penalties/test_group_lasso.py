"""The functions of the group penalties, against formulas."""

import functools
import itertools
import pickle

import numpy as np
import pytest

from parity_tests.frameworks.twins import DTYPES, TORCH
from parity_tests.oracles.formulas.groups import PENALTIES
from parity_tests.penalties.group_cases import (
    compiled,
    draw,
    each_case,
    penalty_of,
    solved,
    thresholds,
)

# JAX compiles for long; test_acceptance.py has quick tests of both.
pytestmark = pytest.mark.slow_in_jax


@each_case
def test_value_matches_the_formula(case):
    twin, name = case
    formula = PENALTIES[name].value
    x = draw(name)
    x.flat[0] = 0
    for scale in (1.0, 1e-200, 1e200):
        value = twin.numpy(compiled(twin, name, "value")(twin.array(scale * x)))
        np.testing.assert_allclose(value, scale * formula(x), rtol=1e-14)
    assert twin.numpy(compiled(twin, name, "value")(twin.array(0 * x))) == 0


@each_case
def test_subgradient_matches_finite_differences(case):
    twin, name = case
    formula = PENALTIES[name].value
    x, h = draw(name), 1e-6
    steps = h * np.eye(x.size).reshape(-1, *x.shape)
    expected = [0.7 * (formula(x + e) - formula(x - e)) / (2 * h) for e in steps]
    strength = twin.array(np.array(0.7))
    penalty = penalty_of(twin, name)
    by_hand = compiled(twin, name, "subgradient")
    by_value = twin.jit(twin.grad(functools.partial(penalty.value, strength=0.7)))
    slope = twin.numpy(by_hand(twin.array(x), strength))
    np.testing.assert_allclose(slope.ravel(), expected, atol=1e-8)
    np.testing.assert_allclose(twin.numpy(by_value(twin.array(x))), slope, rtol=1e-14)
    for zeros in (by_hand(twin.array(0 * x), strength), by_value(twin.array(0 * x))):
        np.testing.assert_array_equal(twin.numpy(zeros), 0 * x)


@each_case
def test_prox_satisfies_the_three_point_inequality(case):
    twin, name = case
    # 2 (g(p) - g(u)) <= |u - x|^2 - |u - p|^2 - |p - x|^2 in the metric 1/t, for all u:
    # for a convex g this says that p is the argmin.
    _, formula, shape = PENALTIES[name]
    rng = np.random.default_rng(1)
    for trial in range(6):
        x = rng.normal(size=shape)
        for t in thresholds(rng, shape):
            p = solved(twin, name, x, t)

            def square(u, t=t):
                return (u**2 / t).sum()

            candidates = [p + s * rng.normal(size=shape) for s in (1, 1e-2, 1e-4)]
            candidates += [0 * p, x, p * (1 + 1e-4), np.where(p == 0, 1e-3 * x, p)]
            for u in candidates:
                left = 2 * (formula(p) - formula(u))
                right = square(u - x) - square(u - p) - square(p - x)
                scale = square(u - x) + square(x)
                assert left <= right + 1e-13 * scale, trial


@pytest.mark.slow_in_jax
def test_prox_against_a_search_over_a_grid(twin):
    # Two elements, so that a grid refined around its best point finds the argmin.
    penalties = [
        (twin.lib.group_l1(), 0.0),
        (twin.lib.sparse_group_l1(0.4, scale_by_size=False), 0.4),
    ]
    cases = [
        ([1.0, -0.7], [0.3, 0.3]),
        ([1.0, -0.7], [1.5, 0.05]),
        ([0.3, 0.2], [0.01, 2.0]),
        ([-0.5, 0.6], [2.0, 2.0]),
        ([0.4, 0.0], [0.2, 0.6]),
    ]
    for (penalty, ratio), (x, t) in itertools.product(penalties, cases):
        x, t = np.array(x), np.array(t)
        weight = (1 - ratio) * (1.0 if ratio else np.sqrt(2))
        centre, radius = np.zeros(2), 2.0
        for _ in range(8):
            offsets = np.linspace(-radius, radius, 161)
            a, b = np.meshgrid(centre[0] + offsets, centre[1] + offsets)
            a, b = (
                np.append(a, [0, *a[0], *(0 * b[:, 0])]),
                np.append(b, [0, *(0 * a[0]), *b[:, 0]]),
            )
            loss = (a - x[0]) ** 2 / (2 * t[0]) + (b - x[1]) ** 2 / (2 * t[1])
            loss += ratio * (abs(a) + abs(b)) + weight * np.sqrt(a**2 + b**2)
            best = np.argmin(loss)
            centre, radius = np.array([a[best], b[best]]), radius / 10
        actual = twin.numpy(penalty.prox(twin.array(x), twin.array(t)))
        np.testing.assert_allclose(actual, centre, atol=2e-7)


def group_residual(u, x, a):
    """The relative error of `u_i (1 + a_i/|u|) = x_i`; for `u = 0`, an excess."""
    u, x, a = (v.astype(np.longdouble) for v in (u, x, a))
    norm = np.sqrt((u**2).sum())
    if norm == 0:
        return float(np.sqrt(((x / a) ** 2).sum()) - 1)
    return float(np.abs((u * (1 + a / norm) - x) / x).max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_metrics_that_differ_by_24_orders_in_a_group(twin, dtype):
    # The optimality conditions, element by element. The last kinds of metric are the
    # hardest found: all elements count alike, whatever their size.
    rng = np.random.default_rng(3)
    penalty = twin.lib.group_l1(1, scale_by_size=False)
    prox = twin.jit(penalty.prox)
    shape, tolerance = (100, 60), 1e-5 if dtype == "float32" else 1e-13
    wide = 10 ** rng.uniform(-8, 16, size=shape)
    cases = [
        (rng.normal(size=shape), wide * 1e-12),
        (10 ** rng.uniform(-6, 6, size=shape), wide * 1e-8),
        (rng.normal(size=shape), 10 ** rng.uniform(-5, -1, size=shape)),
        *((wide * np.sqrt(k / 60), wide) for k in (1.2, 2.0, 5.0, 20.0)),
    ]
    for x, a in cases:
        x, a = np.asarray(x, dtype), np.asarray(a, dtype)
        u = twin.numpy(prox(twin.array(x, dtype), twin.array(a, dtype)))
        for row in zip(u, x, a, strict=True):
            assert group_residual(*row) < tolerance
        assert np.isfinite(u).all()
    assert (u != 0).any()
    # About half of these groups are zero.
    a = np.asarray(a * np.sqrt(((x / a) ** 2).sum(1, keepdims=True)), dtype)
    a[::2] *= 1.001
    a[1::2] *= 0.999
    u = twin.numpy(prox(twin.array(x, dtype), twin.array(a, dtype)))
    np.testing.assert_array_equal((u == 0).all(1), np.arange(len(x)) % 2 == 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@each_case
def test_zero_and_infinite_metrics(case, dtype):
    twin, name = case
    prox = compiled(twin, name, "prox")
    x = twin.array(draw(name, 5), dtype)
    for base in (0.0, np.inf):
        for t in (np.array(base), np.full(x.shape, base)):
            y = twin.numpy(prox(x, twin.array(t, dtype)))
            expected = twin.numpy(x) * (base == 0)
            np.testing.assert_array_equal(y, expected)
    t = np.full(x.shape, 0.1)
    t.flat[0], t.flat[-1] = 0, np.inf
    y = twin.numpy(prox(x, twin.array(t, dtype)))
    assert y.flat[0] == twin.numpy(x).flat[0]
    assert y.flat[-1] == 0
    assert np.isfinite(y).all()
    assert not np.signbit(y[y == 0]).any()
    zero = twin.array(np.zeros(x.shape), dtype)
    np.testing.assert_array_equal(twin.numpy(prox(zero, zero)), 0)


@pytest.mark.parametrize("dtype", DTYPES)
@each_case
def test_special_values(case, dtype):
    twin, name = case
    prox = compiled(twin, name, "prox")
    wide = "float64" if dtype == "float64" else "float32"
    rtol = {"bfloat16": 4e-3, "float16": 1e-3, "float32": 3e-6}.get(dtype, 1e-14)
    small, large = (2.0**-10, 2.0**13) if dtype == "float16" else (2.0**-100, 2.0**122)
    first = None
    for scale in (1.0, small, large):
        # A power of 2 changes nothing but the exponents.
        x = twin.array(np.round(draw(name, 6), 1) * scale, dtype)
        for t in (np.array(0.25 * scale), np.full(x.shape, 0.25 * scale)):
            y = prox(x, twin.array(t, wide))
            assert twin.dtype(y) == dtype
            y = twin.numpy(y) / scale
            first = y if first is None else first
            np.testing.assert_allclose(y, first, rtol=rtol, atol=rtol)
    x = draw(name)
    x.flat[1] = np.nan
    for t in (np.array(0.3), np.full(x.shape, 0.3), np.array(np.inf)):
        y = twin.numpy(prox(twin.array(x, dtype), twin.array(t, wide)))
        assert np.isnan(y.flat[1])
    x.flat[1] = np.inf
    prox(twin.array(x, dtype), twin.array(np.array(0.3), wide))


@each_case
def test_negative_thresholds(case):
    twin, name = case
    x = twin.array(draw(name))
    with pytest.raises(ValueError, match="threshold must .* got -0.1"):
        penalty_of(twin, name).prox(x, -0.1)
    for x in (draw(name), 0 * draw(name)):
        t = np.full(x.shape, 0.2)
        t.flat[0] = -0.1
        assert np.isnan(solved(twin, name, x, t).flat[0])
        assert np.isnan(solved(twin, name, x, np.array(-0.1))).all()


@each_case
def test_distance_vanishes_at_the_prox_and_measures_elsewhere(case):
    twin, name = case
    _, formula, shape = PENALTIES[name]
    rng = np.random.default_rng(7)
    distance = compiled(twin, name, "optimality_distance")
    zeros = 0
    for _ in range(30):
        x = rng.normal(size=shape)
        p = solved(twin, name, x, np.array(0.6))
        values = twin.array(p), twin.array(p - x), twin.array(np.array(0.6))
        assert np.abs(twin.numpy(distance(*values))).max() < 4e-15
        zeros += (p == 0).sum()
        # The norm of the distances is that of the shortest sum of gradient and
        # subgradient, which is the steepest slope of the objective.
        grad = 2 * rng.normal(size=shape)
        d = twin.numpy(distance(twin.array(p), twin.array(grad), values[2]))
        v = np.where(d > 0, 1.0, 0.0) * -grad  # not the steepest, but a direction
        h = 1e-7 / max(np.linalg.norm(v), 1e-9)
        for direction in (v, rng.normal(size=shape), -p):
            slope = (grad * direction).sum() + 0.6 * (
                formula(p + h * direction) - formula(p)
            ) / h
            bound = np.linalg.norm(d) * np.linalg.norm(direction)
            assert slope >= -bound - 1e-5
    assert zeros > 0


@pytest.mark.slow_in_jax
def test_distance_of_zero_groups_is_exact(twin):
    # Of a group at zero: the distance of -grad to the ball, or to ball plus box.
    grad = np.array([[3.0, 4.0], [0.3, -0.4]])
    zero = twin.array(np.zeros((2, 2)))
    group = twin.lib.group_l1(1, scale_by_size=False)
    d = twin.numpy(group.optimality_distance(zero, twin.array(grad), 2.0))
    np.testing.assert_allclose(d, [[1.8, 2.4], [0, 0]], rtol=1e-15)
    sparse = twin.lib.sparse_group_l1(0.5, 1, scale_by_size=False)
    d = twin.numpy(sparse.optimality_distance(zero, twin.array(grad), 2.0))
    left = np.array(
        [2.0, 3.0]
    )  # outside the box of radius 1, then the ball of radius 1
    np.testing.assert_allclose(d[0], left * (1 - 1 / np.linalg.norm(left)), rtol=1e-15)
    np.testing.assert_array_equal(d[1], 0)


@each_case
def test_lambda_max_is_where_zero_becomes_stationary(case):
    twin, name = case
    grad = twin.array(draw(name, 8))
    zero = 0 * grad
    largest = compiled(twin, name, "lambda_max")
    distance = compiled(twin, name, "optimality_distance")
    bound = float(twin.numpy(largest(grad)))
    for factor, stationary in ((1 + 1e-12, True), (1 - 1e-9, False)):
        d = distance(zero, grad, twin.array(np.array(bound * factor)))
        assert (twin.numpy(d).max() == 0) == stationary
    assert twin.numpy(largest(zero)) == 0
    half = largest(twin.array(draw(name, 8), "bfloat16"))
    assert twin.dtype(half) == "float32"
    np.testing.assert_allclose(twin.numpy(half), bound, rtol=1e-2)


@pytest.mark.slow_in_jax
def test_strengths_of_groups(twin):
    penalty = twin.lib.sparse_group_l1(0.25, 1)
    x, grad = np.random.default_rng(13).normal(size=(2, 3, 4))
    x[1] = 0
    strength = np.array([[0.5], [0.0], [2.0]])
    each = [
        (twin.lib.sparse_group_l1(0.25), row, slope, float(s[0]))
        for row, slope, s in zip(x, grad, strength, strict=True)
    ]
    x, grad, strength = map(twin.array, (x, grad, strength))

    def stacked(call):
        return [
            twin.numpy(call(p, twin.array(r), twin.array(g), s)) for p, r, g, s in each
        ]

    for actual, expected in (
        (penalty.value(x, strength), sum(stacked(lambda p, r, g, s: p.value(r, s)))),
        (
            penalty.subgradient(x, strength),
            stacked(lambda p, r, g, s: p.subgradient(r, s)),
        ),
        (penalty.prox(x, strength), stacked(lambda p, r, g, s: p.prox(r, s))),
        (
            penalty.optimality_distance(x, grad, strength),
            stacked(lambda p, r, g, s: p.optimality_distance(r, g, s)),
        ),
    ):
        np.testing.assert_allclose(twin.numpy(actual), expected, rtol=1e-14, atol=1e-15)
    wrong = twin.array(np.ones((1, 4)))
    for call in (
        lambda: penalty.value(x, wrong),
        lambda: penalty.subgradient(x, wrong),
        lambda: penalty.optimality_distance(x, grad, wrong),
        lambda: penalty.require_fit("x", (3, 4), (1, 4)),
    ):
        with pytest.raises(ValueError, match="strength of shape .* differs within the"):
            call()
    penalty.require_fit("x", (3, 4), (3, 1))
    penalty.require_fit("x", (3, 4))


@pytest.mark.slow_in_jax
def test_ends_of_the_sparse_group_lasso(twin):
    x = twin.array(np.random.default_rng(14).normal(size=(4, 3)))
    make = twin.lib.sparse_group_l1
    for t in (0.4, float("inf"), twin.array(np.full((4, 3), 0.4))):
        for ratio, same in ((0, twin.lib.group_l1(1)), (1, twin.lib.l1())):
            np.testing.assert_array_equal(
                twin.numpy(make(ratio, 1).prox(x, t)), twin.numpy(same.prox(x, t))
            )
    assert make(0, 1) == twin.lib.group_l1(1)
    for ratio in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="l1_ratio must be .* in"):
            make(ratio)
    for ratio in ("a", True, None):
        with pytest.raises(TypeError, match="l1_ratio must be a Python number"):
            make(ratio)


@pytest.mark.slow_in_jax
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3), (1,)])
def test_empty_arrays_and_scalars(twin, shape):
    last = [{"axis": -1}, {"axis": -1, "block": 1}] if shape else []
    for kwargs in ({}, *last):
        penalty = twin.lib.sparse_group_l1(0.5, **kwargs)
        x = twin.array(np.full(shape, 3.0))
        full = twin.array(np.full(shape, 1.0))
        for t in (1.0, full):
            y = twin.numpy(penalty.prox(x, t))
            np.testing.assert_allclose(y, np.full(shape, 2.0), rtol=1e-15)
        size = np.prod(shape)
        assert twin.numpy(penalty.value(x)) == 3 * size
        assert twin.numpy(penalty.lambda_max(x)) == pytest.approx(3 * size, rel=1e-15)
        assert twin.numpy(penalty.subgradient(x)).shape == shape
        assert twin.numpy(penalty.optimality_distance(x, x)).shape == shape


@each_case
def test_a_penalty_is_a_hashable_constant(case):
    twin, name = case
    first, second = (PENALTIES[name].make(twin.lib) for _ in range(2))
    assert hash(first) == hash(second)
    assert first == second == pickle.loads(pickle.dumps(first))
    assert first.convex
    assert first.takes_metric
    assert first.has_subgradient
    assert not first.separable
    assert first.least_slope == first.l1_ratio


@pytest.mark.parametrize("name", PENALTIES)
def test_prox_in_place_equals_prox(name):
    x = TORCH.array(draw(name))
    expected = penalty_of(TORCH, name).prox(x, 0.4)
    penalty_of(TORCH, name).prox_(x, 0.4)
    np.testing.assert_array_equal(TORCH.numpy(x), TORCH.numpy(expected))


@each_case
def test_integers_are_refused(case):
    twin, name = case
    x = twin.array(np.ones(PENALTIES[name].shape), "int32")
    for call in (penalty_of(twin, name).prox, penalty_of(twin, name).value):
        with pytest.raises(TypeError, match="dtype .*int32"):
            call(x, 0.1)
