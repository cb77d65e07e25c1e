"""A checkpoint of one strength, restored by an optimizer made with another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parity_tests.optimizers.trainings import (
    OTHER,
    SAVED,
    STEPS,
    STRENGTH,
    JaxTraining,
    TorchTraining,
    growing,
    injected,
    proximal,
    wrapped,
)

# A checkpoint of one strength, restored by an optimizer that was made with another.


def old_then_new(t):
    later = jnp.where(t < SAVED, STRENGTH, OTHER)
    return later if isinstance(t, jax.Array) else float(later)


def weights(trail):
    return [{k: np.asarray(v) for k, v in parts[0].items()} for parts in trail]


def assert_same_weights(actual, desired, rtol=1e-13):
    for ours, theirs in zip(actual, desired, strict=True):
        np.testing.assert_array_equal(ours["kernel"] == 0, theirs["kernel"] == 0)
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=rtol, atol=1e-15)


def uninterrupted(framework, strength):
    """The last steps of a training that had a strength, or its schedule, all along."""
    if framework == "jax":
        training = JaxTraining(proximal(strength=strength))
    else:
        training = TorchTraining(wrapped(strength=strength))
    return weights(training.run(0, STEPS)[SAVED:])


def resumed_torch(folder, told, made_with=OTHER, saved_with=STRENGTH):
    first = TorchTraining(wrapped(strength=saved_with))
    first.run(0, SAVED)
    first.save(folder)
    training = TorchTraining(wrapped(strength=made_with))
    training.restore(folder)
    if told:
        training.optimizer.param_groups[0]["l1"] = OTHER
    return weights(training.run(SAVED, STEPS))


def resumed_jax(folder, told, make=injected, made_with=OTHER):
    first = JaxTraining(make())
    first.run(0, SAVED)
    first.save(folder)
    training = JaxTraining(make(strength=made_with))
    training.restore(folder, training.carry)
    if told:
        _, state = training.carry
        state.hyperparams["strength"] = jnp.asarray(OTHER)
    return weights(training.run(SAVED, STEPS))


@pytest.mark.parametrize("told", [False, True])
def test_the_saved_strength_stays_unless_told_otherwise(told, tmp_path):
    strength = old_then_new if told else STRENGTH
    in_jax, in_torch = (uninterrupted(name, strength) for name in ("jax", "torch"))
    assert_same_weights(resumed_jax(tmp_path, told), in_jax)
    assert_same_weights(resumed_torch(tmp_path, told), in_torch)
    assert_same_weights(in_jax, in_torch, rtol=1e-12)
    others = uninterrupted("torch", STRENGTH if told else OTHER)
    assert np.abs(others[-1]["kernel"] - in_torch[-1]["kernel"]).max() > 1e-3


@pytest.mark.parametrize("new", [OTHER, lambda t: OTHER * (t + 1)])
def test_a_strength_that_is_part_of_the_transform_is_the_new_one(new, tmp_path):
    # In JAX the count is in the state, so that a new schedule goes on from it.
    later = new if callable(new) else lambda t: new
    ours = resumed_jax(tmp_path, told=False, make=proximal, made_with=new)
    theirs = uninterrupted("jax", lambda t: jnp.where(t < SAVED, STRENGTH, later(t)))
    assert_same_weights(ours, theirs)


def test_a_schedule_tells_otherwise_and_starts_at_its_first_step(tmp_path):
    ours = resumed_torch(tmp_path, told=False, made_with=growing)
    theirs = uninterrupted(
        "torch", lambda t: STRENGTH if t < SAVED else growing(t - SAVED)
    )
    assert_same_weights(ours, theirs)


def test_without_its_schedule_the_strength_stays_where_it_was(tmp_path):
    ours = resumed_torch(tmp_path, told=False, saved_with=growing)
    constant = growing(SAVED - 1)
    theirs = uninterrupted("torch", lambda t: min(growing(t), constant))
    assert_same_weights(ours, theirs)
