"""Strengths that follow the step count: the same values in both frameworks."""

import math
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import l1jax
import l1torch

PARTS = {"delay": 3, "warm_up": 10, "hold": 4, "cool_down": 5}


def values(lib, steps, *args, **kwargs):
    schedule = lib.strength_schedule(*args, **kwargs)
    return np.array([float(schedule(t)) for t in range(steps)])


@pytest.mark.parametrize("lib", [l1jax, l1torch])
@pytest.mark.parametrize("power", [1.0, 3.0, 0.5])
def test_against_interpolation(lib, power):
    found = values(lib, 30, 2.0, start=0.5, end=0.25, power=power, **PARTS)
    # The ramps are straight in what is left of the way to the power of 1/power.
    left = np.interp(np.arange(30), [3, 13], [1, 0]) ** power
    assert_allclose(found[:18], (2 - 1.5 * left)[:18], rtol=1e-14)
    left = np.interp(np.arange(30), [17, 22], [1, 0]) ** power
    assert_allclose(found[17:], (0.25 + 1.75 * left)[17:], rtol=1e-14)
    assert found[0] == 0.5
    assert found[13] == 2.0
    assert found[-1] == 0.25


def test_without_parts_it_is_constant(twin):
    assert_array_equal(values(twin.lib, 4, 0.3), 0.3)
    assert_array_equal(values(twin.lib, 4, 0.3, delay=2), [0, 0, 0.3, 0.3])
    stop = values(twin.lib, 4, 0.3, hold=2, cool_down=1, end=0.1)
    assert_allclose(stop, [0.3, 0.3, 0.3, 0.1], rtol=1e-15)


def test_the_twins_agree():
    for power in (1.0, 3.0):
        kwargs = PARTS | {"start": 0.1, "end": 0.2, "power": power}
        ours = values(l1jax, 30, 0.7, **kwargs)
        assert_allclose(ours, values(l1torch, 30, 0.7, **kwargs), rtol=1e-14)


LENGTHS = st.one_of(st.integers(0, 12), st.integers(0, 2**31 - 1))
POWERS = st.one_of(
    st.sampled_from([1.0, 3.0, 0.5]), st.floats(5e-324, sys.float_info.max)
)


def numbers(largest):
    """Strengths that are no subnormal numbers, which XLA takes for zero."""
    return st.one_of(
        st.sampled_from([0.0, 1e-3, 1e-4, 1e-2, largest]), st.floats(1e-37, largest)
    )


@st.composite
def schedules(draw, largest):
    """Arguments of a schedule, and a step of each part, its ends, and their values."""
    strength, start, end = (draw(numbers(largest)) for _ in range(3))
    delay, warm_up, hold, cool_down = (draw(LENGTHS) for _ in range(4))
    options = {"delay": delay, "warm_up": warm_up, "hold": hold, "start": start}
    options |= {"cool_down": cool_down, "end": end, "power": draw(POWERS)}
    ends = np.cumsum([delay, warm_up, hold, cool_down]).tolist()
    values = [start if warm_up else strength, strength, strength, end]
    if not cool_down:
        values[3] = strength
    exact = [*zip(ends, values, strict=True)]
    if delay:
        exact.append((0, start))
    inside = [draw(st.integers(0, ends[3] + 3)) for _ in range(3)]
    between = [
        (low + draw(st.integers(0, length)), {*pair})
        for low, length, pair in (
            (delay, warm_up, (start, strength)),
            (ends[2], cool_down, (strength, end if cool_down else strength)),
        )
    ]
    whole = {start, strength, end if cool_down else strength}
    between += [(step, whole) for step in inside]
    return strength, options, exact, between


def check_schedule(schedule, drawn, dtype, steps):
    """The ends are exact, and nothing lies outside of the two numbers of its part."""
    _, _, exact, between = drawn
    for step, value in exact:
        if step < steps:
            assert schedule(step) == dtype(value)
    for step, pair in between:
        if step < steps:
            assert dtype(min(pair)) <= schedule(step) <= dtype(max(pair))


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize(
    ("start", "lengths"), [(1e-2, (100, 800, 100)), (1e-4, (10, 10, 10))]
)
def test_a_cool_down_ends_at_zero(start, lengths, x64):
    """Not below it by rounding, which would be no strength."""
    parts = dict(zip(("warm_up", "hold", "cool_down"), lengths, strict=True))
    assert l1torch.strength_schedule(1e-3, start=start, **parts)(sum(lengths)) == 0
    with jax.enable_x64(x64):
        schedule = l1jax.strength_schedule(1e-3, start=start, **parts)
        assert schedule(sum(lengths)) == jax.jit(schedule)(sum(lengths)) == 0


@pytest.mark.parametrize("x64", [True, False])
@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=12)
def test_no_schedule_leaves_its_numbers(x64, data):
    dtype = np.float64 if x64 else np.float32
    drawn = data.draw(schedules(float(np.finfo(dtype).max)))
    strength, options, exact, between = drawn
    theirs = l1torch.strength_schedule(strength, **options)
    check_schedule(theirs, drawn, np.float64, math.inf)
    with jax.enable_x64(x64):
        ours = l1jax.strength_schedule(strength, **options)
        check_schedule(lambda t: ours(np.float64(t)), drawn, dtype, math.inf)
        # Counts are int32. Compiled, a step may round otherwise.
        check_schedule(jax.jit(ours), drawn, dtype, 2**31)
        if x64:
            for step, _ in exact + between:
                assert_allclose(ours(step), theirs(step), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("steps", [1, 7, 100, 2**31 - 1])
@hypothesis.given(
    target=st.floats(0, 1, exclude_max=True),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda x: x[0] != x[1]),
    where=st.floats(0, 1),
)
@hypothesis.example(target=0.9, ends=(0.0, 5e-324), where=0.0)
@hypothesis.settings(max_examples=25)
def test_no_target_leaves_its_ramp(steps, target, ends, where):
    begin, end = sorted(ends)
    for lib in (l1jax, l1torch):
        made = lib.target_sparsity(target, steps, begin=begin, end=end)
        assert made.fraction(begin * steps) in (0, target)
        assert made.fraction(end * steps) == made.fraction(steps) == target
        assert 0 <= made.fraction(where * steps) <= target
        assert 0 <= made.count(where * steps, 1001) <= round(target * 1001)


def test_single_precision_says_what_it_cannot_hold():
    schedule = l1jax.strength_schedule(1.0, start=1e308, warm_up=3)
    assert schedule(0) == 1e308
    with jax.enable_x64(False), pytest.raises(ValueError, match="float32, got 1e.308"):
        jax.jit(schedule)(0)


def test_compiled_in_single_precision():
    schedule = l1jax.strength_schedule(0.7, power=3.0, **PARTS)
    expected = values(l1torch, 30, 0.7, power=3.0, **PARTS)
    with jax.enable_x64(False):
        found = jax.jit(jax.vmap(schedule))(jnp.arange(30))
        assert found.dtype == jnp.float32
    assert_allclose(found, expected, atol=1e-6)


OPTAX = {
    "linear": (
        optax.linear_schedule(0.0, 0.2, 4),
        lambda t: 0.2 * min(t / 4, 1),
    ),
    "cosine": (
        optax.cosine_decay_schedule(0.2, 6),
        lambda t: 0.1 * (1 + math.cos(math.pi * min(t, 6) / 6)),
    ),
    "joined": (
        optax.join_schedules(
            [optax.constant_schedule(0.0), optax.linear_schedule(0.1, 0.3, 2)], [3]
        ),
        lambda t: 0.0 if t < 3 else 0.1 + 0.1 * min(t - 3, 2),
    ),
    "ours": (
        l1jax.strength_schedule(0.2, warm_up=3, hold=2, cool_down=2),
        l1torch.strength_schedule(0.2, warm_up=3, hold=2, cool_down=2),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_one_schedule_trains_both_alike(name):
    ours, theirs = OPTAX[name]
    rtol = 1e-12 if name == "ours" else 1e-6  # optax's are of single precision
    start = np.linspace(-2, 2, 11)
    tx = l1jax.proximal(optax.adam, 0.1, ours)
    params = {"w": jnp.array(start)}
    state, update = tx.init(params), jax.jit(tx.update)
    w = torch.nn.Parameter(torch.tensor(start))
    base = torch.optim.Adam([("w", w)], lr=0.1)
    optimizer, seen = l1torch.Proximal(base, theirs), False
    for step in range(12):
        assert float(ours(step)) == pytest.approx(theirs(step), rel=rtol, abs=1e-17)
        updates, state = update({"w": params["w"] - 0.05}, state, params)
        params = optax.apply_updates(params, updates)
        w.grad = w.detach() - 0.05
        optimizer.step()
        assert optimizer.param_groups[0]["l1"] == theirs(step)
        assert_allclose(w.detach(), params["w"], rtol=rtol, atol=rtol / 100)
        assert_array_equal(w.detach() == 0, params["w"] == 0)
        seen |= bool((w == 0).any())
    assert seen


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"warm_up": -1}, ValueError, "warm_up must be a Python int >= 0"),
        ({"hold": 1.5}, TypeError, "hold must be a Python int .* got 1.5"),
        ({"delay": True}, TypeError, "delay must be a Python int"),
        ({"cool_down": 5}, ValueError, "hold must be given with cool_down=5"),
        ({"start": -1.0}, ValueError, "start must be a Python number"),
        ({"end": math.nan}, ValueError, "end must be a Python number"),
        ({"power": 0.0}, ValueError, "power must be a Python .* got 0.0"),
        ({"power": "3"}, TypeError, "power must be a Python .* got '3'"),
    ],
)
def test_bad_input(twin, wrong, error, message):
    with pytest.raises(error, match=message):
        twin.lib.strength_schedule(0.1, **wrong)
