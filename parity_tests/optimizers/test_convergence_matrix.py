"""The promise, for every optimizer: the oracle's zeros and objective, in both twins."""

import math

import numpy as np
import pytest

from parity_tests.frameworks.twins import TRAIN
from parity_tests.oracles import optima
from parity_tests.oracles.convergence_matrix import CASES, ROWS, STEPS, case

SLOW = pytest.mark.slow
PAIRS = [
    pytest.param(framework, name, id=f"{framework}-{name}")
    for name, row in ROWS.items()
    for framework in TRAIN
    if getattr(row, framework)
]


@pytest.mark.parametrize(
    "problem",
    [pytest.param(name, marks=[SLOW] * (name != "lasso")) for name in CASES],
)
@pytest.mark.parametrize(("framework", "name"), PAIRS)
def test_every_optimizer_reaches_the_optimum(framework, name, problem):
    params = TRAIN[framework](problem, ROWS[name], STEPS[problem])
    assert case(problem).same_support(params)
    assert abs(case(problem).gap(params)) <= 1e-9


@SLOW
def test_the_oracles_are_optimal_themselves():
    problem = case("multinomial")
    assert optima.multinomial_kkt_residual(
        problem.X, problem.y, problem.strength, problem.optimum
    ) <= (1e-13)
    for name in CASES:
        zeros = int((case(name).optimum["w"] == 0).sum())
        assert zeros == {
            "lasso": 5,
            "elastic_net": 2,
            "logistic": 26,
            "multinomial": 543,
        }.get(name)


@pytest.mark.parametrize("framework", TRAIN)
@pytest.mark.parametrize(
    "max_ratio", [1.5, *(pytest.param(r, marks=SLOW) for r in (3.0, 10.0, math.inf))]
)
def test_the_cap_moves_no_stationary_point(framework, max_ratio):
    """640 weights, 30 of which never have a gradient."""
    params = TRAIN[framework]("multinomial", ROWS["adam"], 2_000, max_ratio=max_ratio)
    assert case("multinomial").same_support(params)
    assert abs(case("multinomial").gap(params)) <= 1e-9


@pytest.mark.parametrize("framework", TRAIN)
@pytest.mark.parametrize("name", ["adam", "rmsprop, centered", "adadelta", "radam"])
@pytest.mark.parametrize("max_ratio", [1.5, math.inf])
def test_the_cap_and_the_slope_of_the_elastic_net(framework, name, max_ratio):
    """A cap blind to the penalty's slope at zero would hold these weights back."""
    params = TRAIN[framework](
        "elastic_net", ROWS[name], 2_000, max_ratio=max_ratio, l1_ratio=0.1
    )
    problem = case("elastic_net", 0.1)
    assert problem.same_support(params)
    assert abs(problem.gap(params)) <= 1e-9


@pytest.mark.parametrize("framework", TRAIN)
@pytest.mark.parametrize("window", [3, 100, math.inf])
def test_the_window_moves_no_stationary_point(framework, window):
    params = TRAIN[framework]("lasso", ROWS["adam"], 3_000, window=window)
    assert case("lasso").same_support(params)
    assert abs(case("lasso").gap(params)) <= 1e-9


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.equal])
def test_trajectories_agree_in_double(name):
    """At every one of 600 steps, where the frameworks' optimizers are the same."""
    ours, theirs = (
        train("lasso", ROWS[name], 600, trail=True)["w"] for train in TRAIN.values()
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(ours != 0, theirs != 0)


def test_rmsprop_with_momentum_agrees_at_a_constant_rate():
    """Only there: optax applies the momentum behind the learning rate, torch before."""
    ours, theirs = (
        train("lasso", ROWS["rmsprop, momentum"], 600, schedule=False, trail=True)["w"]
        for train in TRAIN.values()
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(ours != 0, theirs != 0)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.equal])
def test_trajectories_agree_in_single(name):
    ours, theirs = (
        train("lasso", ROWS[name], 600, trail=True, dtype="float32")["w"]
        for train in TRAIN.values()
    )
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6)
    assert ((ours != 0) != (theirs != 0)).mean() <= 1e-4
    np.testing.assert_array_equal(ours[-1] != 0, theirs[-1] != 0)


@pytest.mark.parametrize(
    "kwargs", [{"metric": "tensor"}, {"metric": "none"}, {"window": 9}]
)
@pytest.mark.parametrize("name", ["adam", "sgd, momentum", "rmsprop", "adadelta"])
def test_trajectories_agree_in_every_metric(name, kwargs):
    ours, theirs = (
        train("lasso", ROWS[name], 300, trail=True, **kwargs)["w"]
        for train in TRAIN.values()
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(ours != 0, theirs != 0)


@pytest.mark.parametrize(
    "name", [n for n, row in ROWS.items() if row.jax and row.torch and not row.equal]
)
def test_where_the_frameworks_part_is_known(name):
    """The table of equal settings is right in the negative too."""
    ours, theirs = (
        train("lasso", ROWS[name], 50, trail=True)["w"] for train in TRAIN.values()
    )
    assert np.abs(ours - theirs).max() > 1e-9
