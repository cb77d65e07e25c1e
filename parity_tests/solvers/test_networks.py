"""Losses and penalties that are not convex: the solver ends at stationary points."""

import numpy as np
import pytest

from parity_tests.oracles import problems
from parity_tests.solvers.losses import (
    XP,
    cross_entropy,
    few_digits,
    of_problem,
    solve,
    zeros,
)


def network(twin):
    X, Y = few_digits()
    last = cross_entropy(twin, np.eye(len(X)), Y)
    X = twin.array(X)

    def loss(xp, params):
        hidden = xp.tanh(X @ params["u"] + params["b"])
        scores = hidden @ params["w"] + params["c_bias"]
        return last(xp, {"w": scores, "b": 0.0})

    rng = np.random.default_rng(0)
    shapes = {"u": (64, 16), "b": (16,), "w": (16, 10), "c_bias": (10,)}
    start = {k: 0.1 * rng.normal(size=shape) for k, shape in shapes.items()}
    return loss, start


@pytest.mark.slow_in_jax
def test_a_network_ends_at_a_stationary_point(twin):
    X, Y = few_digits()
    loss, start = network(twin)
    strength = 3e-3
    params, found = solve(twin, loss, start, strength, tol=1e-3)
    assert bool(found.converged)
    sizes = {k: np.abs(v).sum() for k, v in params.items()}
    first = {k: np.abs(v).sum() for k, v in start.items()}
    before = float(loss(XP[twin.name], twin.tree(start)))
    before += strength * (first["u"] + first["w"])
    assert float(found.objective) < 0.5 * before
    value = float(found.loss) + strength * (sizes["u"] + sizes["w"])
    assert float(found.objective) == pytest.approx(value, rel=1e-12)
    assert np.mean(params["u"] == 0) > 0.5
    # The certificate in numpy, from the gradients of the layer written by hand.
    hidden = np.tanh(X @ params["u"] + params["b"])
    slope = problems.multinomial_gradient(
        np, hidden, Y, {"w": params["w"], "b": params["c_bias"]}
    )
    w, g = params["w"], slope["w"]
    at_zero = np.maximum(np.abs(g) - strength, 0)
    violations = np.where(w == 0, at_zero, np.abs(g + strength * np.sign(w)))
    assert max(violations.max(), np.abs(slope["b"]).max()) <= 1.0001e-3


@pytest.mark.slow_in_jax
def test_penalties_that_are_not_convex_end_stationary(twin):
    problem = problems.diabetes()
    params, found = solve(
        twin,
        of_problem(twin, problem),
        zeros(problem),
        problem.strength,
        penalty=twin.lib.mcp(1.0, gamma=3.0),
        tol=1e-10,
    )
    w = params["w"]
    g = problem.gradient(np, problem.X, problem.y, w)
    slope = problem.strength * np.maximum(1 - np.abs(w) / 3, 0) * np.sign(w)
    at_zero = np.maximum(np.abs(g) - problem.strength, 0)
    assert np.where(w == 0, at_zero, np.abs(g + slope)).max() <= 1.01e-10
    assert bool(found.converged)


@pytest.mark.slow_in_jax
def test_a_domain_that_steps_leave(twin):
    # Poisson-like: the logarithm of a negative number is NaN, and of zero infinite.
    counts = np.array([3, 0.03, 1])
    given = twin.array(counts)
    params, found = solve(
        twin,
        lambda xp, params: (params["w"] - given * xp.log(params["w"])).sum(),
        {"w": np.array([1.0, 5.0, 1.0])},
        0.5,
        tol=1e-9,
    )
    np.testing.assert_allclose(params["w"], counts / 1.5, rtol=1e-8)
    assert bool(found.converged)


@pytest.mark.slow_in_jax
def test_a_loss_that_falls_to_zero(twin):
    # Separable, without a penalty: the loss has no minimum, and rounding all to itself.
    loss = cross_entropy(twin, *few_digits())
    start = {"w": np.zeros((64, 10)), "b": np.zeros(10)}
    params, found = solve(twin, loss, start, 0.0, tol=1e-7)
    assert bool(found.converged)
    assert float(found.loss) < 1e-5
    assert np.isfinite(params["w"]).all()
