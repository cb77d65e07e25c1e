"""The duality gap bounds the distance to the optimum, and is 0 there."""

import math

import numpy as np
import pytest
from scipy.special import logsumexp

from parity_tests.frameworks.twins import TWINS, Twin

N, P, CLASSES = 40, 12, 3
WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0, np.inf, 0.25, 3.0, 1.0, 0.1, 1.5, 0.0, 1.0])
STRENGTHS = {"squared": 0.2, "logistic": 0.02, "multinomial": 0.02}


def group_norms(w):
    return np.sqrt(2) * np.linalg.norm(w.reshape(P // 2, -1), axis=1).sum()


PENALTIES = {
    "l1": (lambda lib: lib.l1(), lambda w: np.abs(w).sum()),
    "elastic net": (
        lambda lib: lib.elastic_net(0.5),
        lambda w: np.abs(w).sum() / 2 + (w**2).sum() / 4,
    ),
    "ridge": (lambda lib: lib.elastic_net(0.0), lambda w: (w**2).sum() / 2),
    "weighted": (
        lambda lib: lib.weighted_l1(WEIGHTS),
        lambda w: (np.abs(w) * np.where(w == 0, 0, WEIGHTS)).sum(),
    ),
    "non-negative": (
        lambda lib: lib.nonnegative_l1(),
        lambda w: math.inf if (w < 0).any() else w.sum(),
    ),
    "groups": (lambda lib: lib.group_l1(0, block=2), group_norms),
    "sparse groups": (
        lambda lib: lib.sparse_group_l1(0.4, 0, block=2),
        lambda w: 0.4 * np.abs(w).sum() + 0.6 * group_norms(w),
    ),
}


def data(loss):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(N, P)) * 10 ** rng.uniform(-1, 1, P) + rng.normal(size=P)
    score = X[:, 0] - X[:, 1] / 2 + rng.normal(size=N)
    if loss == "squared":
        return X, score + 7
    if loss == "logistic":
        return X, (score > np.quantile(score, 0.7)).astype(float)
    return X, np.digitize(score, np.quantile(score, [0.3, 0.8]))


def mean_loss(loss, X, y, w, b):
    scores = X @ w + b
    if loss == "squared":
        return np.mean((scores - y) ** 2) / 2
    if loss == "logistic":
        return np.mean(np.logaddexp(0, scores) - y * scores)
    return np.mean(logsumexp(scores, 1) - scores[np.arange(N), y])


def problem(loss, penalty, intercept):
    """The data, the objective in numpy, and the coefficients' shape."""
    X, y = data(loss)
    _, value = PENALTIES[penalty]
    shape = (P, CLASSES) if loss == "multinomial" else (P,)

    def objective(w, b):
        return mean_loss(loss, X, y, w, b) + STRENGTHS[loss] * value(w)

    return X, y, objective, shape, (shape[1:] if intercept else None)


def require_optimal(objective, w, b, intercept):
    """No coordinate can be moved for the better: of a convex function that is smooth
    but for a sum over the coordinates, this is the minimum (Tseng, 2001)."""
    least = objective(w, b)
    for size in (1e-2, 1e-5):
        for step in size * np.eye(w.size).reshape(-1, *w.shape):
            assert objective(w + step, b) > least - 1e-12
            assert objective(w - step, b) > least - 1e-12
        for step in size * np.eye(b.size).reshape(-1, *b.shape) if intercept else ():
            assert objective(w, b + step) > least - 1e-12
            assert objective(w, b - step) > least - 1e-12


def gap_of(twin, X, y, w, strength, b=None, **settings):
    b = None if b is None else twin.array(b)
    arrays = twin.array(X), twin.array(y), twin.array(w)
    return twin.lib.duality_gap(*arrays, strength, intercept=b, **settings)


CASES = [
    (loss, penalty, intercept)
    for loss in STRENGTHS
    for penalty in PENALTIES
    for intercept in (False, True)
    # These two are written for vectors above.
    if not (
        loss == "multinomial" and penalty in ("groups", "sparse groups", "weighted")
    )
]


@pytest.mark.parametrize(("loss", "penalty", "intercept"), CASES)
def test_it_bounds_the_distance_to_the_optimum(twin: Twin, loss, penalty, intercept):
    X, y, objective, shape, _ = problem(loss, penalty, intercept)
    made, strength = PENALTIES[penalty][0](twin.lib), STRENGTHS[loss]
    settings = {"loss": loss, "penalty": made}
    found = twin.lib.solve_linear(
        twin.array(X),
        twin.array(y),
        strength,
        **settings,
        fit_intercept=intercept,
        tol=1e-12,
    )
    w, b = twin.numpy(found.coef), twin.numpy(found.intercept)
    best = objective(w, b)
    np.testing.assert_allclose(found.objective, best, rtol=1e-12)
    if "groups" not in penalty:  # their norms are no sum over the coordinates
        require_optimal(objective, w, b, intercept)
    b_or_none = b if intercept else None
    at_best = gap_of(twin, X, y, w, strength, b_or_none, **settings)
    assert -1e-13 <= at_best.relative < 1e-10
    rng = np.random.default_rng(0)
    for size in (1e-4, 1e-2, 1.0):
        other = w + size * rng.normal(size=shape)
        if penalty == "non-negative":
            other = np.abs(other)
        if penalty == "weighted":
            other[np.isinf(WEIGHTS)] = 0
        shift = size * rng.normal(size=b.shape) if intercept else np.zeros(b.shape)
        gap = gap_of(
            twin, X, y, other, strength, b + shift if intercept else None, **settings
        )
        primal = objective(other, b + shift)
        np.testing.assert_allclose(gap.primal, primal, rtol=1e-12)
        np.testing.assert_allclose(gap.gap, gap.primal - gap.dual, rtol=1e-12)
        # Below the objective of every point, that of the best included.
        assert gap.dual <= best + 1e-12
        assert gap.gap >= primal - best - 1e-12


@pytest.mark.parametrize("strength", [1e-3, 0.5, 3.0, 1e3])
@pytest.mark.parametrize("penalty", ["l1", "groups"])
def test_it_is_the_formula_at_every_strength(twin: Twin, penalty, strength):
    X, y = data("squared")
    made, value = PENALTIES[penalty]
    w = np.random.default_rng(0).normal(size=P)
    residual = X @ w + 7 - y
    primal = np.mean(residual**2) / 2 + strength * value(w)
    residual -= residual.mean()
    pull = (X.T @ residual / N).reshape(-1, 1 if penalty == "l1" else 2)
    steepest = np.linalg.norm(pull, axis=1).max() / np.sqrt(pull.shape[1])
    theta = residual * min(1, strength / steepest)
    dual = -np.mean(theta * (theta / 2 + y))
    gap = gap_of(twin, X, y, w, strength, 7.0, penalty=made(twin.lib))
    np.testing.assert_allclose([gap.primal, gap.dual], [primal, dual], rtol=1e-12)


@pytest.mark.parametrize("loss", STRENGTHS)
def test_it_is_relative_to_the_objective_of_zero(twin: Twin, loss):
    X, y, objective, shape, _ = problem(loss, "l1", True)
    shares = np.bincount(y) / N if loss == "multinomial" else np.mean(y)
    if loss == "squared":
        b = shares
    else:
        b = np.log(shares / (1 - shares) if loss == "logistic" else shares)
    w = np.random.default_rng(0).normal(size=shape)
    gap = gap_of(twin, X, y, w, 0.3, b, loss=loss)
    zero = objective(np.zeros(shape), b)
    np.testing.assert_allclose(gap.relative, gap.gap / zero, rtol=1e-12)


def test_at_large_strengths_zero_is_optimal(twin: Twin):
    X, y = data("squared")
    largest = np.abs((y - y.mean()) @ X).max() / N
    zero = np.zeros(P)
    above = gap_of(twin, X, y, zero, 1.001 * largest, y.mean())
    below = gap_of(twin, X, y, zero, 0.999 * largest, y.mean())
    assert abs(above.relative) < 1e-14
    assert below.relative > 1e-7


def test_the_twins_agree():
    for loss, penalty, intercept in CASES:
        X, y, _, shape, b_shape = problem(loss, penalty, intercept)
        w = np.abs(np.random.default_rng(1).normal(size=shape))
        b = np.ones(b_shape) if intercept else None
        found = []
        for twin in TWINS:
            made = PENALTIES[penalty][0](twin.lib)
            if penalty == "weighted":
                w[np.isinf(WEIGHTS)] = 0
            settings = {"loss": loss, "penalty": made}
            found.append(gap_of(twin, X, y, w, 0.1, b, **settings))
        np.testing.assert_allclose(*found, rtol=1e-11)


def test_single_precision_data_have_a_gap_in_double_precision(twin: Twin):
    X, y = (a.astype(np.float32) for a in data("squared"))
    w = np.random.default_rng(0).normal(size=P).astype(np.float32)
    arrays = [twin.array(a, "float32") for a in (X, y, w)]
    single = twin.lib.duality_gap(*arrays, 0.2)
    np.testing.assert_allclose(single, gap_of(twin, X, y, w, 0.2), rtol=1e-13)


def test_what_is_outside_has_an_infinite_gap_and_nan_is_refused(twin: Twin):
    X, y = data("squared")
    settings = {"penalty": twin.lib.nonnegative_l1()}
    assert gap_of(twin, X, y, -np.ones(P), 0.2, **settings).gap == math.inf
    with pytest.raises(ValueError, match="coef and intercept must .* got nan"):
        gap_of(twin, X, y, np.full(P, np.nan), 0.2)


@pytest.mark.parametrize(
    ("penalty", "why"),
    [
        ("mcp(1.0)", "not convex"),
        ("l0()", "not convex"),
        ("total_variation()", "not known"),
    ],
)
def test_penalties_without_a_gap_raise(twin: Twin, penalty, why):
    X, y = data("squared")
    made = eval(f"lib.{penalty}", {"lib": twin.lib})
    with pytest.raises(ValueError, match=f"{why}.*optimality_residual"):
        gap_of(twin, X, y, np.zeros(P), 0.2, penalty=made)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"strength": -0.1}, ValueError, "strength must be a finite real number >= 0"),
        ({"strength": "a"}, TypeError, "strength must be"),
        ({"strength": lambda step: 0.1}, TypeError, "strength must be"),
        ({"loss": "hinge"}, ValueError, "loss must be one of 'squared'"),
        ({"w": np.zeros(P + 1)}, ValueError, r"coef must have the shape \(12,\)"),
        ({"b": np.zeros(2)}, ValueError, r"intercept must have the shape \(\)"),
        ({"y": np.zeros(N - 1)}, ValueError, r"y must have the shape \(40,\)"),
        ({"y": np.full(N, np.nan)}, ValueError, "y must be finite, got nan at index 0"),
        ({"loss": "logistic"}, ValueError, "y must hold the labels 0 and 1"),
        ({"loss": "multinomial"}, ValueError, "y must hold integer classes"),
        (
            {"X": np.zeros(N)},
            ValueError,
            r"X must have the shape \(samples, features\)",
        ),
        ({"X": np.zeros((0, P))}, ValueError, "X must have the shape"),
        (
            {"X": np.full((N, P), np.inf)},
            ValueError,
            "X must be finite, got inf in row 0",
        ),
    ],
)
def test_bad_input_raises(twin: Twin, change, error, match):
    X, y = data("squared")
    given = {"X": X, "y": y, "w": np.zeros(P), "strength": 0.1} | change
    with pytest.raises(error, match=match):
        gap_of(twin, **given)


def test_a_model_a_little_off_in_its_intercept_has_a_finite_gap(twin: Twin):
    X, y = data("logistic")
    fit = twin.lib.solve_linear
    for strength in (0.02, 0.05):
        found = fit(twin.array(X), twin.array(y), strength, loss="logistic", tol=1e-12)
        w, best = twin.numpy(found.coef), float(found.intercept)
        # Where rounding hides the decrease of the loss, but not yet the gradient.
        for shift in 10.0 ** np.arange(-9.5, -6, 0.125):
            gap = gap_of(twin, X, y, w, strength, best + shift, loss="logistic")
            assert gap.relative < 1e-9
