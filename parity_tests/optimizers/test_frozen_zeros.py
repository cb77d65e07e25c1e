"""Zeros that are held, against models that never had these weights; refitting."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import l1jax
import l1torch
from parity_tests.oracles.problems import diabetes

ZEROS = np.array([0, 3, 4, 8])
REST = np.setdiff1d(np.arange(10), ZEROS)
STEPS = 25
MADE = {
    "sgd": (
        lambda: optax.sgd(0.05, momentum=0.9),
        lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9),
    ),
    "adamw": (
        lambda: optax.adamw(0.05, weight_decay=0.1),
        lambda ps: torch.optim.AdamW(ps, lr=0.05, weight_decay=0.1),
    ),
    "proximal": (
        lambda: l1jax.proximal(optax.adam, 0.05, 0.01),
        lambda ps: l1torch.Proximal(torch.optim.Adam(ps, lr=0.05), 0.01),
    ),
}


def start():
    return np.linspace(-0.5, 0.6, 10) + 0.01


def grad_of(columns):
    problem = diabetes()
    X = problem.X[:, columns]
    return lambda w: X.T @ (X @ w - problem.y) / len(problem.y)


def train_jax(tx, w, grad, state=None, steps=STEPS):
    params = {"w": jnp.array(w)}
    state = tx.init(params) if state is None else state
    update = jax.jit(tx.update)
    for _ in range(steps):
        grads = {"w": jnp.array(grad(np.array(params["w"])))}
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return np.array(params["w"]), state


def train_torch(optimizer, w, grad, steps=STEPS):
    for _ in range(steps):
        w.grad = torch.tensor(grad(w.detach().numpy()))
        optimizer.step()
    return w.detach().numpy().copy()


@pytest.mark.parametrize("name", MADE)
def test_as_if_the_zeros_were_cut_out(twin, name):
    """Also after steps in which they still moved, so that their moments are not 0."""
    ours, theirs = MADE[name]
    grad, cut = grad_of(np.arange(10)), grad_of(REST)
    if twin.name == "jax":
        tx = ours()
        w, state = train_jax(tx, start(), grad, steps=5)
        w[ZEROS] = 0
        found, _ = train_jax(l1jax.freeze_zeros(tx), w, grad, state)
        state = jax.tree.map(lambda x: x[REST] if x.shape == (10,) else x, state)
        expected, _ = train_jax(tx, w[REST], cut, state)
    else:
        w = torch.nn.Parameter(torch.tensor(start()))
        optimizer = theirs([("w", w)])
        train_torch(optimizer, w, grad, steps=5)
        with torch.no_grad():
            w[ZEROS] = 0
        small = torch.nn.Parameter(w.detach()[REST])
        other = theirs([("w", small)])
        saved = copy.deepcopy(optimizer.state_dict())
        for key, value in saved["state"][0].items():
            if value is not None and value.shape == (10,):
                saved["state"][0][key] = value[REST]
        other.load_state_dict(saved)
        found = train_torch(l1torch.freeze_zeros(optimizer), w, grad)
        expected = train_torch(other, small, cut)
    np.testing.assert_array_equal(found[ZEROS], 0)
    np.testing.assert_allclose(found[REST], expected, rtol=1e-11, atol=1e-12)
    assert not np.signbit(found[ZEROS]).any()


@pytest.mark.parametrize("name", MADE)
def test_the_twins_hold_alike(name):
    ours, theirs = MADE[name]
    grad, w0 = grad_of(np.arange(10)), start()
    w0[ZEROS] = 0
    found, _ = train_jax(l1jax.freeze_zeros(ours()), w0, grad)
    w = torch.nn.Parameter(torch.tensor(w0))
    other = train_torch(l1torch.freeze_zeros(theirs([("w", w)])), w, grad)
    np.testing.assert_allclose(other, found, rtol=1e-10, atol=1e-12)


def test_gradients_of_zeros_do_not_count():
    """In what looks at all of them, such as a norm or a line search."""
    grad, cut, w0 = grad_of(np.arange(10)), grad_of(REST), start()
    w0[ZEROS] = 0
    tx = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.5))
    found, _ = train_jax(l1jax.freeze_zeros(tx), w0, grad)
    expected, _ = train_jax(tx, w0[REST], cut)
    np.testing.assert_allclose(found[REST], expected, rtol=1e-12)

    ends = []
    for columns, hold in ((np.arange(10), l1torch.freeze_zeros), (REST, lambda o: o)):
        w = torch.nn.Parameter(torch.tensor(w0[columns]))
        X, y = (torch.tensor(a) for a in (diabetes().X[:, columns], diabetes().y))
        optimizer = hold(torch.optim.LBFGS([("w", w)], max_iter=4))

        def closure(w=w, X=X, y=y, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (X @ w - y).square().mean()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        ends.append(w.detach().numpy()[np.isin(columns, REST)])
    np.testing.assert_allclose(*ends, rtol=1e-9)


def test_functional_twin():
    w, u = torch.tensor([0.0, 2.0]), torch.tensor([1.0, -1.0])
    tx = l1torch.freeze_zeros(l1torch.proximal_step(1.0, learning_rate=0.1))
    params = {"w": w, "bias": torch.zeros(2)}
    updates, state = tx.update({"w": u, "bias": u}, tx.init(params), params)
    new = l1torch.apply_updates(params, updates)
    np.testing.assert_allclose(new["w"], [0.0, 0.9], rtol=1e-6)
    np.testing.assert_array_equal(new["bias"], u)  # zeros of a bias are not held
    assert state.count == 1

    def shifted(updates, state, params):
        total = sum(float(x.abs().sum()) for x in updates.values())
        return {name: x + total for name, x in updates.items()}, state

    inner = l1torch.GradientTransformation(lambda params: None, shifted)
    tx = l1torch.freeze_zeros(inner, mask=None)
    updates, _ = tx.update({"w": torch.tensor([5.0, 1.0])}, None, {"w": w})
    np.testing.assert_array_equal(updates["w"], [0.0, 2.0])


def test_it_goes_on_after_a_restart():
    grad, w0 = grad_of(np.arange(10)), start()
    w0[ZEROS] = 0
    w = torch.nn.Parameter(torch.tensor(w0))
    optimizer = l1torch.freeze_zeros(torch.optim.Adam([("w", w)], lr=0.05))
    train_torch(optimizer, w, grad, steps=10)
    v = torch.nn.Parameter(w.detach().clone())
    resumed = l1torch.freeze_zeros(torch.optim.Adam([("w", v)], lr=0.05))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    np.testing.assert_array_equal(
        train_torch(resumed, v, grad), train_torch(optimizer, w, grad)
    )
    again = pickle.loads(pickle.dumps(optimizer))
    assert isinstance(again, type(optimizer))
    train_torch(again, again.param_groups[0]["params"][0], grad)


def test_closures_groups_and_schedulers():
    w = torch.nn.Parameter(torch.tensor([0.0, 1.0]))
    optimizer = l1torch.freeze_zeros(torch.optim.SGD([("w", w)], lr=0.1))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def closure():
        optimizer.zero_grad()
        loss = (w + u - 3).square().sum()
        loss.backward()
        return loss

    u = torch.nn.Parameter(torch.tensor([2.0, 0.0]))
    optimizer.add_param_group({"params": [("u", u)]})
    assert optimizer.step(closure) == 2 * 1 + 3
    scheduler.step()
    np.testing.assert_allclose(w.detach(), [0.0, 1.4], rtol=1e-6)
    np.testing.assert_allclose(u.detach(), [2.2, 0.0], rtol=1e-6)
    assert w.grad[0] == 0
    # A group that the base was given behind the wrapper's back is held as well.
    v = torch.nn.Parameter(torch.zeros(2))
    optimizer.optimizer.add_param_group({"params": [("v", v)]})
    v.grad = torch.ones(2)
    optimizer.step()
    assert not v.detach().any()


def test_zeros_after_freezing_a_network_are_the_same():
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 2)).double()
    weights = [p for p in model.parameters() if p.dim() == 2]
    with torch.no_grad():
        for p in weights:
            p.masked_fill_(torch.rand(p.shape) < 0.5, 0)
    before = [p == 0 for p in weights]
    base = torch.optim.NAdam(model.named_parameters(), lr=0.1, momentum_decay=0)
    optimizer = l1torch.freeze_zeros(base)
    for _ in range(20):
        optimizer.zero_grad()
        model(torch.ones(3, 6).double()).square().mean().backward()
        optimizer.step()
    for p, zeros in zip(weights, before, strict=True):
        assert torch.equal(p == 0, zeros)
    assert (model[0].bias != 0).all()


def loss_of(twin, X, y):
    X, y = (twin.array(a, "float64") for a in (X, y))

    def loss(params):
        residual = X @ params["w"] + params["bias"] - y
        return (residual**2).mean() / 2

    return loss


def test_refit_is_least_squares_on_the_support(twin):
    problem = diabetes()
    y = problem.y + 0.7
    w0 = start()
    w0[ZEROS] = 0
    found = twin.lib.refit(
        loss_of(twin, problem.X, y),
        {"w": twin.array(w0, "float64"), "bias": twin.array(0.0, "float64")},
        tol=1e-11,
    )
    A = np.column_stack([problem.X[:, REST], np.ones(len(y))])
    expected = np.linalg.lstsq(A, y, rcond=None)[0]
    w = twin.numpy(found.params["w"])
    np.testing.assert_array_equal(w[ZEROS], 0)
    np.testing.assert_allclose(w[REST], expected[:-1], atol=1e-8)
    np.testing.assert_allclose(twin.numpy(found.params["bias"]), expected[-1])
    assert bool(found.converged)
    assert float(found.residual.largest) <= 1e-11


@pytest.mark.parametrize("name", ["freeze_zeros", "refit"])
def test_a_mask_that_selects_nothing(twin, name):
    params = {"bias": twin.array([1.0], "float64")}
    tx = twin.lib.freeze_zeros(twin.lib.proximal_step(0.1, 0.1))
    calls = {
        "freeze_zeros": lambda: tx.init(params),
        "refit": lambda: twin.lib.refit(lambda p: p["bias"].sum(), params),
    }
    with pytest.raises(ValueError, match="mask"):
        calls[name]()


def test_what_cannot_be_wrapped():
    with pytest.raises(TypeError, match="optimizer must be an optax transformation"):
        l1jax.freeze_zeros(optax.sgd)
    with pytest.raises(TypeError, match="optimizer must be a torch.optim.Optimizer"):
        l1torch.freeze_zeros(torch.optim.SGD)
    base = torch.optim.SGD([("w", torch.nn.Parameter(torch.ones(2)))], lr=0.1)
    held = l1torch.freeze_zeros(base)
    with pytest.raises(TypeError, match="holds zeros already"):
        l1torch.freeze_zeros(held)
    with pytest.raises(TypeError, match="second wrapper"):
        l1torch.Proximal(held, 0.1)
    tx = l1jax.freeze_zeros(optax.sgd(0.1))
    params = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match="params must be given"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="updates must have the same tree"):
        tx.update({"u": jnp.ones(2)}, tx.init(params), params)


def test_a_sparse_gradient_is_refused_before_anything_moves():
    layer = torch.nn.Embedding(4, 2, sparse=True)
    before = layer.weight.detach().clone()
    base = torch.optim.SparseAdam(list(layer.named_parameters()))
    optimizer = l1torch.freeze_zeros(base)
    layer(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(TypeError, match="sparse=False"):
        optimizer.step()
    assert torch.equal(layer.weight, before)
