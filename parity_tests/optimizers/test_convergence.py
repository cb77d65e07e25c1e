"""The promise: scikit-learn's optimum, in both frameworks, with its exact zeros."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import l1jax
import l1torch
from parity_tests.oracles import optima, problems

STEPS = {"diabetes": 1_000, "breast_cancer": 14_000}


@functools.cache
def problem_and_optimum(name):
    if name == "diabetes":
        problem = problems.diabetes()
        return problem, optima.sklearn_lasso(problem)
    problem = problems.breast_cancer(0.2)
    return problem, optima.sklearn_logistic(problem)


@functools.cache
def trajectory_in_jax(name, n, dtype="float64", penalty=None):
    """Proximal gradient from zero: the weights after every step, (n, features)."""
    problem, _ = problem_and_optimum(name)
    X, y = jnp.asarray(problem.X, dtype), jnp.asarray(problem.y, dtype)
    lr = 1 / problem.lipschitz
    tx = optax.chain(
        optax.sgd(lr),
        l1jax.proximal_step(problem.strength, lr, penalty=penalty or l1jax.l1()),
    )

    def body(carry, _):
        w, state = carry
        updates, state = tx.update(problem.gradient(jnp, X, y, w), state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    start = jnp.zeros(X.shape[1], dtype)
    run = jax.jit(lambda w: jax.lax.scan(body, (w, tx.init(w)), length=n)[1])
    return np.asarray(run(start))


@functools.cache
def trajectory_in_torch(name, n, dtype="float64", penalty=None, wrapper=False):
    problem, _ = problem_and_optimum(name)
    dtype = getattr(torch, dtype)
    X, y = torch.tensor(problem.X, dtype=dtype), torch.tensor(problem.y, dtype=dtype)
    lr = 1 / problem.lipschitz
    penalty = penalty or l1torch.l1()
    w = torch.nn.Parameter(torch.zeros(X.shape[1], dtype=dtype))
    trail = np.empty((n, X.shape[1]), X.numpy().dtype)
    if wrapper:
        base = torch.optim.SGD([("w", w)], lr=lr)
        optimizer = l1torch.Proximal(base, problem.strength, penalty=penalty)
        for i in range(n):
            w.grad = problem.gradient(torch, X, y, w.detach())
            optimizer.step()
            trail[i] = w.detach().numpy()
        return trail
    tx = l1torch.proximal_step(problem.strength, lr, penalty=penalty)
    params = {"w": w.detach()}
    state = tx.init(params)
    for i in range(n):
        updates = {"w": -lr * problem.gradient(torch, X, y, params["w"])}
        updates, state = tx.update(updates, state, params)
        params = l1torch.apply_updates(params, updates)
        trail[i] = params["w"].numpy()
    return trail


TRAJECTORIES = {
    "jax": trajectory_in_jax,
    "torch": trajectory_in_torch,
    "torch_wrapper": functools.partial(trajectory_in_torch, wrapper=True),
}


@pytest.mark.parametrize("run", TRAJECTORIES)
@pytest.mark.parametrize("name", STEPS)
def test_same_optimum_as_scikit_learn(name, run):
    problem, optimum = problem_and_optimum(name)
    w = TRAJECTORIES[run](name, STEPS[name])[-1]
    np.testing.assert_array_equal(w != 0, optimum != 0)
    assert 3 <= (optimum == 0).sum() <= 26
    assert abs(optima.relative_gap(problem, w, optimum)) <= 1e-9
    assert optima.l1_kkt_residual(problem, w) <= 1e-7


def test_the_oracles_are_optimal_themselves():
    for name in STEPS:
        problem, optimum = problem_and_optimum(name)
        assert optima.l1_kkt_residual(problem, optimum) < 1e-11


@pytest.mark.parametrize("run", TRAJECTORIES)
def test_elastic_net_on_diabetes(run):
    problem, _ = problem_and_optimum("diabetes")
    lib = l1jax if run == "jax" else l1torch
    w = TRAJECTORIES[run]("diabetes", 1_000, penalty=lib.elastic_net(0.5))[-1]
    optimum = optima.sklearn_lasso(problem, l1_ratio=0.5)
    value = optima.elastic_net_value(0.5)
    np.testing.assert_array_equal(w != 0, optimum != 0)
    assert abs(optima.relative_gap(problem, w, optimum, value)) <= 1e-12


@pytest.mark.parametrize("other", ["torch", "torch_wrapper"])
@pytest.mark.parametrize("name", STEPS)
def test_trajectories_agree_in_double(name, other):
    ours = trajectory_in_jax(name, STEPS[name])
    theirs = TRAJECTORIES[other](name, STEPS[name])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(ours != 0, theirs != 0)


@pytest.mark.parametrize("other", ["torch", "torch_wrapper"])
def test_trajectories_agree_in_single(other):
    n = 400
    ours = trajectory_in_jax("diabetes", n, "float32")
    theirs = TRAJECTORIES[other]("diabetes", n, "float32")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6)
    assert ((ours != 0) != (theirs != 0)).mean() <= 1e-4
    np.testing.assert_array_equal(ours[-1] != 0, theirs[-1] != 0)


def test_gradients_by_hand_match_both_frameworks():
    for name in STEPS:
        problem, _ = problem_and_optimum(name)
        w = np.random.default_rng(0).normal(size=problem.X.shape[1]) / 10
        by_hand = problem.gradient(np, problem.X, problem.y, w)
        slope = jax.grad(problem.loss, argnums=3)(jnp, problem.X, problem.y, w)
        np.testing.assert_allclose(slope, by_hand, rtol=1e-10, atol=1e-13)
        v = torch.tensor(w, requires_grad=True)
        problem.loss(
            torch, torch.tensor(problem.X), torch.tensor(problem.y), v
        ).backward()
        np.testing.assert_allclose(v.grad, by_hand, rtol=1e-10, atol=1e-13)


def test_subgradients_find_no_zeros():
    problem, optimum = problem_and_optimum("diabetes")
    X, y = jnp.asarray(problem.X), jnp.asarray(problem.y)
    tx = optax.chain(l1jax.add_subgradient(problem.strength), optax.adam(1e-2))

    def body(carry, _):
        w, state = carry
        updates, state = tx.update(problem.gradient(jnp, X, y, w), state, w)
        return (optax.apply_updates(w, updates), state), None

    start = jnp.full(X.shape[1], 0.1)
    (w, _), _ = jax.lax.scan(body, (start, tx.init(start)), length=2_000)
    assert (np.asarray(w) != 0).all()
    assert (optimum == 0).any()
    assert optima.relative_gap(problem, np.asarray(w), optimum) < 1e-2
