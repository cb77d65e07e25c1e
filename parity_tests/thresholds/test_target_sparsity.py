"""Target sparsity: the zeros follow the ramp, by a strength that is a quantile."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import l1jax
import l1torch
from parity_tests.frameworks.twins import JAX, TORCH
from parity_tests.thresholds.ramped_training import (
    MORE,
    OPTIMIZERS,
    RATE,
    SHAPES,
    SIZES,
    STEPS,
    WAYS,
    data,
    ramp,
    train,
    zeros,
)


@pytest.mark.parametrize(
    "way",
    [
        "adam",
        *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS if way != "adam"),
    ],
)
def test_the_zeros_follow_the_ramp_exactly_and_alike(way):
    trails, found = [], []
    for twin in (JAX, TORCH):
        trail, strengths = train(twin, twin.lib.target_sparsity(0.9, STEPS), way)
        steps = range(1, STEPS + MORE + 1)
        wanted = [round(ramp(step, 0.9) * 360) for step in steps]
        np.testing.assert_array_equal(zeros(trail), wanted)
        assert zeros(trail)[-1] == 324  # and stays after `steps`
        assert not (trail["bias"] == 0).any()
        trails.append(trail)
        found.append(strengths)
    np.testing.assert_allclose(*found, rtol=1e-10)
    for name in SHAPES:
        np.testing.assert_array_equal(*(trail[name] == 0 for trail in trails))
        np.testing.assert_allclose(*(trail[name] for trail in trails), atol=1e-12)


@pytest.mark.parametrize("size", [20, 200, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["adam", "momentum"])
def test_full_batches_end_at_the_target(twin, size, way):
    """Where weights settle, and a controller of the zeros can swing for ever."""
    rng = np.random.default_rng(size)
    X = rng.normal(size=(2 * size, size))
    y = X @ (rng.normal(size=size) * (rng.random(size) < 0.3)) + rng.normal(size=len(X))
    gram, slope = (twin.array(m / len(X)) for m in (X.T @ X, X.T @ y))
    target = twin.lib.target_sparsity(0.75, 100)
    factory, settings, cls, torch_settings = OPTIMIZERS[way]
    if twin is JAX:
        tx = l1jax.proximal(factory, RATE, target, **settings)

        def body(carry, _):
            w, state = carry
            updates, state = tx.update(gram @ w - slope, state, w)
            return (optax.apply_updates(w, updates), state), None

        start = jnp.zeros(size)
        w = jax.jit(lambda: jax.lax.scan(body, (start, tx.init(start)), length=100))()
        w = w[0][0]
    else:
        w = torch.nn.Parameter(torch.zeros(size, dtype=torch.float64))
        base = cls([("w", w)], lr=RATE, **torch_settings)
        optimizer = l1torch.Proximal(base, target)
        for _ in range(100):
            w.grad = gram @ w.detach() - slope
            optimizer.step()
    assert (w == 0).sum() == 0.75 * size


@pytest.mark.slow
def test_each_array_has_its_own_strength():
    found = []
    for twin in (JAX, TORCH):
        target = twin.lib.target_sparsity(0.8, STEPS, scope="array")
        trail, strengths = train(twin, target)
        for name in SIZES:
            wanted = [round(ramp(t, 0.8) * 180) for t in range(1, STEPS + MORE + 1)]
            np.testing.assert_array_equal(zeros(trail, (name,)), wanted)
        assert not np.any(strengths["bias"])
        assert not np.allclose(strengths["u"], strengths["w"])
        found.append(strengths)
    for name in SIZES:
        np.testing.assert_allclose(*(x[name] for x in found), rtol=1e-10)


@pytest.mark.parametrize("share", [0.8, pytest.param(0.3, marks=pytest.mark.slow)])
def test_the_strength_is_the_least_that_makes_the_zeros(twin, share):
    rng = np.random.default_rng(1)
    w, u = rng.normal(size=(2, 7, 30))
    w[0] = u[0] = 0  # zeros that are there already
    rate = 0.25
    target = twin.lib.target_sparsity(share, 1, begin=0, end=0.5)
    step = twin.lib.proximal_step(target, rate)
    params = twin.tree({"w": w})
    update = twin.jit(step.update)
    updates, state = update(twin.tree({"w": u}), step.init(params), params)
    ratios = np.sort(np.abs(w + u).ravel() / rate)
    quantile = ratios[round(share * 210) - 1]
    strength = float(state.control.strength)
    np.testing.assert_allclose(strength, quantile, rtol=2e-15)
    assert strength >= quantile
    new = twin.numpy(twin.apply_updates(params, updates)["w"])
    assert (new == 0).sum() == round(share * 210)
    expected = np.sign(w + u) * np.maximum(np.abs(w + u) - rate * quantile, 0)
    np.testing.assert_allclose(new, expected, atol=1e-14)


def test_zeros_that_are_there_count(twin):
    few = twin.lib.target_sparsity(0.1, 1, begin=0, end=0.5)
    step = twin.lib.proximal_step(few, 0.1)
    params = twin.tree({"w": np.r_[np.zeros(6), np.ones(24)]})
    still = {"w": 0 * params["w"]}
    updates, state = twin.jit(step.update)(still, step.init(params), params)
    assert float(state.control.strength) == 0
    assert not twin.numpy(updates["w"]).any()


@pytest.mark.parametrize(
    ("make", "unit"),
    [
        (lambda lib: lib.elastic_net(0.5), 1),
        pytest.param(lambda lib: lib.mcp(0.5, 3.0), 1, marks=pytest.mark.slow),
        pytest.param(lambda lib: lib.lp(0.5), 1, marks=pytest.mark.slow),
        pytest.param(lambda lib: lib.group_l1(1), 12, marks=pytest.mark.slow),
    ],
    ids=["elastic_net", "mcp", "lp", "group_l1"],
)
def test_other_penalties_follow_it_too(twin, make, unit):
    target = twin.lib.target_sparsity(0.7, STEPS)
    trail, _ = train(twin, target, "momentum", penalty=make(twin.lib))
    wanted = np.array([ramp(t, 0.7) * 360 for t in range(1, STEPS + MORE + 1)])
    surplus = zeros(trail) - wanted
    assert -0.51 < surplus.min() <= surplus.max() < unit - 0.49  # rounded, whole groups


@pytest.mark.parametrize(
    "scope", ["global", pytest.param("array", marks=pytest.mark.slow)]
)
def test_the_snap_prunes_to_the_target_and_freezes_it(twin, scope):
    target = twin.lib.target_sparsity(0.8, STEPS, scope=scope, snap=0.75)
    trail, strengths = train(twin, target)
    at = 29  # the 30th step of 40
    assert (zeros(trail)[at:] == 288).all()
    for name in SIZES:
        if scope == "array":
            assert (zeros(trail, (name,))[at:] == 144).all()
            np.testing.assert_array_equal(strengths[name][at:], 0)
        after = trail[name][at:] == 0
        assert (after == after[0]).all()
        assert (trail[name][at + 1] != trail[name][at])[~after[0]].all()  # refitted
    if scope == "global":
        np.testing.assert_array_equal(strengths[at:], 0)
        assert strengths[at - 1] > 0


@pytest.mark.slow_in_jax
@pytest.mark.parametrize("way", ["adam", "momentum"])
def test_rounding_costs_no_zeros(twin, way):
    """In single precision the threshold of the k-th weight may round below it."""
    rng = np.random.default_rng(0)
    w, grads = rng.normal(size=5000), rng.normal(size=(8, 5000))
    target = twin.lib.target_sparsity(0.5, 8, begin=0.0, end=0.1)
    factory, settings, cls, torch_settings = OPTIMIZERS[way]
    params = twin.tree({"w": w}, "float32")
    if twin is JAX:
        tx = l1jax.proximal(factory, RATE, target, **settings)
        state, update = tx.init(params), jax.jit(tx.update)
    else:
        param = torch.nn.Parameter(params["w"])
        base = cls([("w", param)], lr=RATE, **torch_settings)
        optimizer = l1torch.Proximal(base, target)
    for grad in grads:
        grad = twin.array(grad, "float32")
        if twin is JAX:
            updates, state = update({"w": grad}, state, params)
            params = optax.apply_updates(params, updates)
        else:
            param.grad = grad
            optimizer.step()
        count = (twin.numpy(params["w"]) == 0).sum()
        assert 2500 <= count <= 2501


def test_what_takes_no_step_is_not_counted(twin):
    target = twin.lib.target_sparsity(0.5, 1, begin=0, end=0.5)
    start, _ = data()
    params = twin.tree(start)
    updates = {name: 0 * x for name, x in params.items()} | {"u": None}
    step = twin.lib.proximal_step(target, 0.1)
    updates, _ = twin.jit(step.update)(updates, step.init(params), params)
    assert updates["u"] is None
    new = twin.numpy(params["w"] + updates["w"])
    assert (new == 0).sum() == 90


def test_a_learning_rate_of_zero_keeps_the_strength(twin):
    target = twin.lib.target_sparsity(0.5, 2, begin=0, end=0.5)
    params = twin.tree({"w": np.linspace(1, 2, 10)})
    rates = [0.5, 0.0]
    if twin is JAX:
        step = l1jax.proximal_step(target, lambda t: jnp.asarray(rates)[t])
    else:
        step = l1torch.proximal_step(target, rates.__getitem__)
    state, still = step.init(params), {"w": 0 * params["w"]}
    update = twin.jit(step.update)
    _, state = update(still, state, params)
    first = float(state.control.strength)
    updates, state = update(still, state, params)
    assert first > 0
    assert float(state.control.strength) == first
    assert not twin.numpy(updates["w"]).any()


@pytest.mark.parametrize("scope", ["global", "array"])
def test_the_state_tells_how_far_the_ramp_is(twin, scope):
    """A run that stops too early leaves fewer zeros, and says so."""
    target = twin.lib.target_sparsity(0.9, 10, scope=scope)
    start, _ = data()
    params = {"w": twin.array(start["w"])}
    step = twin.lib.proximal_step(target, 0.1)
    if twin is JAX:
        update = jax.jit(l1jax.proximal(optax.adam, 0.1, target).update)
        state = l1jax.proximal(optax.adam, 0.1, target).init(params)
    else:
        weights = torch.nn.Parameter(params["w"].clone())
        base = torch.optim.Adam([("w", weights)], lr=0.1)
        optimizer = l1torch.Proximal(base, target)
        weights.grad = torch.zeros_like(weights)
    functional, pure = step.init(params), twin.jit(step.update)
    still = {"w": 0 * params["w"]}
    for count in range(5):
        if twin is TORCH:
            state = optimizer
        for each in (functional.control, state.control):
            assert float(each.wanted) == pytest.approx(ramp(count, 0.9, 10), abs=1e-15)
            assert float(each.target) == 0.9
        _, functional = pure(still, functional, params)
        if twin is JAX:
            _, state = update(still, state, params)
        else:
            optimizer.step()
    assert re.search(r"wanted=\D*0\.894\d*.*, target=\D*0\.9", repr(state))
    report = twin.lib.sparsity_report(params, control=state.control)
    assert report.to_dict()["wanted"] == float(state.control.wanted)
    last = str(report).splitlines()[-2:]
    assert [line.split() for line in last] == [
        ["wanted", "89.46%"],
        ["target", "90.00%"],
    ]
    for moving in ({"w": None}, still):  # also where nothing is led
        _, functional = step.update(moving, functional, params)
    assert float(functional.control.wanted) == 0.9
    if twin is JAX:
        assert update._cache_size() == 1
