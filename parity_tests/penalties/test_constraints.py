"""All constraints: projections into the set, their proportions, and distances."""

import math
import pickle

import numpy as np
import pytest

from parity_tests.frameworks.twins import TWINS, assert_bitwise
from parity_tests.penalties.sets import SETS, call, draws, each_set, prox, scalar_prox

# JAX compiles for long; test_acceptance.py has quick tests of both.
pytestmark = pytest.mark.slow_in_jax


METHODS = ("value", "subgradient", "prox", "optimality_distance")


def arguments(which, x, grad, strength):
    return (x, grad, strength) if which == "optimality_distance" else (x, strength)


@each_set
def test_no_point_of_the_set_is_nearer(twin, name):
    value = SETS[name].value
    rng = np.random.default_rng(1)
    for x, t in draws():
        p = prox(twin, name, x, t)
        # Points of the set around the projection, and all over it.
        for scale in (1e-3, 0.1, 1, 10):
            u = p + scale * rng.normal(size=(200, 6)) * (rng.random((200, 6)) < 0.5)
            if SETS[name].make(twin.lib).convex:
                size = np.abs(u).sum(1, keepdims=True)
                u = u * min(1, np.abs(p).sum()) / np.maximum(size, 1e-300)
            u = np.append(u[[value(v) == 0 for v in u]], [p], axis=0)
            cost = ((u - x) ** 2 / t).sum(1)
            assert cost[-1] <= cost.min() * (1 + 1e-12)


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float64", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)],
)
@each_set
def test_projections_are_in_the_set_and_points_of_the_set_stay(twin, name, dtype):
    is_ball = SETS[name].make(twin.lib).convex
    half = dtype.endswith("16")
    for x, _ in draws(12):
        p = prox(twin, name, x, 0.5, dtype)
        assert not np.signbit(p[p == 0]).any()
        again = call(twin, name, p, t=0.5, dtype=dtype)
        assert again["value"] == 0
        np.testing.assert_array_equal(again["subgradient"], 0)
        unit = np.abs(p).max() * (2.0**-7 if half else 4 * np.finfo(dtype).eps)
        np.testing.assert_allclose(again["prox"], p, rtol=0, atol=is_ball * unit)
        inside = rounded(twin, 0.4 * p, dtype)
        assert_bitwise(prox(twin, name, inside, 0.5, dtype), inside)
    outside = call(twin, name, np.arange(1.0, 7), dtype=dtype)
    assert outside["value"] == np.inf
    assert np.isnan(outside["subgradient"]).all()


def rounded(twin, x, dtype):
    return twin.numpy(twin.array(x, dtype)) + 0.0


@each_set
def test_only_the_proportions_of_thresholds_count(twin, name):
    for x, t in draws(10):
        # A scalar, 0 and infinity too, is no metric; nor is a constant.
        expected = prox(twin, name, x, 1.0)
        for scalar in (0.0, 0.7, 49.0, 1e-30, math.inf):
            given = twin.array(x), twin.array(scalar)
            assert_bitwise(twin.numpy(scalar_prox(twin, name)(*given)), expected)
        for constant in (0.0, 49.0):
            assert_bitwise(prox(twin, name, x, constant), expected)
        assert_bitwise(prox(twin, name, x, t * 8), prox(twin, name, x, t))


@each_set
def test_nan_stays_visible(twin, name):
    x = np.array([3.0, np.nan, -1.0, 2.0, 0.5, 0.0])
    for dtype in ("float64", "bfloat16"):
        assert np.isnan(prox(twin, name, x, dtype=dtype)[1])
    t = np.where(np.isnan(x), -1.0, 1.0)
    assert np.isnan(prox(twin, name, np.nan_to_num(x, nan=1.0), t)[1])
    for result in call(twin, name, 0.0, t=-1.0).values():
        assert np.isnan(result).all()
    found = call(twin, name, x)
    assert np.isnan(found["value"])
    assert np.isnan(found["subgradient"]).all()
    assert np.isnan(found["optimality_distance"][1])


@each_set
def test_infinite_elements_do_no_harm(twin, name):
    x = np.array([3.0, np.inf, -1.0, 2.0, -np.inf, 0.0])
    assert np.isfinite(prox(twin, name, x)[np.isfinite(x)]).all()


@each_set
def test_distance_vanishes_at_a_projection_and_not_beside_it(twin, name):
    def distance(x, grad):
        return call(twin, name, x, grad)["optimality_distance"]

    for x, _ in draws():
        p = prox(twin, name, x)
        assert distance(p, p - x).max() < 1e-14
        if p.any():
            assert distance(p, x - p + 0.1 * np.sign(p)).max() > 0.09
    outside = np.arange(1.0, 7)
    np.testing.assert_array_equal(distance(outside, outside), np.inf)


GRAD = (-2.0, 1.0, 0.5, -3.0)
BY_HAND = [
    ("l1_ball", (9,), [1.0, 0, 0, 0], [2, 1, 0.5, 3]),  # inside
    ("l1_ball", (1,), [1.0, 0, 0, 0], [0.5, 0, 0, 0.5]),  # tau = (2 + 3) / 2
    ("l1_ball", (1,), [0.5, -0.5, 0, 0], [0, 1, 0, 1]),  # tau = (2 + 1 + 3) / 3
    ("l1_ball", (1,), [-0.25, 0.25, 0.25, 0.25], [2, 1, 0.5, 3]),  # tau = 0
    ("l1_ball", (1,), [2.0, 0, 0, 0], [math.inf] * 4),
    ("l1_ball", (0,), [0.0, 0, 0, 0], [0] * 4),
    ("top_k", (2,), [1.0, 0, 0, 0], [2, 1, 0.5, 3]),
    ("top_k", (2,), [1.0, 0, 0, 1], [2, 0, 0, 3]),
    ("top_k", (2,), [1.0, 0, 1, 1], [math.inf] * 4),
    ("n_of_m", (1, 2), [1.0, 0, 0, 0], [2, 0, 0.5, 3]),
    ("n_of_m", (1, 2), [1.0, 1, 0, 0], [math.inf] * 4),
]


def test_distances_by_hand(twin):
    lib = twin.lib

    def distances(grad, *points):
        return [
            getattr(lib, make)(*args).optimality_distance(x, grad)
            for x, (make, args, _, _) in zip(points, BY_HAND, strict=True)
        ]

    points = (twin.array(x) for _, _, x, _ in BY_HAND)
    found = twin.jit(distances)(twin.array(GRAD), *points)
    for distance, (*case, expected) in zip(found, BY_HAND, strict=True):
        np.testing.assert_array_equal(twin.numpy(distance), expected, str(case))


LEAVES = {
    "a": ((3, 4), "float32"),
    "none": ((0, 2), "float32"),
    "b": ((5,), "float64"),
    "c": ((), "bfloat16"),
}


@pytest.mark.parametrize("make", ["l1_ball", "top_k"])
def test_a_tree_is_one_long_array(twin, make):
    rng, lib = np.random.default_rng(0), twin.lib
    one, joint = getattr(lib, make)(3), getattr(lib, make)(3, scope="tree")
    arrays, metrics = [], []
    for shape, dtype in LEAVES.values():
        arrays.append(twin.array(rng.normal(size=shape).round(1), dtype))
        metrics.append(twin.array(10.0 ** rng.uniform(-1, 1, shape), dtype))
    metrics[2] = twin.array(0.7)  # a leaf's number is part of the metric

    def facts(arrays, metrics, x, t):
        rows = list(zip(LEAVES, arrays, metrics, strict=True))
        found = joint.tree_prox(rows)
        rows = [(path, u, 1.0) for path, u in zip(LEAVES, found, strict=True)]
        more = [*rows, ("d", arrays[2], 1.0)]
        slopes = [(path, u, u, 1.0) for path, u, _ in rows]
        u = one.prox(x, t)
        each = [("a", arrays[0], 1.0), ("b", arrays[2], 1.0)]
        return {
            "found": found,
            "inside": joint.tree_value(rows),
            "outside": joint.tree_value(more),
            "distances": joint.tree_optimality_distance(slopes),
            "whole": u,
            "distance": one.optimality_distance(u, u),
            "alone": [joint.prox(x, 1.0), one.prox(x, 1.0)],
            "each": one.tree_prox(each)[0],
            "first": one.prox(arrays[0], 1.0),
        }

    def flat(tree):
        return np.concatenate([twin.numpy(x).astype(float).ravel() for x in tree])

    t = np.concatenate(
        [
            np.broadcast_to(twin.numpy(metric), shape).ravel()
            for metric, (shape, _) in zip(metrics, LEAVES.values(), strict=True)
        ]
    )
    given = twin.array(flat(arrays)), twin.array(t)
    found = twin.jit(facts)(arrays, metrics, *given)
    assert [twin.dtype(u) for u in found["found"]] == [d for _, d in LEAVES.values()]
    u, expected = flat(found["found"]), twin.numpy(found["whole"])
    np.testing.assert_allclose(u[:17], expected[:17], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(u[17], expected[17], rtol=2**-8)
    np.testing.assert_array_equal(u == 0, expected == 0)
    assert 1 < np.count_nonzero(u) < 15
    assert twin.numpy(found["inside"]) == 0
    assert twin.numpy(found["outside"]) == np.inf
    np.testing.assert_allclose(
        flat(found["distances"]), twin.numpy(found["distance"]), rtol=1e-2, atol=1e-2
    )
    assert_bitwise(*(twin.numpy(x) for x in found["alone"]))
    assert_bitwise(twin.numpy(found["each"]), twin.numpy(found["first"]))
    assert joint.tree_value([]) == 0
    assert joint.tree_prox([]) == joint.tree_optimality_distance([]) == []


def test_empty_and_scalar_arrays(twin):
    lib = twin.lib

    def compute(empty, scalar):
        sets = lib.l1_ball(1), lib.top_k(1), lib.n_of_m(1, 2)
        numbers = lib.l1_ball(1), lib.top_k(1), lib.top_k(2**40), lib.top_k(0)
        return (
            [(s.prox(empty, 1.0), s.optimality_distance(empty, empty)) for s in sets],
            [s.value(empty) for s in sets],
            [s.prox(scalar, 1.0) for s in numbers],
        )

    arrays, values, numbers = twin.jit(compute)(
        twin.array(np.zeros((3, 0))), twin.array(-3.0)
    )
    assert {twin.numpy(a).shape for pair in arrays for a in pair} == {(3, 0)}
    assert [float(v) for v in values] == [0, 0, 0]
    assert [float(v) for v in numbers] == [-1, -3, -3, 0]


@each_set
def test_attributes(name):
    for twin in TWINS:
        lib = twin.lib
        penalty = SETS[name].make(lib)
        assert penalty.constraint
        assert penalty.takes_metric
        assert not any((penalty.finite, penalty.separable, penalty.has_subgradient))
        assert penalty.convex == ("ball" in name)
        assert penalty.joint == ("tree" in name)
        assert penalty.least_slope == 0
        assert pickle.loads(pickle.dumps(penalty)) == penalty
        assert hash(penalty) == hash(SETS[name].make(lib))
        with pytest.raises(ValueError, match=r"no lambda_max: a constraint has no"):
            penalty.lambda_max(twin.array(np.ones(6)))


def test_bad_input(twin):
    lib = twin.lib
    for radius in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"radius must be .* got {radius}"):
            lib.l1_ball(radius)
    for radius in ("1", True, None, twin.array(1.0)):
        with pytest.raises(TypeError, match="radius must be a Python number"):
            lib.l1_ball(radius)
    for make in (lib.l1_ball, lib.top_k):
        with pytest.raises(
            ValueError, match="scope must be one of 'array', 'tree', got 'all'"
        ):
            make(1, scope="all")
    for make, argument in (
        (lib.top_k, "k"),
        (lambda n: lib.n_of_m(n, 4), "n"),
        (lambda m: lib.n_of_m(2, m), "m"),
    ):
        with pytest.raises(
            TypeError, match=rf"{argument} must be a Python int.* got 1.5"
        ):
            make(1.5)
        with pytest.raises(
            ValueError, match=rf"{argument} must be a Python int >= .* got -1"
        ):
            make(-1)
    with pytest.raises(TypeError, match="axis must be a Python int"):
        lib.n_of_m(2, 4, 0.0)
    with pytest.raises(ValueError, match="n must be at most m, got n=5 of m=4"):
        lib.n_of_m(5, 4)

    x, two = twin.array(np.ones((6, 4))), lib.n_of_m(2, 4, axis=0)
    with pytest.raises(
        ValueError, match=r"m=4 for axis 0 of the parameter 'head.w' of "
    ):
        two.require_fit("head.w", (6, 4))
    for which in METHODS:
        with pytest.raises(ValueError, match="m must divide the axis, got m=4"):
            getattr(two, which)(*arguments(which, x, x, 1.0))
    with pytest.raises(ValueError, match=r"axis 2 does not exist in the parameter 'b'"):
        lib.n_of_m(axis=2).require_fit("b", (4, 4))
    with pytest.raises(ValueError, match=r"axis -1 does not exist in .* shape \(\)"):
        lib.n_of_m().prox(twin.array(1.0), 1.0)

    ball = lib.l1_ball(1, scope="tree")
    for threshold in (-0.1, math.nan):
        with pytest.raises(ValueError, match=f"threshold must be .* got {threshold}"):
            ball.prox(x, threshold)
    for strength in (-0.1, math.inf):
        with pytest.raises(ValueError, match=f"strength must be .* got {strength}"):
            ball.value(x, strength)
    with pytest.raises(
        ValueError, match=r"shape \(3,\) does not broadcast .* 'deep.w'"
    ):
        ball.tree_prox([("deep.w", x, twin.array(np.ones(3)))])
    with pytest.raises(TypeError, match="deep.w must be real .*int32"):
        ball.tree_prox([("deep.w", twin.array([1, 2], "int32"), 1.0)])
