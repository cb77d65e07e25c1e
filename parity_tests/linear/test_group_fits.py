"""Groups in linear models, on columns that are neither centred nor scaled."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import MultiTaskLasso

from parity_tests.frameworks.twins import JAX, TORCH, Twin
from parity_tests.oracles.optima import linear_bounds


def mixed_units(seed, n, p):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) + rng.normal(size=(n, 1))
    X = X * 100 ** rng.uniform(0, 1, p) + 100 * rng.normal(size=p)
    return X, (X / X.std(0))[:, :5].sum(1) + rng.normal(size=n)


def diabetes():
    return load_diabetes(scaled=False, return_X_y=True)


def wine():
    return load_wine(return_X_y=True)


DATA = {
    "diabetes": (diabetes, "squared"),
    "wine": (lambda: (wine()[0], wine()[1] * 1.0), "squared"),
    "two wines": (lambda: (wine()[0], (wine()[1] > 0) * 1.0), "logistic"),
    "wines": (wine, "multinomial"),
    "tall": (lambda: mixed_units(0, 100, 20), "squared"),
    "wide": (lambda: mixed_units(1, 30, 45), "squared"),
}
CORE = ("diabetes", "wine", "wines", "wide")


def linear(twin):
    return twin.module("linear.fitting")


def thirds(p):
    """Every third feature, so that the units of a group differ."""
    return {name: range(i, p, 3) for i, name in enumerate("abc")}


def top_of(loss, X, y, l1_ratio, owners, weights):
    """The least strength at which all is zero, by bisection of the definition."""
    Y = np.eye(y.max() + 1)[y] if loss == "multinomial" else y
    pull = np.abs((X - X.mean(0)).T @ (Y - Y.mean(0))) / len(y)
    low, high = 0.0, pull.max() * 1e3
    for _ in range(200):
        s = (low + high) / 2
        left = np.maximum(pull - s * l1_ratio, 0)
        sizes = np.sqrt(np.bincount(owners.ravel(), (left**2).ravel()))
        low, high = (low, s) if (sizes <= s * weights).all() else (s, high)
    return high


@pytest.mark.parametrize("l1_ratio", [0.0, 0.3])
@pytest.mark.parametrize(
    "data", [pytest.param(d, marks=() if d in CORE else pytest.mark.slow) for d in DATA]
)
def test_a_small_gap_whatever_the_units(twin: Twin, data, l1_ratio):
    load, loss = DATA[data]
    X, y = load()
    shape = X.shape[1:] + ((3,) if loss == "multinomial" else ())
    owners = np.arange(X.shape[1]) % 3
    owners = np.broadcast_to(owners.reshape(-1, *[1] * (len(shape) - 1)), shape)
    weights = (1 - l1_ratio) * np.sqrt(np.bincount(owners.ravel()))
    penalty = twin.lib.sparse_group_l1(l1_ratio, groups=thirds(X.shape[1]))
    top = top_of(loss, X, y, l1_ratio, owners, weights)
    null = linear_bounds(loss, X, y, *constant(loss, y, shape), 0.0)[0]
    for share in (0.5, 0.1, 0.01):
        strength = share * top
        found = linear(twin).solve_linear(
            twin.array(X), twin.array(y), strength, loss=loss, penalty=penalty
        )
        w, b = twin.numpy(found.coef), twin.numpy(found.intercept)
        groups = owners, strength * weights
        primal, dual = linear_bounds(loss, X, y, w, b, strength * l1_ratio, groups)
        np.testing.assert_allclose(found.objective, primal, rtol=1e-12)
        assert primal - dual <= 1.01e-6 * null
        assert found.converged
    above = linear(twin).solve_linear(
        twin.array(X), twin.array(y), top * (1 + 1e-9), loss=loss, penalty=penalty
    )
    assert not twin.numpy(above.coef).any()
    assert above.converged


def constant(loss, y, shape):
    """Coefficients 0, with the best intercept."""
    shares = np.bincount(y) / len(y) if loss == "multinomial" else np.mean(y)
    if loss == "squared":
        return np.zeros(shape), shares
    return np.zeros(shape), np.log(shares / (1 if shares.ndim else 1 - shares))


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
def test_groups_are_in_double_precision_whatever_the_datas(twin: Twin, l1_ratio):
    X, y = (a.astype(np.float32) for a in mixed_units(0, 100, 20))
    penalty = twin.lib.sparse_group_l1(l1_ratio, 0, block=4)
    wide, single = (
        linear(twin).solve_linear(
            twin.array(X, dtype),
            twin.array(y, dtype),
            2.0,
            penalty=penalty,
            tol=1e-10,
        )
        for dtype in ("float64", "float32")
    )
    assert wide.relative_gap <= 1e-10
    np.testing.assert_allclose(single.objective, wide.objective, rtol=1e-9)


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_rows_of_several_tasks_are_scikit_learns(twin: Twin, share):
    """One target for each task is one long target, with a block for each task."""
    X, _ = mixed_units(2, 30, 8)
    X = X - X.mean(0)
    rng = np.random.default_rng(0)
    Y = (X / X.std(0))[:, :2] @ rng.normal(size=(2, 3)) + rng.normal(size=(30, 3))
    Y = Y - Y.mean(0)
    strength = share * np.linalg.norm(X.T @ Y, axis=1).max() / 30
    best = MultiTaskLasso(strength, tol=1e-14, max_iter=100_000).fit(X, Y).coef_
    long = np.kron(np.eye(3), X)
    groups = {f"feature {j}": [j, 8 + j, 16 + j] for j in range(8)}
    found = linear(twin).solve_linear(
        twin.array(long),
        twin.array(Y.T.ravel()),
        strength / 3,
        penalty=twin.lib.group_l1(groups=groups, scale_by_size=False),
        fit_intercept=False,
        tol=1e-12,
    )
    ours = twin.numpy(found.coef).reshape(3, 8)
    np.testing.assert_allclose(ours, best, atol=1e-7)
    np.testing.assert_array_equal(ours == 0, best == 0)


def test_the_methods_agree(twin: Twin):
    X, y = mixed_units(3, 60, 12)
    X = (X - 3 * X.mean(0)) / X.std(0)  # not centred, so that FISTA must do it
    found = [
        linear(twin).solve_linear(
            twin.array(X),
            twin.array(y),
            0.1,
            penalty=twin.lib.sparse_group_l1(0.5, 0, block=3),
            method=method,
            tol=1e-9,
        )
        for method in ("gram", "working_set", "fista")
    ]
    for one in found:
        assert one.converged
        np.testing.assert_allclose(
            twin.numpy(one.coef), twin.numpy(found[0].coef), atol=1e-4
        )
    assert found[2].iterations < 1000


def test_the_twins_agree():
    for data in ("diabetes", "wines"):
        load, loss = DATA[data]
        X, y = load()
        coefs = [
            twin.numpy(
                linear(twin)
                .solve_linear(
                    twin.array(X),
                    twin.array(y),
                    0.5,
                    loss=loss,
                    penalty=twin.lib.group_l1(groups=thirds(X.shape[1])),
                    tol=1e-11,
                )
                .coef
            )
            for twin in (JAX, TORCH)
        ]
        np.testing.assert_allclose(*coefs, rtol=1e-5, atol=1e-7)
