import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from parity_tests.frameworks.twins import DTYPES, JAX, TORCH, assert_bitwise
from parity_tests.oracles import optima

PROXES = {
    "soft_threshold": (
        lambda twin: twin.prox.soft_threshold,
        optima.l1_value,
    ),
    "nonnegative_l1": (
        lambda twin: twin.prox.prox_nonnegative_l1,
        optima.nonnegative_l1_value,
    ),
    "elastic_net": (
        lambda twin: functools.partial(twin.prox.prox_elastic_net, l1_ratio=0.3),
        optima.elastic_net_value(0.3),
    ),
    "ridge": (
        lambda twin: functools.partial(twin.prox.prox_elastic_net, l1_ratio=0.0),
        optima.elastic_net_value(0.0),
    ),
}


@pytest.fixture(params=PROXES)
def named_prox(request):
    return PROXES[request.param]


WIDE = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)
THRESHOLDS = st.floats(0, 2.0**100, width=32, allow_subnormal=False)
SHAPES = st.sampled_from(
    [(), (0,), (1,), (9,), (2, 0), (2, 3), (2, 1, 3), (2, 3, 1, 2)]
)


@functools.cache
def jitted(name):
    return JAX.jit(PROXES[name][0](JAX))


@hypothesis.settings(max_examples=100)
@hypothesis.given(data=st.data(), dtype=st.sampled_from(["float32", "float64"]))
@pytest.mark.parametrize("name", PROXES)
def test_twins_are_bitwise_equal(name, data, dtype):
    x = data.draw(hnp.arrays(dtype, SHAPES, elements=WIDE))
    shape = data.draw(st.sampled_from([(), x.shape]))
    t = data.draw(hnp.arrays(dtype, shape, elements=THRESHOLDS))
    make, _ = PROXES[name]
    expected = make(TORCH)(TORCH.array(x, dtype), TORCH.array(t, dtype))
    for prox in (make(JAX), jitted(name)):
        actual = prox(JAX.array(x, dtype), JAX.array(t, dtype))
        assert_bitwise(JAX.numpy(actual), TORCH.numpy(expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_values_are_bitwise_equal(named_prox, dtype):
    # Long enough for vectorised and threaded kernels, and a number as threshold.
    x = np.random.default_rng(0).normal(size=100_003)
    for threshold in (0.0, 1e-3, 0.7, 3.0):
        results = []
        for twin in (JAX, TORCH):
            prox = functools.partial(named_prox[0](twin), threshold=threshold)
            results.append(twin.jit(prox)(twin.array(x, dtype)))
        assert JAX.dtype(results[0]) == TORCH.dtype(results[1]) == dtype
        assert_bitwise(JAX.numpy(results[0]), TORCH.numpy(results[1]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_solves_its_argmin(twin, named_prox, dtype):
    make, value = named_prox
    xs = np.array([-3.0, -1.0, -0.5, -0.1, 0.0, 0.05, 0.5, 1.0, 2.5])
    for t in (0.0, 0.3, 1.0, 5.0):
        actual = twin.numpy(make(twin)(twin.array(xs, dtype), t))
        expected = [optima.grid_argmin(float(x), t, value) for x in xs]
        tolerance = 2e-7 if dtype == "float32" else 2e-8
        np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=tolerance)


def test_three_point_inequality_and_firm_nonexpansiveness(twin, named_prox):
    make, value = named_prox
    rng = np.random.default_rng(1)
    x, y, u = rng.normal(size=(3, 2000))
    u = np.abs(u)  # inside every domain
    t = rng.exponential(size=2000)
    p, q = (twin.numpy(make(twin)(twin.array(z), twin.array(t))) for z in (x, y))
    left = 2 * t * (value(p) - value(u))
    right = (u - x) ** 2 - (u - p) ** 2 - (p - x) ** 2
    assert (left <= right + 1e-12).all()
    assert ((p - q) ** 2 <= (p - q) * (x - y) + 1e-15).all()


def test_zero_threshold_is_the_identity(twin, named_prox):
    make, value = named_prox
    x = np.random.default_rng(2).normal(size=1000)
    x = np.abs(x) if np.isinf(value(np.array(-1.0))) else x
    np.testing.assert_array_equal(twin.numpy(make(twin)(twin.array(x), 0.0)), x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(twin, named_prox, dtype):
    make, _ = named_prox
    x = twin.array(np.array([np.nan, -0.0, 0.0, 0.25, -0.25]), dtype)
    for threshold in (0.0, 0.25, 1.0):
        y = twin.numpy(twin.jit(lambda x, t=threshold: make(twin)(x, t))(x))
        assert np.isnan(y[0])
        assert not np.isnan(y[1:]).any()
        assert not np.signbit(y[y == 0]).any(), "zeros must be +0.0"


def test_underflow_gives_a_positive_zero(twin):
    # In float16 the result, -2^-26, is nearer to zero than to any other number.
    x = twin.array(np.array([-3.0]) * 2**-24, "float16")
    y = twin.numpy(twin.lib.soft_threshold(x, 2.75 * 2**-24))
    assert y[0] == 0
    assert not np.signbit(y[0])


def test_infinities(twin):
    x = twin.array(np.array([np.inf, -np.inf, 2.0]), "float32")
    np.testing.assert_array_equal(
        twin.numpy(twin.lib.soft_threshold(x, 1.0)), [np.inf, -np.inf, 1.0]
    )
    np.testing.assert_array_equal(
        twin.numpy(twin.lib.soft_threshold(x, np.inf)), [np.nan, np.nan, 0.0]
    )
    assert twin.numpy(twin.lib.soft_threshold(x, np.float32("inf")))[2] == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_rounds_once(twin, dtype):
    # 1e-3 and 1/3 are not half precision numbers: rounding the threshold first shows.
    x = np.random.default_rng(3).normal(size=20_000).astype(np.float32)
    half = twin.array(x, dtype)
    exact = twin.numpy(half).astype(np.float64)
    for t in (1e-3, 1 / 3):
        wide = exact - np.clip(exact, -np.float32(t), np.float32(t))
        expected = twin.numpy(twin.array(wide.astype(np.float32), dtype))
        actual = twin.numpy(twin.lib.soft_threshold(half, t))
        np.testing.assert_array_equal(actual, expected)


def test_negative_threshold_inside_a_compiled_function_is_nan(twin, named_prox):
    make, _ = named_prox
    x = twin.array(np.array([1.0, 0.0, -1.0]))
    y = twin.jit(make(twin))(x, twin.array(np.array(-0.1)))
    assert np.isnan(twin.numpy(y)).all()


def test_bad_input(twin, named_prox):
    make, _ = named_prox
    prox, x = make(twin), twin.array(np.ones((2, 3)))
    for threshold in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"threshold must .* got {threshold}"):
            prox(x, threshold)
    for threshold in ("1", None, True, 1j):
        with pytest.raises(TypeError, match="threshold must be a finite real number"):
            prox(x, threshold)
    with pytest.raises(ValueError, match=r"threshold of shape \(2,\) does not"):
        prox(x, twin.array(np.ones(2)))
    with pytest.raises(ValueError, match=r"threshold of shape \(4, 2, 3\) does not"):
        prox(x, twin.array(np.ones((4, 2, 3))))
    for dtype in ("int32", "complex64"):
        with pytest.raises(TypeError, match=f"x must be .*dtype .*{dtype}"):
            prox(twin.array(np.ones(3), dtype), 1.0)
