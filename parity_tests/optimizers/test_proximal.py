"""The proximal optimizers among the wrappers and trainers that people use."""

import functools

import chex
import flax.linen
import flax.training.train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import l1jax
import l1torch
from parity_tests.wrappers.wrapped import model_and_data

LR, STRENGTH = 0.1, 0.3
STATIC = ("factory", "mask", "window")


def params_and_grads(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(8, 4)), "bias": rng.normal(size=4)}
    grads = {name: rng.normal(size=p.shape) for name, p in params.items()}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, grads))


def run(tx, params, grads, n=5):
    state = tx.init(params)
    update = jax.jit(tx.update)
    for i in range(n):
        scaled = jax.tree.map(lambda g, i=i: g * (1 + i % 3), grads)
        updates, state = update(scaled, state, params)
        params = optax.apply_updates(params, updates)
    return params


def adam(strength=STRENGTH, **kwargs):
    return l1jax.proximal(optax.adam, LR, strength, **kwargs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("penalty", [l1jax.l1(), l1jax.elastic_net(0.3)])
def test_it_is_the_optimizer_then_the_prox(dtype, penalty):
    """Step by step, with Adam's formula from its paper."""
    params, grads = params_and_grads(dtype)
    ours = run(adam(penalty=penalty), params, grads, 6)
    theirs, m, v = params, *[jax.tree.map(jnp.zeros_like, params)] * 2
    for i in range(6):
        g = jax.tree.map(lambda g, i=i: g * (1 + i % 3), grads)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, g)
        d = jax.tree.map(lambda v, i=i: jnp.sqrt(v / (1 - 0.999 ** (i + 1))) + 1e-8, v)
        theirs = jax.tree.map(
            lambda w, m, d, i=i: w - LR * m / (1 - 0.9 ** (i + 1)) / d, theirs, m, d
        )
        cap = 10.0 if penalty == l1jax.l1() else 10.0 / 0.3
        threshold = LR * jnp.minimum(STRENGTH / d["kernel"], cap)
        theirs["kernel"] = penalty.prox(theirs["kernel"], threshold)
    chex.assert_trees_all_close(
        ours, theirs, rtol=2e-4 if dtype == "float32" else 1e-10
    )
    assert 0 < (ours["kernel"] == 0).sum() < 32
    assert (ours["bias"] != 0).all()


def test_inject_hyperparams():
    params, grads = params_and_grads()
    inject = optax.inject_hyperparams(l1jax.proximal, static_args=STATIC)
    injected = inject(optax.adam, lambda t: LR / (1 + t), STRENGTH, b1=0.8, window=3)
    plain = l1jax.proximal(
        optax.adam, lambda t: LR / (1 + t), STRENGTH, b1=0.8, window=3
    )
    chex.assert_trees_all_close(
        run(injected, params, grads), run(plain, params, grads), rtol=1e-5
    )
    state = injected.init(params)
    state.hyperparams["strength"] = jnp.float32(1e6)
    updates, _ = jax.jit(injected.update)(grads, state, params)
    # The cap holds: the first step shrinks by max_ratio * lr, and Adam's own lr.
    moved = jnp.abs(updates["kernel"])
    assert jnp.all(moved <= 11 * LR + 1e-6)
    for static, match in (
        (("mask", "window"), "static_args=.'factory', 'mask', 'window'"),
        (("factory", "window"), "mask was called with a step count"),
        (("factory", "mask"), "window must be a Python int.*static_args"),
    ):
        with pytest.raises(TypeError, match=match):
            optax.inject_hyperparams(l1jax.proximal, static_args=static)(
                optax.adam, LR, STRENGTH
            ).init(params)


def test_inside_multi_steps_the_prox_is_taken_once():
    params, grads = params_and_grads()
    every = 4
    outer = optax.MultiSteps(adam(), every)
    state = outer.init(params)
    new = params
    for _ in range(2 * every):
        updates, state = jax.jit(outer.update)(grads, state, new)
        new = optax.apply_updates(new, updates)
    tx = adam()
    state, plain = tx.init(params), params
    for _ in range(2):
        updates, state = tx.update(grads, state, plain)
        plain = optax.apply_updates(plain, updates)
    chex.assert_trees_all_close(new, plain, rtol=1e-5)
    assert (new["kernel"] == 0).any()


def test_masked_and_partition():
    params, grads = params_and_grads()
    tree = {"a": params, "b": params}
    slopes = {"a": grads, "b": grads}
    masked = run(optax.masked(adam(), {"a": True, "b": False}), tree, slopes)
    plain = run(adam(), params, grads)
    chex.assert_trees_all_close(masked["a"], plain, rtol=1e-6)
    parts = optax.partition(
        {"prox": adam(window=2), "sgd": optax.sgd(LR)}, {"a": "prox", "b": "sgd"}
    )
    split = run(parts, tree, slopes)
    chex.assert_trees_all_close(
        split["a"], run(adam(window=2), params, grads), rtol=1e-6
    )
    chex.assert_trees_all_close(
        split["b"], run(optax.sgd(LR), params, grads), rtol=1e-6
    )


def test_apply_if_finite_and_clipping_in_front():
    params, grads = params_and_grads()
    guarded = optax.apply_if_finite(
        optax.chain(optax.clip_by_global_norm(0.5), adam()), 3
    )
    state = guarded.init(params)
    bad = jax.tree.map(lambda g: g * jnp.nan, grads)
    updates, state = jax.jit(guarded.update)(bad, state, params)
    chex.assert_trees_all_equal(optax.apply_updates(params, updates), params)
    updates, state = jax.jit(guarded.update)(grads, state, params)
    new = optax.apply_updates(params, updates)
    tx = adam()
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in grads.values()))
    clipped = jax.tree.map(lambda g: g * 0.5 / norm, grads)
    expected, _ = tx.update(clipped, tx.init(params), params)
    chex.assert_trees_all_close(new, optax.apply_updates(params, expected), rtol=1e-5)


def test_nnx_optimizer_and_train_state():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 6)), jnp.float32)
    model = nnx.Linear(6, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, adam(window=2), wrt=nnx.Param)

    @nnx.jit
    def train(model, optimizer):
        grads = nnx.grad(lambda m: jnp.square(m(x)).mean())(model)
        optimizer.update(model, grads)

    linen = flax.linen.Dense(3)
    params = {
        "params": {"kernel": model.kernel[...] * 1.0, "bias": model.bias[...] * 1.0}
    }
    state = flax.training.train_state.TrainState.create(
        apply_fn=linen.apply, params=params, tx=adam(window=2)
    )

    @jax.jit
    def step(state):
        grads = jax.grad(lambda p: jnp.square(state.apply_fn(p, x)).mean())(
            state.params
        )
        return state.apply_gradients(grads=grads)

    for _ in range(20):
        train(model, optimizer)
        state = step(state)
    kernel = state.params["params"]["kernel"]
    np.testing.assert_allclose(model.kernel[...], kernel, rtol=1e-5, atol=1e-7)
    assert (kernel == 0).any()


def test_vmap_over_strengths_is_a_path():
    params, grads = params_and_grads()

    def train(strength):
        return run(adam(strength), params, grads)

    strengths = jnp.array([0.0, 0.1, 0.3, 1.0])
    path = jax.jit(jax.vmap(train))(strengths)
    for i, strength in enumerate(strengths):
        one = train(float(strength))
        np.testing.assert_allclose(
            path["kernel"][i], one["kernel"], rtol=1e-4, atol=1e-6
        )
    zeros = (path["kernel"] == 0).sum((1, 2))
    assert zeros[0] == 0
    assert (jnp.diff(zeros) >= 0).all()
    assert zeros[-1] > 0


def test_schedules_of_strength_that_turn_negative():
    params, grads = params_and_grads()
    tx = adam(lambda t: 0.1 - t)
    state = tx.init(params)
    updates, state = jax.jit(tx.update)(grads, state, params)
    assert all(np.isfinite(u).all() for u in updates.values())
    updates, _ = jax.jit(tx.update)(grads, state, params)
    assert np.isnan(updates["kernel"]).all()
    assert np.isfinite(updates["bias"]).all()


def test_states_of_other_optimizers():
    params, grads = params_and_grads()
    txs = {
        make.__name__: l1jax.proximal(make, LR, STRENGTH)
        for make in (optax.sgd, optax.adam, optax.adagrad, optax.amsgrad)
    }
    txs["momentum"] = l1jax.proximal(optax.sgd, LR, STRENGTH, momentum=0.9)
    for name, tx in txs.items():
        for other, source in txs.items():
            if name != other:
                with pytest.raises(ValueError, match="state must be that of this"):
                    tx.update(grads, source.init(params), params)
    with pytest.raises(ValueError, match="state must be that of this optimizer, got"):
        txs["adam"].update(grads, optax.adam(LR).init(params), params)
    with pytest.raises(ValueError, match="state must be that of this .* got None of"):
        adam().update(grads, None, params)
    with pytest.raises(ValueError, match="state must be that of this optimizer, got"):
        adam(window=3).update(grads, adam().init(params), params)


CLASSES = {
    "sgd": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "adam": torch.optim.Adam,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "adamax": torch.optim.Adamax,
}


def trained(make, wrapped=True):
    model, x = model_and_data()
    base = make(model.named_parameters(), lr=0.01)
    optimizer = l1torch.Proximal(base, STRENGTH) if wrapped else base
    model(x).square().mean().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", CLASSES)
def test_checkpoints_of_other_optimizers(name):
    optimizer = trained(CLASSES[name])
    before = optimizer.state_dict()
    for other, make in CLASSES.items():
        for wrapped in (True, False):
            saved = trained(make, wrapped).state_dict()
            if make is CLASSES[name] or {name, other} == {"sgd", "momentum"}:
                optimizer.load_state_dict(saved)
                optimizer.load_state_dict(before)
                continue
            with pytest.raises(ValueError, match="state_dict must be that of"):
                optimizer.load_state_dict(saved)
            assert optimizer.param_groups[0].keys() == before["param_groups"][0].keys()


def test_groups_share_one_penalty():
    model, _ = model_and_data()
    groups = [
        {"params": list(model[0].named_parameters("0")), "penalty": l1torch.l1()},
        {
            "params": list(model[2].named_parameters("2")),
            "penalty": l1torch.elastic_net(0.5),
        },
    ]
    base = torch.optim.Adam(groups, lr=LR)
    with pytest.raises(ValueError, match="penalty must be one for all .*_ElasticNet"):
        l1torch.Proximal(base, 0.1)
    assert "l1" not in base.param_groups[0]
    with pytest.raises(ValueError, match="metric must not be given with step_size"):
        l1torch.Proximal(
            torch.optim.Adam(model.parameters()),
            0.1,
            step_size="learning_rate",
            metric="tensor",
        )


def test_keys_of_ones_own_in_the_groups():
    w = torch.nn.Parameter(torch.ones(2, 2))
    groups = [{"params": [("w", w)], "lr_decay": 0.75, "momentum": 0.5}]
    optimizer = l1torch.Proximal(torch.optim.Adam(groups, lr=0.1), 0.1)
    w.grad = torch.ones_like(w)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())


def test_load_hooks_act_before_the_budgets_are_read():
    """A hook that rearranges the parameters takes their budgets with them."""
    shapes = {"u": (2, 3), "v": (4, 5)}
    params = {k: torch.nn.Parameter(torch.ones(*shape)) for k, shape in shapes.items()}

    def make(names):
        base = torch.optim.Adam([(n, params[n]) for n in names], lr=0.1)
        return l1torch.Proximal(base, 0.1, window=4)

    saved = make("uv")
    for p in params.values():
        p.grad = torch.ones_like(p)
    saved.step()

    def by_name(optimizer, state_dict):
        state = {1 - i: value for i, value in state_dict["state"].items()}
        groups = [{**g, "param_names": ["v", "u"]} for g in state_dict["param_groups"]]
        return {**state_dict, "state": state, "param_groups": groups}

    other = make("vu")
    other.register_load_state_dict_pre_hook(by_name)
    other.load_state_dict(saved.state_dict())
    for p in params.values():
        for key in ("l1_plus", "l1_minus", "exp_avg"):
            assert other.state[p][key].shape == p.shape


def test_step_sizes_that_return_something_else():
    w = torch.nn.Parameter(torch.ones(2, 2))
    w.grad = torch.ones_like(w)

    class Odd(torch.optim.SGD):
        def step(self, closure=None):
            return None

    def odd(learning_rate):
        return optax.sgd(learning_rate)

    l1torch.register_step_size(Odd, lambda state, group: 0.1)
    l1jax.register_step_size(odd, lambda state, learning_rate: 0.1)
    with pytest.raises(TypeError, match="must return an EffectiveStep, got 0.1"):
        l1torch.Proximal(Odd([w], lr=0.1), 0.1).step()
    params, grads = params_and_grads()
    tx = l1jax.proximal(odd, 0.1, 0.1)
    with pytest.raises(TypeError, match="must return an EffectiveStep, got 0.1"):
        tx.update(grads, tx.init(params), params)


def test_eager_debug_nans_and_factories_that_look_at_shapes():
    params, grads = params_and_grads()
    jax.config.update("jax_debug_nans", True)
    try:
        tx = adam()
        tx.update(grads, tx.init(params), params)
    finally:
        jax.config.update("jax_debug_nans", False)
    inside = functools.partial(
        optax.adamw, mask=lambda p: jax.tree.map(lambda x: x.shape[-1] > 1, p)
    )
    tx = l1jax.proximal(inside, LR, STRENGTH)
    tx.update(grads, tx.init(params), params)
    jax.vmap(
        lambda m: run(
            l1jax.proximal(optax.sgd, LR, STRENGTH, momentum=m), params, grads
        )
    )(jnp.array([0.0, 0.9]))


@pytest.mark.parametrize("metric", ["coordinate", "tensor", "none"])
def test_large_parameters_are_stepped_in_blocks(metric):
    """Beyond a block's size, contiguous or not, with a strength for each weight."""
    torch.manual_seed(0)
    whole = torch.randn(700, 900, dtype=torch.float64)
    slope = torch.randn_like(whole)
    weights = torch.rand_like(whole)
    results = []
    for transposed in (False, True):
        value = whole.t().contiguous().t() if transposed else whole.clone()
        w = torch.nn.Parameter(value)
        base = torch.optim.Adam([("w", w)], lr=0.1)
        optimizer = l1torch.Proximal(base, {"w": weights}, metric=metric)
        for i in range(3):
            w.grad = slope * (1 + i)
            optimizer.step()
        results.append(w.detach())
    params = {"w": jnp.asarray(whole)}
    tx = l1jax.proximal(optax.adam, 0.1, jnp.asarray(weights), metric=metric)
    state = tx.init(params)
    for i in range(3):
        updates, state = tx.update({"w": jnp.asarray(slope) * (1 + i)}, state, params)
        params = optax.apply_updates(params, updates)
    for result in results:
        np.testing.assert_allclose(result, params["w"], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(result == 0, params["w"] == 0)
    assert (results[0] == 0).any()
