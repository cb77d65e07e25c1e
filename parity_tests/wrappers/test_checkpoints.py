"""Saved in the middle of a training and restored, every optimizer goes on bitwise."""

import copy
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec

import l1jax
import l1torch
from parity_tests.oracles.convergence_matrix import ROWS

STEPS, SAVED = 11, 5
RATE, STRENGTH, OTHER = 0.1, 0.3, 0.7
OPTIONS = {
    "window": {"window": 5},
    "window without end": {"window": math.inf},
    "tensor": {"metric": "tensor"},
    "none": {"metric": "none", "strength": 0.5},
    "half precision": {"window": 5},
}


def data():  # a minibatch for each step, and where the training starts
    rng = np.random.default_rng(0)
    X, truth = rng.normal(size=(STEPS, 8, 6)), rng.normal(size=(6, 4))
    Y = X @ (truth * (np.abs(truth) > 0.7)) + rng.normal(size=(STEPS, 8, 4)) / 2
    return X, Y, {"kernel": rng.normal(size=(6, 4)) / 40, "bias": np.zeros(4)}


def gradient(X, Y, params):  # of the mean squared error, for JAX and torch
    residual = (X @ params["kernel"] + params["bias"] - Y) / len(X)
    return {"kernel": X.T @ residual, "bias": residual.sum(0)}


def bits(tree):
    """The leaves of a tree of arrays, tensors and numbers, to be compared exactly."""

    def of_leaf(leaf):
        if isinstance(leaf, torch.Tensor):
            flat = leaf.detach().reshape(-1).view(torch.uint8)
            return str(leaf.dtype), tuple(leaf.shape), flat.numpy().tobytes()
        if isinstance(leaf, jax.Array):
            return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()
        return leaf

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): of_leaf(leaf) for path, leaf in leaves}


def decaying(step):  # the learning rate
    return RATE * (1 - step / STEPS)


def growing(step):  # the strength
    return STRENGTH * (step + 1) / STEPS


def proximal(factory=optax.adam, rate=RATE, strength=STRENGTH, **kwargs):
    return l1jax.proximal(factory, rate, strength, **kwargs)


def injected(strength=STRENGTH, **kwargs):
    static = ("factory", "mask", "window")
    inject = optax.inject_hyperparams(l1jax.proximal, static_args=static)
    return inject(optax.adam, RATE, strength, **kwargs)


JAX_CASES = {
    name: functools.partial(proximal, row.jax[0], decaying, **row.jax[1])
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


class JaxTraining:
    """A transform, and the parameters and state that it trains."""

    def __init__(self, tx, dtype="float64"):
        X, Y, start = data()
        self.X, self.Y = jnp.asarray(X, dtype), jnp.asarray(Y, dtype)
        params = {k: jnp.asarray(v, dtype) for k, v in start.items()}
        self.carry = params, tx.init(params)

        @jax.jit
        def step(carry, X, Y):
            params, state = carry
            updates, state = tx.update(gradient(X, Y, params), state, params)
            return optax.apply_updates(params, updates), state

        self.step = step

    def run(self, first, stop):
        """Trains, and gives parameters and state after each step."""
        trail = []
        for t in range(first, stop):
            self.carry = self.step(self.carry, self.X[t], self.Y[t])
            trail.append(self.carry)
        return trail

    def save(self, folder):
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "checkpoint", self.carry)

    def restore(self, folder, target):
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            self.carry = checkpointer.restore(folder / "checkpoint", target)


def dtype_of(name):
    # torch loads NAdam's float32 product of momenta in the parameter's own dtype.
    special = {"half precision": "bfloat16", "nadam": "float32", "nadamw": "float32"}
    return special.get(name, "float64")


def assert_has_zeros(name, kernel):
    without = ("add_subgradient", "Subgradient")
    assert ((kernel == 0).sum() == 0) == (name in without)
    assert (kernel != 0).sum() > 4


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


class TorchTraining:
    """An optimizer, its scheduler, and the parameters that it trains."""

    def __init__(self, make, dtype="float64", schedule=False):
        dtype = getattr(torch, dtype)
        X, Y, start = data()
        self.X, self.Y = torch.tensor(X, dtype=dtype), torch.tensor(Y, dtype=dtype)
        self.model = torch.nn.ParameterDict(
            {name: torch.tensor(value, dtype=dtype) for name, value in start.items()}
        )
        self.optimizer = make(list(self.model.named_parameters()))
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda t: decaying(t) / RATE if schedule else 1.0
        )

    def run(self, first, stop):
        """Trains, and gives parameters and state after each step."""
        trail = []
        for t in range(first, stop):
            detached = {k: v.detach() for k, v in self.model.items()}
            for k, grad in gradient(self.X[t], self.Y[t], detached).items():
                self.model[k].grad = grad
            self.optimizer.step()
            self.scheduler.step()
            trail.append(copy.deepcopy(self.parts()))
        return trail

    def parts(self):
        whole = (self.model, self.optimizer, self.scheduler)
        return [part.state_dict() for part in whole]

    def save(self, folder):
        torch.save(self.parts(), folder / "checkpoint.pt")

    def restore(self, folder):
        parts = torch.load(folder / "checkpoint.pt", weights_only=True)
        whole = (self.model, self.optimizer, self.scheduler)
        for part, saved in zip(whole, parts, strict=True):
            part.load_state_dict(saved)


def wrapped(cls=torch.optim.Adam, strength=STRENGTH, settings=None, **kwargs):
    def make(params, lr=RATE, **other):
        base = cls(params, lr=lr, **(settings or {}))
        return l1torch.Proximal(base, **{"strength": strength, **kwargs, **other})

    return make


def two_groups(params, lr=RATE, **other):
    groups = [{"params": [pair], "l1": i / 5} for i, pair in enumerate(params, 1)]
    base = torch.optim.Adam(groups, lr=lr)
    return l1torch.Proximal(base, other.get("strength", 0.1), mask=None)


def subgradient(params, lr=RATE, strength=growing):
    return l1torch.Subgradient(torch.optim.Adam(params, lr=lr), strength)


TORCH_CASES = {
    name: wrapped(row.torch[0], settings=row.torch[1])
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
