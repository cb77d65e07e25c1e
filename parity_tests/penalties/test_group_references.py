"""Optima of group penalties on real data: scikit-learn's, and certified ones."""

import functools
import math

import numpy as np
import pytest
from sklearn import datasets
from sklearn.linear_model import MultiTaskLasso
from sklearn.preprocessing import StandardScaler

from parity_tests.oracles import problems
from parity_tests.oracles.formulas.groups import group_value

slow = pytest.mark.slow
MEASUREMENTS = {f"m{j}": [j, j + 10, j + 20] for j in range(10)}
"""breast_cancer's groups: mean, error and worst value of ten measurements."""


@functools.cache
def linnerud():
    X, Y = datasets.load_linnerud(return_X_y=True)
    return StandardScaler().fit_transform(X), StandardScaler().fit_transform(Y)


@functools.cache
def diabetes():
    """The diabetes of two years: the progression, and one that is made from others."""
    problem = problems.diabetes()
    second = problem.X @ np.r_[np.zeros(2), 1.0, -0.5, np.zeros(6)] - 0.3 * problem.y
    return problem.X, np.c_[problem.y, second]


def minimise(twin, penalty, gradient, steps, strength, shape, tolerance=1e-12):
    """Accelerated proximal gradient steps with the penalty's own prox, with restarts.

    (Beck and Teboulle, 2009; O'Donoghue and Candes, 2015.) `steps` is a step size, or
    one for each weight: a diagonal metric, in which the optimum is the same.
    """
    thresholds = twin.array(steps * strength)
    solve = twin.jit(penalty.prox)
    w = ahead = np.zeros(shape)
    inertia = 1.0
    for _ in range(20_000):
        moved = twin.array(ahead - steps * gradient(ahead))
        new = twin.numpy(solve(moved, thresholds))
        if np.abs(new - ahead).max() <= tolerance * np.abs(new).max():
            return new
        if ((ahead - new) / steps * (new - w)).sum() > 0:
            inertia = 1.0
        following = (1 + math.sqrt(1 + 4 * inertia**2)) / 2
        ahead = new + (inertia - 1) / following * (new - w)
        w, inertia = new, following
    raise AssertionError("not converged")


def step_sizes(lipschitz, shape, metric):
    if not metric:
        return np.array(1 / lipschitz)
    return np.random.default_rng(0).uniform(0.3, 1, size=shape) / lipschitz


def kkt_residual(w, gradient, strength, groups, l1_ratio=0.0, weight=math.sqrt):
    """The largest violation of the optimality conditions, group by group."""
    g, worst = gradient(w), 0.0
    for group in groups:
        w_g, g_g = w[group].ravel(), g[group].ravel()
        l1, l2 = strength * l1_ratio, strength * (1 - l1_ratio) * weight(w_g.size)
        outside = np.maximum(np.abs(g_g) - l1, 0)
        if not w_g.any():
            worst = max(worst, np.linalg.norm(outside) - l2)
            continue
        slope = g_g + l1 * np.sign(w_g) + l2 * w_g / np.linalg.norm(w_g)
        worst = max(worst, np.where(w_g == 0, outside, np.abs(slope)).max())
    return worst


@pytest.mark.parametrize("metric", [False, True], ids=["scalar", "metric"])
@pytest.mark.parametrize("problem", [linnerud, pytest.param(diabetes, marks=slow)])
def test_multi_task_lasso(twin, problem, metric):
    X, Y = problem()
    n = len(X)
    largest = np.linalg.norm(X.T @ Y / n, axis=1).max()
    strength, shape = 0.25 * largest, (X.shape[1], Y.shape[1])
    penalty = twin.lib.group_l1(1, scale_by_size=False)
    at_zero = penalty.lambda_max(twin.array(-X.T @ Y / n))
    assert float(twin.numpy(at_zero)) == pytest.approx(largest, rel=1e-14)

    def gradient(w):
        return X.T @ (X @ w - Y) / n

    steps = step_sizes(np.linalg.norm(X, 2) ** 2 / n, shape, metric)
    w = minimise(twin, penalty, gradient, steps, strength, shape)
    model = MultiTaskLasso(
        alpha=strength, fit_intercept=False, tol=1e-14, max_iter=1_000_000
    )
    expected = model.fit(X, Y).coef_.T
    np.testing.assert_allclose(w, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    np.testing.assert_array_equal(w == 0, expected == 0)
    assert 0 < (w == 0).all(1).sum() < len(w)
    groups = list(range(len(w)))
    assert kkt_residual(w, gradient, strength, groups, weight=lambda n: 1.0) < 1e-11


@pytest.mark.parametrize(
    "metric", [pytest.param(False, marks=slow), True], ids=["scalar", "metric"]
)
@pytest.mark.parametrize("l1_ratio", [pytest.param(0.0, marks=slow), 0.4])
@pytest.mark.parametrize("loss", ["squared", pytest.param("logistic", marks=slow)])
def test_groups_of_measurements(twin, loss, l1_ratio, metric):
    problem = problems.breast_cancer()
    X, y, n = problem.X, problem.y, len(problem.y)
    squared = loss == "squared"
    by_hand = problems.squared_gradient if squared else problems.logistic_gradient
    lipschitz = np.linalg.norm(X, 2) ** 2 / n / (1 if squared else 4)

    def gradient(w):
        return by_hand(np, X, y, w)

    penalty = twin.lib.sparse_group_l1(l1_ratio, groups=MEASUREMENTS)
    start = gradient(np.zeros(30))
    largest = float(twin.numpy(penalty.lambda_max(twin.array(start))))
    groups = list(MEASUREMENTS.values())
    for factor, stationary in ((1 + 1e-9, True), (1 - 1e-6, False)):
        excess = kkt_residual(
            np.zeros(30), gradient, factor * largest, groups, l1_ratio
        )
        assert (excess <= 0) == stationary

    strength = 0.2 * largest
    steps = step_sizes(lipschitz, 30, metric)
    w = minimise(twin, penalty, gradient, steps, strength, 30)
    assert kkt_residual(w, gradient, strength, groups, l1_ratio) < 1e-11
    distance = penalty.optimality_distance(
        twin.array(w), twin.array(gradient(w)), strength
    )
    assert twin.numpy(distance).max() < 1e-11
    zero_groups = sum(not w[group].any() for group in groups)
    assert 0 < zero_groups < 10
    within = (w == 0).sum() - 3 * zero_groups
    assert (within > 0) == (l1_ratio > 0)
    value = twin.numpy(penalty.value(twin.array(w), strength))
    labels = np.arange(30) % 10
    np.testing.assert_allclose(value, strength * group_value(labels, l1_ratio)(w))
