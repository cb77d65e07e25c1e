import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import l1jax
from parity_tests.frameworks.twins import DTYPES, JAX, TORCH, assert_bitwise
from parity_tests.oracles import optima


def steps(twin, tx, params, updates, n=1):
    """The trees of parameters after each of n steps of the same updates."""
    state, trail = tx.init(params), []
    for _ in range(n):
        new_updates, state = tx.update(updates, state, params)
        params = twin.apply_updates(params, new_updates)
        trail.append(params)
    return trail


@pytest.fixture(params=["l1", "elastic_net"])
def make_penalty(request):
    if request.param == "l1":
        return lambda twin: twin.lib.l1()
    return lambda twin: twin.lib.elastic_net(0.4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_operations_are_bitwise_equal(make_penalty, dtype):
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(size=5000), "bias": rng.normal(size=50)}
    grads = {name: rng.normal(size=x.shape) for name, x in arrays.items()}
    for name in ("add_subgradient", "proximal_step"):
        results = []
        for twin in (JAX, TORCH):
            make = getattr(twin.lib, name)
            rest = (0.1,) if name == "proximal_step" else ()
            tx = make(1 / 3, *rest, penalty=make_penalty(twin))
            params, updates = twin.tree(arrays, dtype), twin.tree(grads, dtype)
            # Eager, since a compiler may fuse this step's sum with what is before it.
            new, state = tx.update(updates, tx.init(params), params)
            results.append({key: twin.numpy(value) for key, value in new.items()})
            assert int(state.count) == 1
            emitted = dtype
            if name == "proximal_step" and dtype in ("bfloat16", "float16"):
                emitted = "float32"
            assert twin.dtype(new["w"]) == emitted
            assert twin.dtype(new["bias"]) == dtype
        for key in arrays:
            assert_bitwise(results[0][key], results[1][key])


VALUES = st.floats(-1e6, 1e6, width=32, allow_subnormal=False) | st.sampled_from(
    [np.nan, np.inf, -np.inf, -0.0]
)
SHAPES = st.sampled_from([(), (0,), (7,), (2, 3), (2, 0, 2), (2, 1, 3), (2, 1, 2, 2)])


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    data=st.data(),
    dtype=st.sampled_from(["float32", "float64"]),
    strength=st.floats(0, 10, width=32, allow_subnormal=False),
)
@pytest.mark.parametrize("name", ["add_subgradient", "proximal_step"])
def test_operations_are_bitwise_equal_for_any_values(name, data, dtype, strength):
    shape = data.draw(SHAPES)
    param, grad = (data.draw(hnp.arrays(dtype, shape, elements=VALUES)) for _ in "pg")
    rest = (0.7,) if name == "proximal_step" else ()
    results = []
    for twin in (JAX, TORCH):
        tx = getattr(twin.lib, name)(strength, *rest)
        params, grads = twin.tree({"w": param}, dtype), twin.tree({"w": grad}, dtype)
        results.append(twin.numpy(tx.update(grads, tx.init(params), params)[0]["w"]))
    assert_bitwise(*results)


@pytest.mark.parametrize("jit", [False, True])
def test_subgradient_step_equals_autograd(jit):
    """chain(add_subgradient, sgd) is autograd of loss + s sum(abs(w)), off zero.

    Bitwise, operation by operation; a compiler is free to fuse the two differently.
    """
    rng = np.random.default_rng(0)
    X, y = jnp.asarray(rng.normal(size=(40, 10))), jnp.asarray(rng.normal(size=40))
    strength, lr = 0.037, 0.03

    def loss(w):
        return jnp.mean((X @ w - y) ** 2)

    def penalised(w):
        return loss(w) + strength * jnp.sum(jnp.abs(w))

    def stepper(tx, loss):
        def step(w, state):
            updates, state = tx.update(jax.grad(loss)(w), state, w)
            return optax.apply_updates(w, updates), state

        return jax.jit(step) if jit else step

    chained = optax.chain(l1jax.add_subgradient(strength), optax.sgd(lr))
    ours, theirs = stepper(chained, loss), stepper(optax.sgd(lr), penalised)
    w = v = jnp.asarray(rng.normal(size=10))
    state, plain_state = chained.init(w), optax.sgd(lr).init(v)
    for _ in range(200 if jit else 50):
        w, state = ours(w, state)
        v, plain_state = theirs(v, plain_state)
        assert (v != 0).all()
        if jit:
            np.testing.assert_allclose(w, v, rtol=1e-13)
        else:
            assert_bitwise(np.asarray(w), np.asarray(v))


def test_subgradient_step_equals_torch_autograd_bitwise():
    generator = torch.Generator().manual_seed(0)
    X, y, w = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((40, 10), (40,), (10,))
    )
    strength, lr = 0.037, 0.03
    tx = TORCH.lib.add_subgradient(strength)
    params, v = {"w": w.clone()}, w.clone()
    state = tx.init(params)
    for _ in range(200):
        grads = {"w": TORCH.grad(lambda w: ((X @ w - y) ** 2).mean())(params["w"])}
        updates, state = tx.update(grads, state, params)
        step = {"w": -lr * updates["w"]}
        params = TORCH.apply_updates(params, step)
        slope = TORCH.grad(
            lambda v: ((X @ v - y) ** 2).mean() + strength * v.abs().sum()
        )(v)
        v = v - lr * slope
        assert torch.equal(params["w"], v)


def test_subgradient_is_zero_at_zero_where_autograd_of_jax_is_one(twin):
    params = twin.tree({"w": [0.0, 2.0]})
    zero = twin.tree({"w": [0.0, 0.0]})
    tx = twin.lib.add_subgradient(0.5)
    updates, _ = tx.update(zero, tx.init(params), params)
    np.testing.assert_array_equal(twin.numpy(updates["w"]), [0.0, 0.5])
    assert jax.grad(lambda w: 0.5 * jnp.sum(jnp.abs(w)))(jnp.zeros(1)) == 0.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_survive_apply_updates(twin, dtype):
    rng = np.random.default_rng(0)
    params = twin.tree({"w": rng.normal(size=20_000)}, dtype)
    updates = twin.tree({"w": 0.01 * rng.normal(size=20_000)}, dtype)
    tx = twin.lib.proximal_step(0.5, 1.0)
    new = steps(twin, tx, params, updates)[0]["w"]
    z = twin.numpy(params["w"]) + twin.numpy(updates["w"])
    zeros = np.abs(z) <= 0.5
    np.testing.assert_array_equal(twin.numpy(new) == 0, zeros)
    assert 0.3 < zeros.mean() < 0.5
    assert not np.signbit(twin.numpy(new)[zeros]).any()


def test_half_precision_gradients_lose_no_zeros(twin):
    # A difference rounded to the gradients' dtype would not cancel the parameter.
    rng = np.random.default_rng(0)
    params = twin.tree({"w": rng.normal(size=20_000)}, "float32")
    updates = twin.tree({"w": 0.01 * rng.normal(size=20_000)}, "bfloat16")
    tx = twin.lib.proximal_step(0.5, 1.0)
    emitted, _ = tx.update(updates, tx.init(params), params)
    assert twin.dtype(emitted["w"]) == "float32"
    new = twin.numpy(twin.apply_updates(params, emitted)["w"])
    z = twin.numpy(params["w"]) + twin.numpy(updates["w"])
    np.testing.assert_array_equal(new == 0, np.abs(z) <= 0.5)


def test_half_precision_parameters_round_once(twin):
    rng = np.random.default_rng(0)
    params = twin.tree({"w": rng.normal(size=20_000)}, "bfloat16")
    updates = twin.tree({"w": 1e-3 * rng.normal(size=20_000)}, "float32")
    new = steps(twin, twin.lib.proximal_step(1e-3, 1.0), params, updates)[0]["w"]
    z = twin.numpy(params["w"]) + twin.numpy(updates["w"])
    shrunk = z - np.clip(z, -np.float32(1e-3), np.float32(1e-3))
    expected = twin.numpy(twin.array(shrunk, "bfloat16"))
    # p + (x - p) may lose the last bit of x before the one rounding to bfloat16.
    assert (twin.numpy(new) == expected).mean() > 0.9999


def test_threshold_follows_both_schedules(twin):
    params, nothing = twin.tree({"w": [10.0]}), twin.tree({"w": [0.0]})
    tx = twin.lib.proximal_step(lambda t: 1.0 + t, lambda t: 0.1 * (t + 1))
    trail = steps(twin, tx, params, nothing, 4)
    weights = [float(p["w"][0]) for p in trail]
    shrunk = np.cumsum([1 * 0.1, 2 * 0.2, 3 * 0.3, 4 * 0.4])
    np.testing.assert_allclose(weights, 10 - shrunk, rtol=1e-6)
    tx = twin.lib.add_subgradient(lambda t: 0.5 * t)
    state = tx.init(params)
    for t in range(3):
        updates, state = tx.update(nothing, state, params)
        np.testing.assert_allclose(float(updates["w"][0]), 0.5 * t)


def test_constant_schedule_equals_scalar(twin):
    rng = np.random.default_rng(0)
    params, updates = (twin.tree({"w": rng.normal(size=99)}) for _ in range(2))
    number = twin.lib.proximal_step(0.25, 0.5)
    schedule = twin.lib.proximal_step(lambda t: 0.25, lambda t: 0.5)
    ends = [steps(twin, tx, params, updates, 3)[-1]["w"] for tx in (number, schedule)]
    assert_bitwise(*map(twin.numpy, ends))


def test_strength_by_leaf_and_by_element(twin):
    params = twin.tree({"a": [[5.0, 5.0]], "b.w": [5.0]})
    nothing = twin.tree({"a": [[0.0, 0.0]], "b.w": [0.0]})
    strength = {"a": twin.array([1.0, 2.0]), "b.w": lambda t: 3.0}
    new = steps(twin, twin.lib.proximal_step(strength, 1.0), params, nothing)[0]
    np.testing.assert_array_equal(twin.numpy(new["a"]), [[4.0, 3.0]])
    np.testing.assert_array_equal(twin.numpy(new["b.w"]), [2.0])
    tx = twin.lib.add_subgradient(strength)
    slopes, _ = tx.update(nothing, tx.init(params), params)
    np.testing.assert_array_equal(twin.numpy(slopes["a"]), [[1.0, 2.0]])
    np.testing.assert_array_equal(twin.numpy(slopes["b.w"]), [3.0])


def test_masked_leaves_pass_through_untouched(twin):
    params = twin.tree({"w": [2.0], "bias": [2.0]})
    updates = twin.tree({"w": [0.0], "bias": [0.125]})
    for make in (
        twin.lib.add_subgradient,
        functools.partial(twin.lib.proximal_step, learning_rate=1.0),
    ):
        tx = make(0.5)
        new, _ = tx.update(updates, tx.init(params), params)
        assert new["bias"] is updates["bias"]
        assert new["w"] is not updates["w"]


def test_none_updates_pass_through(twin):
    params = twin.tree({"w": [2.0], "v": [2.0]})
    updates = {"w": twin.array([0.5]), "v": None}
    for tx in (twin.lib.add_subgradient(0.5), twin.lib.proximal_step(0.5, 1.0)):
        new, _ = tx.update(updates, tx.init(params), params)
        assert new["v"] is None
        assert new["w"] is not None


def test_nonnegative_prox_step(twin):
    params = twin.tree({"w": [0.3, 1.0]})
    updates = twin.tree({"w": [-0.5, 0.0]})
    tx = twin.lib.proximal_step(0.1, 1.0, penalty=twin.lib.nonnegative_l1())
    new = steps(twin, tx, params, updates)[0]["w"]
    expected = [
        optima.grid_argmin(z, 0.1, optima.nonnegative_l1_value) for z in (-0.2, 1.0)
    ]
    np.testing.assert_allclose(twin.numpy(new), expected, atol=1e-8)


def test_product_is_formed_in_the_parameters_precision():
    # In double and then rounded it would differ for a third of all pairs.
    rng = np.random.default_rng(0)
    differs = 0
    for lr, s in rng.uniform(0.1, 1, size=(200, 2)):
        ends = []
        for twin in (JAX, TORCH):
            params = twin.tree({"w": [8.0]}, "float32")
            nothing = twin.tree({"w": [0.0]}, "float32")
            tx = twin.lib.proximal_step(float(s), float(lr))
            ends.append(float(steps(twin, tx, params, nothing)[0]["w"][0]))
        product = np.float32(lr) * np.float32(s)
        differs += product != np.float32(lr * s)
        assert ends[0] == ends[1] == np.float32(8) - product
    assert differs > 20


def test_negative_numbers_that_cannot_be_checked_become_nan(twin):
    params, nothing = twin.tree({"w": [1.0]}), twin.tree({"w": [0.0]})
    minus, plus = twin.array(-0.1), twin.array(0.1)
    for tx in (
        twin.lib.proximal_step(minus, 0.1),
        twin.lib.proximal_step(0.1, minus),
        twin.lib.proximal_step(minus, minus),
        twin.lib.add_subgradient(minus),
    ):
        updates, _ = tx.update(nothing, tx.init(params), params)
        assert np.isnan(twin.numpy(updates["w"])).all()
    updates, _ = twin.lib.proximal_step(plus, plus).update(
        nothing, twin.lib.proximal_step(plus, plus).init(params), params
    )
    assert not np.isnan(twin.numpy(updates["w"])).any()


def test_nan_stays_visible(twin):
    params = twin.tree({"w": [np.nan, 1.0, 1.0]})
    updates = twin.tree({"w": [0.0, np.nan, 0.0]})
    for tx in (twin.lib.add_subgradient(0.1), twin.lib.proximal_step(0.1, 1.0)):
        new, _ = tx.update(updates, tx.init(params), params)
        np.testing.assert_array_equal(
            np.isnan(twin.numpy(new["w"])), [True, True, False]
        )


def test_torch_transforms_work_under_func_and_vmap():
    X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    params = {"w": torch.tensor([1.0, -1.0, 0.5])}

    def one(strength):
        tx = TORCH.lib.proximal_step(strength, 0.1)
        grads = torch.func.grad(lambda p: (X @ p["w"]).square().mean())(params)
        updates, _ = tx.update({"w": -0.1 * grads["w"]}, tx.init(params), params)
        return TORCH.apply_updates(params, updates)["w"]

    strengths = torch.tensor([0.0, 1.0, 5.0])
    batched = torch.func.vmap(one)(strengths)
    for row, strength in zip(batched, strengths, strict=True):
        torch.testing.assert_close(row, one(strength))
    slope = torch.func.grad(lambda s: one(s).abs().sum())(torch.tensor(1.0))
    assert slope == pytest.approx(-0.3)
