"""Cross-validation and information criteria against scikit-learn's."""

import dataclasses
import math
import re

import numpy as np
import pytest
from scipy import special, stats
from sklearn.linear_model import (
    LassoCV,
    LassoLarsIC,
    LogisticRegression,
    lars_path,
)
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold

from parity_tests.frameworks.twins import TWINS
from parity_tests.linear.data_sets import (
    EXACT,
    breast_cancer,
    call,
    diabetes,
    digits,
    spaced,
)


@pytest.fixture(scope="module")
def lasso_cv():
    X, y = diabetes()
    alphas = spaced(X, y, 6)
    return LassoCV(alphas=alphas, cv=3, tol=1e-13, max_iter=1_000_000).fit(X, y)


@pytest.fixture(scope="module")
def found():
    settings = {"count": 6, "folds": 3, **EXACT}
    return {
        twin.name: call(twin, "cross_validate", *diabetes(), **settings)
        for twin in TWINS
    }


def test_cross_validation_is_scikit_learns(twin, found, lasso_cv):
    ours = found[twin.name]
    np.testing.assert_allclose(2 * ours.losses, lasso_cv.mse_path_.T, rtol=1e-7)
    np.testing.assert_allclose(ours.mean, ours.losses.mean(0), rtol=1e-14)
    np.testing.assert_allclose(ours.strengths, lasso_cv.alphas_, rtol=1e-12)
    index = lasso_cv.alphas_.tolist().index(lasso_cv.alpha_)
    assert 0 < index < 5
    assert ours.strength == ours.strength_min == ours.strengths[index]
    coef = twin.numpy(ours.solution.coef)
    np.testing.assert_allclose(coef, lasso_cv.coef_, rtol=0, atol=1e-8)
    assert "3 folds, 6 strengths" in repr(ours)


def test_the_one_standard_error_rule(twin, found, lasso_cv):
    ours, scores = found[twin.name], lasso_cv.mse_path_ / 2
    mean, error = scores.mean(1), scores.std(1, ddof=1) / math.sqrt(3)
    np.testing.assert_allclose(ours.standard_error, error, rtol=1e-6)
    smallest = mean.argmin()
    allowed = mean <= mean[smallest] + error[smallest]
    largest = lasso_cv.alphas_[allowed].max()
    np.testing.assert_allclose(ours.strength_one_se, largest, rtol=1e-12)
    assert ours.strength_one_se > ours.strength_min
    strengths = ours.strengths[2:5]
    settings = {"folds": 2, "rule": "one_se"}
    chosen = call(twin, "cross_validate", *diabetes(), strengths, **settings)
    assert chosen.strength == chosen.strength_one_se


def test_twins_agree(found):
    ours, theirs = found["jax"], found["torch"]
    np.testing.assert_allclose(ours.losses[:, 1:], theirs.losses[:, 1:], rtol=1e-9)
    assert ours.strength == pytest.approx(theirs.strength, rel=1e-12)


def test_folds_are_kfolds(twin):
    folds = twin.module("linear.model_selection").fold_indices
    for n, k in ((10, 2), (11, 3), (7, 7)):
        ours = folds(k, n, None)
        expected = [test for _, test in KFold(k).split(np.zeros(n))]
        for fold, rows in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(fold, rows)
    for order in (False, np.False_):
        for one, other in zip(folds(3, 11, order), folds(3, 11, None), strict=True):
            np.testing.assert_array_equal(one, other)
    shuffled = folds(3, 11, 1)
    np.testing.assert_array_equal(np.r_[*shuffled], np.r_[*folds(3, 11, np.int64(1))])
    assert [len(fold) for fold in shuffled] == [4, 4, 3]
    assert sorted(np.concatenate(shuffled)) == list(range(11))
    other = folds(3, 11, 2)
    assert not np.array_equal(np.concatenate(shuffled), np.concatenate(other))
    theirs = [
        one.module("linear.model_selection").fold_indices(3, 11, 1) for one in TWINS
    ]
    np.testing.assert_array_equal(*map(np.concatenate, theirs))


@pytest.mark.slow
def test_folds_by_their_rows(twin, found):
    rows = [list(test) for _, test in KFold(3).split(diabetes()[0])][::-1]
    strengths = found[twin.name].strengths[:3]
    again = call(twin, "cross_validate", *diabetes(), strengths, folds=rows, **EXACT)
    expected = found[twin.name].losses[::-1, :3]
    np.testing.assert_allclose(again.losses, expected, rtol=1e-9)


@pytest.mark.slow
def test_logistic_cross_validation(twin):
    X, y = breast_cancer()
    strengths, settings = [0.05, 0.01], {"loss": "logistic", "fit_intercept": False}
    ours = call(
        twin, "cross_validate", X, y, strengths, folds=3, shuffle=0, **settings, **EXACT
    )
    losses = []
    for fold in twin.module("linear.model_selection").fold_indices(3, len(y), 0):
        rest = np.setdiff1d(np.arange(len(y)), fold)
        row = []
        for strength in strengths:
            model = LogisticRegression(
                C=1 / (len(rest) * strength),
                l1_ratio=1.0,
                solver="liblinear",
                fit_intercept=False,
                tol=1e-12,
                max_iter=100_000,
            ).fit(X[rest], y[rest])
            row.append(log_loss(y[fold], model.predict_proba(X[fold])))
        losses.append(row)
    np.testing.assert_allclose(ours.losses, losses, rtol=1e-5)


@pytest.mark.slow
def test_multinomial_cross_validation(twin):
    X, y = digits()
    settings = {"loss": "multinomial", "folds": 3, "tol": 1e-9}
    ours = call(twin, "cross_validate", X, y, count=6, ratio=0.01, **settings)
    assert (np.diff(ours.mean) < 0).all()
    fold = twin.module("linear.model_selection").fold_indices(3, len(y), None)[1]
    rest = np.setdiff1d(np.arange(len(y)), fold)
    path = call(
        twin,
        "linear_path",
        X[rest],
        y[rest],
        ours.strengths,
        loss="multinomial",
        tol=1e-9,
    )
    params = {name: twin.numpy(x)[4] for name, x in path.params.items()}
    scores = X[fold] @ params["coef"] + params["intercept"]
    losses = special.logsumexp(scores, axis=1) - scores[range(len(fold)), y[fold]]
    np.testing.assert_allclose(ours.losses[1, 4], losses.mean(), rtol=1e-6)


@pytest.fixture(scope="module")
def corners():
    """The path of 10 features just above the strengths at which its support changes."""
    X, y = diabetes()
    strengths, _, coef = lars_path(X - X.mean(0), y - y.mean(), method="lasso")
    counts = np.count_nonzero(np.abs(coef) > 1e-12, axis=0)
    strengths = strengths[:-1] * (1 + 1e-6)
    return counts[:-1], {
        twin.name: call(twin, "linear_path", X, y, strengths, **EXACT) for twin in TWINS
    }


@pytest.mark.parametrize("kind", ["aic", "bic"])
def test_information_criteria_are_scikit_learns(twin, corners, kind):
    X, y = diabetes()
    counts, paths = corners
    path = paths[twin.name]
    model = LassoLarsIC(criterion=kind, noise_variance=0.6).fit(X, y)
    criterion = twin.lib.information_criterion
    ours = criterion(path, len(y), kind=kind, noise_variance=0.6)
    # A weight that is about to go out is not zero yet.
    leaving = path.nnz - counts
    assert leaving.sum() <= 1
    factor = 2 if kind == "aic" else math.log(len(y))
    np.testing.assert_allclose(
        ours - factor * leaving, model.criterion_[:-1], rtol=1e-5
    )
    best = path.best(-ours)
    assert best.strength == pytest.approx(model.alpha_, rel=1e-5)
    np.testing.assert_allclose(twin.numpy(best.params["coef"]), model.coef_, atol=1e-5)


def test_information_criteria_by_their_formulas(twin, corners):
    X, y = diabetes()
    path = corners[1][twin.name]
    criterion = twin.lib.information_criterion
    coef, intercept = (twin.numpy(path.params[k]) for k in ("coef", "intercept"))
    residuals = y[:, None] - X @ coef.T - intercept
    # The likelihood at its largest, as a function of the variance too.
    likelihood = stats.norm(scale=residuals.std(0)).logpdf(residuals).sum(0)
    for kind, factor in (("aic", 2), ("bic", math.log(442))):
        expected = -2 * likelihood + factor * path.nnz
        np.testing.assert_allclose(criterion(path, 442, kind=kind), expected)
    more = 2 * 0.7 * np.log(special.binom(10, path.nnz))
    bic = criterion(path, 442)
    ebic = criterion(path, 442, kind="ebic", gamma=0.7)
    np.testing.assert_allclose(ebic, bic + more)
    np.testing.assert_array_equal(criterion(path, 442, kind="ebic", gamma=0), bic)
    path = dataclasses.replace(path, loss=np.full(len(path), 0.25))
    for loss in ("logistic", "multinomial"):
        expected = 442 * 0.5 + math.log(442) * path.nnz
        np.testing.assert_allclose(criterion(path, 442, loss=loss), expected)


def test_bad_input_to_cross_validation(twin):
    X, y = diabetes()
    for kwargs, error, message in [
        ({"folds": 1}, ValueError, "folds must be a Python int >= 2 and <= 442, got 1"),
        ({"folds": 443}, ValueError, "folds must be a Python int >= 2 and <= 442"),
        ({"folds": True}, TypeError, "folds must be a number or sequences"),
        ({"folds": [[0.5]]}, TypeError, "folds must be a number or sequences"),
        ({"folds": [[0, 1]]}, ValueError, "folds must be at least two, got 1"),
        ({"folds": [[0], []]}, TypeError, "folds must be a number or sequences"),
        ({"folds": [[0], [442]]}, ValueError, "rows 0..441, none of them twice"),
        ({"folds": [[0], [-1]]}, ValueError, "got [-1] for fold 1"),
        ({"folds": [[1, 1], [0]]}, ValueError, "got [1, 1] for fold 0"),
        ({"folds": [[1], range(442)]}, ValueError, "some but not all of the rows"),
        ({"folds": [[1], [0]], "shuffle": 1}, ValueError, "shuffle must be None"),
        ({"shuffle": True}, TypeError, "shuffle must be a Python int >= 0, got True"),
        ({"shuffle": "no"}, TypeError, "shuffle must be a Python int >= 0, got 'no'"),
        ({"shuffle": math.nan}, TypeError, "shuffle must be a Python int >= 0"),
        ({"shuffle": -1}, ValueError, "of type int. Pass a seed such as 0, or None"),
        (
            {"rule": "best"},
            ValueError,
            "rule must be one of 'min', 'one_se', got 'best'",
        ),
        ({"strengths": []}, ValueError, "at least one number"),
        ({"strengths": [0.1, 0.2]}, ValueError, "strictly decreasing"),
        ({"count": 0}, ValueError, "count must be"),
        ({"ratio": 0.0}, ValueError, "ratio must be"),
    ]:
        with pytest.raises(error) as caught:
            call(twin, "cross_validate", X, y, **kwargs)
        assert message in str(caught.value)


def test_bad_input_to_the_rest(twin, corners):
    X, y = diabetes()
    for k in (-1, 11, 2.5, True):
        error = ValueError if type(k) is int else TypeError
        with pytest.raises(error, match=f"k must be .* <= 10, got {k}"):
            call(twin, "keep_features", X, y, k)
    criterion, path = (
        twin.lib.information_criterion,
        corners[1][twin.name],
    )
    for kwargs, message in [
        ({"kind": "cp"}, "kind must be one of 'aic', 'bic', 'ebic', got 'cp'"),
        ({"loss": "hinge"}, "loss must be one of 'squared'"),
        ({"n": 0}, "n must be a Python int >= 1 and"),
        ({"gamma": 1.5}, "gamma must be a Python number in [0, 1], got 1.5"),
        ({"noise_variance": 0.0}, "noise_variance must be a Python number in (0, inf)"),
        (
            {"noise_variance": 1.0, "loss": "logistic"},
            "noise_variance must be None but for the squared",
        ),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            criterion(path, **{"n": 442, **kwargs})
