"""The k-th smallest number, counted from a guess, whatever the guess."""

import functools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import l1jax
import l1jax.numerics.quantiles
import l1torch.numerics.quantiles
from l1jax.numerics.order_statistics import order_keys
from parity_tests.frameworks.twins import JAX

KTH = jax.jit(
    lambda x, k, guess: l1jax.numerics.quantiles.kth_smallest(
        [*map(order_keys, x)], k, guess
    )
)
LEAST = jax.jit(
    lambda x, k, guess: l1jax.numerics.quantiles.least_strength(
        lambda strength: jnp.sum(x <= strength), k, guess
    )
)
floats = st.floats(0, 2.0**99, width=32) | st.sampled_from([0.0, 1.0, math.inf])


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    st.lists(floats, min_size=12, max_size=12), st.integers(1, 12), floats
)
def test_the_quantile_is_the_kth_smallest(values, k, guess):
    values = np.array(values, np.float32)
    values[values < np.finfo(np.float32).tiny] = 0  # XLA would
    wanted = np.sort(values)[k - 1]
    parts = [jnp.asarray(values[:5]), jnp.asarray(values[5:])]
    assert KTH(parts, jnp.asarray(k), jnp.asarray(guess, jnp.float32)) == wanted
    tensors = [torch.tensor(values[:5]), torch.tensor(values[5:])]
    for few in (0, 4, 1 << 16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(l1torch.numerics.quantiles, "_FEW", few)
            found = l1torch.numerics.quantiles.kth_smallest(
                lambda n: [x[::n] for x in tensors], k, guess, 12, torch.float32
            )
        assert found == wanted


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_quantile_of_many_numbers(twin, dtype):
    rng = np.random.default_rng(0)
    values = np.exp(3 * rng.normal(size=200_000)).astype(dtype)
    values[:5] = np.nan
    x = twin.array(values, dtype)
    for k in (1, 1000, 123_456, 199_995, 199_996):
        wanted = np.sort(values)[k - 1]
        wanted = math.inf if np.isnan(wanted) else wanted
        for guess in (0.0, wanted * 1.01, 1e-3):
            if twin is JAX:
                found = KTH([x], jnp.asarray(k), jnp.asarray(guess, dtype))
            else:
                found = l1torch.numerics.quantiles.kth_smallest(
                    lambda n: x[::n].split(64_000), k, float(guess), x.numel(), x.dtype
                )
            assert float(found) == float(wanted)


@pytest.mark.parametrize("ties", [False, True])
def test_a_sample_that_misleads_costs_passes_only(ties, monkeypatch):
    monkeypatch.setattr(l1torch.numerics.quantiles, "_FEW", 1 << 11)
    monkeypatch.setattr(l1torch.numerics.quantiles, "_SAMPLE", 1 << 10)
    monkeypatch.setattr(l1torch.numerics.quantiles, "BLOCK", 1 << 12)
    values = np.abs(np.random.default_rng(0).normal(size=100_000)).astype(np.float32)
    values[: 60_000 if ties else 0] = 0.25  # more than are gathered
    mixed = torch.tensor(np.random.default_rng(1).permutation(values))
    values.sort()
    x = mixed if ties else torch.tensor(values)
    calls = []

    def passes(n):
        calls.append(n)
        return [x[::n] if ties else x[: x.numel() // n]]  # the smallest

    near = int((values < 0.25).sum()) - 3
    for k in (near, 50_000, 99_000):
        found = l1torch.numerics.quantiles.kth_smallest(
            passes, k, 0.3, x.numel(), x.dtype
        )
        assert found == values[k - 1]
    assert calls.count(97) == 3  # one sample each
    assert calls.count(1) > 4


@pytest.mark.parametrize("guess", [0.0, 0.3, 1e20, math.nan])
def test_the_least_strength_is_least(twin, guess):
    values = np.abs(np.random.default_rng(0).normal(size=100)).astype(np.float32)
    x = twin.array(values, "float32")
    for k in (1, 50, 100):
        if twin is JAX:
            found = float(LEAST(x, jnp.asarray(k), jnp.asarray(guess, jnp.float32)))
        else:
            found = l1torch.numerics.quantiles.least_strength(
                lambda strength: int((x <= strength).sum()), k, guess, torch.float32
            )
        exact = np.sort(values)[k - 1]
        assert exact <= found <= exact * (1 + 4e-6)


# What a step is lowered to for each further array, over that of a fixed strength.
MANY = {
    "global": (l1jax.target_sparsity(0.5, 10), l1jax.l1(), 1.5),
    "snap": (l1jax.target_sparsity(0.5, 10, snap=0.75), l1jax.l1(), 2.5),
    "array": (l1jax.target_sparsity(0.5, 10, scope="array"), l1jax.l1(), 2.5),
    "array, snap": (
        l1jax.target_sparsity(0.5, 10, scope="array", snap=0.75),
        l1jax.l1(),
        4,
    ),
    "ball": (1.0, l1jax.l1_ball(1.0, scope="tree"), 2.5),
    "top_k": (1.0, l1jax.top_k(9, scope="tree"), 2.5),
}


@functools.cache
def lines_for_each(strength, penalty):
    def lines(arrays):
        tx = l1jax.proximal(optax.sgd, 0.1, strength, penalty=penalty)
        shapes = [(1 + i % 4, 2) for i in range(arrays)]
        params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        state = jax.eval_shape(tx.init, params)
        return jax.jit(tx.update).lower(params, state, params).as_text().count("\n")

    return (lines(40) - lines(20)) / 20


@pytest.mark.parametrize("name", MANY)
def test_each_of_many_arrays_adds_little_to_a_step(name):
    strength, penalty, limit = MANY[name]
    assert lines_for_each(strength, penalty) < limit * lines_for_each(0.1, l1jax.l1())


def test_a_step_of_many_arrays_is_no_longer_than_its_arrays():
    def length(arrays):
        target = l1jax.target_sparsity(0.5, 10)
        tx = l1jax.proximal(optax.sgd, 0.1, target)
        params = {f"w{i}": jnp.ones(8) for i in range(arrays)}
        step = jax.jit(tx.update).lower(params, tx.init(params), params)
        return len(step.compile().as_text())

    assert length(96) < 4 * length(32)
