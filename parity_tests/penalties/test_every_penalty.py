"""Every penalty in every transform and wrapper: where it ends, in both frameworks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import l1jax
import l1torch
from parity_tests.oracles import problems
from parity_tests.oracles.formulas import PENALTIES, slow_unless_quick

STRENGTH, STEPS = 0.05, 3000
CONSTRAINTS = [n for n, e in PENALTIES.items() if e.make(l1jax).constraint]

SOME = ("l1()", "mcp(0.8, 3.0)", "group_l1(0, block=2)", "l1_ball(1.5)")
every_penalty = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=slow_unless_quick(n)) for n in PENALTIES]
)


@functools.cache
def problem(shape):
    """Squared loss on as many columns of diabetes as there are weights."""
    size = int(np.prod(shape))
    base = problems.diabetes()
    X = np.c_[base.X, base.X**2][:, :size]
    assert X.shape[1] == size
    return X, base.y, len(X) / np.linalg.norm(X, 2) ** 2


def gradient(xp_X, y, w):
    """Of the loss, by hand: the same formula in both frameworks."""
    return (xp_X.T @ (xp_X @ w.reshape(-1) - y) / len(y)).reshape(w.shape)


def cosine(rate, step, cos=np.cos):
    return rate * (1 + cos(np.pi * step / STEPS)) / 2


def start(shape):
    return np.random.default_rng(0).normal(0, 0.1, shape)


def train_jax(name, make):
    """`make(penalty, learning rate)` gives the transformation; from step 0 to STEPS."""
    entry = PENALTIES[name]
    X, y, rate = problem(entry.shape)
    X, y = jnp.asarray(X), jnp.asarray(y)
    tx = make(entry.make(l1jax), rate)
    params = {"w": jnp.asarray(start(entry.shape))}

    @jax.jit
    def run(params):
        def body(carry, _):
            params, state = carry
            grads = {"w": gradient(X, y, params["w"])}
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params["w"]

        (_, _), trail = jax.lax.scan(body, (params, tx.init(params)), length=STEPS)
        return trail

    return np.asarray(run(params))


def train_torch(name, make, steps):
    """`make(penalty, learning rate, parameters)` gives optimizer and rate."""
    entry = PENALTIES[name]
    X, y, rate = problem(entry.shape)
    X, y = torch.tensor(X), torch.tensor(y)
    w = torch.nn.Parameter(torch.tensor(start(entry.shape)))
    optimizer, schedule = make(entry.make(l1torch), rate, [("w", w)])
    trail = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = schedule(step)
        w.grad = gradient(X, y, w.detach())
        optimizer.step()
        trail.append(w.detach().clone().numpy())
    return np.array(trail)


def distance(name, w):
    """How far the end is from stationary, by JAX's method."""
    entry = PENALTIES[name]
    X, y, _ = problem(entry.shape)
    grad = gradient(X, y, w)
    found = entry.make(l1jax).optimality_distance(w, grad, STRENGTH)
    return float(jnp.max(found))


def takes_metric(name):
    return PENALTIES[name].make(l1jax).takes_metric


@every_penalty
def test_proximal_sgd_ends_where_it_should(name):
    trail = train_jax(
        name, lambda penalty, rate: l1jax.proximal(
            optax.sgd, rate / 4, STRENGTH, penalty=penalty,
            metric="coordinate" if penalty.takes_metric else "tensor", momentum=0.5,
        ),
    )  # fmt: skip
    assert distance(name, trail[-1]) <= 1e-10

    def make(penalty, rate, params):
        base = torch.optim.SGD(params, lr=rate / 4, momentum=0.5)
        metric = "coordinate" if penalty.takes_metric else "tensor"
        optimizer = l1torch.Proximal(base, STRENGTH, penalty=penalty, metric=metric)
        return optimizer, lambda step: rate / 4

    steps = 60
    theirs = train_torch(name, make, steps)
    np.testing.assert_allclose(trail[:steps], theirs, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(trail[:steps] == 0, theirs == 0)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in SOME else pytest.mark.slow) for n in PENALTIES],
)
def test_proximal_step_after_sgd_is_proximal(name):
    """The same in both frameworks; and a chain is the optimizer that knows its step."""
    steps = 20

    def chain(penalty, rate):
        step = l1jax.proximal_step(STRENGTH, rate, penalty=penalty)
        return optax.chain(optax.sgd(rate), step)

    ours = train_jax(name, chain)[:steps]
    entry = PENALTIES[name]
    X, y, rate = problem(entry.shape)
    X, y = torch.tensor(X), torch.tensor(y)
    tx = l1torch.proximal_step(STRENGTH, rate, penalty=entry.make(l1torch))
    params = {"w": torch.tensor(start(entry.shape))}
    state = tx.init(params)
    for step in range(steps):
        updates = {"w": -rate * gradient(X, y, params["w"])}
        updates, state = tx.update(updates, state, params)
        params = l1torch.apply_updates(params, updates)
        np.testing.assert_allclose(ours[step], params["w"], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in PENALTIES if takes_metric(n)])
def test_adam_ends_at_the_objective_as_written(name):
    trail = train_jax(
        name, lambda penalty, rate: l1jax.proximal(
            optax.adam, lambda step: cosine(0.03, step, jnp.cos), STRENGTH,
            penalty=penalty,
        ),
    )  # fmt: skip
    assert distance(name, trail[-1]) <= 1e-7

    def make(penalty, rate, params):
        base = torch.optim.Adam(params, lr=0.03)
        optimizer = l1torch.Proximal(base, STRENGTH, penalty=penalty)
        return optimizer, lambda step: float(cosine(0.03, step))

    steps = 200
    theirs = train_torch(name, make, steps)
    np.testing.assert_allclose(trail[:steps], theirs, rtol=1e-8, atol=1e-10)


@every_penalty
def test_the_subgradient_descends_or_is_refused(name):
    entry = PENALTIES[name]
    libs = ((l1jax, entry.make(l1jax)), (l1torch, entry.make(l1torch)))
    if not libs[0][1].has_subgradient:
        for lib, penalty in libs:
            with pytest.raises(ValueError, match="no subgradient"):
                lib.add_subgradient(STRENGTH, penalty=penalty)
        w = torch.nn.Parameter(torch.ones(entry.shape))
        with pytest.raises(ValueError, match="no subgradient"):
            l1torch.Subgradient(
                torch.optim.SGD([("w", w)]), STRENGTH, penalty=libs[1][1]
            )
        return
    w, grad = np.ones(entry.shape) * start(entry.shape), np.full(entry.shape, 0.1)
    slope = np.asarray(libs[0][1].subgradient(w, STRENGTH))
    for (lib, penalty), array in zip(libs, (jnp.asarray, torch.tensor), strict=True):
        tx = lib.add_subgradient(STRENGTH, penalty=penalty)
        params = {"w": array(w)}
        updates, _ = tx.update({"w": array(grad)}, tx.init(params), params)
        np.testing.assert_allclose(updates["w"], grad + slope, rtol=1e-13, atol=1e-15)
    weight = torch.nn.Parameter(torch.tensor(w))
    weight.grad = torch.tensor(grad)
    base = torch.optim.SGD([("w", weight)], lr=1.0)
    l1torch.Subgradient(base, STRENGTH, penalty=libs[1][1]).step()
    np.testing.assert_allclose(weight.detach(), w - grad - slope, rtol=1e-12)


@every_penalty
def test_a_metric_is_taken_or_refused(name):
    entry = PENALTIES[name]
    w = torch.nn.Parameter(torch.ones(entry.shape))
    base = torch.optim.Adam([("w", w)])
    if takes_metric(name):
        l1torch.Proximal(base, STRENGTH, penalty=entry.make(l1torch))
        l1jax.proximal(optax.adam, 0.1, STRENGTH, penalty=entry.make(l1jax))
        return
    with pytest.raises(ValueError, match="metric='tensor'"):
        l1torch.Proximal(base, STRENGTH, penalty=entry.make(l1torch))
    with pytest.raises(ValueError, match="metric='tensor'"):
        l1jax.proximal(optax.adam, 0.1, STRENGTH, penalty=entry.make(l1jax))


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_constraint_does_not_know_the_strength(twin, name):
    entry = PENALTIES[name]
    found = []
    for strength in (0.0, 1e-3, 5.0):
        tx = twin.lib.proximal_step(strength, 0.1, penalty=entry.make(twin.lib))
        params = {"w": twin.array(start(entry.shape))}
        updates = {"w": twin.array(np.full(entry.shape, 0.7))}
        updates, _ = tx.update(updates, tx.init(params), params)
        found.append(twin.numpy(twin.apply_updates(params, updates)["w"]))
        assert np.isfinite(entry.value(found[-1]))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


JOINT = {
    "ball": lambda lib: lib.l1_ball(1.0, scope="tree"),
    "counts": lambda lib: lib.top_k(2, scope="tree"),
}


@pytest.mark.parametrize("name", JOINT)
def test_a_joint_constraint_holds_for_all_arrays_or_raises(twin, name):
    penalty = JOINT[name](twin.lib)
    params = twin.tree({"u": [3.0, -2.0], "v": [1.0, 0.5]})
    still = twin.tree({"u": [0.1, 0.1]}) | {"v": None}
    moving = twin.tree({"u": [0.1, 0.1], "v": [0.0, 0.0]})
    tx = twin.lib.proximal_step(1.0, 0.1, penalty=penalty)
    with pytest.raises(ValueError, match=r"\['v'\] are None, but the penalty holds"):
        tx.update(still, tx.init(params), params)
    updates, _ = tx.update(moving, tx.init(params), params)
    new = twin.apply_updates(params, updates)
    assert float(twin.lib.penalty_value(new, 1.0, penalty)) == 0.0
    assert float(twin.lib.penalty_value(params, 1.0, penalty)) == np.inf
    one = twin.lib.proximal_step(1.0, 0.1, penalty=penalty, mask=twin.lib.by_path("u"))
    updates, _ = one.update(still, one.init(params), params)
    assert updates["v"] is None


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("by_closure", [False, True])
def test_a_joint_constraint_wants_all_gradients(name, by_closure):
    params = {k: torch.nn.Parameter(torch.ones(3)) for k in "uv"}
    base = torch.optim.SGD(params.items(), lr=0.1)
    optimizer = l1torch.Proximal(base, 1.0, penalty=JOINT[name](l1torch))

    def closure():
        params["u"].grad = torch.ones(3)
        return torch.zeros(())

    if not by_closure:
        closure()
    with pytest.raises(ValueError, match=r"\['v'\] are None, but the penalty holds"):
        optimizer.step(closure if by_closure else None)
    assert all((p == 1).all() for p in params.values())
    params["v"].grad = torch.zeros(3)
    optimizer.step(closure if by_closure else None)
    found = l1torch.penalty_value(params, 1.0, optimizer.penalty)
    assert float(found) == 0.0


def test_large_penalties_have_short_names(twin):
    lib = twin.lib
    groups = {f"g{i}": [i] for i in range(2000)}
    for penalty in (lib.owl([1.0] * 10_000), lib.group_l1(0, groups=groups)):
        assert len(repr(penalty)) < 300
    with pytest.raises(TypeError, match="weights must be a sequence of numbers, got"):
        lib.owl("321")
    x = twin.array([3.0, -1.0])
    np.testing.assert_array_equal(twin.numpy(lib.top_k(2**70).prox(x, 1.0)), [3, -1])
