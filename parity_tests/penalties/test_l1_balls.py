"""L1 balls: the distance to the normal cone, and the penalty with the same solution."""

import numpy as np
import pytest
import scipy.optimize

from parity_tests.oracles import optima, problems


@pytest.mark.parametrize("scope", ["array", "tree"])
def test_distance_of_the_ball_is_that_to_its_normal_cone(twin, scope):
    distance = twin.jit(twin.lib.l1_ball(2.0, scope=scope).optimality_distance)
    rng = np.random.default_rng(0)
    cases = [([1.0, 1, 0, 0], [-1.0, -1, 5, 0]), ([2.0, 0, 0, 0], [3.0, 0, 0, 0])]
    for zeros in (0, 1, 2, 3) * 10:
        x = rng.normal(size=4)
        x[:zeros] = 0
        cases.append((2 * x / np.abs(x).sum(), rng.normal(size=4) * 3 + rng.normal()))

    def left(mu, x, grad):
        at_zero = np.maximum(np.abs(grad) - mu, 0)
        return np.where(x == 0, at_zero, np.abs(grad + mu * np.sign(x)))

    for x, grad in map(np.array, cases):
        nearest = scipy.optimize.minimize_scalar(
            lambda mu, x=x, grad=grad: np.sum(left(mu, x, grad) ** 2),
            bounds=(0, np.abs(grad).max()),
            method="bounded",
            options={"xatol": 1e-10},
        ).x
        found = twin.numpy(distance(twin.array(x), twin.array(grad)))
        np.testing.assert_allclose(found, left(nearest, x, grad), atol=1e-6)
        inside = twin.numpy(distance(twin.array(0.9 * x), twin.array(grad)))
        np.testing.assert_array_equal(inside, np.abs(grad))
    np.testing.assert_allclose(
        np.linalg.norm(twin.numpy(distance(*map(twin.array, cases[0])))), 96**0.5 / 3
    )


@pytest.mark.slow_in_jax
@pytest.mark.parametrize(
    ("fraction", "steps"),
    [(0.5, 120), (0.1, 300), pytest.param(0.02, 3000, marks=pytest.mark.slow)],
)
def test_ball_and_penalty_have_the_same_solutions(twin, fraction, steps):
    problem = problems.diabetes(fraction)
    optimum = optima.sklearn_lasso(problem)
    lib = twin.lib
    radius = float(lib.implied_radius({"w": twin.array(optimum)}))
    np.testing.assert_allclose(radius, np.abs(optimum).sum(), rtol=1e-15)
    project, lr = twin.jit(lib.l1_ball(radius).prox), 1 / problem.lipschitz
    X, y = twin.array(problem.X), twin.array(problem.y)
    w = twin.array(np.zeros(10))
    for _ in range(steps):
        gradient = problem.gradient(np, X, y, w)
        w = project(w - lr * gradient, lr)
    found = twin.numpy(w)
    np.testing.assert_allclose(found, optimum, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(found == 0, optimum == 0)
    # The other way round: the strength is the multiplier.
    pull = -twin.numpy(problem.gradient(np, X, y, w)) * np.sign(found)
    np.testing.assert_allclose(pull[found != 0], problem.strength, rtol=1e-6)


@pytest.mark.slow_in_jax
def test_implied_radius_counts_the_penalised(twin):
    params = twin.tree({"w": [[1.0, -2.0]], "bias": [7.0]})
    radius = twin.lib.implied_radius
    assert float(radius(params)) == 3
    assert float(radius(params, mask=None)) == 10
