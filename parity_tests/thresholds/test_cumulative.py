"""The windowed cumulative penalty."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import l1jax.thresholds.cumulative
import l1torch.thresholds.cumulative
from parity_tests.frameworks.twins import TORCH
from parity_tests.oracles import problems
from parity_tests.oracles.convergence_matrix import case


def by_hand(z, e, plus, minus, window):
    """As it is written down, sign by sign."""
    plus, minus = np.minimum(plus + e, window * e), np.minimum(minus + e, window * e)
    w = np.where(
        z > 0, np.maximum(0, z - plus), np.where(z < 0, np.minimum(0, z + minus), 0)
    )
    c = z - w
    return w, np.maximum(plus - c, 0), np.maximum(minus + c, 0)


def shrink(twin, z, e, plus, minus, window):
    z, plus, minus = (twin.array(x) for x in (z, plus, minus))
    e = twin.array(e) if isinstance(e, np.ndarray) else e
    if twin is TORCH:
        l1torch.thresholds.cumulative.cumulative_prox_(z, e, plus, minus, window)
        return [twin.numpy(x) for x in (z, plus, minus)]
    return [
        twin.numpy(x)
        for x in l1jax.thresholds.cumulative.cumulative_prox(z, e, plus, minus, window)
    ]


@pytest.mark.parametrize("window", [1, 2, 10, 1_000_000])
def test_it_is_the_formula(twin, window):
    rng = np.random.default_rng(0)
    state = [rng.normal(size=200) / 5, np.zeros(200), np.zeros(200)]
    for _ in range(50):
        z = state[0] + rng.normal(size=200) / 20
        e = np.abs(rng.normal(size=200)) / 30
        expected = by_hand(z, e, *state[1:], window)
        actual = shrink(twin, z, e, *state[1:], window)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-15)
        np.testing.assert_array_equal(actual[0] == 0, expected[0] == 0)
        state = list(actual)
    assert 0 < (state[0] == 0).mean() < 1


def test_a_window_of_one_is_the_soft_threshold(twin):
    z, e = np.linspace(-1, 1, 101), 0.3
    budgets = np.zeros(101), np.zeros(101)
    for _ in range(3):  # whatever is left in the budgets
        w, *budgets = shrink(twin, z, e, *budgets, 1)
        expected = twin.numpy(twin.prox.soft_threshold(twin.array(z), e))
        np.testing.assert_array_equal(w, expected)


def test_no_window_at_all_is_the_cumulative_penalty(twin):
    """Tsuruoka's u and q: what could have been taken, and what was."""
    rng = np.random.default_rng(1)
    w, u, q = rng.normal(size=50), 0.0, np.zeros(50)
    mine = [w.copy(), np.zeros(50), np.zeros(50)]
    for _ in range(200):
        noise, e = rng.normal(size=50) / 30, 0.01
        u += e
        z = w + noise
        w = np.where(
            z > 0,
            np.maximum(0, z - (u + q)),
            np.where(z < 0, np.minimum(0, z + (u - q)), 0),
        )
        q += w - z
        mine = shrink(twin, mine[0] + noise, e, *mine[1:], math.inf)
        np.testing.assert_allclose(mine[0], w, rtol=0, atol=1e-12)
    assert (w == 0).mean() > 0.5


def test_zero_thresholds_and_nan(twin):
    z = np.array([1.0, -1.0, np.nan, 0.0])
    for window in (1, 5, math.inf):
        w, plus, _ = shrink(twin, z, 0.0, np.zeros(4), np.zeros(4), window)
        np.testing.assert_array_equal(w, z)
        assert np.isfinite(plus[[0, 1, 3]]).all()
        w, *_ = shrink(twin, z, 0.5, np.zeros(4), np.zeros(4), window)
        np.testing.assert_array_equal(np.isnan(w), np.isnan(z))


@functools.cache
def correct_zeros(window):
    """Of the Lasso's 5 zeros on diabetes, the mean found in minibatches of 32."""
    problem = problems.diabetes()
    X, y = jnp.asarray(problem.X), jnp.asarray(problem.y)
    steps = 4_000
    tx = l1jax.proximal(
        optax.adam,
        optax.cosine_decay_schedule(3e-3, steps),
        problem.strength,
        window=window,
    )

    def train(key):
        def body(carry, key):
            w, state = carry
            rows = jax.random.choice(key, len(y), (32,), replace=False)
            grad = problem.gradient(jnp, X[rows], y[rows], w)
            updates, state = tx.update(grad, state, w)
            return (optax.apply_updates(w, updates), state), None

        w = jnp.full(10, 0.01)
        (w, _), _ = jax.lax.scan(body, (w, tx.init(w)), jax.random.split(key, steps))
        return w

    w = np.asarray(jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 32)))
    optimum = case("lasso").optimum["w"]
    assert ((w == 0) & (optimum != 0)).sum() == 0
    return ((w == 0) & (optimum == 0)).sum(1).mean()


@pytest.mark.slow
def test_it_keeps_zeros_under_noise():
    counts = [correct_zeros(window) for window in (1, 10, 100)]
    assert counts[0] < 4
    assert counts[0] + 0.5 < counts[1] < counts[2]
    assert counts[2] > 4.5


def test_the_budgets_are_kept_in_full_precision():
    w = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    base = torch.optim.Adam([("w", w)], lr=1e-3)
    optimizer = l1torch.Proximal(base, 0.1, window=10)
    w.grad = torch.full_like(w, 0.37)
    for _ in range(3):
        optimizer.step()
    saved = optimizer.state_dict()
    again = l1torch.Proximal(torch.optim.Adam([("w", w)], lr=1e-3), 0.1, window=10)
    again.load_state_dict(saved)
    for key in l1torch.thresholds.cumulative.BUDGETS:
        assert again.state[w][key].dtype == torch.float32
        assert torch.equal(again.state[w][key], optimizer.state[w][key])
        assert again.state[w][key] is not optimizer.state[w][key]
    params = {"w": jnp.ones((4, 4), jnp.bfloat16)}
    state = l1jax.proximal(optax.adam, 0.1, 0.1, window=2).init(params)
    assert state.plus["w"].dtype == state.minus["w"].dtype == jnp.float32
