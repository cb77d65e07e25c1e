"""`jax.export`: steps lowered for accelerators that are not there."""

import functools

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from parity_tests.report import tpu_report as tpu

EVERYWHERE = ["cpu", "tpu", "cuda"]
SERIALISED = (
    "adam",
    "rmsprop, momentum",
    "adam, window",
    "metric tensor",
    "scheduled",
    "proximal_step",
    "add_subgradient",
)


def small(name, dtype):
    """A case's transformation, parameters, and gradients too small to hold them all."""
    rng = np.random.default_rng(0)
    params, grads = (
        {"kernel": rng.normal(size=(8, 4)), "bias": rng.normal(size=4)} for _ in "pg"
    )
    params["kernel"][::2] *= 1e-2
    grads = jax.tree.map(lambda g: 1e-5 * g, grads)
    arrays = jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, grads))
    return tpu.cases()[name].ours, *arrays


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("name", tpu.cases())
def test_exports_for_accelerators_without_custom_calls(name, platform):
    tx, params, grads = small(name, tpu.cases()[name].dtype)
    step = jax.jit(tpu.update(tx))
    exported = jax.export.export(step, platforms=[platform])(
        params, tx.init(params), grads
    )
    assert exported.platforms == (platform,)
    assert "stablehlo.custom_call" not in exported.mlir_module()


def test_a_custom_call_would_be_seen():
    step = jax.jit(jnp.linalg.qr)
    exported = jax.export.export(step, platforms=["tpu"])(jnp.ones((8, 4)))
    assert "stablehlo.custom_call" in exported.mlir_module()


def namedtuples(tree):
    """The classes of all states in a state, optax's among them."""
    if not isinstance(tree, tuple):
        return set()
    own = {type(tree)} if hasattr(tree, "_fields") else set()
    return own.union(*map(namedtuples, tree))


@functools.cache
def register(kind):
    """As a user has to, once in a process: a second time raises."""
    jax.export.register_namedtuple_serialization(
        kind, serialized_name=f"{kind.__module__}.{kind.__qualname__}"
    )


def three_steps(step, params, state, grads):
    for _ in range(3):
        params, state = step(params, state, grads)
    return params, state


@pytest.mark.parametrize("name", SERIALISED)
def test_a_serialised_step_does_the_same(name):
    pytest.importorskip("flatbuffers", reason="jax.export: pip install flatbuffers")
    tx, params, grads = small(name, "float64")
    state = tx.init(params)
    for kind in namedtuples(state):
        register(kind)
    step = jax.jit(tpu.update(tx))
    exported = jax.export.export(step, platforms=EVERYWHERE)(params, state, grads)
    restored = jax.export.deserialize(exported.serialize())
    assert restored.platforms == tuple(EVERYWHERE)
    again = three_steps(restored.call, params, state, grads)
    expected = three_steps(step, params, state, grads)
    assert jax.tree.structure(again) == jax.tree.structure(expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(again, expected)
    chex.assert_trees_all_close(again, expected, rtol=1e-14, atol=0)
    kernel, zeros = again[0]["kernel"], expected[0]["kernel"] == 0
    np.testing.assert_array_equal(kernel == 0, zeros)
    # Adam's normalised steps are too large for a threshold of lr * strength.
    assert zeros.any() == (name not in ("proximal_step", "add_subgradient"))
    assert not zeros.all()
    assert not np.array_equal(kernel, params["kernel"])


def test_a_step_of_leaves_needs_no_registration():
    pytest.importorskip("flatbuffers", reason="jax.export: pip install flatbuffers")
    tx, params, grads = small("rmsprop, centered", "float64")
    arguments, treedef = jax.tree.flatten((params, tx.init(params), grads))
    step = tpu.update(tx)

    @jax.jit
    def flat(leaves):
        return jax.tree.leaves(step(*jax.tree.unflatten(treedef, leaves)))

    exported = jax.export.export(flat, platforms=EVERYWHERE)(arguments)
    restored = jax.export.deserialize(exported.serialize())
    chex.assert_trees_all_close(restored.call(arguments), flat(arguments), rtol=1e-14)
