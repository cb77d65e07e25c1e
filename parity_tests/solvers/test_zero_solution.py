"""The smallest strength that makes all weights zero: formulas, and scikit-learn."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.linear_model import ElasticNet, LogisticRegression, MultiTaskLasso

import l1jax.solvers.zero_solution
from parity_tests.frameworks.twins import JAX
from parity_tests.oracles import problems
from parity_tests.solvers.losses import cross_entropy

XP = {"jax": jnp, "torch": torch}


def lambda_max(twin, loss, params, **kwargs):
    return twin.lib.lambda_max(
        lambda params: loss(XP[twin.name], params), twin.tree(params), **kwargs
    )


def data():
    """Diabetes with means that are not 0, so that the intercept counts."""
    problem = problems.diabetes()
    return problem.X + 1.0, problem.y + 3.0


def squared(twin, X, y):
    X, y = twin.array(X), twin.array(y)
    return lambda xp, p: ((X @ p["w"] + p["b"] - y) ** 2).sum() / (2 * len(y))


START = {"w": np.ones(10), "b": np.zeros(())}


@pytest.mark.parametrize("l1_ratio", [pytest.param(1.0, marks=pytest.mark.slow), 0.5])
def test_of_the_lasso_and_the_elastic_net(twin, l1_ratio):
    X, y = data()
    found = lambda_max(
        twin,
        squared(twin, X, y),
        START,
        penalty=twin.lib.elastic_net(l1_ratio),
        tol=1e-10,
    )
    found = float(found)
    wanted = np.abs(X.T @ (y - y.mean())).max() / len(y) / l1_ratio
    assert found == pytest.approx(wanted, rel=1e-9)
    for factor, nonzero in ((1.001, 0), (0.999, 1)):
        model = ElasticNet(factor * found, l1_ratio=l1_ratio, tol=1e-12)
        assert np.count_nonzero(model.fit(X, y).coef_) == nonzero


@pytest.mark.slow_in_jax
def test_of_logistic_regression(twin):
    X, y = datasets.load_breast_cancer(return_X_y=True)
    X = problems.breast_cancer().X
    A, labels = twin.array(X), twin.array(2.0 * y - 1)

    def loss(xp, params):
        margin = labels * (A @ params["w"] + params["intercept"])
        return xp.logaddexp(0 * margin, -margin).mean()

    start = {"w": np.zeros(30), "intercept": np.zeros(())}
    found = float(lambda_max(twin, loss, start, tol=1e-10))
    # With the intercept alone the probability is the share of the class.
    assert found == pytest.approx(np.abs(X.T @ (y - y.mean())).max() / len(y), rel=1e-9)


def test_below_it_scikit_learns_classifier_has_a_weight():
    X, y = datasets.load_breast_cancer(return_X_y=True)
    X = problems.breast_cancer().X
    found = np.abs(X.T @ (y - y.mean())).max() / len(y)
    for factor, nonzero in ((1.001, False), (0.999, True)):
        model = LogisticRegression(
            C=1 / (len(y) * factor * found),
            l1_ratio=1.0,
            solver="liblinear",
            intercept_scaling=1e4,  # it penalises the intercept, here hardly
            tol=1e-12,
            max_iter=100_000,
            random_state=0,
        )
        assert model.fit(X, y).coef_.any() == nonzero


def digits():
    """Of pixels from 0 to 1."""
    return datasets.load_digits().data / 16, problems.digits()[1]


def softmax(twin):
    return cross_entropy(twin, *digits())


@pytest.mark.slow_in_jax
def test_of_softmax_on_digits(twin):
    X, Y = digits()
    start = {"w": np.zeros((64, 10)), "b": np.zeros(10)}
    found = float(lambda_max(twin, softmax(twin), start))
    # The biases alone give each class its share.
    wanted = np.abs(X.T @ (Y.mean(0) - Y)).max() / len(X)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert found == pytest.approx(0.0635, abs=5e-5)


@pytest.mark.slow_in_jax
def test_of_groups(twin):
    X, y = data()
    Y = np.stack([y, y**2], 1)
    A, B = twin.array(X), twin.array(Y)
    found = lambda_max(
        twin,
        lambda xp, p: ((A @ p["w"] + p["b"] - B) ** 2).sum() / (2 * len(Y)),
        {"w": np.zeros((10, 2)), "b": np.zeros(2)},
        penalty=twin.lib.group_l1(1, scale_by_size=False),
        tol=1e-10,
    )
    found = float(found)
    slope = X.T @ (Y - Y.mean(0)) / len(Y)
    assert found == pytest.approx(np.linalg.norm(slope, axis=1).max(), rel=1e-9)
    for factor, nonzero in ((1.001, False), (0.999, True)):
        model = MultiTaskLasso(factor * found, tol=1e-12)
        assert model.fit(X, Y).coef_.any() == nonzero


@pytest.mark.slow_in_jax
def test_above_it_the_solver_ends_at_zero(twin):
    loss = squared(twin, *data())
    solve = twin.lib.solve
    found = float(lambda_max(twin, loss, START, tol=1e-10))
    for factor, nonzero in ((1.001, 0), (0.999, 1)):
        end = solve(
            lambda params: loss(XP[twin.name], params),
            twin.tree(START),
            factor * found,
            tol=1e-9,
        )
        assert np.count_nonzero(twin.numpy(end.params["w"])) == nonzero


@pytest.mark.slow_in_jax
def test_in_several_arrays_it_is_the_largest(twin):
    X, y = problems.diabetes().X, problems.diabetes().y
    A, B = twin.array(X), twin.array(y)

    def loss(xp, params):
        out = A[:, :4] @ params["u"] + A[:, 4:] @ params["v"]
        return ((out - B) ** 2).sum() / (2 * len(y))

    params = {"u": np.zeros(4), "v": np.zeros(6)}
    slope = np.abs(X.T @ y) / len(y)
    assert float(lambda_max(twin, loss, params)) == pytest.approx(slope.max())
    # What the mask leaves out is fitted.
    rest = y - X[:, :4] @ np.linalg.lstsq(X[:, :4], y, rcond=None)[0]
    found = lambda_max(twin, loss, params, mask={"u": False, "v": True}, tol=1e-12)
    wanted = np.abs(X[:, 4:].T @ rest).max() / len(y)
    assert float(found) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.slow_in_jax
def test_without_intercept_nothing_is_fitted(twin):
    problem = problems.diabetes()
    X, y = twin.array(problem.X), twin.array(problem.y)
    found = lambda_max(
        twin, lambda xp, p: problem.loss(xp, X, y, p["w"]), {"w": np.ones(10)}
    )
    assert float(found) == pytest.approx(10 * problem.strength, rel=1e-12)


def deep(twin):
    A = twin.array(np.eye(3))

    def loss(xp, params):
        hidden = xp.tanh(A @ params["u"] + params["b"])
        return ((hidden @ params["w"] - 1.0) ** 2).mean()

    return loss, {"u": np.ones((3, 2)), "b": np.zeros(2), "w": np.ones(2)}


def test_of_a_deep_network_it_warns(twin):
    loss, start = deep(twin)
    with pytest.warns(UserWarning, match="no gradient of .*'u'.* target_sparsity"):
        found = lambda_max(twin, loss, start | {"b": np.ones(2)})
    assert float(found) == pytest.approx(2 * np.tanh(1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("output_bias", [False, True])
def test_where_no_gradient_is_left_there_is_none(twin, dtype, output_bias):
    xp, A, start = (
        XP[twin.name],
        np.random.default_rng(0).normal(size=(9, 3)),
        deep(twin)[1],
    )
    A, y = twin.array(A, dtype), twin.array(A[:, 0] * 7, dtype)
    start |= {"b": np.ones(2) * output_bias} | (
        {"bias": np.zeros(())} if output_bias else {}
    )

    def loss(params):
        hidden = xp.tanh(A @ params["u"] + params["b"])
        return ((hidden @ params["w"] + params.get("bias", 0.0) - y) ** 2).mean()

    for call in (twin.lib.lambda_max, twin.lib.regularisation_path):
        with pytest.raises(
            ValueError, match="no lambda_max: .*'u'.* target_sparsity, or"
        ):
            call(loss, twin.tree(start, dtype))


@pytest.mark.slow_in_jax
def test_of_one_array_without_gradient_it_is_zero(twin):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lambda_max(twin, lambda xp, p: (p["w"] ** 2).sum(), {"w": np.ones(2)})
    assert float(found) == 0


def test_it_may_be_compiled():
    X, y = data()
    loss = squared(JAX, X, y)
    run = l1jax.solvers.zero_solution.lambda_max
    compiled = jax.jit(lambda params: run(lambda p: loss(jnp, p), params))
    wanted = np.abs(X.T @ (y - y.mean())).max() / len(y)
    assert float(compiled(JAX.tree(START))) == pytest.approx(wanted, rel=1e-5)


def test_bad_input_is_named(twin):
    loss = squared(twin, *data())
    with pytest.raises(ValueError, match="has no lambda_max: a constraint"):
        lambda_max(twin, loss, START, penalty=twin.lib.l1_ball(1.0))
    with pytest.raises(ValueError, match="selects nothing to penalise"):
        lambda_max(twin, lambda xp, p: p["b"].sum(), {"b": np.zeros(3)})
    with pytest.raises(TypeError, match="loss must return a real floating scalar"):
        lambda_max(twin, lambda xp, p: p["w"], {"w": np.zeros(3)})
    with pytest.raises(ValueError, match="tol must be"):
        lambda_max(twin, loss, START, tol=-1.0)
    with pytest.warns(UserWarning, match="solve has not converged"):
        lambda_max(twin, loss, START, max_iterations=1, tol=0.0)


def test_what_the_loss_does_not_use_is_left_alone(twin):
    params = twin.tree({"w": np.ones(3), "b": 2.0})
    found = twin.lib.lambda_max(lambda p: ((p["w"] - 3.0) ** 2).sum() / 2, params)
    assert float(found) == 3.0
