"""What optax asks of every transformation, asked of ours."""

import chex
import flax.linen
import flax.training.train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l1jax

LR, STRENGTH = 0.1, 0.3

TRANSFORMS = {
    "add_subgradient": lambda strength=STRENGTH, **kwargs: optax.chain(
        l1jax.add_subgradient(strength, **kwargs), optax.sgd(LR)
    ),
    "proximal_step": lambda strength=STRENGTH, **kwargs: optax.chain(
        optax.sgd(LR), l1jax.proximal_step(strength, LR, **kwargs)
    ),
    "after_adam": lambda strength=STRENGTH, **kwargs: optax.chain(
        optax.adam(LR), l1jax.proximal_step(strength, LR, **kwargs)
    ),
    "proximal": lambda strength=STRENGTH, **kwargs: l1jax.proximal(
        optax.adam, LR, strength, **kwargs
    ),
    "proximal_window": lambda strength=STRENGTH, **kwargs: l1jax.proximal(
        optax.rmsprop, LR, strength, window=5, momentum=0.5, **kwargs
    ),
}


@pytest.fixture(params=TRANSFORMS)
def make(request):
    return TRANSFORMS[request.param]


def params_and_grads(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    params = {
        "dense": {"kernel": rng.normal(size=(8, 4)), "bias": rng.normal(size=4)},
        "w": rng.normal(size=16),
    }
    grads = jax.tree.map(lambda p: rng.normal(size=p.shape), params)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, grads))


def run(tx, params, grads, n=3, **extra_args):
    state = tx.init(params)
    for _ in range(n):
        updates, state = tx.update(grads, state, params, **extra_args)
        params = optax.apply_updates(params, updates)
    return params, state


def test_extra_args_are_accepted_and_ignored(make):
    params, grads = params_and_grads()
    tx = optax.with_extra_args_support(make())
    plain, _ = run(tx, params, grads)
    extra, _ = run(tx, params, grads, value=1.0, anything=object())
    chex.assert_trees_all_equal(plain, extra)
    for raw in (
        l1jax.add_subgradient(0.1),
        l1jax.proximal_step(0.1, 0.1),
        l1jax.proximal(optax.sgd, 0.1, 0.1),
    ):
        assert isinstance(raw, optax.GradientTransformationExtraArgs)


def test_second_call_does_not_recompile(make):
    params, grads = params_and_grads()
    tx = make()
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(tx.update, n=1))
    state = tx.init(params)
    for _ in range(3):
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)


def test_jit_equals_eager_and_state_is_stable(make):
    params, grads = params_and_grads(jnp.float64)
    tx = make(strength=lambda t: 0.1 / (1 + t))
    state = tx.init(params)
    eager, eager_state = tx.update(grads, state, params)
    jitted, jitted_state = jax.jit(tx.update)(grads, state, params)
    chex.assert_trees_all_close(eager, jitted, rtol=1e-14)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, eager_state, jitted_state)


def test_state_survives_cond_and_scan(make):
    params, grads = params_and_grads()
    tx = make()

    def body(carry, take):
        params, state = carry

        def step(params, state):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.cond(take, step, lambda *old: old, params, state), None

    takes = jnp.array([True, False, True, True])
    scanned, _ = jax.lax.scan(body, (params, tx.init(params)), takes)
    chex.assert_trees_all_close(scanned, run(tx, params, grads, 3), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes_of_parameters_are_kept(make, dtype):
    params, grads = params_and_grads(dtype)
    new, state = run(make(), params, grads)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, new)
    counts = [x for x in jax.tree.leaves(state) if x.dtype == jnp.int32]
    assert all(int(count) == 3 for count in counts)


def test_tree_map_params():
    params, _ = params_and_grads()
    tx = TRANSFORMS["after_adam"]()
    state = tx.init(params)
    doubled = optax.tree_utils.tree_map_params(tx, lambda x: x + 1, state)
    chex.assert_trees_all_equal(doubled[1], state[1])  # ours holds no parameters
    chex.assert_trees_all_equal(
        doubled[0][0].mu, jax.tree.map(lambda x: x + 1, state[0][0].mu)
    )


PREFIXES = {
    "add_subgradient": lambda mask, strength: l1jax.add_subgradient(
        strength, mask=mask
    ),
    "proximal_step": lambda mask, strength: l1jax.proximal_step(
        strength, LR, mask=mask
    ),
    "proximal": lambda mask, strength: l1jax.proximal(
        optax.adam, LR, strength, mask=mask, window=10
    ),
    "freeze_zeros": lambda mask, strength: l1jax.freeze_zeros(
        optax.adam(LR), mask=mask
    ),
}


@pytest.mark.parametrize("name", PREFIXES)
def test_tree_map_params_of_trees_of_masks_and_strengths(name):
    params = {"w": jnp.ones(3), "b": jnp.ones(2)}
    names = {"w": "w", "b": "b"}
    plain = PREFIXES[name](l1jax.weights_only, STRENGTH)
    expected = optax.tree_utils.tree_map_params(
        plain, lambda x, name: name, plain.init(params), names
    )
    for mask in ({"w": True, "b": False}, lambda p: {"w": p["w"].ndim > 0, "b": False}):
        tx = PREFIXES[name](mask, {"w": STRENGTH, "b": 0.0})
        state = tx.init(params)
        mapped = optax.tree_utils.tree_map_params(
            tx, lambda x, name: name, state, names
        )
        assert jax.tree.map(str, mapped) == jax.tree.map(str, expected)


def test_tree_map_params_does_not_take_strengths_for_parameters():
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    target = l1jax.target_sparsity(0.5, 10, scope="array")
    tx = l1jax.proximal(optax.adam, LR, target)
    state = tx.init(params)
    shapes = jax.tree.map(jnp.shape, params)
    mapped = optax.tree_utils.tree_map_params(
        tx,
        lambda x, shape: jnp.reshape(x, shape),
        state,
        shapes,
        transform_non_params=lambda _: "other",
    )
    assert mapped.control.strength == "other"
    chex.assert_trees_all_equal(
        mapped.optimizer_state[0].mu, state.optimizer_state[0].mu
    )
    # A run of fixed strengths takes them as they are.
    fixed = l1jax.proximal(optax.adam, LR, state.control.strength)
    assert jax.tree.structure(state.control.strength) == jax.tree.structure(params)
    fixed.update(params, fixed.init(params), params)


def test_inject_hyperparams():
    params, grads = params_and_grads()
    injected = optax.inject_hyperparams(l1jax.proximal_step, static_args="mask")(
        strength=lambda t: STRENGTH * (t + 1), learning_rate=LR
    )
    plain = l1jax.proximal_step(lambda t: STRENGTH * (t + 1), LR)
    a, b = (run(tx, params, grads)[0] for tx in (injected, plain))
    chex.assert_trees_all_close(a, b, rtol=1e-6)

    state = injected.init(params)
    state.hyperparams["learning_rate"] = jnp.asarray(1e9, jnp.float32)
    updates, _ = jax.jit(injected.update)(grads, state, params)
    new = optax.apply_updates(params, updates)
    assert (new["w"] == 0).all()
    assert (new["dense"]["bias"] != 0).all()

    injected = optax.inject_hyperparams(l1jax.add_subgradient, static_args="mask")(0.5)
    updates, state = jax.jit(injected.update)(grads, injected.init(params), params)
    np.testing.assert_allclose(
        updates["w"], grads["w"] + 0.5 * np.sign(params["w"]), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_multi_steps_with_the_prox_inside(dtype):
    params, grads = params_and_grads(dtype)
    tx = TRANSFORMS["proximal_step"](strength=5.0)
    accumulated = optax.MultiSteps(tx, every_k_schedule=4)
    step = jax.jit(accumulated.update)
    state, start = accumulated.init(params), params
    for i in range(4):
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
        if i < 3:
            chex.assert_trees_all_equal(params, start)
    expected, _ = run(tx, start, grads, 1)
    zeros = expected["w"] == 0
    assert zeros.any()
    np.testing.assert_array_equal(params["w"] == 0, zeros)
    chex.assert_trees_all_close(params, expected, rtol=1e-2, atol=1e-3)


def test_masked_partition_and_apply_if_finite():
    params, grads = params_and_grads()
    tx = TRANSFORMS["proximal_step"]()
    expected, _ = run(tx, params, grads)
    mask = {"dense": True, "w": False}
    inner, _ = run(optax.masked(tx, mask), params, grads)
    chex.assert_trees_all_equal(inner["dense"], expected["dense"])
    labels = {"dense": "a", "w": "b"}
    parts = optax.partition({"a": tx, "b": optax.sgd(LR)}, labels)
    partitioned, _ = run(parts, params, grads)
    chex.assert_trees_all_equal(partitioned["dense"], expected["dense"])
    assert (partitioned["w"] != 0).all()
    finite, _ = run(optax.apply_if_finite(tx, 3), params, grads)
    chex.assert_trees_all_close(finite, expected, rtol=1e-5)


def test_apply_if_finite_before_the_prox_in_half_precision():
    params, grads = params_and_grads(jnp.bfloat16)
    finite = optax.apply_if_finite(optax.sgd(LR), 3)
    tx = optax.chain(finite, l1jax.proximal_step(STRENGTH, LR))
    new, _ = run(tx, params, grads)
    chex.assert_trees_all_equal(
        new, run(TRANSFORMS["proximal_step"](), params, grads)[0]
    )


def test_abstract_init(make):
    params, _ = params_and_grads()
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    for tx in (l1jax.add_subgradient(0.1), l1jax.proximal_step(0.1, lambda t: 0.1)):
        chex.assert_trees_all_equal_shapes_and_dtypes(
            tx.init(abstract), tx.init(params)
        )
    jax.eval_shape(make().init, abstract)


def test_vmap_over_strengths(make):
    params, grads = params_and_grads(jnp.float64)
    strengths = jnp.array([0.0, 0.1, 1.0, 10.0])
    batched = jax.jit(jax.vmap(lambda s: run(make(strength=s), params, grads)[0]))
    all_params = batched(strengths)
    for i, strength in enumerate(strengths):
        row = jax.tree.map(lambda x, i=i: x[i], all_params)
        expected, _ = run(make(strength=float(strength)), params, grads)
        chex.assert_trees_all_close(row, expected, rtol=1e-13)
        np.testing.assert_array_equal(row["w"] == 0, expected["w"] == 0)


def test_gradient_through_the_strength(make):
    params, grads = params_and_grads(jnp.float64)

    def end(strength):
        return jnp.sum(run(make(strength=strength), params, grads, 2)[0]["w"] ** 2)

    slope = jax.jit(jax.grad(end))(0.3)
    np.testing.assert_allclose(
        slope, (end(0.3 + 1e-6) - end(0.3 - 1e-6)) / 2e-6, rtol=1e-7
    )


def test_no_leaks_and_no_nans(make):
    params, grads = params_and_grads()
    with jax.checking_leaks():
        jax.jit(lambda p, g: run(make(), p, g)[0])(params, grads)
    with jax.debug_nans(True):
        jax.jit(lambda p, g: run(make(), p, g)[0])(params, grads)


def test_donated_jit_in_a_train_state():
    model = flax.linen.Dense(3)
    x = jnp.ones((4, 8))
    params = model.init(jax.random.key(0), x)["params"]
    tx = TRANSFORMS["proximal_step"](strength=100.0)
    state = flax.training.train_state.TrainState.create(
        apply_fn=model.apply, params=params, tx=tx
    )

    def step(state):
        grads = jax.grad(lambda p: state.apply_fn({"params": p}, x).sum())(state.params)
        return state.apply_gradients(grads=grads)

    state = jax.jit(step, donate_argnums=0)(state)
    assert (state.params["kernel"] == 0).all()
    assert (state.params["bias"] != 0).all()


def test_half_of_a_tree_may_be_none():
    params = {"w": jnp.ones(3), "frozen": None}
    tx = l1jax.proximal_step(0.1, 1.0)
    updates, _ = tx.update({"w": jnp.zeros(3), "frozen": None}, tx.init(params), params)
    assert updates["frozen"] is None
    np.testing.assert_allclose(updates["w"], -0.1)
