"""What the full-batch solver takes: arrays, modules, batches of starts, dtypes."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from parity_tests.frameworks.twins import JAX, TORCH
from parity_tests.oracles import optima, problems
from parity_tests.solvers.losses import XP, of_problem, solve


def test_vmap_gives_what_a_loop_gives():
    problem = problems.diabetes()
    X, y = jnp.asarray(problem.X), jnp.asarray(problem.y)

    def run(strength, w):
        return JAX.lib.solve(
            lambda w: problem.loss(jnp, X, y, w), w, strength, tol=1e-9
        )

    strengths = problem.strength * np.array([0.1, 0.1, 1.0, 1.0, 9.0])
    starts = np.random.default_rng(0).normal(size=(5, 10))
    starts[[0, 2, 4]] = 0
    together = jax.jit(jax.vmap(run))(strengths, starts)
    alone = jax.jit(run)
    for i in range(5):
        one = alone(strengths[i], starts[i])
        assert int(one.iterations) == int(together.iterations[i])
        assert bool(together.converged[i])
        np.testing.assert_allclose(together.params[i], one.params, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(together.params[i] == 0, one.params == 0)
    assert len(set(np.asarray(together.iterations))) > 2


@pytest.mark.slow_in_jax
def test_precisions_may_be_mixed(twin):
    problem = problems.diabetes()
    X, y = twin.array(problem.X), twin.array(problem.y)

    def loss(xp, params):
        wide = {"jax": jnp.float64, "torch": torch.float64}[twin.name]
        cast = [
            v.astype(wide) if twin is JAX else v.to(wide)
            for v in (params["u"], params["v"], params["x"])
        ]
        return problem.loss(xp, X, y, xp.concatenate(cast))

    params = {
        "u": twin.array(np.zeros(4), "float32"),
        "v": twin.array(np.zeros(4)),
        "x": twin.array(np.zeros(2), "bfloat16"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # bfloat16 goes nowhere near
        found = twin.lib.solve(
            lambda params: loss(XP[twin.name], params),
            params,
            problem.strength,
            max_iterations=200,
        )
    dtypes = {k: twin.dtype(v) for k, v in found.params.items()}
    assert dtypes == {"u": "float32", "v": "float64", "x": "bfloat16"}
    w = np.concatenate([twin.numpy(v) for v in found.params.values()])
    assert optima.relative_gap(problem, w, optima.sklearn_lasso(problem)) < 1e-5


@pytest.mark.slow_in_jax
def test_it_starts_where_it_is_told_and_leaves_the_start_alone(twin):
    problem = problems.diabetes()
    wanted = optima.sklearn_lasso(problem)
    loss = of_problem(twin, problem)
    params, found = solve(twin, loss, {"w": wanted}, problem.strength, tol=1e-8)
    assert int(found.iterations) == 0
    np.testing.assert_array_equal(params["w"], wanted)
    start = {"w": twin.array(np.ones(10)), "unused": twin.array(np.ones(2))}
    kept = {k: twin.numpy(v).copy() for k, v in start.items()}
    found = twin.lib.solve(
        lambda params: loss(XP[twin.name], params), start | {"n": None}, 0.01
    )
    for name, value in kept.items():
        np.testing.assert_array_equal(twin.numpy(start[name]), value)
    assert found.params["n"] is None
    assert not twin.numpy(found.params["unused"]).any()


def test_it_solves_a_bare_array_and_a_module():
    X, y = torch.eye(3, dtype=torch.float64), torch.tensor([3.0, -2.0, 0.5]).double()
    found = TORCH.lib.solve(
        lambda w: ((X @ w - y) ** 2).sum() / 2, torch.zeros(3).double(), 1.0, tol=1e-9
    )
    np.testing.assert_allclose(found.params, [2, -1, 0], atol=1e-8)
    model = torch.nn.Linear(3, 1).double()
    before = {k: v.detach().clone() for k, v in model.named_parameters()}

    def loss(params):
        out = torch.func.functional_call(model, params, (X,))
        return ((out[:, 0] - y) ** 2).mean()

    found = TORCH.lib.solve(loss, dict(model.named_parameters()), 0.1)
    assert found.converged
    again = TORCH.lib.solve(loss, found.params, 0.1)
    assert again.iterations == 0
    assert again.params["weight"].data_ptr() != found.params["weight"].data_ptr()
    assert not any(v.requires_grad for v in found.params.values())
    for name, param in model.named_parameters():
        assert torch.equal(param, before[name])
        assert param.grad is None
