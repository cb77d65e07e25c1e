import dataclasses
import math
import re
import warnings

import numpy as np
import pytest
from scipy import special, stats
from sklearn import datasets
from sklearn.linear_model import (
    LassoCV,
    LassoLarsIC,
    LogisticRegression,
    lars_path,
    lasso_path,
)
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from parity_tests.frameworks.twins import TWINS
from parity_tests.oracles import problems

EXACT = {"tol": 1e-12}


def call(twin, name, X, y, *args, **kwargs):
    """Calls a function of the data: X in double precision, y as it is."""
    dtype = "int64" if y.dtype.kind in "iu" else "float64"
    data = twin.array(X), twin.array(y, dtype)
    return getattr(twin.lib, name)(*data, *args, **kwargs)


def diabetes():
    problem = problems.diabetes()
    return problem.X, problem.y + 1.5


def products():
    """Diabetes with its 45 products and 9 squares, sex being binary: 442 x 64."""
    X = datasets.load_diabetes().data
    pairs = [(i, j) for i in range(10) for j in range(i, 10) if not i == j == 1]
    more = [X[:, i] * X[:, j] for i, j in pairs]
    return StandardScaler().fit_transform(np.column_stack([X, *more])), diabetes()[1]


def digits(classes=3, rows=150):
    X, Y = problems.digits()
    chosen = (Y[:, :classes].sum(1) == 1).nonzero()[0][:rows]
    return X[chosen], Y[chosen].argmax(1)


def breast_cancer():
    problem = problems.breast_cancer()
    return problem.X, (problem.y > 0).astype(float)


def spaced(X, y, count, ratio=1e-3):
    largest = np.abs(X.T @ (y - y.mean())).max() / len(y)
    return largest * ratio ** (np.arange(count) / (count - 1))


def sklearn_path(X, y, strengths):
    settings = {"alphas": strengths, "tol": 1e-14, "max_iter": 1_000_000}
    return lasso_path(X - X.mean(0), y - y.mean(), **settings)[1].T


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


def test_strengths_of_the_other_losses(twin):
    X, y = breast_cancer()
    strengths = twin.module("linear.paths").linear_strengths(
        *(twin.array(X), twin.array(y), None, 3, 1e-2),
        **{"loss": "logistic", "penalty": twin.lib.l1(), "fit_intercept": True},
    )
    np.testing.assert_allclose(strengths, spaced(X, y, 3, 1e-2), rtol=1e-12)
    X, y = digits()
    labels = np.eye(3)[y]
    strengths = twin.module("linear.paths").linear_strengths(
        *(twin.array(X), twin.array(y, "int64"), None, 1, 1e-2),
        **{"loss": "multinomial", "penalty": twin.lib.l1(), "fit_intercept": True},
    )
    expected = np.abs(X.T @ (labels - labels.mean(0))).max() / len(y)
    np.testing.assert_allclose(strengths, [expected], rtol=1e-12)


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
        *(twin, "linear_path", X[rest], y[rest], ours.strengths),
        **{"loss": "multinomial", "tol": 1e-9},
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


@pytest.mark.slow
def test_features_kept_by_number(twin):
    X, y = diabetes()
    counts = np.count_nonzero(sklearn_path(X, y, spaced(X, y, 2000)), axis=1)
    for k in (0, 3, 10):
        kept = call(twin, "keep_features", X, y, k, count=20, **EXACT)
        assert kept.exact
        assert len(kept.features) == k
        (expected,) = sklearn_path(X, y, [kept.strength])
        if k > 0:  # at the largest strength rounding decides
            np.testing.assert_array_equal(kept.features, np.flatnonzero(expected))
        coef = twin.numpy(kept.solution.coef)
        np.testing.assert_allclose(coef, expected, rtol=0, atol=1e-7)
        # The weakest of a grid that keeps them, before more come in.
        later = spaced(X, y, 2000)[(counts > k).argmax()] if k < 10 else 0
        assert later <= kept.strength * (1 + 1e-9)
        assert kept.strength <= max(1.5 * later, spaced(X, y, 20)[-1] * (1 + 1e-9))


def test_features_that_come_in_together(twin):
    X, y = diabetes()
    X, penalty = np.repeat(X, 2, axis=1), twin.lib.elastic_net(0.5)
    kept = call(twin, "keep_features", X, y, 3, penalty=penalty, tol=1e-10)
    assert not kept.exact
    np.testing.assert_array_equal(kept.features, [4, 5])
    kept = call(twin, "keep_features", X, y, 2, penalty=penalty, tol=1e-10)
    assert kept.exact


@pytest.mark.slow
def test_features_of_several_classes(twin):
    X, y = digits()
    settings = {"loss": "multinomial", "count": 20}
    kept = call(twin, "keep_features", X, y, 4, **settings)
    coef = twin.numpy(kept.solution.coef)
    assert kept.exact
    np.testing.assert_array_equal(kept.features, np.flatnonzero((coef != 0).any(1)))
    path = call(twin, "keep_features", X, y, 60, count=3, ratio=0.5, loss="multinomial")
    assert not path.exact


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


def test_one_warning_of_a_linear_path(twin):
    X, y = products()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(twin, "linear_path", X, y, [0.1, 0.01, 0.005], tol=1e-14, max_iterations=1)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "strengths did not converge to a relative gap of tol=1e-14" in text
