"""The full-batch solver at the floor of rounding, stopped early, on bad input."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from parity_tests.frameworks.twins import JAX, TORCH
from parity_tests.oracles import optima, problems
from parity_tests.solvers.losses import (
    of_problem,
    solve,
    zeros,
)


@pytest.mark.slow_in_jax
def test_single_precision_ends_at_its_floor(twin):
    problem = problems.diabetes()
    loss = of_problem(twin, problem, "float32")
    with pytest.warns(UserWarning, match="Rounding hides all progress"):
        params, found = solve(
            twin, loss, zeros(problem), problem.strength, tol=1e-12, dtype="float32"
        )
    assert not bool(found.converged)
    assert int(found.iterations) < 3000
    assert float(found.residual.largest) < 3e-7
    assert optima.l1_kkt_residual(problem, params["w"].astype(float)) < 3e-7


@pytest.mark.slow_in_jax
def test_double_precision_reaches_1e_12(twin):
    problem = problems.breast_cancer()
    loss = of_problem(twin, problem)
    params, found = solve(twin, loss, zeros(problem), problem.strength, tol=1e-12)
    assert bool(found.converged)
    assert optima.l1_kkt_residual(problem, params["w"]) < 1.1e-12


def test_it_says_when_it_has_not_arrived(twin):
    problem = problems.diabetes()
    loss = of_problem(twin, problem)
    with pytest.warns(UserWarning, match="after 3 iterations the residual is") as said:
        _, found = solve(twin, loss, zeros(problem), 0.01, max_iterations=3)
    assert f"{float(found.residual.largest):.3g}" in str(said[0].message)
    assert "Raise max_iterations" in str(said[0].message)
    assert said[0].filename == inspect.getfile(solve)
    assert not bool(found.converged)
    assert int(found.iterations) == 3


def test_inside_jit_the_result_alone_says_so():
    problem = problems.diabetes()
    loss = of_problem(JAX, problem)

    @jax.jit
    def run(w):
        return JAX.lib.solve(lambda p: loss(jnp, p), {"w": w}, 0.01, max_iterations=3)

    assert not run(jnp.zeros(10)).converged
    assert np.isnan(run(jnp.full(10, jnp.nan)).loss)
    assert not run(jnp.full(10, jnp.nan)).converged
    # The gradient of a NaN may be 0.
    nan = jax.jit(lambda w: JAX.lib.solve(lambda w: (0 * w).sum() + jnp.nan, w, 0.1))
    assert not nan(jnp.zeros(2)).converged


@pytest.mark.slow_in_jax
def test_a_loss_that_becomes_nan_stops_it(twin):
    def loss(xp, params):
        w = params["w"]
        return ((w - 3) ** 2).sum() + xp.where(w == 0, 0.0, math.nan).sum()

    with pytest.warns(UserWarning, match="became NaN"):
        _, found = solve(twin, loss, {"w": np.zeros(2)}, 0.1)
    assert not bool(found.converged)
    assert np.isnan(float(found.loss))


def quadratic(xp, params):
    return (params["w"] ** 2).sum()


BAD = {
    "a loss for each sample": (
        TypeError,
        "loss must return a real floating scalar",
        {"loss": lambda xp, params: params["w"] ** 2},
    ),
    "a loss with more": (
        TypeError,
        "loss must return a real floating scalar",
        {"loss": lambda xp, params: (quadratic(xp, params), 1)},
    ),
    "a NaN": (
        ValueError,
        "loss must be finite at params",
        {"params": {"w": np.array([1.0, np.nan])}},
    ),
    "an infinite loss": (
        ValueError,
        "loss must be finite at params",
        {"loss": lambda xp, params: -xp.log(0 * params["w"]).sum()},
    ),
    "a schedule": (
        TypeError,
        "Call a schedule with your step count",
        {"strength": lambda step: 0.1},
    ),
    "a target": (TypeError, "regularisation_path", {"strength": object()}),
    "an infinite strength": (ValueError, "strength must be", {"strength": math.inf}),
    "a negative strength": (ValueError, "strength must be", {"strength": -1.0}),
    "a NaN tol": (ValueError, "tol must be a Python", {"tol": math.nan}),
    "a negative tol": (ValueError, "tol must be a Python", {"tol": -1e-9}),
    "a worded tol": (TypeError, "tol must be a Python", {"tol": "small"}),
    "no iterations": (ValueError, "max_iterations must be", {"max_iterations": 0}),
    "half iterations": (TypeError, "max_iterations must be", {"max_iterations": 1.5}),
    "nothing to penalise": (
        ValueError,
        "selects nothing to penalise",
        {"params": {"b": np.zeros(2)}},
    ),
    "no penalty": (TypeError, "penalty must be a Penalty", {"penalty": 1.0}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(twin, name):
    error, message, changed = BAD[name]
    arguments = {"loss": quadratic, "params": {"w": np.ones(2)}, "strength": 0.1}
    with pytest.raises(error, match=message):
        solve(twin, **arguments | changed)


def test_integers_are_refused(twin):
    params = {"w": twin.array(np.ones(2)), "n_bias": twin.array([1, 2], "int32")}
    with pytest.raises(TypeError, match=r"params\['n_bias'\] has dtype .*int32"):
        twin.lib.solve(lambda p: (p["w"] ** 2).sum(), params, 0.1)


def test_torch_refuses_what_it_cannot_follow():
    run = TORCH.lib.solve
    w = torch.ones(2)
    with pytest.raises(TypeError, match="loss must depend on the parameters"):
        run(lambda p: w.sum(), {"w": w}, 0.1)
    with pytest.raises(TypeError, match="dict\\(model.named_parameters"):
        run(lambda p: w.sum(), torch.nn.Linear(2, 1), 0.1)


def test_no_parameters_at_all(twin):
    for call in (twin.lib.solve, twin.lib.optimality_residual):
        arguments = (lambda p: 0.0, {}) if call is twin.lib.solve else ({}, {})
        with pytest.raises(ValueError, match="params must hold at least one"):
            call(*arguments, 0.1)


def test_numbers_of_numpy_are_numbers(twin):
    found = twin.lib.solve(
        lambda p: ((p["w"] - 3.0) ** 2).sum() / 2,
        twin.tree({"w": np.zeros(2)}),
        np.float32(1.0),
        tol=np.float64(1e-6),
        max_iterations=np.int64(100),
    )
    np.testing.assert_allclose(twin.numpy(found.params["w"]), 2.0, atol=1e-6)
