"""Against sorting, and against certificates that any projection must have."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from parity_tests.frameworks.twins import DTYPES, JAX, TORCH, TWINS

SIZE = 24
DOUBLE_SLOW = ["float32", pytest.param("float64", marks=pytest.mark.slow)]
NUMBERS = st.floats(0, 2.0**60, width=32, allow_subnormal=False)
FEW = st.sampled_from([0.0, 0.5, 1.0, 1.5, np.inf])  # so that many are equal


def l1_projection(twin):
    return twin.module("numerics.l1_projection")


def statistics(twin):
    return twin.module("numerics.order_statistics")


@functools.cache
def jitted(twin, name, *static):
    function = getattr(statistics(twin), name)
    return twin.jit(lambda *arrays: function(list(arrays), *static))


@functools.cache
def marks_of(twin):
    return twin.jit(lambda k, *arrays: statistics(twin).k_largest(list(arrays), k))


@functools.cache
def projection(twin, radius, parts=1):
    def project(*arrays):
        metrics = l1_projection(twin).relative(list(arrays[parts:]))
        project = l1_projection(twin).project_l1_ball
        return project(list(arrays[:parts]), metrics, radius)

    return twin.jit(project)


def halves(twin, x, dtype):
    return [twin.array(x[: SIZE // 3], dtype), twin.array(x[SIZE // 3 :], dtype)]


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    x=hnp.arrays("float64", SIZE, elements=NUMBERS | FEW),
    k=st.integers(1, SIZE),
    dtype=st.sampled_from(DTYPES),
)
def test_kth_largest_is_exact(x, k, dtype):
    with np.errstate(over="ignore"):
        x = JAX.numpy(JAX.array(x, dtype))
    expected = np.sort(x)[SIZE - k]
    for twin in TWINS:
        assert kth(twin, k, *halves(twin, x, dtype)) == expected
    count, arrays = TORCH.array(k, "int32"), halves(TORCH, x, dtype)
    found = statistics(TORCH).kth_largest(arrays, count)
    assert TORCH.dtype(found) == ("float64" if dtype == "float64" else "float32")
    assert TORCH.numpy(found) == expected


def kth(twin, k, *arrays):
    """The smallest of the k largest, NaN being the largest number."""
    marks = marks_of(twin)(twin.array(k, "int32"), *arrays)
    marked = [
        twin.numpy(x)[twin.numpy(mark) > 0]
        for x, mark in zip(arrays, marks, strict=True)
    ]
    return np.fmin.reduce(np.concatenate(marked))


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    x=hnp.arrays("float32", SIZE, elements=FEW | NUMBERS), k=st.integers(0, SIZE + 1)
)
def test_k_largest_takes_the_first_of_equals(x, k):
    order = np.argsort(-x, kind="stable")
    expected = np.zeros(SIZE, bool)
    expected[order[:k]] = True
    expected |= (x == 0) & (np.count_nonzero(x) < k)
    for twin in TWINS:
        marks = marks_of(twin)(twin.array(k, "int32"), *halves(twin, x, "float32"))
        np.testing.assert_array_equal(
            np.concatenate([twin.numpy(mark) for mark in marks]), expected
        )


def test_the_kth_of_bit_patterns(twin):
    # Neighbours, the ends of the exponents, a number and its successor.
    for dtype in ("float32", "float64"):
        info = np.finfo(dtype)
        x = np.array([1, info.tiny, info.max, 0, np.inf, 1, 2, 3], dtype)
        x[5], x[6] = np.nextafter(x[0], x[6]), np.nextafter(x[0], x[3])
        for k in range(1, 9):
            assert kth(twin, k, twin.array(x, dtype)) == np.sort(x)[8 - k]


def test_nan_is_the_largest(twin):
    x = np.array([1.0, -np.nan, np.inf, np.nan, 2.0])
    results = [kth(twin, k, twin.array(x)) for k in (1, 2, 3, 4)]
    np.testing.assert_array_equal(results, [np.nan, np.nan, np.inf, 2.0])
    marks = marks_of(twin)(twin.array(1, "int32"), twin.array(x))
    np.testing.assert_array_equal(twin.numpy(marks[0]), [0, 1, 0, 0, 0])


@pytest.mark.parametrize("dtype", DOUBLE_SLOW)
def test_many_elements_of_any_shape(twin, dtype):
    x = np.abs(np.random.default_rng(0).normal(size=(5, 7, 300))).round(2)
    array, flat = (
        twin.array(x, dtype),
        np.sort(twin.numpy(twin.array(x, dtype)).ravel()),
    )
    for k in (1, 77, 10_000):
        marks = twin.numpy(marks_of(twin)(twin.array(k, "int32"), array)[0])
        order = np.argsort(-x.ravel(), kind="stable")[:k]
        assert set(marks.ravel().nonzero()[0]) == set(order)
        assert kth(twin, k, array) == flat[-k]


def sorted_projection(x, t, radius):
    """The projection in the metric t, by sorting (Duchi et al., 2008), in numpy."""
    size = np.abs(x)
    if size.sum() <= radius:
        return x
    order = np.argsort(-size / t)
    tau = (np.cumsum(size[order]) - radius) / np.cumsum(t[order])
    tau = tau[np.nonzero(size[order] > tau * t[order])[0][-1]]
    return np.sign(x) * np.maximum(size - tau * t, 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_ball_against_sorting(twin, dtype):
    rng = np.random.default_rng(0)
    for case in range(60):
        x = rng.normal(size=SIZE) * 10.0 ** rng.uniform(-2, 3)
        x[rng.random(SIZE) < 0.2] = 0
        t = 10.0 ** rng.uniform(-3, 3, SIZE) if case % 2 else np.full(SIZE, 0.3)
        x, t = (twin.numpy(twin.array(a, dtype)) for a in (x, t))
        wide = x.astype("float64"), t.astype("float64")
        expected = sorted_projection(*wide, 1.0)
        given = *halves(twin, x, dtype), *halves(twin, t, dtype)
        found = projection(twin, 1.0, 2)(*given)
        found = np.concatenate([twin.numpy(u) for u in found])
        unit = np.finfo(dtype).eps * np.abs(x).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=4 * unit)
        clear = (expected == 0) | (np.abs(expected) > 8 * unit)
        np.testing.assert_array_equal((found == 0)[clear], (expected == 0)[clear])


def test_many_small_arrays_are_counted_as_one(twin):
    shapes = [(2, 3), (4,), (1, 3)] * 7
    rng = np.random.default_rng(0)
    x = [rng.normal(size=shape).round(1) for shape in shapes]
    t = [rng.uniform(0.1, 1, size=shape[1:]) for shape in shapes]
    flat = np.concatenate([a.ravel() for a in x])
    arrays = [twin.array(a) for a in x]
    order = np.argsort(-np.abs(flat), kind="stable")
    for k in (0, 1, 40, 41, 42, flat.size):
        marks = marks_of(twin)(twin.array(k, "int32"), *map(abs, arrays))
        marks = np.concatenate([twin.numpy(mark).ravel() for mark in marks])
        assert set(marks.nonzero()[0]) >= set(order[:k])
        assert marks[flat != 0].sum() == min(k, np.count_nonzero(flat))
    metrics = [np.broadcast_to(b, a.shape).ravel() for a, b in zip(x, t, strict=True)]
    expected = sorted_projection(flat, np.concatenate(metrics), 3.0)
    found = projection(twin, 3.0, len(x))(*arrays, *map(twin.array, t))
    found = np.concatenate([twin.numpy(u).ravel() for u in found])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_the_ball_has_the_certificate_of_a_projection(twin):
    # <(x - p) / t, u - p> <= 0 for all u of the ball: it is enough that it holds for
    # its corners. Metrics as those of Adam are, and worse.
    rng = np.random.default_rng(1)
    for case in range(40):
        spread = (0, 1, 6, 12)[case % 4]
        x = rng.normal(size=SIZE) * 10.0 ** rng.uniform(-1, 2)
        t = 10.0 ** rng.uniform(-spread, spread, SIZE)
        p = twin.numpy(projection(twin, 1.0)(twin.array(x), twin.array(t))[0])
        assert np.abs(p).sum() <= 1 + 1e-14
        slope, error = (x - p) / t, 1e-15 * np.abs(x) / t
        gap = np.abs(slope).max() - slope @ p
        assert gap <= error.max() + error @ np.abs(p)


def test_far_from_the_ball_no_digits_are_lost(twin):
    x, t = 1e6 + np.array([0.0, -0.5, -0.25, -3.0]), np.ones(4)
    expected = [7 / 12, 1 / 12, 1 / 3, 0]
    for dtype in ("float32", "float64"):
        given = twin.array(x, dtype), twin.array(t, dtype)
        found = twin.numpy(projection(twin, 1.0)(*given)[0])
        unit = np.finfo(dtype).eps
        np.testing.assert_allclose(found, expected, rtol=0, atol=unit)


def test_a_tiny_radius(twin):
    for x in ([1e6, 1e6, 3.0, 0.0], [1e6, -0.1, 0.0, 7.0]):
        for t in (np.ones(4), np.array([0.3, 0.7, 1.1, 3.0])):
            given = twin.array(x, "float32"), twin.array(t, "float32")
            u = twin.numpy(projection(twin, 1e-9)(*given)[0])
            assert np.isfinite(u).all()
            assert np.abs(u).sum() <= 1e-9 * (1 + 1e-5) + 4e-7 * 1e6


def test_metrics_that_are_zero_or_infinite(twin):
    # What moves freely goes first, what cannot move last: whole elements at a time.
    x = np.array([3.0, -2.0, 1.0, 2.0])
    t = np.array([1.0, 0.0, np.inf, 1.0])
    for radius, expected in {
        7.5: [3.0, -2.0, 0.5, 2.0],
        6.0: [2.5, -2.0, 0.0, 1.5],
        1.5: [0.0, -1.5, 0.0, 0.0],
    }.items():
        u = projection(twin, radius)(twin.array(x), twin.array(t))[0]
        np.testing.assert_allclose(twin.numpy(u), expected, rtol=1e-15)


@pytest.mark.parametrize("dtype", DOUBLE_SLOW)
def test_relative_thresholds(twin, dtype):
    relative = twin.jit(lambda *arrays: l1_projection(twin).relative(list(arrays)))

    def of(t):
        return twin.numpy(relative(twin.array(t, dtype))[0])

    rng = np.random.default_rng(0)
    for t in rng.uniform(0.1, 100, 300):
        assert of(t) == 1
    np.testing.assert_array_equal(of(np.zeros(3)), 1)
    np.testing.assert_array_equal(of(np.full(3, 49.0)), 1)
    assert len(set(of(np.full(3, np.inf)))) == 1
    np.testing.assert_allclose(of(np.array([8.0, 2.0, 1.0])), [1, 0.25, 0.125])
    low, high, one = of(np.array([0.0, np.inf, 5.0]))
    assert 0 < low < 1e-20
    assert high > 1e15
    assert one == 1


def test_slopes_of_the_ball_with_respect_to_arrays_and_metrics(twin):
    x = np.array([3.0, -2.0, 0.0, 0.1, 1.5])
    t = np.array([1.0, 0.5, 1.0, 0.25, 1.0])  # the largest is there thrice
    weights = np.array([1.0, -2.0, 0.5, 3.0, 0.7])

    def loss(both):
        u = projection(twin, 2.0)(both[0], both[1])[0]
        return (u * twin.array(weights)).sum()

    both = np.array([x, t])
    slopes = twin.numpy(twin.jit(twin.grad(loss))(twin.array(both)))
    for which, found in enumerate(slopes):
        for i in range(5):
            step = np.zeros((2, 5))
            step[which, i] = 1e-6
            ends = [float(loss(twin.array(both + s))) for s in (step, -step)]
            np.testing.assert_allclose(
                found[i], (ends[0] - ends[1]) / 2e-6, rtol=1e-7, atol=1e-8
            )


@pytest.mark.slow
def test_twins_agree_on_large_arrays():
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=3000), 10.0 ** rng.uniform(-4, 4, 3000)
    for dtype in ("float32", "float64"):
        for metric in (np.array(0.1), t):
            found = [
                twin.numpy(
                    projection(twin, 20.0)(
                        twin.array(x, dtype), twin.array(metric, dtype)
                    )[0]
                )
                for twin in (JAX, TORCH)
            ]
            unit = np.finfo(dtype).eps * np.abs(x).max()
            assert np.abs(found[0] - found[1]).max() <= 4 * unit
            edge = np.abs(found[0]) + np.abs(found[1]) > 8 * unit
            np.testing.assert_array_equal((found[0] == 0)[edge], (found[1] == 0)[edge])
