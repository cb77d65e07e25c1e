import functools
import pickle

import numpy as np
import pytest

from parity_tests.frameworks.twins import DTYPES, JAX, TORCH, assert_bitwise
from parity_tests.oracles import optima
from parity_tests.oracles.formulas.separable import ELEMENTS

# JAX compiles for long; test_acceptance.py has quick tests of both.
pytestmark = pytest.mark.slow_in_jax


BITWISE = [name for name in ELEMENTS if name not in ("lp(2/3)", "lp(0.9)")]
SAMPLE = ("scad(0.8, 3.7)", "log_sum(0.3)", "lp(0.5)")  # the rest is for a slow run
XS = np.array([0.0, 1e-3, 0.2, 0.45, 0.61, 0.8, 1.0, 1.3, 1.7, 2.2, 2.5, 3.1, 4.0, 6.0])
# Below, between and above the thresholds at which MCP and SCAD become discontinuous.
TS = np.array([0.0, 1e-4, 0.05, 0.3, 0.59, 0.9, 1.9, 2.3, 2.5, 4.0, 20.0])


@functools.cache
def penalty(twin_name, name):
    return ELEMENTS[name].make((JAX if twin_name == "jax" else TORCH).lib)


@functools.cache
def method(twin_name, name, method_name):
    twin = JAX if twin_name == "jax" else TORCH
    return twin.jit(getattr(penalty(twin_name, name), method_name))


def slow_but_for(sample, every):
    return [
        v if v in sample else pytest.param(v, marks=pytest.mark.slow) for v in every
    ]


@pytest.fixture(params=ELEMENTS)
def name(request):
    return request.param


@pytest.fixture(params=slow_but_for(SAMPLE, ELEMENTS))
def sample(request):
    return request.param


def prox(twin, name, x, t, dtype="float64"):
    call = method(twin.name, name, "prox")
    return twin.numpy(call(twin.array(x, dtype), twin.array(t, dtype)))


@functools.cache
def global_minima(name):
    """The argmin, to 1e-8, of each x and t; and the least objective on a grid."""
    value = ELEMENTS[name].value
    places, least = np.empty((2, len(TS), len(XS)))
    for i, t in enumerate(TS):
        for j, x in enumerate(XS):
            places[i, j] = u = optima.grid_argmin(float(x), float(t), value)
            grid = np.r_[u, 0.0, x, np.linspace(0, x, 20_001)]
            least[i, j] = ((grid - x) ** 2 / 2 + t * value(grid)).min()
    return places, least


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_prox_is_the_global_minimum(twin, name, dtype):
    x, t = np.broadcast_arrays(XS, TS[:, None])
    value = ELEMENTS[name].value
    places, least = global_minima(name)
    u = prox(twin, name, x, t, dtype).astype(np.float64)
    excess = (u - x) ** 2 / 2 + t * value(u) - least
    accuracy = {"float32": 4e-7, "float64": 1e-13}[dtype]
    assert (excess <= accuracy * (1 + x**2 + t)).all()
    # Where two minima are not equally good, it is the one that the grid has found.
    other = (places - x) ** 2 / 2 + t * value(places)
    clear = np.abs(other - least) <= 1e-12
    np.testing.assert_allclose(
        u[clear], places[clear], atol={"float32": 2e-4, "float64": 3e-8}[dtype]
    )
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(prox(twin, name, -x, t, dtype), -u)


def test_a_scalar_threshold_is_the_array_of_it(twin, sample):
    for t in (0.0, 0.3, 2.3, 4.0):
        whole = prox(twin, sample, XS, np.full_like(XS, t))
        assert_bitwise(prox(twin, sample, XS, t), whole)
    one = penalty(twin.name, sample)
    number = twin.jit(lambda x: one.prox(x, 4.0))(twin.array(XS))
    np.testing.assert_allclose(twin.numpy(number), whole, rtol=1e-14)


# Where x jumps, for a threshold, from what to what: by the equations of the two minima.
JUMPS = [
    ("mcp(0.8, 3.0)", 4.0, np.sqrt(4.0 * 2.4), 0.0, np.sqrt(4.0 * 2.4)),
    ("mcp(0.8, 3.0)", 1.2, 2.4, 2.4, 2.4),  # continuous where it meets the identity
    ("mcp(0.8, 3.0)", 1.2, 1.2, 0.0, 0.0),  # and where it leaves zero
    ("scad(0.8, 3.7)", 3.0, (3.0 + 3.76) / 2, (3.76 - 3.0) / 2, (3.0 + 3.76) / 2),
    ("scad(0.8, 3.7)", 5.0, np.sqrt(5 * 3.76), 0.0, np.sqrt(5 * 3.76)),
    ("scad(0.8, 3.7)", 1.2, 2.0, 0.8, 0.8),
    ("scad(0.8, 3.7)", 1.2, 2.96, 2.96, 2.96),
    ("capped_l1(0.7)", 1.0, 1.2, 0.2, 1.2),
    ("capped_l1(0.7)", 3.0, np.sqrt(4.2), 0.0, np.sqrt(4.2)),
    ("log_sum(0.3)", 0.06, 0.2, 0.0, 0.0),  # continuous up to epsilon^2 = 0.09
    ("lp(0.5)", 1.0, 1.5, 0.0, 1.0),
    ("lp(2/3)", 1.0, 2 * (2 / 3) ** 0.75, 0.0, (2 / 3) ** 0.75),
    ("lp(0.9)", 1.0, 5.5 * 0.2 ** (1 / 1.1), 0.0, 0.2 ** (1 / 1.1)),
    ("l0()", 2.0, 2.0, 0.0, 2.0),
]


@pytest.mark.parametrize(("name", "t", "at", "below", "above"), JUMPS)
def test_jumps_are_where_they_should_be(twin, name, t, at, below, above):
    around = at * np.array([1 - 1e-9, 1 + 1e-9])
    np.testing.assert_allclose(
        prox(twin, name, around, t), [below, above], rtol=1e-7, atol=3e-8
    )


def test_the_log_sum_jumps_where_root_and_zero_are_equally_good(twin):
    # Bisection over x, in numpy, on the difference of the two objectives.
    t, epsilon, (low, high) = 2.0, 0.3, (2 * np.sqrt(2.0) - 0.3, 20.0)
    for _ in range(100):
        x = (low + high) / 2
        u = (x - epsilon + np.sqrt((x + epsilon) ** 2 - 4 * t)) / 2
        better = (u - x) ** 2 / 2 + t * np.log(1 + u / epsilon) < x**2 / 2
        low, high = (low, x) if better else (x, high)
    around = prox(twin, "log_sum(0.3)", x * np.array([1 - 1e-9, 1 + 1e-9]), t)
    np.testing.assert_allclose(around, [0.0, u], rtol=1e-7)


def test_at_a_tie_the_smaller_is_taken(twin):
    for t, tie in ((2.0, 2.0), (0.5, 1.0), (4.5, 3.0)):
        assert prox(twin, "l0()", tie, t) == 0
    for one, x, t, expected in (
        (twin.lib.capped_l1(1.0), [1.5, 2.0], [1.0, 2.0], [0.5, 0.0]),
        (twin.lib.mcp(1.0, 4.0), [4.0, -4.0], [4.0, 4.0], [0.0, 0.0]),
        (twin.lib.scad(1.0, 3.0), [3.5, 4.0], [3.0, 4.0], [0.5, 0.0]),
    ):
        y = twin.jit(one.prox)(twin.array(x), twin.array(t))
        np.testing.assert_array_equal(twin.numpy(y), expected)


def random_inputs(dtype, n=4096):
    rng = np.random.default_rng(0)
    x = rng.normal(size=n) * np.exp(2 * rng.normal(size=n))
    x[::9] = 0
    x[:8] = [np.nan, np.inf, -np.inf, -0.0, 1e30, -1e30, 1e-30, -1e-30]
    t = np.exp(2 * rng.normal(size=n))
    t[::7] = 0
    t[-3:] = [1e30, 1e-30, np.nan]
    return [v.astype(dtype) for v in (x, rng.normal(size=n), t)]


@functools.cache
def three_methods(twin_name, name):
    one = penalty(twin_name, name)

    def call(x, grad, t):
        return (
            one.prox(x, t),
            one.subgradient(x, t),
            one.optimality_distance(x, grad, t),
        )

    return (JAX if twin_name == "jax" else TORCH).jit(call)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bitwise_name", BITWISE)
def test_twins_are_bitwise_equal(bitwise_name, dtype):
    x, grad, t = random_inputs(dtype)
    for threshold in (t, np.asarray(0.7, dtype)):
        both = [
            three_methods(twin.name, bitwise_name)(
                *(twin.array(v, dtype) for v in (x, grad, threshold))
            )
            for twin in (JAX, TORCH)
        ]
        for actual, desired in zip(*both, strict=True):
            assert_bitwise(JAX.numpy(actual), TORCH.numpy(desired))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "ulps"), [("lp(2/3)", 4), ("lp(0.9)", 8)])
def test_other_powers_are_equal_to_some_ulps(name, ulps, dtype):
    x, grad, t = random_inputs(dtype)
    both = [
        three_methods(twin.name, name)(*(twin.array(v, dtype) for v in (x, grad, t)))
        for twin in (JAX, TORCH)
    ]
    scales = (x, None, None)
    for (actual, desired), scale in zip(zip(*both, strict=True), scales, strict=True):
        actual, desired = JAX.numpy(actual), TORCH.numpy(desired)
        scale = np.abs(desired) + np.abs(grad) if scale is None else np.abs(scale)
        finite = np.isfinite(desired) & np.isfinite(scale)
        np.testing.assert_array_equal(actual[~finite], desired[~finite])
        np.testing.assert_array_equal(actual == 0, desired == 0)
        ulp = np.spacing(np.maximum(scale[finite], np.finfo(dtype).tiny))
        assert (np.abs(actual[finite] - desired[finite]) <= ulps * ulp).all()


def test_what_is_left_alone_is_x_itself(twin):
    x = random_inputs("float32", 1000)[0][8:]
    for name, limit in (
        ("mcp(0.8, 3.0)", 2.4),
        ("scad(0.8, 3.7)", 2.96),
        ("capped_l1(0.7)", 1.2),
        ("l0()", 1.5),
    ):
        free = x[np.abs(x) > limit]
        np.testing.assert_array_equal(
            prox(twin, name, free, np.ones_like(free), "float32"), free
        )


@pytest.mark.parametrize("dtype", slow_but_for(["float32", "bfloat16"], DTYPES))
def test_special_values(twin, sample, dtype):
    tiny = 1e-4 if dtype == "float16" else 1e-30
    x = np.array([np.nan, -0.0, 0.0, 0.25, -0.25, tiny, np.inf, -np.inf])
    for t in (0.0, 1e-30, 0.25, 2.5, 1e30, np.inf):
        call = method(twin.name, sample, "prox")
        y = twin.numpy(call(twin.array(x, dtype), twin.array(t, "float32")))
        assert np.isnan(y[0])
        assert not np.isnan(y[1:6]).any()
        assert not np.signbit(y[y == 0]).any(), "zeros must be +0.0"
        if t >= 1e30:
            np.testing.assert_array_equal(y[1:6], 0)
        elif t < 1e30:
            np.testing.assert_array_equal(y[6:], [np.inf, -np.inf])
    y = prox(twin, sample, x[:6], -np.float32(0.5), dtype)
    assert np.isnan(y).all()
    assert prox(twin, sample, np.zeros((2, 0)), 1.0, dtype).shape == (2, 0)
    with pytest.raises(ValueError, match="threshold must .* got -1.0"):
        penalty(twin.name, sample).prox(twin.array(x, dtype), -1.0)
    with pytest.raises(TypeError, match=r"dtype .*int32"):
        penalty(twin.name, sample).prox(twin.array([1, 2], "int32"), 1.0)


def test_large_weights_do_not_overflow(twin, sample):
    x = np.array([1e10, -1e25, 3e38])
    for t in (1e-3, 1.0, 1e5):
        y = prox(twin, sample, x, np.full_like(x, t), "float32")
        np.testing.assert_allclose(y, x.astype(np.float32), rtol=1e-4)


def test_optimality_distance_at_zero(twin, name):
    # The set of slopes of the penalty at zero, from its formula.
    h = 1e-9
    reach = 0.7 * (float(ELEMENTS[name].value(np.array(h))) / h)
    reach = np.inf if name.startswith("l0") or name.startswith("lp") else reach
    grad = np.array([0.0, 0.3, -0.7, 1.0, -2.0, 5.0])
    zero = np.zeros_like(grad)
    distance = method(twin.name, name, "optimality_distance")(
        twin.array(zero), twin.array(grad), 0.7
    )
    expected = np.maximum(np.abs(grad) - reach, 0)
    np.testing.assert_allclose(twin.numpy(distance), expected, atol=1e-7)


def test_at_the_cap_both_slopes_will_do(twin):
    x, grad = np.array([1.0, 1.0, -1.0, 1.0]), np.array([0.0, -0.5, 0.5, 0.1])
    distance = method(twin.name, "capped_l1(0.7)", "optimality_distance")(
        twin.array(0.7 * x), twin.array(grad), twin.array(0.5)
    )
    np.testing.assert_allclose(twin.numpy(distance), [0.0, 0.0, 0.0, 0.1])


def test_prox_in_place_equals_prox(sample):
    import torch

    one = penalty("torch", sample)
    wide = TORCH.array(np.random.default_rng(0).normal(size=(700, 900)), "float32")
    array = torch.rand(wide.shape, generator=torch.Generator().manual_seed(0))
    for x in (wide, wide.T, wide.bfloat16(), wide[0, 0]):
        for t in (0.3, array if x is wide else torch.tensor(0.3)):
            y = x.clone()
            one.prox_(y, t)
            np.testing.assert_array_equal(TORCH.numpy(y), TORCH.numpy(one.prox(x, t)))


def test_what_they_are(twin, name):
    one, again = (ELEMENTS[name].make(twin.lib) for _ in range(2))
    assert one == again == pickle.loads(pickle.dumps(one))
    assert hash(one) == hash(again)
    assert one.separable
    assert one.takes_metric
    assert one.finite
    assert not one.convex
    assert not one.constraint
    assert one.least_slope == 0
    assert one.has_subgradient == (name != "l0()")


def test_bad_parameters(twin):
    lib = twin.lib
    bad = {
        "scale": [(lib.mcp, {"scale": v}) for v in (0, -1.0, np.inf, np.nan)]
        + [(lib.scad, {"scale": 0.0})],
        "gamma": [(lib.mcp, {"scale": 1, "gamma": v}) for v in (1, 0.5, np.nan)],
        "a": [(lib.scad, {"scale": 1, "a": v}) for v in (2, 1.5, np.inf)],
        "cap": [(lib.capped_l1, {"cap": v}) for v in (0, -0.5)],
        "epsilon": [(lib.log_sum, {"epsilon": v}) for v in (0, -1e-3, np.nan)],
        "p": [(lib.lp, {"p": v}) for v in (0, 1, -0.5, 1.5, np.nan)],
    }
    for argument, calls in bad.items():
        for make, arguments in calls:
            got = arguments[argument]
            with pytest.raises(ValueError, match=rf"{argument} must be .* got {got}"):
                make(**arguments)
        for wrong in ("1", None, True):
            arguments = calls[0][1] | {argument: wrong}
            with pytest.raises(
                TypeError, match=rf"{argument} must be .* got {wrong!r}"
            ):
                calls[0][0](**arguments)
    assert lib.mcp(np.float32(0.5), 3) == lib.mcp(0.5)
