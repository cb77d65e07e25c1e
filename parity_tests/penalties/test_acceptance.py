"""What every penalty must do, in every precision, under scalar and array thresholds."""

import functools
import itertools
import pickle

import jax
import numpy as np
import pytest

from parity_tests.frameworks.twins import JAX, TWINS, assert_bitwise
from parity_tests.oracles.formulas import PENALTIES, slow_unless_quick

SAMPLES = 6
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-8}
BY_NAME = {twin.name: twin for twin in TWINS}
every_penalty = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=slow_unless_quick(n)) for n in PENALTIES]
)
every_threshold = pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=slow_unless_quick(name))
        for name in PENALTIES
        for kind in ("scalar", "array")
        if kind == "scalar" or PENALTIES[name].make(JAX.lib).takes_metric
    ],
)
wide = pytest.mark.parametrize(
    "dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)]
)


@functools.cache
def penalty_of(name, twin_name):
    return PENALTIES[name].make(BY_NAME[twin_name].lib)


@functools.cache
def inputs(name, kind, dtype):
    """Values, with zeros and ties among them, and thresholds."""
    shape = PENALTIES[name].shape
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, *shape))
    x *= rng.choice([0.5, 1.0, 3.0], (SAMPLES, *(1 for _ in shape)))
    x[1:3] *= rng.random(x[1:3].shape) < 0.6
    x[3] = np.round(2 * x[3]) / 2
    t = np.exp(rng.normal(size=x.shape if kind == "array" else SAMPLES))
    twin = JAX
    return tuple(twin.numpy(twin.array(a, dtype)).astype(np.float64) for a in (x, t))


@functools.cache
def jitted(name, twin_name, method):
    return BY_NAME[twin_name].jit(getattr(penalty_of(name, twin_name), method))


def call(name, twin, dtype, method, *arguments):
    """One method of a penalty: from numpy to numpy."""
    arrays = (twin.array(a, dtype) for a in arguments)
    return twin.numpy(jitted(name, twin.name, method)(*arrays))


@functools.cache
def prox(name, kind, dtype, twin_name):
    """Of each sample."""
    rows = zip(*inputs(name, kind, dtype), strict=True)
    return [call(name, BY_NAME[twin_name], dtype, "prox", x, t) for x, t in rows]


def samples(name, kind, dtype, twin):
    """Values, thresholds broadcast, and what the prox makes of them, in float64."""
    xs, ts = inputs(name, kind, dtype)
    for x, t, p in zip(xs, ts, prox(name, kind, dtype, twin.name), strict=True):
        yield x, np.broadcast_to(t, x.shape), p.astype(np.float64)


def candidates(x, p):
    """What might be better: everything near, with every pattern of zeros."""
    rng = np.random.default_rng(1)
    masks = itertools.product([0.0, 1.0], repeat=x.size)
    masks = [np.reshape(m, x.shape) for m in itertools.islice(masks, 64)]
    for mask, scale in itertools.product(masks, (0.3, 0.8, 1.0)):
        yield scale * x * mask
    for mask in masks:
        yield p * mask
    for size in (1e-4, 1e-2, 0.3):
        for _ in range(20):
            noise = size * rng.normal(size=x.shape)
            yield p + noise
            yield np.where(p == 0, p, p + noise)
            yield p * (1 + noise.flat[0])
            yield p + noise.flat[0]


@every_threshold
@wide
def test_nothing_is_better(twin, name, kind, dtype):
    value = PENALTIES[name].value
    convex = penalty_of(name, twin.name).convex
    rough = 100 * EPS[dtype] if dtype == "float32" else 1e-12
    seen = 0
    for x, t, p in samples(name, kind, dtype, twin):
        # A sum may be over a bound by the rounding of its terms.
        ours = value(p * (1 - 8 * EPS[dtype]))
        assert np.isfinite(ours)
        for u in candidates(x, p):
            theirs = value(u)
            if not np.isfinite(theirs):
                continue
            seen += 1
            gain = ((u - x) ** 2 - (p - x) ** 2) / t
            if convex:  # the three-point inequality
                gain = gain - (u - p) ** 2 / t
            scale = 1 + ours + theirs + np.abs(x).max() ** 2 / t.min()
            assert 2 * (ours - theirs) <= gain.sum() + rough * scale
    assert seen > 300


@every_threshold
@wide
def test_the_optimality_distance_vanishes_at_the_prox(twin, name, kind, dtype):
    tolerance = 1e-12 if dtype == "float64" else 3e-5
    for x, t, p in samples(name, kind, dtype, twin):
        grad = (p - x) / t
        distance = call(name, twin, dtype, "optimality_distance", p, grad, 1.0)
        assert distance.shape == x.shape
        assert distance.max(initial=0) <= tolerance * (1 + np.abs(x).max() / t.min())
    # And nowhere else: away from the prox it does not.
    x = inputs(name, kind, dtype)[0][0]
    there = call(name, twin, dtype, "optimality_distance", x, 0 * x + 0.37, 1.0)
    assert there.max() > 1e-3


@every_threshold
def test_the_prox_does_not_raise_the_penalty(twin, name, kind):
    value, fell = PENALTIES[name].value, False
    for x, _, p in samples(name, kind, "float64", twin):
        assert value(p) <= value(x) * (1 + 1e-14) + 1e-14
        fell |= value(p) < value(x)
    assert fell


@every_threshold
@pytest.mark.parametrize("dtype", EPS)
def test_the_twins_are_equal(name, kind, dtype):
    of_powers = name.startswith("lp(") and name != "lp(0.5)"
    exact = penalty_of(name, "jax").separable and not of_powers
    rows = (prox(name, kind, dtype, twin) for twin in BY_NAME)
    for x, ours, theirs in zip(inputs(name, kind, dtype)[0], *rows, strict=True):
        if exact:
            assert_bitwise(ours, theirs)
        else:
            limit = 4 * EPS[dtype] * np.abs(x).max(initial=0)
            assert np.abs(ours - theirs).max(initial=0) <= limit
            np.testing.assert_array_equal(ours == 0, theirs == 0)
        assert not np.signbit(ours[ours == 0]).any()
        assert not np.signbit(theirs[theirs == 0]).any()


@every_threshold
def test_half_precision_is_rounded_once(twin, name, kind):
    rows = zip(*inputs(name, kind, "bfloat16"), strict=True)
    for (x, t), found in zip(
        rows, prox(name, kind, "bfloat16", twin.name), strict=True
    ):
        single = call(name, twin, "float32", "prox", x, t)
        rounded = twin.numpy(twin.array(single, "bfloat16"))
        np.testing.assert_array_equal(found, rounded)


@every_penalty
def test_zero_threshold_zeros_and_nan(twin, name):
    penalty, shape = penalty_of(name, twin.name), PENALTIES[name].shape
    feasible = prox(name, "scalar", "float64", twin.name)
    given = [*inputs(name, "scalar", "float64")[0]] if penalty.finite else []
    for x in [*feasible, *given]:
        np.testing.assert_array_equal(call(name, twin, "float64", "prox", x, 0.0), x)
    for zero in (0.0, -0.0):
        found = call(name, twin, "float64", "prox", np.full(shape, zero), 0.7)
        assert (found == 0).all()
        assert not np.signbit(found).any()
    x = inputs(name, "scalar", "float64")[0][0].copy()
    x.flat[1] = np.nan
    assert np.isnan(call(name, twin, "float64", "prox", x, 0.7).flat[1])
    found = call(name, twin, "float64", "prox", x, np.nan)
    assert np.isnan(found).all()


@every_penalty
def test_an_infinite_threshold(twin, name):
    """It gives the penalty's minimum, but where the penalty leaves a weight alone."""
    x = inputs(name, "scalar", "float64")[0][0]
    found = call(name, twin, "float64", "prox", x, np.inf)
    assert np.isfinite(found).all()
    value = PENALTIES[name].value
    assert value(found) <= value(0 * x)


@every_penalty
def test_value_and_subgradient_are_those_of_the_formula(twin, name):
    penalty, value = penalty_of(name, twin.name), PENALTIES[name].value
    points = inputs(name, "scalar", "float64")[0]
    for x in points:
        found = call(name, twin, "float64", "value", x, 0.7)
        wanted = 0.7 * value(x) if np.isfinite(value(x)) else np.inf
        np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-13)
    if not penalty.has_subgradient:
        return
    x, h = points[0], 1e-6
    steps = h * np.eye(x.size).reshape(-1, *x.shape)
    slopes = [(value(x + s) - value(x - s)) / (2 * h) for s in steps]
    found = call(name, twin, "float64", "subgradient", x, 0.7)
    np.testing.assert_allclose(found.ravel(), 0.7 * np.array(slopes), atol=1e-8)
    zero = call(name, twin, "float64", "subgradient", 0 * x, 0.7)
    np.testing.assert_array_equal(zero, 0 * x)


@pytest.mark.parametrize(
    "kind", ["scalar", pytest.param("array", marks=pytest.mark.slow)]
)
@every_penalty
def test_gradients_through_the_prox(twin, name, kind):
    if kind == "array" and not penalty_of(name, twin.name).takes_metric:
        return
    xs, ts = inputs(name, kind, "float64")
    weights = np.random.default_rng(2).normal(size=xs[0].shape)
    scales = twin.array(weights)
    penalty = penalty_of(name, twin.name)

    def total(x, t):
        return (penalty.prox(x, t) * scales).sum()

    def slope(x, t):
        return twin.numpy(twin.grad(lambda x: total(x, twin.array(t)))(twin.array(x)))

    def by_differences(x, t, h):
        steps = h * np.eye(x.size).reshape(-1, *x.shape)
        values = [
            (call(name, twin, "float64", "prox", x + s, t) * weights).sum()
            for s in steps
        ]
        base = (call(name, twin, "float64", "prox", x, t) * weights).sum()
        return (np.array(values) - base) / h

    x, t = xs[4], ts[4]
    above, below = by_differences(x, t, 1e-6), by_differences(x, t, -1e-6)
    smooth = np.abs(above - below) < 1e-4
    assert smooth.any()
    np.testing.assert_allclose(
        slope(x, t).ravel()[smooth], ((above + below) / 2)[smooth], atol=1e-6
    )
    assert np.isfinite(slope(0 * x, t)).all()
    assert np.isfinite(slope(xs[1], ts[1])).all()


@every_threshold
def test_vmap_is_one_after_the_other(name, kind):
    xs, ts = (JAX.array(a) for a in inputs(name, kind, "float64"))
    found = jax.jit(jax.vmap(penalty_of(name, "jax").prox))(xs, ts)
    wanted = prox(name, kind, "float64", "jax")
    np.testing.assert_allclose(found, wanted, rtol=1e-14, atol=1e-14)


@every_penalty
def test_no_nan_on_the_way(name):
    """Under `jax_debug_nans` a NaN that is masked afterwards would raise."""
    x = JAX.array(inputs(name, "scalar", "float64")[0][1])
    penalty = penalty_of(name, "jax")
    with jax.debug_nans(True):
        for point in (x, 0 * x):
            penalty.prox(point, 0.7)
            penalty.value(penalty.prox(point, 0.7), 0.7)


@every_penalty
def test_empty_arrays(twin, name):
    penalty, shape = penalty_of(name, twin.name), PENALTIES[name].shape
    empty = np.zeros((*shape[:-1], 0))
    try:
        penalty.require_fit("w", empty.shape)
    except ValueError:  # it is of some size
        return
    assert call(name, twin, "float64", "prox", empty, 0.7).shape == empty.shape
    assert call(name, twin, "float64", "value", empty, 0.7) == 0


@every_penalty
def test_lambda_max_is_the_least_that_keeps_zero(twin, name):
    penalty = penalty_of(name, twin.name)
    grad = inputs(name, "scalar", "float64")[0][0].copy()
    for i in range(grad.size):  # what is not penalised is to be fitted first
        unit = np.zeros_like(grad)
        unit.flat[i] = 1e-3
        if PENALTIES[name].value(unit) == 0:
            grad.flat[i] = 0
    if penalty.constraint:
        with pytest.raises(ValueError, match="has no lambda_max"):
            penalty.lambda_max(twin.array(grad))
        return
    found = float(call(name, twin, "float64", "lambda_max", grad))
    zero = np.zeros_like(grad)

    def distance(strength):
        return call(
            name, twin, "float64", "optimality_distance", zero, grad, strength
        ).max()

    if np.isinf(found):
        assert distance(1e12) > 1e-6
        return
    assert distance(found * (1 + 1e-9) + 1e-300) <= 1e-9
    if found > 0:
        assert distance(found * 0.999) > 1e-5


@every_penalty
def test_bad_thresholds(twin, name):
    penalty = penalty_of(name, twin.name)
    x = twin.array(inputs(name, "scalar", "float64")[0][0])
    for threshold in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=f"threshold must .* got {threshold}"):
            penalty.prox(x, threshold)
    with pytest.raises(TypeError, match="dtype"):
        penalty.prox(twin.array(np.ones(PENALTIES[name].shape), "int32"), 0.1)
    negative = call(name, twin, "float64", "prox", np.ones(x.shape), -0.1)
    assert np.isnan(negative).all()


@every_penalty
def test_a_penalty_is_a_constant(twin, name):
    penalty = penalty_of(name, twin.name)
    assert isinstance(hash(penalty), int)
    assert penalty == penalty
    again = pickle.loads(pickle.dumps(penalty))
    x = inputs(name, "scalar", "float64")[0][0]
    np.testing.assert_array_equal(
        twin.numpy(again.prox(twin.array(x), 0.7)),
        call(name, twin, "float64", "prox", x, 0.7),
    )
