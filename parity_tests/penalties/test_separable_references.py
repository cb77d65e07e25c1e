"""Optima of separable penalties on diabetes, by the optimizers: scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression

import l1jax
import l1torch
from parity_tests.oracles import problems

STEPS = 3000
WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0, np.inf, 0.25, 3.0, 1.0, 0.1, 1.5])


def pilot():
    problem = problems.diabetes()
    model = LinearRegression(fit_intercept=False)
    return model.fit(problem.X, problem.y).coef_


def fit(model, X):
    y, settings = problems.diabetes().y, {"tol": 1e-15, "max_iter": 1_000_000}
    return model.set_params(fit_intercept=False, **settings).fit(X, y).coef_


def of_weights(weights, strength):
    """A Lasso of rescaled columns; free ones are regressed out before."""
    problem = problems.diabetes()
    X, y = problem.X, problem.y
    free, barred = weights == 0, np.isinf(weights)
    rest = ~free & ~barred
    # The residuals of a regression on the free columns.
    basis = np.linalg.qr(X[:, free])[0]
    without = X - basis @ (basis.T @ X)
    model = Lasso(strength, fit_intercept=False, tol=1e-15, max_iter=1_000_000)
    model.fit(without[:, rest] / weights[rest], y - basis @ (basis.T @ y))
    w = np.zeros(len(weights))
    w[rest] = model.coef_ / weights[rest]
    w[free] = np.linalg.lstsq(X[:, free], y - X @ w, rcond=None)[0]
    return w


REFERENCES = {
    "elastic net": (
        lambda lib: lib.elastic_net(0.6),
        lambda strength: fit(ElasticNet(strength, l1_ratio=0.6), problems.diabetes().X),
    ),
    "non-negative": (
        lambda lib: lib.nonnegative_l1(),
        lambda strength: fit(Lasso(strength, positive=True), problems.diabetes().X),
    ),
    "weighted": (
        lambda lib: lib.weighted_l1(WEIGHTS),
        lambda strength: of_weights(WEIGHTS, strength),
    ),
    "adaptive": (
        lambda lib: lib.adaptive_l1(pilot()),
        lambda strength: of_weights(1 / np.abs(pilot()), strength),
    ),
}


def by_jax(penalty, problem, rate, strength):
    X, y = jnp.asarray(problem.X), jnp.asarray(problem.y)
    tx = l1jax.proximal(optax.sgd, rate, strength, penalty=penalty, momentum=0.9)

    @jax.jit
    def run(w):
        def body(carry, _):
            w, state = carry
            updates, state = tx.update(X.T @ (X @ w - y) / len(y), state, w)
            return (optax.apply_updates(w, updates), state), None

        return jax.lax.scan(body, (w, tx.init(w)), length=STEPS)[0][0]

    return np.asarray(run(jnp.zeros(10)))


def by_torch(penalty, problem, rate, strength):
    X, y = torch.tensor(problem.X), torch.tensor(problem.y)
    w = torch.nn.Parameter(torch.zeros(10, dtype=X.dtype))
    base = torch.optim.SGD([("w", w)], lr=rate, momentum=0.9)
    optimizer = l1torch.Proximal(base, strength, penalty=penalty)
    for _ in range(STEPS):
        w.grad = X.T @ (X @ w.detach() - y) / len(y)
        optimizer.step()
    return w.detach().numpy()


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("lib", [l1jax, l1torch])
def test_the_optimum_is_scikit_learns(lib, name):
    make, reference = REFERENCES[name]
    problem = problems.diabetes()
    run = by_jax if lib is l1jax else by_torch
    for fraction in (0.02, 0.1):
        strength = fraction * problem.strength / 0.1
        w = run(make(lib), problem, 0.1 / problem.lipschitz, strength)
        expected = reference(strength)
        np.testing.assert_allclose(w, expected, rtol=0, atol=1e-8)
        np.testing.assert_array_equal(w == 0, expected == 0)
        assert 0 < np.count_nonzero(w) < 10
