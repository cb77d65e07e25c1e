"""Paths by optimizers, and all strengths at once."""

import warnings

import numpy as np
import pytest

from parity_tests.frameworks.twins import JAX, TORCH
from parity_tests.oracles import problems
from parity_tests.paths.diabetes_paths import (
    COUNT,
    adam,
    lasso,
    reference,
    run,
    sgd,
    spaced,
    weights,
)


@pytest.mark.slow
def test_all_strengths_at_once_by_vmap(paths):
    loss, params = lasso(JAX)
    path = run(JAX, loss, params, count=COUNT, tol=1e-10, vectorised=True)
    np.testing.assert_allclose(path.params["w"], paths["jax"].params["w"], atol=1e-8)
    np.testing.assert_array_equal(path.nnz[1:], paths["jax"].nnz[1:])
    np.testing.assert_allclose(path.objective, paths["jax"].objective, rtol=1e-12)
    assert path.converged.all()


def test_optimizers_start_where_they_are_said_to(twin):
    # One step for each strength, by hand.
    problem, rate = problems.diabetes(), 0.1
    strengths = [0.4, 0.1, 0.05]

    def step(w, b, strength):
        residuals = problem.X @ w + b - problem.y - 1.5
        moved = w - rate * problem.X.T @ residuals / len(residuals)
        size = np.maximum(np.abs(moved) - rate * strength, 0)
        return np.sign(moved) * size, b - rate * residuals.mean()

    def check(expected, **kwargs):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            path = run(
                twin,
                *lasso(twin),
                strengths,
                optimizer=sgd(twin, rate),
                steps=1,
                tol=1e-13,
                **kwargs,
            )
        (warning,) = caught
        assert warning.filename.endswith("diabetes_paths.py"), (
            "where the path is asked for"
        )
        assert "3 of 3 strengths did not converge to a residual of" in str(warning)
        worst = path.residual.largest.max()
        assert f": 0.4, 0.1, 0.05; the worst reached {worst:.2g}." in str(warning)
        for (w, b), got_w, got_b in zip(
            expected, weights(twin, path), weights(twin, path, "b"), strict=True
        ):
            np.testing.assert_allclose(got_w, w, rtol=1e-12, atol=1e-15)
            np.testing.assert_allclose(got_b, b, rtol=1e-12)
        return path

    warm, last = [], (np.zeros(10), 1.5)  # the intercept, fitted to zero weights
    for strength in strengths:
        last = step(*last, strength)
        warm.append(last)
    path = check(warm)
    g = problem.X.T @ (problem.X @ last[0] + last[1] - problem.y - 1.5) / 442
    at_zero = np.maximum(np.abs(g) - 0.05, 0)
    w = last[0]
    violation = np.where(w == 0, at_zero, np.abs(g + 0.05 * np.sign(w))).max()
    intercept = abs(last[1] - 1.5)
    expected = max(violation, intercept)
    np.testing.assert_allclose(path.residual.largest[-1], expected, rtol=1e-9)
    cold = [step(np.full(10, 0.3), 0.5, strength) for strength in strengths]
    check(cold, warm_start=False)
    check(cold, vectorised=True)


@pytest.mark.slow
def test_adam_ends_at_the_zeros_of_solve(twin):
    strengths = spaced()[[2, 5]]
    loss, params = lasso(twin)
    path = run(
        twin,
        loss,
        params,
        strengths,
        optimizer=adam(twin),
        steps=1000,
        tol=1e-5,
    )
    expected = reference(strengths)
    np.testing.assert_array_equal(weights(twin, path) == 0, expected == 0)
    np.testing.assert_allclose(weights(twin, path), expected, atol=1e-4)


@pytest.mark.slow
def test_adam_at_all_strengths_at_once(twin):
    strengths, settings = [0.3, 0.1, 0.03], {"optimizer": adam(twin), "steps": 30}
    loss, params = lasso(twin)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        one_by_one = run(twin, loss, params, strengths, warm_start=False, **settings)
        at_once = run(twin, loss, params, strengths, vectorised=True, **settings)
    for name in ("w", "b"):
        np.testing.assert_allclose(
            weights(twin, at_once, name), weights(twin, one_by_one, name), atol=1e-12
        )
    zeros = [weights(twin, path) == 0 for path in (at_once, one_by_one)]
    np.testing.assert_array_equal(*zeros)


def test_what_is_passed_in_stays():
    loss, params = lasso(TORCH)
    run(TORCH, loss, params, [0.3], optimizer=sgd(TORCH, 0.5), steps=2, tol=0.99)
    np.testing.assert_array_equal(params["w"].numpy(), np.full(10, 0.3))


def test_what_torch_cannot_vectorise():
    loss, params = lasso(TORCH)
    with pytest.raises(ValueError, match="vectorised must be False for solve"):
        run(TORCH, loss, params, [0.1], vectorised=True)
    kwargs = {"steps": 1, "vectorised": True}
    make, penalty = adam(TORCH, metric="tensor"), TORCH.lib.group_l1(0)
    with pytest.raises(ValueError, match="must be False with metric='tensor'"):
        run(TORCH, loss, params, [0.1], optimizer=make, **kwargs)
    with pytest.raises(ValueError, match="vectorised must be False for the penalty"):
        run(TORCH, loss, params, [0.1], optimizer=len, penalty=penalty, **kwargs)


@pytest.mark.filterwarnings("ignore:.*did not converge")
def test_what_looks_like_a_weight_with_an_axis_of_strengths():
    # Stacked, a normalisation's scale has two dimensions.
    params = TORCH.tree({"1.weight": [[0.5, -0.3]], "2.weight": [0.4, 0.2]})
    settings = {"optimizer": sgd(TORCH, 0.1), "steps": 2}

    def loss(params):
        return ((params["1.weight"] * params["2.weight"] - 1.0) ** 2).sum()

    one_by_one = run(TORCH, loss, params, [0.9, 0.2], warm_start=False, **settings)
    at_once = run(TORCH, loss, params, [0.9, 0.2], vectorised=True, **settings)
    assert at_once.size == 2
    for name in params:
        np.testing.assert_allclose(
            weights(TORCH, at_once, name), weights(TORCH, one_by_one, name), rtol=1e-12
        )
