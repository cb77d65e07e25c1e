"""Paths of linear models: precise whatever the data's dtype, scale and type."""

import re
from typing import NamedTuple

import jax
import numpy as np
import pytest
import torch
from sklearn.linear_model import lars_path

from parity_tests.frameworks.twins import TORCH, TWINS

PENALTIES = {
    "l1": lambda lib: lib.l1(),
    "elastic net": lambda lib: lib.elastic_net(0.5),
    "non-negative": lambda lib: lib.nonnegative_l1(),
    "groups": lambda lib: lib.group_l1(0, block=2),
}


def regression(n=60, p=10, seed=1):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    return X, X[:, :3].sum(1) + rng.normal(size=n)


def path_of(twin, X, y, *args, dtype="float64", **settings):
    arrays = twin.array(X, dtype), twin.array(y, dtype)
    return twin.lib.linear_path(*arrays, *args, **settings)


def largest(X, y):
    return np.abs((X - X.mean(0)).T @ (y - y.mean())).max() / len(y)


@pytest.mark.filterwarnings("ignore:.*did not converge")
@pytest.mark.parametrize("x64", [True, False])
def test_the_largest_strength_of_data_far_from_zero(twin, x64):
    if twin is TORCH and not x64:
        pytest.skip("torch has double precision always")
    X, y = regression()
    X, y = (a.astype(np.float32) for a in (X + 1e3, y + 1e5))
    jax.config.update("jax_enable_x64", x64)
    try:
        path = path_of(twin, X, y, count=3, dtype="float32")
    finally:
        jax.config.update("jax_enable_x64", True)
    expected = largest(X.astype(float), y.astype(float))
    np.testing.assert_allclose(path.strengths[0], expected, rtol=1e-7)
    assert path.nnz[0] == 0
    assert path.nnz[1] > 0


def test_the_largest_strength_of_huge_data(twin):
    X, y = (1e20 * a for a in regression())
    path = path_of(twin, X, y, count=3)
    np.testing.assert_allclose(path.strengths[0], largest(X, y), rtol=1e-12)
    assert path.nnz[0] == 0
    assert path.converged.all()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_paths_begin_with_all_zeros(twin, penalty):
    X, y = regression()
    made = PENALTIES[penalty](twin.lib)
    grad = (X - X.mean(0)).T @ (y - y.mean()) / len(y)
    norms = np.linalg.norm(grad.reshape(5, 2), axis=1) / np.sqrt(2)
    top = {"l1": np.abs(grad).max(), "elastic net": 2 * np.abs(grad).max()}
    top |= {"non-negative": grad.max(), "groups": norms.max()}
    for dtype in ("float32", "float64"):
        path = path_of(twin, X, y + 3, count=1, penalty=made, dtype=dtype)
        assert path.nnz == [0]
        assert path.converged
        expected = top[penalty]
        np.testing.assert_allclose(path.strengths, [expected], rtol=1e-6)


def test_a_path_of_single_precision_is_measured_in_double():
    X, y = regression(p=6)
    X, y = (X * 10.0 ** np.arange(-2, 4)).astype("f4"), (y + 100).astype("f4")
    found = [path_of(t, X, y, count=5, tol=1e-9, dtype="float32") for t in TWINS]
    X, y = X.astype(float), y.astype(float)
    for twin, path in zip(TWINS, found, strict=True):
        coef, b = (twin.numpy(path.params[k]).astype(float) for k in path.params)
        residual = coef @ X.T + b[:, None] - y
        loss, grad = (residual**2).mean(1) / 2, residual @ X / len(y)
        np.testing.assert_allclose(path.loss, loss, rtol=1e-12)
        objective = loss + path.strengths * np.abs(coef).sum(1)
        np.testing.assert_allclose(path.objective, objective, rtol=1e-12)
        s = path.strengths[:, None]
        at_zero = np.maximum(np.abs(grad) - s, 0)
        parts = np.where(coef == 0, at_zero, np.abs(grad + s * np.sign(coef)))
        parts = np.c_[parts, np.abs(residual.mean(1))]
        np.testing.assert_allclose(path.residual.largest, parts.max(1), atol=1e-9)
        norms = np.linalg.norm(parts, axis=1)
        np.testing.assert_allclose(path.residual.norm, norms, atol=1e-9)


@pytest.mark.parametrize(
    "penalty",
    [
        # Groups are solved by FISTA, which compiles each time.
        pytest.param(name, marks=pytest.mark.slow if name == "groups" else ())
        for name in PENALTIES
    ],
)
def test_the_residual_is_that_of_optimality_residual(twin, penalty):
    X, y = regression()
    made = PENALTIES[penalty](twin.lib)
    path = path_of(twin, X, y, [0.3], penalty=made, tol=1e-3)
    params = path.at(0)
    residual = X @ twin.numpy(params["coef"]) + twin.numpy(params["intercept"]) - y
    grads = {"coef": X.T @ residual / len(y), "intercept": residual.mean()}
    expected = twin.lib.optimality_residual(
        twin.tree(grads),
        params,
        0.3,
        penalty=made,
        mask={"coef": True, "intercept": False},
    )
    for ours, theirs in zip(path.residual, expected, strict=True):
        np.testing.assert_allclose(ours[0], float(theirs), rtol=1e-9, atol=1e-15)


def test_validation_losses_of_single_precision_are_double(twin):
    X, y = (a.astype("f4") for a in regression())
    X, y = X + 100, y + 10_000
    fold, rest = np.arange(20), np.arange(20, 60)
    arrays = twin.array(X, "float32"), twin.array(y, "float32")
    settings = {"folds": [fold, rest], "tol": 1e-4}
    losses = twin.lib.cross_validate(*arrays, [0.5], **settings).losses
    model = twin.lib.solve_linear(
        twin.array(X[rest], "float32"),
        twin.array(y[rest], "float32"),
        0.5,
        tol=1e-4,
    )
    coef, b = (twin.numpy(a).astype(float) for a in (model.coef, model.intercept))
    expected = np.mean((X[fold].astype(float) @ coef + b - y[fold]) ** 2) / 2
    np.testing.assert_allclose(losses[0], expected, rtol=1e-12)


def test_python_numbers_are_double(twin):
    X, y = regression()
    zero, y = twin.array(np.zeros(10)), y + 1000.1
    arrays = twin.array(X), twin.array(y)
    gap = twin.lib.duality_gap(*arrays, zero, 0.1, intercept=1000.1)
    expected = np.mean((y - 1000.1) ** 2) / 2
    np.testing.assert_allclose(gap.primal, expected, rtol=1e-12)


def test_lists_and_bool_labels(twin):
    X, y = regression()
    lists, labels = X.tolist(), (y > 0).tolist()
    X, bools = twin.array(X), twin.array(y) > 0
    numbers = twin.array((y > 0) * 1.0)
    settings = {"loss": "logistic", "count": 3}
    expected = twin.lib.linear_path(X, numbers, **settings)
    for data in ((X, bools), (lists, labels)):
        found = twin.lib.linear_path(*data, **settings)
        np.testing.assert_allclose(found.objective, expected.objective, rtol=1e-12)
        kept = twin.lib.keep_features(*data, 2, **settings)
        assert len(kept.features) == 2
        one = twin.lib.cross_validate(*data, **settings)
        assert one.strength in one.strengths
        gap = twin.lib.duality_gap(*data, [0.0] * 10, 0.1, loss="logistic")
        np.testing.assert_allclose(gap.primal, np.log(2), rtol=1e-12)
    fista = twin.lib.solve_linear(X, bools, 0.1, method="fista")
    assert fista.converged


@pytest.mark.parametrize("bad", [None, "abc", [[1.0], [1.0, 2.0]], 1j])
def test_data_that_are_no_numbers(twin, bad):
    X, y = (twin.array(a) for a in regression())
    calls = [
        twin.lib.linear_path,
        lambda X, y: twin.lib.keep_features(X, y, 2),
        twin.lib.cross_validate,
        lambda X, y: twin.lib.duality_gap(X, y, y, 0.1),
    ]
    for call in calls:
        for name, data in (("X", (bad, y)), ("y", (X, bad))):
            with pytest.raises(TypeError, match=f"^{name} must be .* of real numbers"):
                call(*data)


def test_no_more_features_than_asked_for(twin):
    X, y = regression()
    weights = np.r_[0.0, 0.0, np.ones(8)]
    penalty = twin.lib.weighted_l1(weights)
    arrays = twin.array(X), twin.array(y)
    kept = twin.lib.keep_features(*arrays, 2, penalty=penalty)
    np.testing.assert_array_equal(kept.features, [0, 1])
    with pytest.raises(ValueError, match="k must be at least 2.* got 1"):
        twin.lib.keep_features(*arrays, 1, penalty=penalty)


@pytest.mark.parametrize("loss", ["logistic", "multinomial"])
def test_folds_that_leave_a_class_out(twin, loss):
    X, y = regression()
    y = np.arange(60) // (30 if loss == "logistic" else 20)
    arrays = twin.array(X), twin.array(y, "int64")
    call = twin.lib.cross_validate
    settings = {"loss": loss, "folds": len(set(y)), "count": 2}
    with pytest.raises(ValueError, match="got fold 0, outside .*shuffle=0, or strat"):
        call(*arrays, **settings)
    last = [list(range(10)), list(range(60 - np.count_nonzero(y == y[-1]), 60))]
    with pytest.raises(ValueError, match="got fold 1, outside .* a class has none"):
        call(*arrays, **settings | {"folds": last})
    assert call(*arrays, **settings, shuffle=0).strength > 0


def test_why_strengths_cannot_be_spaced(twin):
    X, y = regression()
    with pytest.raises(ValueError, match="must be positive, got 0: there is nothing"):
        path_of(twin, X, np.full(60, 0.1))
    ridge = twin.lib.elastic_net(0.0)
    with pytest.raises(ValueError, match="must be finite, got inf: the penalty has no"):
        path_of(twin, X, y, penalty=ridge)
    with pytest.raises(
        TypeError, match=re.escape("ratio must be a Python number in (0, 1), got 'a'")
    ):
        path_of(twin, X, y, ratio="a")
    criterion = twin.lib.information_criterion
    path = path_of(twin, X, y, [0.1])
    with pytest.raises(TypeError, match="gamma must be a Python number .* got 'a'"):
        criterion(path, 60, gamma="a")


def test_fista_starts_where_what_is_free_is_fitted(twin):
    X, y = regression()
    arrays = twin.array(X), twin.array(y + 1000)
    strength = largest(X, y) * (1 + 1e-12)
    found = twin.lib.solve_linear(*arrays, strength, method="fista")
    assert found.iterations == 0
    assert found.converged
    assert not twin.numpy(found.coef).any()
    np.testing.assert_allclose(float(found.intercept), np.mean(y + 1000), rtol=1e-12)


class Intervals(NamedTuple):
    """Between two knots of the Lasso's path the same features have weights."""

    weakest: np.ndarray
    strongest: np.ndarray
    kept: np.ndarray
    """Which features, of shape (intervals, features)."""

    def to_ask_for(self):
        """The number of features that is kept most briefly, not just by rounding."""
        width = 1 - self.weakest / self.strongest
        share = (self.strongest - self.weakest) / self.strongest[0]
        found = (self.weakest > 1e-3 * self.strongest[0]) & (share > 1e-10)
        counts = self.kept.sum(1)
        widest = {k: width[found & (counts == k)].max() for k in counts[found].tolist()}
        return min(widest, key=widest.get)


def problem_with_its_path(seed):
    rng = np.random.default_rng(seed)
    n, p = int(rng.integers(20, 80)), int(rng.integers(5, 60))
    X = rng.normal(size=(n, p)) + [0, 2, 0][seed % 3] * rng.normal(size=(n, 1))
    if seed % 3 == 2:
        X = X @ (np.eye(p) + rng.normal(size=(p, p)) / 2)
    y = X[:, :5].sum(1) + rng.choice([0.1, 1, 5]) * rng.normal(size=n)
    X, y = X - X.mean(0), y - y.mean()
    knots, _, coef = lars_path(X, y, method="lasso")
    # At the knot where it goes out a weight is zero up to rounding.
    used = np.abs(coef) > 1e-13 * np.abs(coef).max()
    kept = (used[:, 1:] | used[:, :-1]).T
    return X, y, Intervals(knots[1:], knots[:-1], kept)


@pytest.mark.parametrize(
    "seeds",
    [
        # Of 76 the number is kept for 3e-9 of the largest strength; of 71 it is kept
        # between strengths of the grid that keep fewer; 123 asks for one feature.
        pytest.param([*range(8), 71, 76, 123], id="few"),
        pytest.param(range(8, 200), id="many", marks=pytest.mark.slow),
    ],
)
def test_the_number_asked_for_is_found_where_it_exists(twin, seeds):
    wrong = []
    for seed in seeds:
        X, y, path = problem_with_its_path(seed)
        k = path.to_ask_for()
        kept = twin.lib.keep_features(twin.array(X), twin.array(y), k, count=20)
        here = (path.weakest < kept.strength) & (kept.strength < path.strongest)
        same = np.array_equal(
            path.kept[here], [np.isin(range(X.shape[1]), kept.features)]
        )
        if not (same and kept.exact and kept.solution.converged):
            wrong.append(seed)
    assert not wrong


def test_steps_whose_gain_rounding_hides_are_few(twin, monkeypatch):
    X, y, path = problem_with_its_path(1)
    calls, algebra = [], torch.linalg if twin is TORCH else np.linalg
    solve = algebra.solve
    monkeypatch.setattr(algebra, "solve", lambda *a: calls.append(0) or solve(*a))
    data = twin.array(X), twin.array(y), path.to_ask_for()
    assert twin.lib.keep_features(*data, count=20).exact
    # Of 28 strengths, each with a few problems of a few steps.
    assert 0 < len(calls) < 800
