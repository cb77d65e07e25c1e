"""The full-batch solver: scikit-learn's optima, and the twins alike."""

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import ElasticNet, Lasso, MultiTaskLasso

from parity_tests.frameworks.twins import TWINS
from parity_tests.oracles import optima, problems
from parity_tests.solvers.losses import (
    cross_entropy,
    few_digits,
    of_problem,
    solve,
    zeros,
)

EXACT = {"fit_intercept": False, "tol": 1e-14, "max_iter": 1_000_000}
REFERENCES = {
    "lasso": (lambda lib: lib.l1(), lambda s: Lasso(s, **EXACT)),
    "elastic net": (
        lambda lib: lib.elastic_net(0.6),
        lambda s: ElasticNet(s, l1_ratio=0.6, **EXACT),
    ),
    "non-negative": (
        lambda lib: lib.nonnegative_l1(),
        lambda s: Lasso(s, positive=True, **EXACT),
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.slow_in_jax
def test_the_optimum_is_scikit_learns(twin, name):
    make, reference = REFERENCES[name]
    problem = problems.diabetes(0.05)
    params, found = solve(
        twin,
        of_problem(twin, problem),
        zeros(problem),
        problem.strength,
        penalty=make(twin.lib),
        tol=1e-11,
    )
    wanted = reference(problem.strength).fit(problem.X, problem.y).coef_
    np.testing.assert_allclose(params["w"], wanted, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(params["w"] == 0, wanted == 0)
    assert 0 < np.count_nonzero(wanted) < 10
    assert bool(found.converged)
    assert float(found.residual.largest) <= 1e-11


@pytest.mark.slow_in_jax
def test_groups_are_those_of_the_multi_task_lasso(twin):
    problem = problems.diabetes()
    Y = np.stack([problem.y, problem.X[:, 2] * problem.y, problem.y**2], 1)
    Y, strength = Y - Y.mean(0), 0.3
    X_, Y_ = twin.array(problem.X), twin.array(Y)
    params, _ = solve(
        twin,
        lambda xp, params: ((X_ @ params["w"] - Y_) ** 2).sum() / (2 * len(Y)),
        {"w": np.zeros((10, 3))},
        strength,
        penalty=twin.lib.group_l1(1, scale_by_size=False),
        tol=1e-11,
    )
    wanted = MultiTaskLasso(strength, **EXACT).fit(problem.X, Y).coef_.T
    np.testing.assert_allclose(params["w"], wanted, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(params["w"] == 0, wanted == 0)
    assert 0 < np.count_nonzero(wanted.any(1)) < 10


def test_logistic_regression_is_liblinears_and_the_twins_take_the_same_steps():
    problem = problems.breast_cancer()
    wanted = optima.sklearn_logistic(problem)
    steps, points = [], []
    for twin in TWINS:
        params, found = solve(
            twin, of_problem(twin, problem), zeros(problem), problem.strength, tol=1e-10
        )
        assert optima.l1_kkt_residual(problem, params["w"]) <= 1.01e-10
        # liblinear stops at a residual of 5e-9 or so.
        np.testing.assert_allclose(params["w"], wanted, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(params["w"] == 0, wanted == 0)
        value = optima.objective(problem, params["w"])
        assert float(found.objective) == pytest.approx(value, rel=1e-12)
        loss = problem.loss(np, problem.X, problem.y, params["w"])
        assert float(found.loss) == pytest.approx(loss, rel=1e-12)
        steps.append(int(found.iterations))
        points.append(params["w"])
    assert steps[0] == steps[1] < 300
    np.testing.assert_allclose(points[0], points[1], rtol=0, atol=1e-10)


def test_multinomial_regression_with_free_biases():
    X, Y = few_digits()
    strength, points, steps = 0.01, [], []
    wanted = optima.multinomial_optimum(X, Y, strength)
    for twin in TWINS:
        start = {"w": np.zeros((64, 10)), "b": np.zeros(10)}
        params, found = solve(
            twin, cross_entropy(twin, X, Y), start, strength, tol=1e-12
        )
        residual = optima.multinomial_kkt_residual(X, Y, strength, params)
        assert residual <= 1.1e-12
        np.testing.assert_allclose(params["w"], wanted["w"], rtol=0, atol=1e-8)
        np.testing.assert_array_equal(params["w"] == 0, wanted["w"] == 0)
        points.append(params)
        steps.append(int(found.iterations))
    assert steps[0] == steps[1]
    for name in ("w", "b"):
        np.testing.assert_allclose(points[0][name], points[1][name], atol=1e-10)


@pytest.mark.slow_in_jax
@pytest.mark.parametrize("scope", ["array", "tree"])
def test_a_ball_of_the_solutions_size_gives_the_solution(twin, scope):
    problem = problems.diabetes()
    wanted = optima.sklearn_lasso(problem)
    X, y = twin.array(problem.X), twin.array(problem.y)

    def loss(xp, params):
        w = xp.concatenate([params["u"], params["v"]])
        return problem.loss(xp, X, y, w if scope == "tree" else params["u"])

    start = {"u": np.zeros(4), "v": np.zeros(6)} if scope == "tree" else None
    ball = twin.lib.l1_ball(float(np.abs(wanted).sum()), scope=scope)
    start = start or {"u": np.zeros(10), "v": np.zeros(3)}
    strengths = {k: twin.array(1.0 + np.arange(len(v))) for k, v in start.items()}
    params, found = solve(twin, loss, start, strengths, penalty=ball, tol=1e-9)
    w = np.concatenate([params["u"], params["v"]])[:10]
    np.testing.assert_allclose(w, wanted, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(w == 0, wanted == 0)
    assert float(found.objective) == float(found.loss)


@pytest.mark.slow
def test_badly_scaled_columns(twin):
    problem = problems.diabetes(0.001)
    scales = np.logspace(-1, 1, 10)
    X, y = twin.array(problem.X * scales), twin.array(problem.y)
    params, found = solve(
        twin,
        lambda xp, params: problem.loss(xp, X, y, params["w"]),
        zeros(problem),
        # Each in its column's units: the solution is that of the columns as they were.
        {"w": twin.array(problem.strength * scales)},
        tol=1e-9,
    )
    wanted = optima.sklearn_lasso(problem)
    np.testing.assert_allclose(params["w"] * scales, wanted, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(params["w"] == 0, wanted == 0)
    assert int(found.iterations) < 5000


@pytest.mark.slow_in_jax
def test_restarts_and_growing_steps_save_iterations(twin):
    problem = problems.breast_cancer(0.01)
    loss = of_problem(twin, problem)
    _, found = solve(twin, loss, zeros(problem), problem.strength, tol=1e-10)
    # 302; without restarts 1608, without growing steps 2847.
    assert int(found.iterations) < 500


@pytest.mark.slow
def test_it_goes_on_while_the_objective_falls(twin):
    """Raw features in single precision: the residual stands, each step is small."""
    X, y = load_wine(return_X_y=True)
    X, y = (twin.array(a, "float32") for a in (X, y))
    start = {"w": np.zeros(13), "b": np.array(0.9)}
    groups = {name: range(i, 13, 3) for i, name in enumerate("abc")}
    with pytest.warns(UserWarning, match="after 2500 .* Raise max_iterations"):
        twin.lib.solve(
            lambda q: ((X @ q["w"] + q["b"] - y) ** 2).mean() / 2,
            {name: twin.array(x, "float32") for name, x in start.items()},
            0.69,
            penalty=twin.lib.group_l1(groups=groups),
            max_iterations=2500,
        )
