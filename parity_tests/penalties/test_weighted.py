import functools
import math
import pickle

import numpy as np
import pytest
import scipy.sparse

from parity_tests.frameworks.twins import DTYPES, JAX, TORCH, assert_bitwise

WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0, np.inf, 0.25])
BY_PATH = {"layer.w": WEIGHTS, "head": np.array(2.0)}


@functools.cache
def penalty(name):
    twin = JAX if name == "jax" else TORCH
    return twin.lib.weighted_l1(WEIGHTS)


def expected_prox(x, t):
    """Element by element; 0 * inf does not arise."""
    out = np.empty(np.broadcast_shapes(x.shape, np.shape(t), WEIGHTS.shape))
    for i in np.ndindex(out.shape):
        w, u = WEIGHTS[i[-1]], np.broadcast_to(x, out.shape)[i]
        level = np.broadcast_to(t, out.shape)[i]
        level = math.inf if w == math.inf else 0.0 if w == 0 else w * level
        out[i] = math.copysign(max(abs(u) - level, 0), u)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_prox_is_a_soft_threshold_of_each_element(twin, dtype):
    rng = np.random.default_rng(0)
    x = 2 * rng.normal(size=(50, 6)).astype(np.float32)
    x = twin.numpy(twin.array(x, dtype)).astype(np.float64)
    array = np.exp(rng.normal(size=(50, 6)))
    call = twin.jit(penalty(twin.name).prox)
    for t in (0.0, 0.3, 1e30, np.inf, array):
        y = call(twin.array(x, dtype), twin.array(t, "float32"))
        assert twin.dtype(y) == dtype
        y = twin.numpy(y)
        tolerance = {"float16": 1e-3, "bfloat16": 8e-3}.get(dtype, 2e-7)
        np.testing.assert_allclose(y, expected_prox(x, t), rtol=tolerance, atol=1e-6)
        assert not np.signbit(y[y == 0]).any()
        np.testing.assert_array_equal(y[:, 4], 0)
        np.testing.assert_array_equal(y[:, 2], x[:, 2])
    y = twin.numpy(call(twin.array(np.full((2, 6), np.nan), dtype), twin.array(0.3)))
    assert np.isnan(y).all()
    y = twin.numpy(call(twin.array(np.ones(6), dtype), twin.array(-0.3)))
    assert np.isnan(y).all()


@functools.cache
def methods(name):
    one = penalty(name)

    def call(x, grad, t):
        return (
            one.prox(x, t),
            one.subgradient(x, t),
            one.optimality_distance(x, grad, t),
        )

    return (JAX if name == "jax" else TORCH).jit(call)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_twins_are_bitwise_equal(dtype):
    rng = np.random.default_rng(2)
    x, grad = rng.normal(size=(2, 1000, 6)).astype(dtype)
    x[::5] = 0
    x[:8, 1] = [np.nan, np.inf, -np.inf, -0.0, 1e30, -1e30, 1e-30, -1e-30]
    t = np.exp(2 * rng.normal(size=x.shape)).astype(dtype)
    t[-3:] = np.array([0, 1e30, np.nan])[:, None]
    for threshold in (t, np.asarray(0.7, dtype)):
        both = [
            methods(twin.name)(*(twin.array(v, dtype) for v in (x, grad, threshold)))
            for twin in (JAX, TORCH)
        ]
        for actual, desired in zip(*both, strict=True):
            assert_bitwise(JAX.numpy(actual), TORCH.numpy(desired))


def test_value_subgradient_and_optimality(twin):
    one = penalty(twin.name)
    x = np.array([1.0, -2.0, 3.0, 0.0, 0.0, -4.0])
    finite = np.where(np.isinf(WEIGHTS), 0, WEIGHTS)
    value = one.value(twin.array(x), 0.5)
    np.testing.assert_allclose(twin.numpy(value), 0.5 * (finite * np.abs(x)).sum())
    slope = twin.numpy(one.subgradient(twin.array(x), 0.5))
    np.testing.assert_array_equal(slope, 0.5 * finite * np.sign(x))
    derivative = twin.grad(lambda x: one.value(x, 0.5))(twin.array(x))
    np.testing.assert_array_equal(twin.numpy(derivative), slope)
    grad = np.array([-0.25, 0.0, 0.1, -0.7, 9.0, 0.0])
    distance = one.optimality_distance(twin.array(x), twin.array(grad), 0.5)
    expected = [0.0, 1.0, 0.1, 0.2, 0.0, 0.125]
    np.testing.assert_allclose(twin.numpy(distance), expected, rtol=1e-14)
    x[4] = 1e-3  # outside the domain
    assert twin.numpy(one.value(twin.array(x), 0.5)) == np.inf
    assert np.isnan(twin.numpy(one.subgradient(twin.array(x), 0.5))[4])
    distance = one.optimality_distance(twin.array(x), twin.array(grad), 0.5)
    assert twin.numpy(distance)[4] == np.inf


def test_lambda_max(twin):
    one = penalty(twin.name)
    grad = np.array([0.5, -3.0, 100.0, 1.2, 100.0, 0.1])
    largest = float(twin.numpy(one.lambda_max(twin.array(grad))))
    assert largest == pytest.approx(1.5)
    x = np.zeros(6)
    for strength, held in ((largest, True), (largest * 0.999, False)):
        distance = one.optimality_distance(twin.array(x), twin.array(grad), strength)
        counted = np.delete(twin.numpy(distance), 2)
        assert (counted.max() == 0) == held
    nothing = twin.lib.weighted_l1([0.0, np.inf]).lambda_max(twin.array([1.0, 2.0]))
    assert twin.numpy(nothing) == 0


def test_adaptive_weights_are_inverse_powers_of_the_pilot(twin):
    pilot = np.array([2.0, -0.5, 0.0, 4.0])
    x, t = np.full(4, 3.0), 0.5
    for power, weights in (
        (1.0, [0.5, 2, np.inf, 0.25]),
        (2, [0.25, 4, np.inf, 1 / 16]),
    ):
        one = twin.lib.adaptive_l1(twin.array(pilot), power)
        y = twin.numpy(one.prox(twin.array(x), t))
        np.testing.assert_allclose(y, np.maximum(x - t * np.array(weights), 0))
        assert not one.finite
    one = twin.lib.adaptive_l1({"w": twin.array(pilot), "b": twin.array([1.0])})
    y = twin.numpy(one.at("w", (4,)).prox(twin.array(x), t))
    np.testing.assert_allclose(y, [2.75, 2.0, 0.0, 2.875])
    half = twin.lib.adaptive_l1(twin.array([3.0], "bfloat16"))
    np.testing.assert_allclose(
        twin.numpy(half.prox(twin.array([1.0]), 1.0)), [2 / 3], rtol=1e-7
    )


def test_a_module_and_a_nested_tree_are_pilots():
    import torch

    layer = torch.nn.Linear(2, 1)
    one = TORCH.lib.adaptive_l1(layer)
    weight = layer.weight.detach()
    prox = one.at("weight", (1, 2)).prox(torch.ones(1, 2), 0.01)
    np.testing.assert_allclose(prox, (1 - 0.01 / weight.abs()).clamp(min=0), rtol=1e-6)
    one = JAX.lib.adaptive_l1({"layer": {"w": JAX.array([2.0])}, "none": None})
    assert one.at("layer.w", (1,)).prox(JAX.array([1.0]), 1.0) == 0.5


def test_weights_by_path(twin):
    one = twin.lib.weighted_l1(BY_PATH)
    assert "layer.w" in repr(one)
    x = np.ones(6)
    y = twin.numpy(one.at("layer.w", (6,)).prox(twin.array(x), 0.5))
    np.testing.assert_allclose(y, [0.75, 0.0, 1.0, 0.5, 0.0, 0.875])
    np.testing.assert_allclose(
        twin.numpy(one.at("head", (3, 2)).prox(twin.array(np.ones((3, 2))), 0.25)), 0.5
    )
    rows = [("layer.w", twin.array(x * [1, 1, 1, 1, 0, 1]), 1.0)]
    rows.append(("head", twin.array(np.ones((3, 2))), 0.5))
    assert float(twin.numpy(one.tree_value(rows))) == pytest.approx(3.75 + 6)
    one.at("head", (3, 2)).require_fit("head", (3, 2))
    for call in (
        lambda: one.at("tail", (6,)),
        lambda: one.tree_prox([("tail", twin.array(x), 0.5)]),
    ):
        with pytest.raises(ValueError, match=r"nothing for 'tail'.*'layer.w' \(6,\)"):
            call()
    with pytest.raises(ValueError, match=r"weights of shape \(6,\) .* 'layer.w' .*\(5"):
        one.at("layer.w", (5,)).require_fit("layer.w", (5,))
    with pytest.raises(ValueError, match=r"weights of shape \(6,\) .* of shape \(1,\)"):
        penalty(twin.name).prox(twin.array([1.0]), 0.5)
    with pytest.raises(ValueError, match=r"known by path.*at\(path, shape\)"):
        one.prox(twin.array(x), 0.5)


def test_what_it_is(twin):
    one = penalty(twin.name)
    assert one.convex
    assert one.takes_metric
    assert not one.separable
    assert not one.constraint
    assert not one.finite
    assert not one.has_subgradient
    assert one.least_slope == 0.25
    finite = twin.lib.weighted_l1({"a": [0.5, 0.0], "b": 3})
    assert finite.finite
    assert finite.has_subgradient
    assert finite.least_slope == 0.5
    assert finite.at("b", (2,)).least_slope == 0.5
    assert twin.lib.weighted_l1([0.0, np.inf]).least_slope == 0
    again = pickle.loads(pickle.dumps(one))
    x = twin.array(np.arange(6.0))
    np.testing.assert_array_equal(
        twin.numpy(again.prox(x, 0.3)), twin.numpy(one.prox(x, 0.3))
    )
    assert hash(one) == hash(one)
    assert one == penalty(twin.name)


def test_it_keeps_a_copy_of_its_weights(twin):
    weights = np.array([1.0, 2.0])
    one = twin.lib.weighted_l1(weights)
    weights[:] = 0
    y = twin.numpy(one.prox(twin.array([3.0, 3.0]), 1.0))
    np.testing.assert_array_equal(y, [2.0, 1.0])


def test_bad_input(twin):
    lib = twin.lib
    for bad in (-1.0, np.nan):
        for weights in ([[1.0, bad]], twin.array([[1.0, bad]])):
            with pytest.raises(
                ValueError, match=rf"weights must be >= 0, got {bad} at .*\(0, 1\)"
            ):
                lib.weighted_l1(weights)
    with pytest.raises(ValueError, match=r"weights\['a'\] must be >= 0, got -2"):
        lib.weighted_l1({"b": 1.0, "a": -2})
    with pytest.raises(ValueError, match=r"weights must not be empty, got {}"):
        lib.weighted_l1({})
    for wrong in ([1j], [True], [None], "a", 10**30, scipy.sparse.eye(3)):
        with pytest.raises(TypeError, match="weights must be a dense .*real numbers"):
            lib.weighted_l1(wrong)
    with pytest.raises(ValueError, match="pilot must hold no NaN, got nan at index"):
        lib.adaptive_l1(twin.array([1.0, np.nan]))
    for power in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"power must be .* got {power}"):
            lib.adaptive_l1([1.0], power)
    for power in ("1", None, True):
        with pytest.raises(TypeError, match=f"power must be .* got {power!r}"):
            lib.adaptive_l1([1.0], power)
    x = twin.array(np.ones(6))
    with pytest.raises(ValueError, match="threshold must .* got -1"):
        penalty(twin.name).prox(x, -1)
