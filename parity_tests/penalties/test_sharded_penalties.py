"""Every penalty across devices: eight in JAX, and two processes with DTensors."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import l1jax
from parity_tests.oracles.formulas import PENALTIES as FORMULAS
from parity_tests.penalties import sharded_penalties
from parity_tests.report.operations import PENALTIES, inputs


@pytest.fixture(scope="module")
def found_by_two(tmp_path_factory):
    """What two processes found, by penalty and threshold: a tensor, or a refusal."""
    folder = tmp_path_factory.mktemp("shards")
    processes = torch.multiprocessing.spawn(
        sharded_penalties.worker, (str(folder),), nprocs=2, join=False
    )
    deadline = time.monotonic() + 240
    while not processes.join(timeout=5):  # raises what a process raised
        if time.monotonic() > deadline:
            for process in processes.processes:
                process.kill()
            pytest.fail("the processes did not end")
    return torch.load(folder / "found.pt")


BY_THRESHOLD = [case for case in sharded_penalties.cases() if case[0] in PENALTIES]
QUICK = ("group_l1(1, block=5)", "top_k(50)")


@pytest.mark.parametrize(
    ("name", "threshold"),
    [
        pytest.param(*case, marks=() if case[0] in QUICK else pytest.mark.slow)
        for case in BY_THRESHOLD
    ],
)
def test_on_eight_devices_the_prox_is_that_of_one(name, threshold):
    reported = PENALTIES[name]
    penalty = reported.make(l1jax)
    x, grad = inputs()
    t = np.abs(grad) if threshold == "array" else np.float64(0.7)
    wanted = np.asarray(jax.jit(penalty.prox)(x, t))
    devices = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    for spec in (P("x", None), P(("x", "y"), None)):
        sharding = NamedSharding(devices, spec)
        placed = jax.device_put(jnp.asarray(x), sharding)
        arguments = placed, jax.device_put(t, sharding) if t.ndim else t
        run = jax.jit(penalty.prox, out_shardings=sharding)
        found = np.asarray(jax.block_until_ready(run(*arguments)))
        np.testing.assert_array_equal(found == 0, wanted == 0)
        if penalty.separable:
            np.testing.assert_array_equal(found, wanted)
        else:
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", sharded_penalties.cases(), ids=", ".join)
def test_in_two_processes_the_prox_is_that_of_one(found_by_two, case):
    wanted = sharded_penalties.single(case)
    found = found_by_two[case]
    if case[0] in sharded_penalties.REFUSED:
        assert "DTensor" in found
        return
    assert isinstance(found, torch.Tensor), found
    assert torch.equal(found == 0, wanted == 0)
    if PENALTIES.get(case[0]) and PENALTIES[case[0]].places == 0:
        assert torch.equal(found, wanted)
    else:
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


EXPLICIT = ("group_l1(0, block=2)", "group_l1(groups={'a': [0, 3], ...})", "nuclear()")


@pytest.fixture(scope="module")
def two_devices():
    types = (AxisType.Explicit,)
    return jax.make_mesh((2,), ("x",), types, devices=jax.devices()[:2])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in EXPLICIT else pytest.mark.slow)
        for name in FORMULAS
    ],
)
def test_on_an_explicit_mesh_a_penalty_does_what_it_does_on_one_device(
    two_devices, name
):
    """Two devices tear blocks of two of six in the middle."""
    shape = FORMULAS[name].shape
    penalty = FORMULAS[name].make(l1jax)
    tx = l1jax.proximal_step(1.0, 0.1, penalty=penalty)
    x, step = np.random.default_rng(0).normal(size=(2, *shape))

    def facts(x, step):
        params = {"w": x}
        updates, _ = tx.update({"w": step}, tx.init(params), params)
        new = x + updates["w"]
        found = {"new": new, "value": penalty.value(new)}
        found["distance"] = penalty.optimality_distance(new, step)
        if penalty.has_subgradient:
            found["slope"] = penalty.subgradient(x)
        return found

    wanted = jax.jit(facts)(jnp.asarray(x), jnp.asarray(step))
    spec = [None] * len(shape)
    spec[[i for i, n in enumerate(shape) if n % 2 == 0][-1]] = "x"
    sharding = NamedSharding(two_devices, P(*spec))
    with jax.set_mesh(two_devices):
        found = jax.jit(facts)(*jax.device_put((x, step), sharding))
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-12, atol=1e-12)
        if value.shape == shape:
            assert found[key].sharding.is_equivalent_to(sharding, len(shape)), key
    np.testing.assert_array_equal(found["new"] == 0, wanted["new"] == 0)


@pytest.mark.parametrize(
    ("wrap", "copies"),
    [(jax.jit, 1), (lambda f: f, 1), (jax.jit, 9)],
    ids=["jit", "eager", "many"],
)
@pytest.mark.parametrize("scope", ["global", "array"])
def test_on_an_explicit_mesh_a_target_is_met(two_devices, scope, wrap, copies):
    target = l1jax.target_sparsity(0.5, 4, begin=0.0, end=0.5, scope=scope, snap=0.5)
    tx = l1jax.proximal_step(target, 0.1)
    start = {"u": np.arange(1.0, 9.0), "v": np.arange(12.0).reshape(6, 2) + 0.5}
    start = {f"{name}{i}": x for i in range(copies) for name, x in start.items()}
    with jax.set_mesh(two_devices):
        params = jax.device_put(start, NamedSharding(two_devices, P("x")))
        state, update = tx.init(params), wrap(tx.update)
        for _ in range(4):
            updates = jax.tree.map(jnp.zeros_like, params)
            updates, state = update(updates, state, params)
            params = optax.apply_updates(params, updates)
    zeros = {name: int((np.asarray(x) == 0).sum()) for name, x in params.items()}
    assert sum(zeros.values()) == 10 * copies
    assert scope == "global" or all(
        n == {"u": 4, "v": 6}[k[0]] for k, n in zeros.items()
    )
    assert all(x.sharding.spec[0] == "x" for x in params.values())
