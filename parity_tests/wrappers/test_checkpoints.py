"""Saved in the middle of a training and restored, torch's wrappers go on bitwise."""

import copy
import functools

import jax
import pytest
import torch

import l1torch
from parity_tests.optimizers.trainings import (
    OPTIONS,
    OTHER,
    RATE,
    SAVED,
    STEPS,
    STRENGTH,
    TorchTraining,
    assert_has_zeros,
    bits,
    data,
    decaying,
    dtype_of,
    gradient,
    growing,
    wrapped,
)
from parity_tests.oracles.convergence_matrix import ROWS


def two_groups(params, lr=RATE, **other):
    groups = [{"params": [pair], "l1": i / 5} for i, pair in enumerate(params, 1)]
    base = torch.optim.Adam(groups, lr=lr)
    return l1torch.Proximal(base, other.get("strength", 0.1), mask=None)


def subgradient(params, lr=RATE, strength=growing):
    return l1torch.Subgradient(torch.optim.Adam(params, lr=lr), strength)


TORCH_CASES = {
    name: wrapped(row.torch.make, settings=row.torch.settings)
    for name, row in ROWS.items()
    if row.torch
} | {
    **{k: wrapped(**v) for k, v in OPTIONS.items()},
    "schedules": wrapped(strength=growing, window=3),
    "by name": wrapped(strength={"kernel": 0.3, "bias": 0.1}, mask=None),
    "a tensor": wrapped(strength=torch.linspace(0, 1, 4)),
    "two groups": two_groups,
    "learning rate": wrapped(strength=0.5, step_size="learning_rate"),
    "any optimizer": wrapped(torch.optim.Rprop, step_size="learning_rate"),
    "Subgradient": subgradient,
}


@pytest.mark.parametrize("name", TORCH_CASES)
def test_torch_load_goes_on_bitwise(name, tmp_path):
    make, dtype = TORCH_CASES[name], dtype_of(name)
    schedule = name in ROWS or name == "schedules"
    straight = TorchTraining(make, dtype, schedule)
    straight.run(0, SAVED)
    straight.save(tmp_path)
    saved = copy.deepcopy(straight.parts())
    later = straight.run(SAVED, STEPS)
    changed = {} if name in ("schedules", "Subgradient") else {"strength": OTHER}
    made = functools.partial(make, lr=9.0, **changed)
    resumed = TorchTraining(made, dtype, schedule)
    resumed.restore(tmp_path)
    assert bits(resumed.parts()) == bits(saved)
    for ours, theirs in zip(resumed.run(SAVED, STEPS), later, strict=True):
        assert bits(ours) == bits(theirs)
    assert_has_zeros(name, resumed.model["kernel"])


def test_the_state_of_a_functional_transform_is_saved_by_torch(tmp_path):
    X, Y, start = data()
    X, Y, start = torch.tensor(X), torch.tensor(Y), jax.tree.map(torch.tensor, start)

    def run(params, state, first, stop):
        tx = l1torch.proximal_step(growing, decaying)
        state = tx.init(params) if state is None else state
        for t in range(first, stop):
            slope = gradient(X[t], Y[t], params)
            steps = {name: -decaying(t) * g for name, g in slope.items()}
            updates, state = tx.update(steps, state, params)
            params = l1torch.apply_updates(params, updates)
        return params, state

    half = run(start, None, 0, SAVED)
    torch.save(half, tmp_path / "checkpoint.pt")
    with torch.serialization.safe_globals([type(half[1])]):
        restored = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert bits(run(*restored, SAVED, STEPS)) == bits(run(start, None, 0, STEPS))
    assert bits(run(restored[0], None, SAVED, STEPS)) != bits(run(*half, SAVED, STEPS))


SAFE = [l1torch.Control, l1torch.ProximalStepState, l1torch.AddSubgradientState]
TARGETS = {
    scope: l1torch.target_sparsity(0.5, STEPS, scope=scope)
    for scope in ("global", "array")
}


@pytest.mark.parametrize(
    "tx",
    [
        l1torch.add_subgradient(growing),
        l1torch.clip_by_global_l1_norm(1.0),
        l1torch.proximal_step(growing, decaying),
        *(l1torch.proximal_step(target, decaying) for target in TARGETS.values()),
    ],
)
def test_every_state_is_loaded_as_weights_alone(tx, tmp_path):
    params = {"w": torch.linspace(-1, 1, 8)}
    _, state = tx.update({"w": torch.zeros(8)}, tx.init(params), params)
    torch.save(state, tmp_path / "state.pt")
    with torch.serialization.safe_globals(SAFE):  # the names that the docstrings give
        loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert type(loaded) is type(state)
    assert loaded == state


@pytest.mark.parametrize("strength", [STRENGTH, growing, *TARGETS.values()])
def test_every_state_dict_is_loaded_as_weights_alone(strength, tmp_path):
    def made():
        weights = torch.nn.Parameter(torch.linspace(-1, 1, 8))
        weights.grad = torch.ones(8)
        return l1torch.Proximal(torch.optim.Adam([("w", weights)], lr=0.1), strength)

    optimizer, loaded = made(), made()
    for _ in range(5):
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert loaded.control == optimizer.control
    assert (loaded.control is None) == (strength not in TARGETS.values())
    assert bits(loaded.state_dict()) == bits(optimizer.state_dict())
