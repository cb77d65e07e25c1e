"""Target sparsity through checkpoints, groups, wrappers and devices."""

import io
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import l1jax
import l1jax.strengths.targets
import l1torch
import l1torch.strengths.targets
from parity_tests.frameworks.twins import JAX, TORCH
from parity_tests.thresholds.ramped_training import RATE, SIZES, STEPS, data


def proximal_and_params(target, **kwargs):
    start, places = data()
    params = {k: torch.nn.Parameter(x) for k, x in TORCH.tree(start).items()}
    base = torch.optim.Adam(params.items(), lr=RATE)
    return l1torch.Proximal(base, target, **kwargs), params, places


def take(optimizer, params, places, steps):
    for step in steps:
        for name, param in params.items():
            param.grad = param.detach() - torch.tensor(places[name][step])
        optimizer.step()


@pytest.mark.parametrize("scope", ["global", "array"])
def test_torch_goes_on_from_a_checkpoint_bitwise(scope):
    target = l1torch.strengths.targets.target_sparsity(
        0.9, STEPS, scope=scope, snap=0.7
    )
    optimizer, params, places = proximal_and_params(target)
    take(optimizer, params, places, range(13))
    file = io.BytesIO()
    torch.save((optimizer.state_dict(), params), file)
    file.seek(0)
    saved, copies = torch.load(file, weights_only=True)
    assert saved["param_groups"][0]["l1"] == optimizer.param_groups[0]["l1"]
    base = torch.optim.Adam(copies.items(), lr=RATE)
    restored = l1torch.Proximal(base, target)
    restored.load_state_dict(saved)
    take(optimizer, params, places, range(13, STEPS))
    take(restored, copies, places, range(13, STEPS))
    assert all(torch.equal(params[name], copies[name]) for name in params)
    groups = [each.param_groups[0] for each in (optimizer, restored)]
    assert groups[0]["l1"] == groups[1]["l1"]
    assert groups[0]["l1_count"] == groups[1]["l1_count"] == STEPS


def test_torch_takes_a_checkpoint_without_target():
    fixed, _, _ = proximal_and_params(0.1)
    target = l1torch.strengths.targets.target_sparsity(0.9, STEPS)
    optimizer, params, places = proximal_and_params(target)
    optimizer.load_state_dict(fixed.state_dict())
    take(optimizer, params, places, range(STEPS))
    count = sum((params[name] == 0).sum() for name in SIZES)
    assert count == 324


def test_torch_groups_with_a_strength_of_their_own_keep_it():
    start, places = data()
    params = {k: torch.nn.Parameter(x) for k, x in TORCH.tree(start).items()}
    own = {"params": [("u", params["u"])], "l1": 0.1}
    rest = {"params": [(k, p) for k, p in params.items() if k != "u"]}
    target = l1torch.strengths.targets.target_sparsity(0.9, STEPS)
    optimizer = l1torch.Proximal(torch.optim.Adam([own, rest], lr=RATE), target)
    take(optimizer, params, places, range(STEPS))
    alone = torch.nn.Parameter(torch.tensor(start["u"]))
    fixed = l1torch.Proximal(torch.optim.Adam([("u", alone)], lr=RATE), 0.1)
    take(fixed, {"u": alone}, places, range(STEPS))
    assert torch.equal(params["u"], alone)
    assert (params["w"] == 0).sum() == 162
    assert optimizer.param_groups[0]["l1"] == 0.1
    params["u"].grad = params["w"].grad = None  # zeros are kept
    optimizer.step()
    assert (params["w"] == 0).sum() == 162


def test_torch_counts_over_processes():
    """With DTensors of one process, whose counts are summed over it."""
    import torch.distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor

    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = dist.init_device_mesh("cpu", (1,))
        target = l1torch.strengths.targets.target_sparsity(0.9, STEPS, snap=0.75)
        plain, params, places = proximal_and_params(target)
        sharded = {
            name: torch.nn.Parameter(
                distribute_tensor(param.detach().clone(), mesh, [Shard(0)])
            )
            for name, param in params.items()
        }
        base = torch.optim.Adam(sharded.items(), lr=RATE)
        optimizer = l1torch.Proximal(base, target)
        for step in range(STEPS):
            take(plain, params, places, [step])
            for name, param in sharded.items():
                place = torch.tensor(places[name][step])
                grad = param.detach() - distribute_tensor(place, mesh, [Shard(0)])
                param.grad = grad
            optimizer.step()
            for name, param in sharded.items():
                shard, whole = param.detach().to_local(), params[name].detach()
                torch.testing.assert_close(shard, whole, rtol=1e-12, atol=1e-14)
                assert torch.equal(shard == 0, whole == 0)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["global", "array"])
def test_jax_goes_on_from_a_checkpoint_bitwise(scope):
    target = l1jax.strengths.targets.target_sparsity(0.9, STEPS, scope=scope, snap=0.7)
    tx = l1jax.proximal(optax.adam, RATE, target)
    start, places = data()

    @jax.jit
    def step(params, state, place):
        grads = jax.tree.map(jnp.subtract, params, place)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def run(carry, steps):
        for i in steps:
            carry = step(*carry, {name: x[i] for name, x in places.items()})
        return carry

    carry = JAX.tree(start)
    carry = run((carry, tx.init(carry)), range(13))
    assert step._cache_size() == 1  # no shape or dtype changes
    leaves, treedef = jax.tree.flatten(carry)
    restored = treedef.unflatten(pickle.loads(pickle.dumps([*map(np.asarray, leaves)])))
    for a, b in zip(
        jax.tree.leaves(run(carry, range(13, STEPS))),
        jax.tree.leaves(run(restored, range(13, STEPS))),
        strict=True,
    ):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    with pytest.raises(ValueError, match="state must be that of this optimizer"):
        l1jax.proximal(optax.adam, RATE, 0.1).update(carry[0], carry[1], carry[0])


@pytest.mark.slow
def test_jax_vmaps_and_accumulates():
    target = l1jax.strengths.targets.target_sparsity(0.5, 8, begin=0, end=0.5)
    tx = optax.MultiSteps(l1jax.proximal(optax.adam, 0.1, target), 2)
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 40)))}

    @jax.jit
    @jax.vmap
    def run(params):
        def body(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, tx.init(params)), length=16)[0][0]

    np.testing.assert_array_equal((run(params)["w"] == 0).sum(1), [20, 20, 20])


@pytest.mark.slow
def test_jax_counts_over_devices():
    target = l1jax.strengths.targets.target_sparsity(0.75, 4, begin=0, end=0.5)
    tx = l1jax.proximal(optax.adam, 0.1, target)
    w = np.random.default_rng(0).normal(size=(16, 24))
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))

    @jax.jit
    def run(params):
        def body(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, tx.init(params)), length=4)[0]

    one, state = run({"w": jnp.asarray(w)})
    sharded = {"w": jax.device_put(w, sharding)}
    many, many_state = run(sharded)
    assert many["w"].sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_array_equal(one["w"], many["w"])
    np.testing.assert_array_equal(state.control.strength, many_state.control.strength)
    assert (one["w"] == 0).sum() == 288
    text = run.lower(sharded).compile().as_text()
    # Scalars are exchanged, one of each device.
    gathered = set(re.findall(r"= \(?(\w+\[[\d,]*\])\S* all-(?:gather|reduce)", text))
    assert gathered <= {"s32[8,1]", "s32[8]", "s64[8,1]", "s64[]", "s32[]", "pred[]"}
