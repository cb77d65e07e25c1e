"""Paths by the full-batch solver: scikit-learn's, and what can be asked of them."""

import importlib
import math
import warnings

import numpy as np
import pytest

from parity_tests.frameworks.twins import JAX, TORCH
from parity_tests.oracles import problems
from parity_tests.oracles.optima import multinomial_kkt_residual
from parity_tests.paths.diabetes_paths import (
    COUNT,
    lasso,
    reference,
    run,
    spaced,
    weights,
)


def test_the_path_is_scikit_learns(twin, paths):
    path, problem = paths[twin.name], problems.diabetes()
    np.testing.assert_allclose(path.strengths, spaced(), rtol=1e-9)
    expected = reference(path.strengths)
    np.testing.assert_allclose(weights(twin, path), expected, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(path.nnz, np.count_nonzero(weights(twin, path), 1))
    np.testing.assert_array_equal(path.nnz[1:], np.count_nonzero(expected[1:], 1))
    assert path.nnz[0] <= 1, "rounding decides at the largest strength"
    assert path.size == 10
    assert len(path) == COUNT
    assert path.converged.all()
    assert (path.residual.largest <= 1e-11).all()
    assert (path.residual.largest <= path.residual.norm * (1 + 1e-9)).all()
    residuals = problem.y - expected @ problem.X.T
    losses = (residuals**2).mean(1) / 2
    np.testing.assert_allclose(path.loss, losses, rtol=1e-9)
    objective = losses + path.strengths * np.abs(expected).sum(1)
    np.testing.assert_allclose(path.objective, objective, rtol=1e-9)
    assert path.gap is None
    assert f"{COUNT} strengths from 0.586 to 0.000586" in repr(path)


def test_twins_agree(paths):
    ours, theirs = paths["jax"], paths["torch"]
    for name in ("strengths", "objective", "loss", "nnz", "converged"):
        ours_, theirs_ = getattr(ours, name), getattr(theirs, name)
        assert type(ours_) is type(theirs_) is np.ndarray
        assert ours_.dtype == theirs_.dtype
        np.testing.assert_allclose(ours_, theirs_, rtol=1e-12)
    for name in ("w", "b"):
        np.testing.assert_allclose(
            weights(JAX, ours, name), weights(TORCH, theirs, name), rtol=0, atol=1e-10
        )


def test_one_of_the_solutions(twin, paths):
    path = paths[twin.name]
    for index in (3, -1):
        np.testing.assert_array_equal(
            twin.numpy(path.at(index)["w"]), weights(twin, path)[index]
        )
    for index in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match="index must be in -12..11"):
            path.at(index)


def test_the_best_of_the_solutions(twin, paths):
    path = paths[twin.name]
    best = path.best(lambda params: -((twin.numpy(params["w"])[2] - 0.25) ** 2))
    expected = int(np.abs(weights(twin, path)[:, 2] - 0.25).argmin())
    assert best.index == expected
    assert 0 < expected < COUNT - 1
    assert best.strength == path.strengths[expected]
    np.testing.assert_array_equal(
        twin.numpy(best.params["w"]), weights(twin, path)[expected]
    )
    assert path.best([0, 1, 0, 1] + [0] * 8).index == 1, "the sparsest of the best"
    assert path.best([-math.inf] * 11 + [0.0]).index == 11
    for scores in ([1.0], np.zeros((COUNT, 1))):
        with pytest.raises(ValueError, match="score must be one number for each of 12"):
            path.best(scores)
    with pytest.raises(ValueError, match="got NaN at strengths 0.586, 0.313"):
        path.best(
            [math.nan] * 11 + [0.0],
        )


@pytest.mark.slow
def test_multinomial_on_digits(twin):
    X, Y = problems.digits()
    rows = (Y[:, :3].sum(1) == 1).nonzero()[0][:150]
    X, Y = X[rows], Y[rows, :3]
    A, B = twin.array(X), twin.array(Y)
    xp = importlib.import_module("jax.numpy" if twin is JAX else "torch")

    def loss(params):
        scores = A @ params["w"] + params["b"]
        return (xp.log(xp.exp(scores).sum(1)) - (scores * B).sum(1)).mean()

    params = twin.tree({"w": np.zeros((64, 3)), "b": np.zeros(3)})
    path = run(twin, loss, params, count=4, ratio=0.05, tol=1e-7)
    centred = Y.mean(0) - Y
    np.testing.assert_allclose(
        path.strengths[0], np.abs(X.T @ centred).max() / len(Y), rtol=1e-6
    )
    assert path.size == 192
    assert path.nnz[0] <= 1
    assert (np.diff(path.nnz) > 0).all()
    for i, strength in enumerate(path.strengths):
        solution = {name: twin.numpy(x) for name, x in path.at(i).items()}
        residual = multinomial_kkt_residual(X, Y, strength, solution)
        assert residual <= 1.0001e-7
        np.testing.assert_allclose(path.residual.largest[i], residual, atol=1e-10)


@pytest.mark.slow
def test_other_penalties_and_masks(twin):
    loss, params = lasso(twin)
    penalty = twin.lib.elastic_net(0.5)
    path = run(twin, loss, params, count=2, penalty=penalty, tol=1e-8)
    np.testing.assert_allclose(path.strengths, 2 * spaced(2), rtol=1e-7)
    everything = run(twin, loss, params, [1.6, 0.2], mask=None, tol=1e-8)
    assert everything.size == 11
    assert weights(twin, everything, "b")[0] == 0, "an intercept of 1.5, penalised"
    with pytest.raises(ValueError, match="no lambda_max"):
        run(twin, loss, params, penalty=twin.lib.l1_ball(1.0))


@pytest.mark.slow
def test_one_bare_array(twin):
    y = twin.array([1.0, -0.5, 0.25])
    path = run(twin, lambda w: ((w - y) ** 2).sum() / 2, twin.array([0.0] * 3), [0.75])
    np.testing.assert_allclose(twin.numpy(path.params), [[0.25, 0, 0]], atol=1e-6)
    assert path.at(0).shape == (3,)


@pytest.mark.slow
def test_single_precision(twin):
    loss, params = lasso(twin, "float32")
    path = run(twin, loss, params, spaced(4)[1:], tol=1e-5)
    assert twin.dtype(path.params["w"]) == "float32"
    np.testing.assert_allclose(weights(twin, path), reference(spaced(4)[1:]), atol=5e-3)


@pytest.mark.slow
def test_solvers_do_not_warn_beside_the_path(twin):
    loss, params = lasso(twin)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(twin, loss, params, spaced(4), max_iterations=3, tol=1e-9)
    assert len(caught) == 1
    assert "did not converge to a residual of tol=1e-09: " in str(caught[0].message)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"strengths": []}, ValueError, "at least one number, got shape (0,)"),
        ({"strengths": ["a"]}, TypeError, "strengths must be a dense"),
        ({"strengths": [0.1, 0.2]}, ValueError, "strictly decreasing, got 0.1, 0.2"),
        ({"strengths": [0.1, 0.1]}, ValueError, "strictly decreasing"),
        ({"strengths": [0.1, 0.0]}, ValueError, "positive and finite, got 0."),
        ({"strengths": [math.nan]}, ValueError, "positive and finite, got nan"),
        ({"count": 0}, ValueError, "count must be a Python int >= 1"),
        (
            {"ratio": 1.0},
            ValueError,
            "ratio must be a Python number in (0, 1), got 1.0",
        ),
        ({"tol": -1.0}, ValueError, "tol must be"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be"),
        ({"optimizer": 3, "steps": 1}, TypeError, "optimizer must be a function of"),
        ({"steps": 3}, ValueError, "steps must be given if and only if optimizer is"),
        ({"optimizer": len}, ValueError, "steps must be given if and only if"),
        ({"optimizer": len, "steps": 0}, ValueError, "steps must be a Python int >= 1"),
    ],
)
def test_bad_input(twin, kwargs, error, message):
    loss, params = lasso(twin)
    with pytest.raises(error) as caught:
        run(twin, loss, params, **kwargs)
    assert message in str(caught.value)


def test_bad_losses(twin):
    _, params = lasso(twin)
    with pytest.raises(ValueError, match="loss must be finite at"):
        run(twin, lambda p: (p["w"] * math.nan).sum(), params, [0.1])
    with pytest.raises(TypeError, match="loss must return a .*scalar, got"):
        run(twin, lambda p: p["w"] ** 2, params, [0.1])
    with pytest.raises(ValueError, match="lambda_max must be positive, got 0"):
        run(twin, lambda p: (p["w"] ** 2).sum() + p["b"] ** 2, params)


def test_parameters_of_none_stay(twin):
    def loss(params):
        return ((params["w"] - twin.array([3.0, 1.0])) ** 2).sum() / 2

    w, strengths = twin.array([0.0, 0.0]), [2.0, 0.5]
    path = twin.lib.regularisation_path(loss, {"w": w, "b": None}, strengths)
    assert path.params["b"] is None
    np.testing.assert_allclose(
        twin.numpy(path.params["w"]), [[1, 0], [2.5, 0.5]], atol=1e-6
    )
    assert path.nnz.tolist() == [1, 2]
    assert path.at(0)["b"] is None
