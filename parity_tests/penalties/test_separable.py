import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import numpy as np
import optax
import pytest
import torch

from parity_tests.frameworks.twins import DTYPES, JAX, TORCH, assert_bitwise
from parity_tests.oracles import optima

PENALTIES = {
    "l1": (lambda twin: twin.lib.l1(), optima.l1_value),
    "elastic_net": (
        lambda twin: twin.lib.elastic_net(0.3),
        optima.elastic_net_value(0.3),
    ),
    "lasso_end": (
        lambda twin: twin.lib.elastic_net(1),
        optima.elastic_net_value(1.0),
    ),
    "ridge_end": (
        lambda twin: twin.lib.elastic_net(0.0),
        optima.elastic_net_value(0.0),
    ),
    "nonnegative_l1": (
        lambda twin: twin.lib.nonnegative_l1(),
        optima.nonnegative_l1_value,
    ),
}
METHODS = ("value", "subgradient", "prox", "optimality_distance")


@pytest.fixture(params=PENALTIES)
def named_penalty(request):
    return PENALTIES[request.param]


ELEMENTS = st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False)
SPECIAL = st.sampled_from([np.nan, -0.0, np.inf, -np.inf, 1e-40, -1e-40])
SHAPES = st.sampled_from(
    [(), (0,), (1,), (9,), (2, 0), (2, 3), (2, 1, 3), (2, 3, 1, 2)]
)


@functools.cache
def jitted(name, method):
    return JAX.jit(getattr(PENALTIES[name][0](JAX), method))


def arguments(method, x, grad, strength):
    return (x, grad, strength) if method == "optimality_distance" else (x, strength)


@hypothesis.settings(max_examples=50)
@hypothesis.given(data=st.data(), dtype=st.sampled_from(["float32", "float64"]))
@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("name", PENALTIES)
def test_twins_are_bitwise_equal(name, method, data, dtype):
    x = data.draw(hnp.arrays(dtype, SHAPES, elements=ELEMENTS | SPECIAL))
    grad = data.draw(hnp.arrays(dtype, x.shape, elements=ELEMENTS))
    s = data.draw(hnp.arrays(dtype, st.sampled_from([(), x.shape]), elements=ELEMENTS))
    values = arguments(method, x, grad, np.abs(s))
    # XLA on CPU takes a subnormal number for zero, which the sign makes visible.
    flushed = np.where(np.abs(x) < np.finfo(dtype).tiny, np.zeros_like(x), x)
    of_torch = arguments(method, flushed, grad, np.abs(s))
    in_torch = getattr(PENALTIES[name][0](TORCH), method)
    assert_bitwise(
        JAX.numpy(jitted(name, method)(*(JAX.array(v, dtype) for v in values))),
        TORCH.numpy(in_torch(*(TORCH.array(v, dtype) for v in of_torch))),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_many_values_are_equal(named_penalty, method, dtype):
    rng = np.random.default_rng(0)
    x, grad = rng.normal(size=(2, 4097))
    x[::5] = 0
    if np.isinf(named_penalty[1](np.array(-1.0))):
        x = np.abs(x)
    results = []
    for twin in (JAX, TORCH):
        call = getattr(named_penalty[0](twin), method)
        values = arguments(method, twin.array(x, dtype), twin.array(grad, dtype), 0)
        result = twin.jit(lambda *a, call=call: call(*a, 0.7))(*values[:-1])
        results.append(twin.numpy(result))
        wide = "float64" if dtype == "float64" else "float32"
        keeps = method in ("subgradient", "prox")
        assert twin.dtype(result) == (dtype if keeps else wide)
    if method == "value":  # the frameworks add in different orders
        np.testing.assert_allclose(*results, rtol=4e-6 if wide == "float32" else 4e-15)
    else:
        assert_bitwise(*results)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_terms_of_the_value_are_bitwise_equal(named_penalty, dtype):
    values = [twin.jit(named_penalty[0](twin).value) for twin in (JAX, TORCH)]
    for x in np.random.default_rng(0).normal(size=50):
        results = [
            twin.numpy(value(twin.array([x], dtype), twin.array(0.7, dtype)))
            for twin, value in zip((JAX, TORCH), values, strict=True)
        ]
        assert_bitwise(*results)


def test_value_matches_the_formula(twin, named_penalty):
    make, formula = named_penalty
    x = np.array([[0.5, 0.0, 2.0], [1.5, 3.0, 0.25]])
    weights = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    penalty = make(twin)
    for strength in (1.0, 0.25, weights):
        given = strength if np.ndim(strength) == 0 else twin.array(strength)
        actual = twin.numpy(penalty.value(twin.array(x), given))
        np.testing.assert_allclose(actual, (strength * formula(x)).sum(), rtol=1e-14)
    negative = twin.numpy(penalty.value(twin.array([-1.0, 2.0])))
    np.testing.assert_allclose(negative, formula(np.array([-1.0, 2.0])).sum())


def test_subgradient_matches_finite_differences(twin, named_penalty):
    make, formula = named_penalty
    x = np.array([0.5, 2.0, 1e-3])
    x = x if np.isinf(formula(np.array(-1.0))) else np.append(x, -x)
    h = 1e-6
    expected = 0.7 * (formula(x + h) - formula(x - h)) / (2 * h)
    actual = twin.numpy(make(twin).subgradient(twin.array(x), 0.7))
    np.testing.assert_allclose(actual, expected, rtol=1e-8)


def test_subgradient_is_zero_at_zero_and_nan_at_nan(twin, named_penalty):
    penalty = named_penalty[0](twin)
    x = twin.array([0.0, -0.0, np.nan])
    slope = twin.numpy(penalty.subgradient(x, 0.7))
    np.testing.assert_array_equal(slope, [0.0, 0.0, np.nan])
    assert not np.signbit(slope[:2]).any()


def test_gradient_of_value_is_the_subgradient(twin, named_penalty):
    penalty = named_penalty[0](twin)
    x = twin.array([0.5, 0.0, 2.0, 0.0])
    slope = twin.grad(lambda x: penalty.value(x, 0.7))(x)
    np.testing.assert_allclose(
        twin.numpy(slope), twin.numpy(penalty.subgradient(x, 0.7)), rtol=1e-15
    )


def test_optimality_distance_against_a_dense_subdifferential(twin, named_penalty):
    # The distance of -grad to the set of slopes, by brute force over the set: the
    # slopes s with value(u) >= value(x) + s (u - x) for all u near x.
    make, formula = named_penalty
    strength, u = 0.7, np.linspace(-1, 3, 4001)
    slopes = np.linspace(-4, 4, 8001)
    for x in (0.0, 0.5, 1.25):
        with np.errstate(invalid="ignore"):
            below = (
                formula(np.array(x)) + slopes[:, None] * (u - x) <= formula(u) + 1e-9
            )
        subdifferential = strength * slopes[below.all(axis=1)]
        for grad in (-3.0, -0.7, -0.2, 0.0, 0.3, 0.7, 1.1):
            expected = np.abs(-grad - subdifferential).min()
            actual = twin.numpy(
                make(twin).optimality_distance(
                    twin.array([x]), twin.array([grad]), strength
                )
            )
            half_line = np.isinf(formula(np.array(-1.0))) and x == 0
            if half_line and -grad < subdifferential.min():
                expected = 0.0  # the set reaches to minus infinity, the grid does not
            np.testing.assert_allclose(actual, [expected], atol=3e-3)


def test_optimality_distance_vanishes_at_the_prox(twin, named_penalty):
    # p = prox(x, t) if and only if (p - x) + t * slope = 0 for a slope at p.
    penalty = named_penalty[0](twin)
    x = np.random.default_rng(0).normal(size=1000)
    p = twin.numpy(penalty.prox(twin.array(x), 0.7))
    distance = twin.numpy(
        penalty.optimality_distance(twin.array(p), twin.array(p - x), 0.7)
    )
    has_kink = named_penalty[1](np.array(1e-6)) > 1e-7
    assert (p == 0).any() == has_kink
    assert distance.max() < 1e-15


def test_nonnegative_outside_its_domain(twin):
    penalty, x = twin.lib.nonnegative_l1(), twin.array([-1.0, 1.0, np.nan])
    distance = penalty.optimality_distance(x, twin.array([0.0, -1.0, 0.0]))
    np.testing.assert_array_equal(twin.numpy(distance), [np.inf, 0.0, np.nan])
    np.testing.assert_array_equal(
        twin.numpy(penalty.subgradient(x)), [np.nan, 1.0, np.nan]
    )


def test_half_precision_subgradient_rounds_once(twin):
    x = twin.array([2.0, -1.0], "bfloat16")
    slope = twin.numpy(twin.lib.l1().subgradient(x, 1 / 3))
    expected = twin.numpy(twin.array([1 / 3, -1 / 3], "bfloat16"))
    np.testing.assert_array_equal(slope, expected)


def test_prox_in_place_equals_prox(named_penalty):
    import torch

    penalty = named_penalty[0](TORCH)
    rng = np.random.default_rng(0)
    wide = TORCH.array(rng.normal(size=(700, 900)), "float32")  # several blocks
    layouts = {
        "contiguous": wide,
        "transposed": wide.T,
        "strided": wide[:, ::2],
        "channels_last": wide.view(7, 100, 30, 30).to(
            memory_format=torch.channels_last
        ),
        "double": wide.double(),
        "bfloat16": wide.bfloat16(),
        "empty": wide[:0],
        "scalar": wide[0, 0],
    }
    for name, x in layouts.items():
        array = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
        for threshold in (0.3, torch.tensor(0.3), array, float("inf")):
            y = x.clone()
            expected = penalty.prox(x, threshold)
            penalty.prox_(y, threshold)
            assert y.stride() == x.clone().stride(), name
            np.testing.assert_array_equal(TORCH.numpy(y), TORCH.numpy(expected), name)


def test_penalty_value_counts_the_masked_leaves(twin):
    params = twin.tree({"weight": [[1.0, -2.0]], "bias": [100.0], "w": [0.5, 0.0]})
    value = twin.lib.penalty_value
    np.testing.assert_allclose(twin.numpy(value(params, 0.1)), 0.35, rtol=1e-15)
    np.testing.assert_allclose(
        twin.numpy(value(params, 0.1, mask=None)), 10.35, rtol=1e-15
    )
    squares = twin.lib.elastic_net(0.0)
    np.testing.assert_allclose(
        twin.numpy(value(params, 2.0, squares, twin.lib.by_path("w*"))), 5.25
    )
    weights = {"weight": twin.array([[1.0, 10.0]]), "bias": 0.0, "w": 2.0}
    np.testing.assert_allclose(twin.numpy(value(params, weights)), 22.0, rtol=1e-15)


def test_penalty_value_in_a_loss_has_slope_zero_at_zero(twin):
    slope = twin.grad(lambda w: twin.lib.penalty_value({"w": w}, 0.1))(
        twin.array([3.0, 0.0, -2.0])
    )
    np.testing.assert_array_equal(twin.numpy(slope), [0.1, 0.0, -0.1])


def test_value_works_under_vmap_and_jvp():
    x = JAX.array([[1.0, 0.0], [-2.0, 3.0]])
    penalty = JAX.lib.elastic_net(0.5)
    expected = [float(penalty.value(row)) for row in x]
    np.testing.assert_allclose(jax.vmap(penalty.value)(x), expected, rtol=1e-15)
    _, tangent = jax.jvp(penalty.value, (x,), (jax.numpy.ones_like(x),))
    np.testing.assert_allclose(tangent, float(penalty.subgradient(x).sum()))


def test_negative_and_ill_shaped_strengths(twin, named_penalty):
    penalty = named_penalty[0](twin)
    x, grad = twin.array([1.0, 2.0]), twin.array([0.5, 0.5])
    for method in METHODS:
        call = twin.jit(getattr(penalty, method))
        values = arguments(method, x, grad, twin.array([-0.1, -0.1]))
        assert np.isnan(twin.numpy(call(*values))).all(), method
        wide = arguments(method, x, grad, twin.array(np.ones((3, 2))))
        with pytest.raises(ValueError, match=r"of shape \(3, 2\) does not broadcast"):
            call(*wide)


def test_a_penalty_is_a_hashable_constant(twin):
    lib = twin.lib
    assert hash(lib.l1()) == hash(lib.l1())
    assert lib.elastic_net(0.5) == lib.elastic_net(0.5) != lib.elastic_net(0.6)
    with pytest.raises(AttributeError):
        lib.elastic_net(0.5).l1_ratio = 0.1


def test_bad_input(twin):
    lib = twin.lib
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"l1_ratio must be .* got {ratio}"):
            lib.elastic_net(ratio)
    for ratio in ("0.5", None, True):
        with pytest.raises(TypeError, match=f"l1_ratio must be .* got {ratio!r}"):
            lib.elastic_net(ratio)
    x = twin.array([1.0, 2.0])
    for strength in (-0.1, float("nan"), float("inf")):
        for call in (lib.l1().value, lib.l1().subgradient):
            with pytest.raises(ValueError, match=f"strength must .* got {strength}"):
                call(x, strength)
    with pytest.raises(TypeError, match="strength must be a number here"):
        lib.penalty_value({"w": x}, lambda count: 0.1)
    with pytest.raises(TypeError, match=r"params\['w'\] has dtype .*int32"):
        lib.penalty_value({"w": twin.array([1, 2], "int32")}, 0.1)
    with pytest.raises(ValueError, match="strength must .* got -1"):
        lib.penalty_value({"w": x}, -1)
    with pytest.raises(TypeError, match="penalty must be a Penalty"):
        lib.penalty_value({"w": x}, 0.1, lib.l1)
    with pytest.raises(TypeError, match="number >= 0, got"):
        lib.l1().value(x, lambda count: 0.1)
    np.testing.assert_allclose(twin.numpy(lib.penalty_value(x, 0.5)), 1.5)


def test_penalties_say_what_they_are(twin):
    """Window and target ask the penalty, not its class, for what they need."""
    lib = twin.lib
    assert lib.l1().prox_is_soft_threshold
    for penalty in (lib.elastic_net(1.0), lib.nonnegative_l1(), lib.mcp(0.8, 3.0)):
        assert not penalty.prox_is_soft_threshold
        assert penalty.makes_zeros
    assert not lib.elastic_net(0.0).makes_zeros

    class Own(type(lib.elastic_net(0.5))):
        """A penalty of a user's own, as the lines below declare it."""

    own, target = Own(0.5), lib.target_sparsity(0.5, steps=10)
    start = twin.tree({"w": np.ones(4)})

    def build(strength, **kwargs):
        if twin is JAX:
            return lib.proximal(optax.adam, 0.1, strength, penalty=own, **kwargs)
        base = torch.optim.Adam([("w", torch.nn.Parameter(start["w"]))])
        return lib.Proximal(base, strength, penalty=own, **kwargs)

    with pytest.raises(ValueError, match="window must be 1 with"):
        build(0.1, window=3)
    Own.prox_is_soft_threshold = True
    build(0.1, window=3)
    build(target)
    Own.makes_zeros = False
    with pytest.raises(ValueError, match="penalty must set single weights"):
        build(target)
