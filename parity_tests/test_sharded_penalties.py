"""Every penalty across devices: eight in JAX, and two processes with DTensors."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import l1jax
from parity_tests import sharded_penalties
from parity_tests.operations import PENALTIES, inputs


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
