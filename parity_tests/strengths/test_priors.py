import numpy as np
import pytest
from scipy import stats

from parity_tests.oracles.problems import diabetes


def test_the_objective_is_the_log_posterior(twin):
    problem = diabetes()
    n, rng = len(problem.y), np.random.default_rng(0)
    prior = stats.laplace(scale=twin.lib.laplace_scale(problem.strength, n))
    offsets = []
    for _ in range(50):
        w = rng.normal(size=10) * rng.integers(0, 2, size=10)
        penalty = twin.numpy(twin.lib.l1().value(twin.array(w), problem.strength))
        objective = n * (problem.loss(np, problem.X, problem.y, w) + penalty)
        likelihood = stats.norm(problem.X @ w).logpdf(problem.y).sum()
        offsets.append(objective + likelihood + prior.logpdf(w).sum())
    np.testing.assert_allclose(offsets, offsets[0], rtol=1e-12)


@pytest.mark.parametrize("variance", [1.0, 0.3])
def test_the_most_probable_weight_is_the_prox(twin, variance):
    # One weight, n measurements y_i = w + noise: the mean loss is (w - mean)^2 / 2.
    y = np.random.default_rng(1).normal(0.4, variance**0.5, size=20)
    grid = np.linspace(-2, 2, 400_001)
    for strength in (0.1, 0.35, 2.0):
        scale = variance * twin.lib.laplace_scale(strength, 20)
        np.testing.assert_allclose(
            variance * twin.lib.laplace_strength(scale, 20), strength, rtol=1e-15
        )
        log_density = stats.laplace(scale=scale).logpdf(grid) + sum(
            stats.norm(grid, variance**0.5).logpdf(value) for value in y
        )
        w = twin.numpy(twin.lib.soft_threshold(twin.array(y.mean()), strength))
        np.testing.assert_allclose(grid[log_density.argmax()], w, atol=1e-5)
    assert w == 0


def test_arrays_and_bad_input(twin):
    scales = twin.lib.laplace_scale(twin.array([0.1, 0.2]), 50)
    np.testing.assert_allclose(twin.numpy(scales), [0.2, 0.1], rtol=1e-15)
    for call in (twin.lib.laplace_scale, twin.lib.laplace_strength):
        for value in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=rf"inf\), got {value}"):
                call(value, 10)
            with pytest.raises(ValueError, match="n must be a Python number"):
                call(1.0, value)
        for value in ("1", None, True):
            with pytest.raises(TypeError, match="must be a Python number"):
                call(value, 10)
