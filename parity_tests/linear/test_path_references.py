"""Paths of linear models and their strengths: scikit-learn's."""

import warnings

import numpy as np
import pytest

from parity_tests.linear.data_sets import (
    EXACT,
    breast_cancer,
    call,
    digits,
    products,
    sklearn_path,
    spaced,
)
from parity_tests.oracles import problems


@pytest.mark.slow
def test_a_path_of_64_features_is_scikit_learns(twin):
    X, y = products()
    assert X.shape == (442, 64)
    path = call(twin, "linear_path", X, y, **EXACT)
    np.testing.assert_allclose(path.strengths, spaced(X, y, 100), rtol=1e-12)
    expected = sklearn_path(X, y, path.strengths)
    coef = twin.numpy(path.params["coef"])
    np.testing.assert_allclose(coef, expected, rtol=0, atol=1e-8)
    # At the largest strength rounding decides.
    np.testing.assert_array_equal(coef[1:] == 0, expected[1:] == 0)
    intercept = twin.numpy(path.params["intercept"])
    np.testing.assert_allclose(intercept, 1.5, rtol=1e-9)
    np.testing.assert_array_equal(path.nnz, np.count_nonzero(coef, 1))
    assert path.size == 64
    assert path.converged.all()
    assert (path.gap <= 1e-12).all()
    assert (path.residual.largest <= 1e-6).all()
    losses = ((y - 1.5 - expected @ X.T) ** 2).mean(1) / 2
    np.testing.assert_allclose(path.loss, losses, rtol=1e-7)
    objective = losses + path.strengths * np.abs(expected).sum(1)
    np.testing.assert_allclose(path.objective, objective, rtol=1e-9)


@pytest.mark.slow
def test_without_an_intercept(twin):
    X, y = problems.diabetes().X, problems.diabetes().y
    settings = {"fit_intercept": False, **EXACT}
    path = call(twin, "linear_path", X, y, count=3, **settings)
    expected = sklearn_path(X, y, path.strengths)
    np.testing.assert_allclose(twin.numpy(path.params["coef"]), expected, atol=1e-8)
    assert set(path.params) == {"coef"}


def strengths_of(twin, X, y, loss, count):
    problem = twin.module("linear.problem").LinearProblem(
        X, y, loss=loss, penalty=twin.lib.l1(), fit_intercept=True
    )
    return twin.module("linear.paths").linear_strengths(problem, None, count, 1e-2)


def test_strengths_of_the_other_losses(twin):
    X, y = breast_cancer()
    strengths = strengths_of(twin, twin.array(X), twin.array(y), "logistic", 3)
    np.testing.assert_allclose(strengths, spaced(X, y, 3, 1e-2), rtol=1e-12)
    X, y = digits()
    labels = np.eye(3)[y]
    arrays = twin.array(X), twin.array(y, "int64")
    strengths = strengths_of(twin, *arrays, "multinomial", 1)
    expected = np.abs(X.T @ (labels - labels.mean(0))).max() / len(y)
    np.testing.assert_allclose(strengths, [expected], rtol=1e-12)


def test_one_warning_of_a_linear_path(twin):
    X, y = products()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(twin, "linear_path", X, y, [0.1, 0.01, 0.005], tol=1e-14, max_iterations=1)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "strengths did not converge to a relative gap of tol=1e-14" in text


def test_what_strengths_share_is_prepared_once(twin, monkeypatch):
    problem, made = twin.module("linear.problem"), []
    prepare = problem.Design

    def prepared(X):
        made.append(len(X))
        return prepare(X)

    monkeypatch.setattr(problem, "Design", prepared)
    X, y = problems.diabetes().X[:60], problems.diabetes().y[:60]
    call(twin, "linear_path", X, y, count=4)
    call(twin, "keep_features", X, y, 3)
    assert made == [60, 60]
    call(twin, "cross_validate", X, y, count=4, folds=3)
    assert made[2:] == [60, 40, 40, 40]
