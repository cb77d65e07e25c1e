"""Saved in the middle of a training and restored, JAX's optimizers go on bitwise."""

import functools

import jax
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import l1jax
from parity_tests.optimizers.trainings import (
    OPTIONS,
    OTHER,
    SAVED,
    STEPS,
    JaxTraining,
    assert_has_zeros,
    bits,
    decaying,
    dtype_of,
    growing,
    injected,
    proximal,
)
from parity_tests.oracles.convergence_matrix import ROWS

JAX_CASES = {
    name: functools.partial(proximal, row.jax.make, decaying, **row.jax.settings)
    for name, row in ROWS.items()
    if row.jax
} | {
    **{k: functools.partial(proximal, **v) for k, v in OPTIONS.items()},
    "schedules": functools.partial(proximal, rate=decaying, strength=growing, window=3),
    "inject": functools.partial(injected, window=5),
    "inject a schedule": functools.partial(injected, growing),
    "add_subgradient": lambda: optax.chain(
        l1jax.add_subgradient(growing), optax.adam(decaying)
    ),
    "proximal_step": lambda: optax.chain(
        optax.sgd(decaying), l1jax.proximal_step(OTHER, decaying)
    ),
    "in MultiSteps": lambda: optax.MultiSteps(proximal(window=3), 2),
}
# Other optimizers differ in their states' shapes alone.
USUAL = ("sgd", "sgd, momentum", "adam", "rmsprop, momentum", "adadelta")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n in set(ROWS) - {*USUAL} else ())
        for n in JAX_CASES
    ],
)
def test_orbax_goes_on_bitwise(name, tmp_path):
    make, dtype = JAX_CASES[name], dtype_of(name)
    straight, resumed = JaxTraining(make(), dtype), JaxTraining(make(), dtype)
    straight.run(0, SAVED)
    straight.save(tmp_path)
    saved = straight.carry
    later = straight.run(SAVED, STEPS)
    params, _ = fresh = resumed.carry
    abstract = jax.eval_shape(lambda params: (params, make().init(params)), params)
    if name in ROWS:
        resumed.step = straight.step  # a second compilation would take too long
    for target in (fresh, abstract):
        resumed.restore(tmp_path, target)
        assert bits(resumed.carry) == bits(saved)
        for ours, theirs in zip(resumed.run(SAVED, STEPS), later, strict=True):
            assert bits(ours) == bits(theirs)
    kernel = later[-1][0]["kernel"]
    assert kernel.dtype == dtype
    assert_has_zeros(name, kernel)


def test_orbax_keeps_the_sharding_of_parameters_and_state(tmp_path):
    mesh = jax.make_mesh((4, 2), ("x", "y"))
    specs = {"kernel": PartitionSpec("y", "x"), "bias": PartitionSpec("x")}
    shardings = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}

    def sharded():
        training = JaxTraining(proximal(window=5))
        params = jax.device_put(training.carry[0], shardings)
        state = proximal(window=5).init(params)
        # Orbax restores to where the target is; counts must not stay on one device.
        everywhere = NamedSharding(mesh, PartitionSpec())
        training.carry = jax.tree.map(
            lambda x: x if x.ndim else jax.device_put(x, everywhere), (params, state)
        )
        return training

    straight, resumed = sharded(), sharded()
    straight.run(0, SAVED)
    straight.save(tmp_path)
    saved = straight.carry
    later = straight.run(SAVED, STEPS)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        resumed.carry,
    )
    for target in (resumed.carry, abstract):
        resumed.restore(tmp_path, target)
        assert bits(resumed.carry) == bits(saved)
        params, state = resumed.carry
        for tree in (params, state.plus, state.minus, state.optimizer_state[0].nu):
            for name, sharding in shardings.items():
                assert tree[name].sharding.is_equivalent_to(sharding, tree[name].ndim)
                assert len(tree[name].sharding.device_set) == 8
        for ours, theirs in zip(resumed.run(SAVED, STEPS), later, strict=True):
            assert bits(ours) == bits(theirs)
