"""Newton's method ends: at the gap asked for, or where rounding ends all progress."""

import functools

import numpy as np
import pytest
import torch

from parity_tests.frameworks.twins import JAX, TWINS
from parity_tests.linear.unit_data import data as in_units
from parity_tests.oracles.optima import linear_bounds


def separable():
    """The outer rows of ordered data, whose labels three columns tell apart."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 30))
    y = X[:, :3].sum(1) + rng.normal(size=120) * 0.3
    X, y = X[np.argsort(y)], np.sort(y) > 0
    largest = np.abs(X.T @ (y - y.mean())).max() / 120
    rows = np.r_[0:48, 72:120]
    return X[rows], y[rows], largest * 1e-3 ** (np.arange(100) / 99)


def hard(kind, classes):
    """Correlated columns, or far from zero, or more than rows; and few strengths."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(40, 200) if kind == "wide" else (100, 30))
    score = X[:, :3].sum(1) + 0.3 * rng.normal(size=len(X))
    if kind == "correlated":
        X += 10 * rng.normal(size=(100, 1))
    elif kind == "far":
        X += 1000
    elif kind == "scales":
        X *= 10.0 ** rng.uniform(-3, 3, 30)
    y = np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))
    largest = np.abs((X - X.mean(0)).T @ np.eye(classes)[y]).max() / len(y)
    return X, y, largest * 1e-3 ** (np.arange(1, 9) / 8)


@functools.cache
def solved(data, loss, penalty="l1()", tol=1e-9):
    """Solve along a path in both twins; return the solutions of each."""
    X, y, strengths = data()
    found = []
    for twin in TWINS:
        arrays = twin.array(X), twin.array(y, "int64")
        made = eval(f"lib.{penalty}", {"lib": twin.lib})
        problem = twin.module("linear.problem").LinearProblem(
            *arrays,
            loss=loss,
            penalty=made,
            fit_intercept=True,
            tol=tol,
            max_iterations=100,
        )
        found.append(twin.module("linear.paths").solve_all(problem, strengths))
    return found


@pytest.mark.parametrize("tol", [1e-6, 1e-9])
def test_separable_data_take_few_rounds_and_the_same_in_both_twins(tol):
    for rows in zip(*solved(separable, "logistic", tol=tol), strict=True):
        assert all(one.relative_gap <= tol for one in rows)
        assert rows[0].iterations == rows[1].iterations <= 5


@pytest.mark.parametrize("penalty", ["l1()", "elastic_net(0.5)"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("correlated", marks=pytest.mark.slow),
        "far",
        pytest.param("scales", marks=pytest.mark.slow),
        pytest.param("wide", marks=pytest.mark.slow),
    ],
)
def test_hard_data_reach_a_small_gap_in_both_twins(kind, classes, penalty):
    loss = "logistic" if classes == 2 else "multinomial"
    found = solved(lambda: hard(kind, classes), loss, penalty)
    for rows in zip(*found, strict=True):
        assert all(one.relative_gap <= 1e-9 for one in rows)
        fewest, most = sorted(one.iterations for one in rows)
        assert most <= min(fewest + 1, 15)


@pytest.mark.parametrize("loss", ["logistic", "multinomial"])
def test_where_rounding_ends_all_progress_it_stops_and_says_what_it_reached(twin, loss):
    X, y, strengths = hard("far", 3 if loss == "multinomial" else 2)
    arrays = twin.array(X), twin.array(y, "int64")
    with pytest.warns(UserWarning, match="after .* relative duality gap is .*e-1"):
        found = twin.lib.solve_linear(*arrays, strengths[4], loss=loss, tol=0.0)
    assert found.iterations < 60
    assert found.relative_gap < 1e-10


@pytest.mark.parametrize("penalty", ["l1()", "nonnegative_l1()"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_cold_starts_at_strengths_next_to_nothing_reach_a_small_gap(dtype, penalty):
    X, y = in_units("multinomial", 1e3, 1.0)
    found = []
    for twin in TWINS:
        arrays = twin.array(X, dtype), twin.array(y, "int64")
        made = eval(f"lib.{penalty}", {"lib": twin.lib})
        settings = {"loss": "multinomial", "penalty": made}
        found.append(twin.lib.solve_linear(*arrays, 1e-6, **settings))
    assert all(one.converged for one in found)
    assert found[0].iterations == found[1].iterations < 15
    if (dtype, penalty) == ("float64", "l1()"):
        w, b = np.asarray(found[0].coef), np.asarray(found[0].intercept)
        primal, dual = linear_bounds("multinomial", X, y, w, b, 1e-6)
        assert primal - dual <= 2e-6 * primal


@pytest.mark.parametrize("penalty", ["l1()", "elastic_net(0.5)", "nonnegative_l1()"])
def test_rows_are_shifted_to_where_they_cost_least(twin, penalty):
    rng = np.random.default_rng(0)
    w = np.abs(rng.normal(size=(6, 5)))
    w[0] = 0
    made = eval(f"lib.{penalty}", {"lib": twin.lib})
    if penalty != "nonnegative_l1()":
        w *= rng.choice([-1, 1], size=w.shape)
    terms = twin.module("linear.penalty_terms").penalty_terms(made, 2.0, w.shape)
    host = np.asarray if twin is JAX else torch.as_tensor
    shifted = twin.numpy(terms.shifted(host(w)))
    moves = w - shifted
    np.testing.assert_allclose(moves, moves[:, :1].repeat(5, 1), atol=1e-15)
    best = {"l1()": np.median(w, 1), "nonnegative_l1()": w.min(1)}
    if penalty in best:
        np.testing.assert_allclose(moves[:, 0], best[penalty], atol=1e-15)
        assert (shifted == 0).any(1).all()
    assert terms.value(host(shifted)) <= terms.value(host(w))
