"""Linear models against scikit-learn's, and against the optimality conditions."""

import warnings

import jax
import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression

from parity_tests.frameworks.twins import JAX, TORCH, TWINS, Twin
from parity_tests.oracles import optima, problems
from parity_tests.oracles.problems import multinomial_gradient

EXACT = {"tol": 1e-14, "max_iter": 1_000_000}


def fit(twin, X, y, strength, dtype="float64", **settings):
    arrays = twin.array(X, dtype), twin.array(y, dtype)
    return twin.lib.solve_linear(*arrays, strength, **{"tol": 1e-12} | settings)


def coefficients(twin, found):
    return twin.numpy(found.coef), twin.numpy(found.intercept)


def regression(n, p, seed=0):
    """Correlated columns of different sizes and means, and a sparse truth."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) + rng.normal(size=(n, 1))
    X = X * 2 ** rng.uniform(-1, 1, p) + rng.normal(size=p)
    return X, X[:, :5].sum(1) + rng.normal(size=n) + 10


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(
    ("shape", "method"),
    [((30, 300), "working_set"), ((30, 300), "gram"), ((300, 20), "gram")],
)
def test_it_is_the_lasso(twin: Twin, shape, method, intercept):
    X, y = regression(*shape)
    model = Lasso(0.3, fit_intercept=intercept, **EXACT).fit(X, y)
    found = fit(twin, X, y, 0.3, method=method, fit_intercept=intercept)
    coef, b = coefficients(twin, found)
    np.testing.assert_allclose(coef, model.coef_, atol=1e-8)
    np.testing.assert_array_equal(coef == 0, model.coef_ == 0)
    np.testing.assert_allclose(b, model.intercept_, atol=1e-8)
    assert found.converged
    assert found.relative_gap <= 1e-12


@pytest.mark.parametrize(
    ("penalty", "model"),
    [
        ("elastic_net(0.4)", ElasticNet(0.3, l1_ratio=0.4)),
        ("elastic_net(1.0)", ElasticNet(0.3, l1_ratio=1.0)),
        ("nonnegative_l1()", Lasso(0.3, positive=True)),
    ],
)
def test_further_penalties_are_scikit_learns(twin: Twin, penalty, model):
    X, y = regression(30, 60)
    y = y - 2 * X[:, 3]  # a coefficient that wants to be negative
    model.set_params(**EXACT).fit(X, y)
    made = eval(f"lib.{penalty}", {"lib": twin.lib})
    found = fit(twin, X, y, 0.3, penalty=made, method="working_set")
    coef, b = coefficients(twin, found)
    np.testing.assert_allclose(coef, model.coef_, atol=1e-8)
    np.testing.assert_array_equal(coef == 0, model.coef_ == 0)
    np.testing.assert_allclose(b, model.intercept_, atol=1e-8)


def test_weights_rescale_free_and_hold(twin: Twin):
    X, y = regression(40, 30)
    weights = np.r_[0.0, 0.0, np.inf, np.full(13, 0.5), np.full(14, 2.0)]
    found = fit(twin, X, y, 0.2, penalty=twin.lib.weighted_l1(weights))
    coef, b = coefficients(twin, found)
    grad = X.T @ (X @ coef + b - y) / len(y)
    assert coef[2] == 0
    assert (coef[:2] != 0).all()
    grad, coef, weights = (np.delete(a, 2) for a in (grad, coef, weights))
    slack = np.maximum(np.abs(grad) - 0.2 * weights, 0)
    violation = np.abs(grad + 0.2 * weights * np.sign(coef))
    assert np.where(coef == 0, slack, violation).max() < 1e-8
    # A strength for each coefficient is another way to weight.
    strengths = twin.array(np.where(np.arange(30) < 9, 0.1, 0.4))
    by_strength = fit(twin, X, y, strengths)
    by_weight = fit(
        twin, X, y, 0.1, penalty=twin.lib.weighted_l1(twin.numpy(strengths) * 10)
    )
    np.testing.assert_allclose(
        twin.numpy(by_strength.coef), twin.numpy(by_weight.coef), atol=1e-9
    )


def test_logistic_regression_is_liblinears(twin: Twin):
    problem = problems.breast_cancer()
    best = optima.sklearn_logistic(problem)
    settings = {"loss": "logistic", "fit_intercept": False}
    found = fit(twin, problem.X, (problem.y > 0) * 1.0, problem.strength, **settings)
    coef, b = coefficients(twin, found)
    np.testing.assert_allclose(coef, best, atol=1e-8)
    np.testing.assert_array_equal(coef == 0, best == 0)
    assert b == 0


@pytest.mark.parametrize("p", [30, 200])
def test_logistic_regression_with_an_intercept_is_optimal(twin: Twin, p):
    X, y = regression(60, p, seed=1)
    y = (y > np.quantile(y, 0.8)) * 1.0
    coef, b = coefficients(twin, fit(twin, X, y, 0.02, loss="logistic"))
    residual = 1 / (1 + np.exp(-X @ coef - b)) - y
    grad = X.T @ residual / len(y)
    slack = np.maximum(np.abs(grad) - 0.02, 0)
    violation = np.where(coef == 0, slack, np.abs(grad + 0.02 * np.sign(coef)))
    assert violation.max() < 1e-8
    assert abs(residual.mean()) < 1e-9
    assert 3 < np.count_nonzero(coef) < 30


def test_multinomial_regression_is_optimal(twin: Twin):
    X, Y = (a[:200] for a in problems.digits())
    found = fit(twin, X, Y.argmax(1), 0.02, loss="multinomial", tol=1e-13)
    w, b = coefficients(twin, found)
    params = {"w": w, "b": b}
    assert optima.multinomial_kkt_residual(X, Y, 0.02, params) < 1e-8
    assert abs(b.sum()) < 1e-12
    assert (np.abs(multinomial_gradient(np, X, Y, params)["w"])[w == 0] < 0.02).all()
    assert 40 < np.count_nonzero(w) < 300


@pytest.mark.parametrize("loss", ["squared", "logistic", "multinomial"])
def test_from_the_largest_strength_on_all_are_zero(twin: Twin, loss):
    X, y = regression(40, 60)
    if loss != "squared":
        y = np.digitize(y, np.quantile(y, [0.3, 0.7][: 1 + (loss != "logistic")]))
    Y = np.eye(3)[y] if loss == "multinomial" else y[:, None]
    largest = np.abs((Y - Y.mean(0)).T @ X).max() / len(y)
    above = fit(twin, X, y, largest * (1 + 1e-9), loss=loss)
    below = fit(twin, X, y, largest * (1 - 1e-3), loss=loss)
    assert not twin.numpy(above.coef).any()
    assert np.count_nonzero(twin.numpy(below.coef)) == 1
    assert above.converged
    assert below.converged


def test_strength_0_is_least_squares(twin: Twin):
    X, y = regression(60, 20)
    model = LinearRegression().fit(X, y)
    coef, b = coefficients(twin, fit(twin, X, y, 0.0))
    np.testing.assert_allclose(coef, model.coef_, atol=1e-10)
    np.testing.assert_allclose(b, model.intercept_, atol=1e-10)


def test_equal_and_constant_columns(twin: Twin):
    X, y = regression(40, 60)
    once = fit(twin, X, y, 0.3)
    doubled = fit(twin, np.c_[X, X, np.full(40, 5.0), np.zeros(40)], y, 0.3)
    coef = twin.numpy(doubled.coef)
    np.testing.assert_allclose(doubled.objective, once.objective, rtol=1e-11)
    np.testing.assert_allclose(
        coef[:60] + coef[60:120], twin.numpy(once.coef), atol=1e-7
    )
    assert not coef[120:].any()


def test_columns_far_from_zero(twin: Twin):
    X, y = regression(40, 60)
    near, far = (fit(twin, Z, y, 0.3, tol=1e-10) for Z in (X, X + 1e4))
    np.testing.assert_allclose(twin.numpy(near.coef), twin.numpy(far.coef), atol=1e-7)


@pytest.mark.parametrize("x64", [True, False])
def test_single_precision_data_reach_a_small_gap(twin: Twin, x64):
    if twin is TORCH and not x64:
        pytest.skip("torch has double precision always")
    X, y = (a.astype(np.float32) for a in regression(50, 400))
    jax.config.update("jax_enable_x64", x64)
    try:
        found = fit(twin, X, y, 0.1, "float32", tol=1e-9)
        assert twin.dtype(found.coef) == twin.dtype(found.intercept) == "float32"
    finally:
        jax.config.update("jax_enable_x64", True)
    X, y = X.astype(float), y.astype(float)
    best = Lasso(0.1, **EXACT).fit(X, y)

    def objective(coef, b):
        residual = X @ np.asarray(coef, float) + float(b) - y
        return residual @ residual / (2 * len(y)) + 0.1 * np.abs(coef).sum()

    least = objective(best.coef_, best.intercept_)
    ours = objective(*coefficients(twin, found))
    np.testing.assert_allclose(found.objective, ours, rtol=1e-6)
    assert found.relative_gap <= 1e-9
    assert ours - least <= found.gap + 1e-9 * least


@pytest.mark.parametrize(
    "loss", ["squared", pytest.param("logistic", marks=pytest.mark.slow)]
)
def test_fista_finds_the_same(twin: Twin, loss):
    X, y = regression(40, 20)
    settings = {"loss": loss, "tol": 1e-9}
    target = y if loss == "squared" else (y > y.mean()) * 1.0
    newton = fit(twin, X, target, 0.05, **settings)
    fista = fit(twin, X, target, 0.05, **settings, method="fista")
    assert fista.converged
    assert fista.iterations > 20
    for a, b in zip(newton[:3], fista[:3], strict=True):
        np.testing.assert_allclose(twin.numpy(a), twin.numpy(b), atol=1e-4)


def test_a_start_is_used_and_left_alone(twin: Twin):
    X, y = regression(30, 200)
    settings = {"method": "working_set", "tol": 1e-10}
    first = fit(twin, X, y, 0.3, **settings)
    before = twin.numpy(first.coef).copy()
    again = fit(twin, X, y, 0.3, **settings, init=first)
    assert again.iterations == 0
    near = fit(twin, X, y, 0.25, **settings, init=(first.coef, first.intercept))
    cold = fit(twin, X, y, 0.25, **settings)
    assert near.iterations <= cold.iterations
    np.testing.assert_allclose(twin.numpy(near.coef), twin.numpy(cold.coef), atol=1e-4)
    np.testing.assert_array_equal(twin.numpy(first.coef), before)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_a_start_far_off_does_no_harm(twin: Twin, loss):
    X, y = regression(60, 30)
    if loss == "logistic":
        y = (y > y.mean()) * 1.0
    # Where the logistic loss is nearly linear, Newton's steps lead far beyond.
    start = twin.array(5 * np.cos(np.arange(30))), twin.array(-3.0)
    near, far = (fit(twin, X, y, 0.05, loss=loss, init=i) for i in (None, start))
    np.testing.assert_allclose(far.objective, near.objective, rtol=1e-10)
    np.testing.assert_allclose(twin.numpy(far.coef), twin.numpy(near.coef), atol=1e-6)


@pytest.mark.parametrize("loss", ["squared", "logistic", "multinomial"])
def test_infinite_weights_are_as_if_the_columns_were_left_out(twin: Twin, loss):
    X, y = regression(60, 12)
    if loss != "squared":
        y = np.digitize(y, np.quantile(y, [0.3, 0.7][: 1 + (loss != "logistic")]))
    weights = np.ones((12, 3) if loss == "multinomial" else 12)
    weights[[1, 4]] = np.inf
    start = twin.array(np.ones_like(weights)), twin.array(np.zeros(weights.shape[1:]))
    penalty, used = twin.lib.weighted_l1(weights), np.isfinite(weights).reshape(12, -1)
    settings = {"loss": loss, "tol": 1e-10}
    without = fit(twin, X[:, used[:, 0]], y, 0.05, **settings)
    for init in (None, start):
        found = fit(twin, X, y, 0.05, **settings, penalty=penalty, init=init)
        assert found.converged
        assert not twin.numpy(found.coef)[[1, 4]].any()
        np.testing.assert_allclose(found.objective, without.objective, rtol=1e-9)
    gap = twin.lib.duality_gap(
        twin.array(X),
        twin.array(y),
        found.coef,
        0.05,
        intercept=found.intercept,
        loss=loss,
        penalty=penalty,
    )
    assert abs(gap.relative) < 1e-9
    if loss == "multinomial":  # held for one of the classes alone
        weights[[1, 4], 0] = 1
        penalty = twin.lib.weighted_l1(weights)
        found = fit(twin, X, y, 0.05, **settings, penalty=penalty, init=start)
        assert found.converged
        assert not twin.numpy(found.coef)[[1, 4], 1:].any()
        assert found.objective < without.objective - 1e-3


def test_a_start_below_zero_is_no_start_for_nonnegative_coefficients(twin: Twin):
    X, y = regression(40, 60)
    start = twin.array(-np.ones(60)), twin.array(0.0)
    settings = {"penalty": twin.lib.nonnegative_l1(), "tol": 1e-10}
    cold, warm = (fit(twin, X, y, 0.3, **settings, init=i) for i in (None, start))
    assert warm.converged
    np.testing.assert_allclose(warm.objective, cold.objective, rtol=1e-9)


@pytest.mark.parametrize("loss", ["squared", "logistic", "multinomial"])
def test_the_twins_agree(loss):
    X, y = regression(40, 60, seed=2)
    if loss != "squared":
        y = np.digitize(y, np.quantile(y, [0.3, 0.7][: 1 + (loss != "logistic")]))
    ours = [fit(twin, X, y, 0.03, loss=loss) for twin in TWINS]
    for name in ("coef", "intercept", "objective"):
        a, b = (t.numpy(getattr(o, name)) for t, o in zip(TWINS, ours, strict=True))
        np.testing.assert_allclose(a, b, atol=1e-9)
        np.testing.assert_array_equal(a == 0, b == 0)


def test_it_warns_where_it_stops_early(twin: Twin):
    X, y = regression(50, 400)
    with pytest.warns(UserWarning, match="after 1 iterations the relative .* gap is"):
        found = fit(twin, X, y, 0.1, max_iterations=1, method="working_set")
    assert not found.converged
    assert found.iterations == 1
    assert 0 < found.relative_gap < 1


@pytest.mark.slow
def test_fista_warns_once(twin: Twin):
    X, y = regression(50, 400)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(twin, X, y, 0.1, max_iterations=2, method="fista")
    # The inner solver's own warning is of no use here.
    assert [w.category for w in caught] == [UserWarning]
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"loss": "poisson"}, ValueError, "loss must be one of 'squared'"),
        ({"method": "saga"}, ValueError, "method must be one of 'auto'"),
        (
            {"method": "gram", "loss": "logistic"},
            ValueError,
            "must have loss='squared'",
        ),
        ({"tol": -1.0}, ValueError, "tol must be"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be"),
        ({"init": 3}, TypeError, "init must be a LinearSolution"),
        ({"init": (0.0, 0.0)}, ValueError, "init's coefficients must have the shape"),
        ({"strength": -1.0}, ValueError, "strength must be"),
        ({"y": np.zeros(9)}, ValueError, r"y must have the shape \(10,\)"),
        ({"y": np.zeros(10), "loss": "logistic"}, ValueError, "must hold both labels"),
        ({"y": np.arange(10) * 2, "loss": "multinomial"}, ValueError, "every class"),
        ({"y": np.full(10, np.nan)}, ValueError, "y must be finite"),
        ({"X": np.full((10, 4), np.nan)}, ValueError, "X must be finite"),
    ],
)
def test_bad_input_raises(twin: Twin, change, error, match):
    X, y = regression(10, 4)
    given = {"X": X, "y": (y > y.mean()) * 1, "strength": 0.1} | change
    with pytest.raises(error, match=match):
        fit(twin, **given)


def test_penalties_that_do_not_fit_raise(twin: Twin):
    X, y = regression(10, 4)
    with pytest.raises(ValueError, match=r"MCP.*not convex.*optimality_residual"):
        fit(twin, X, y, 0.1, penalty=twin.lib.mcp(1.0))
    groups = twin.lib.group_l1(0, block=2)
    with pytest.raises(ValueError, match="strength must be one number > 0 for groups"):
        fit(twin, X, y, 0.0, penalty=groups)
    with pytest.raises(TypeError, match="penalty must be a Penalty"):
        fit(twin, X, y, 0.1, penalty="l1")


def test_it_says_that_it_cannot_be_compiled():
    X, y = regression(10, 4)
    with pytest.raises(TypeError, match=r"X must be known.*use solve"):
        jax.jit(lambda X: JAX.lib.solve_linear(X, y, 0.1))(X)


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.1, 0.01])
def test_a_large_correlated_lasso(twin: Twin, fraction):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3000))
    for j in range(1, X.shape[1]):
        X[:, j] = 0.9 * X[:, j - 1] + np.sqrt(1 - 0.9**2) * X[:, j]
    y = X[:, ::100].sum(1) + 3 * rng.normal(size=300)
    strength = fraction * np.abs((y - y.mean()) @ X).max() / 300
    found = fit(twin, X, y, strength, tol=1e-10)
    best = Lasso(strength, **EXACT).fit(X, y)
    np.testing.assert_allclose(twin.numpy(found.coef), best.coef_, atol=1e-4)
    residual = y - best.predict(X)
    least = residual @ residual / 600 + strength * np.abs(best.coef_).sum()
    np.testing.assert_allclose(found.objective, least, rtol=1e-9)
