"""The full-batch solver: scikit-learn's optima, certificates, and the twins alike."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.linear_model import ElasticNet, Lasso, MultiTaskLasso

from parity_tests.frameworks.twins import JAX, TORCH, TWINS
from parity_tests.oracles import optima as oracles
from parity_tests.oracles import problems

XP = {"jax": jnp, "torch": torch}


def solver(twin):
    return twin.lib.solve


def solve(twin, loss, params, *args, dtype="float64", **kwargs):
    """Solves with `loss(array module, params)`; gives parameters in numpy, and all."""
    found = solver(twin)(
        lambda params: loss(XP[twin.name], params),
        twin.tree(params, dtype),
        *args,
        **kwargs,
    )
    return {k: twin.numpy(v) for k, v in found.params.items()}, found


def of_problem(twin, problem, dtype="float64"):
    X, y = twin.array(problem.X, dtype), twin.array(problem.y, dtype)
    return lambda xp, params: problem.loss(xp, X, y, params["w"])


def zeros(problem):
    return {"w": np.zeros(problem.X.shape[1])}


def cross_entropy(twin, X, Y):
    X, Y = twin.array(X), twin.array(Y)

    def loss(xp, params):
        scores = X @ params["w"] + params["b"]
        top = xp.amax(scores, 1)
        sums = xp.exp(scores - top[:, None]).sum(1)
        return (top + xp.log(sums) - (scores * Y).sum(1)).mean()

    return loss


def few_digits():
    X, Y = problems.digits()
    return X[:80], Y[:80]


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
    wanted = oracles.sklearn_logistic(problem)
    steps, points = [], []
    for twin in TWINS:
        params, found = solve(
            twin, of_problem(twin, problem), zeros(problem), problem.strength, tol=1e-10
        )
        assert oracles.l1_kkt_residual(problem, params["w"]) <= 1.01e-10
        # liblinear stops at a residual of 5e-9 or so.
        np.testing.assert_allclose(params["w"], wanted, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(params["w"] == 0, wanted == 0)
        value = oracles.objective(problem, params["w"])
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
    wanted = oracles.multinomial_optimum(X, Y, strength)
    for twin in TWINS:
        start = {"w": np.zeros((64, 10)), "b": np.zeros(10)}
        params, found = solve(
            twin, cross_entropy(twin, X, Y), start, strength, tol=1e-12
        )
        residual = oracles.multinomial_kkt_residual(X, Y, strength, params)
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
    wanted = oracles.sklearn_lasso(problem)
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
    wanted = oracles.sklearn_lasso(problem)
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


def test_vmap_gives_what_a_loop_gives():
    problem = problems.diabetes()
    X, y = jnp.asarray(problem.X), jnp.asarray(problem.y)

    def run(strength, w):
        return solver(JAX)(lambda w: problem.loss(jnp, X, y, w), w, strength, tol=1e-9)

    strengths = problem.strength * np.array([0.1, 0.1, 1.0, 1.0, 9.0])
    starts = np.random.default_rng(0).normal(size=(5, 10))
    starts[[0, 2, 4]] = 0
    together = jax.jit(jax.vmap(run))(strengths, starts)
    alone = jax.jit(run)
    for i in range(5):
        one = alone(strengths[i], starts[i])
        assert int(one.iterations) == int(together.iterations[i])
        assert bool(together.converged[i])
        np.testing.assert_allclose(together.params[i], one.params, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(together.params[i] == 0, one.params == 0)
    assert len(set(np.asarray(together.iterations))) > 2


def network(twin):
    X, Y = few_digits()
    last = cross_entropy(twin, np.eye(len(X)), Y)
    X = twin.array(X)

    def loss(xp, params):
        hidden = xp.tanh(X @ params["u"] + params["b"])
        scores = hidden @ params["w"] + params["c_bias"]
        return last(xp, {"w": scores, "b": 0.0})

    rng = np.random.default_rng(0)
    shapes = {"u": (64, 16), "b": (16,), "w": (16, 10), "c_bias": (10,)}
    start = {k: 0.1 * rng.normal(size=shape) for k, shape in shapes.items()}
    return loss, start


@pytest.mark.slow_in_jax
def test_a_network_ends_at_a_stationary_point(twin):
    X, Y = few_digits()
    loss, start = network(twin)
    strength = 3e-3
    params, found = solve(twin, loss, start, strength, tol=1e-3)
    assert bool(found.converged)
    sizes = {k: np.abs(v).sum() for k, v in params.items()}
    first = {k: np.abs(v).sum() for k, v in start.items()}
    before = float(loss(XP[twin.name], twin.tree(start)))
    before += strength * (first["u"] + first["w"])
    assert float(found.objective) < 0.5 * before
    value = float(found.loss) + strength * (sizes["u"] + sizes["w"])
    assert float(found.objective) == pytest.approx(value, rel=1e-12)
    assert np.mean(params["u"] == 0) > 0.5
    # The certificate in numpy, from the gradients of the layer written by hand.
    hidden = np.tanh(X @ params["u"] + params["b"])
    slope = problems.multinomial_gradient(
        np, hidden, Y, {"w": params["w"], "b": params["c_bias"]}
    )
    w, g = params["w"], slope["w"]
    at_zero = np.maximum(np.abs(g) - strength, 0)
    violations = np.where(w == 0, at_zero, np.abs(g + strength * np.sign(w)))
    assert max(violations.max(), np.abs(slope["b"]).max()) <= 1.0001e-3


@pytest.mark.slow_in_jax
def test_penalties_that_are_not_convex_end_stationary(twin):
    problem = problems.diabetes()
    params, found = solve(
        twin,
        of_problem(twin, problem),
        zeros(problem),
        problem.strength,
        penalty=twin.lib.mcp(1.0, gamma=3.0),
        tol=1e-10,
    )
    w = params["w"]
    g = problem.gradient(np, problem.X, problem.y, w)
    slope = problem.strength * np.maximum(1 - np.abs(w) / 3, 0) * np.sign(w)
    at_zero = np.maximum(np.abs(g) - problem.strength, 0)
    assert np.where(w == 0, at_zero, np.abs(g + slope)).max() <= 1.01e-10
    assert bool(found.converged)


@pytest.mark.slow_in_jax
def test_precisions_may_be_mixed(twin):
    problem = problems.diabetes()
    X, y = twin.array(problem.X), twin.array(problem.y)

    def loss(xp, params):
        wide = {"jax": jnp.float64, "torch": torch.float64}[twin.name]
        cast = [
            v.astype(wide) if twin is JAX else v.to(wide)
            for v in (params["u"], params["v"], params["x"])
        ]
        return problem.loss(xp, X, y, xp.concatenate(cast))

    params = {
        "u": twin.array(np.zeros(4), "float32"),
        "v": twin.array(np.zeros(4)),
        "x": twin.array(np.zeros(2), "bfloat16"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # bfloat16 goes nowhere near
        found = solver(twin)(
            lambda params: loss(XP[twin.name], params),
            params,
            problem.strength,
            max_iterations=200,
        )
    dtypes = {k: twin.dtype(v) for k, v in found.params.items()}
    assert dtypes == {"u": "float32", "v": "float64", "x": "bfloat16"}
    w = np.concatenate([twin.numpy(v) for v in found.params.values()])
    assert oracles.relative_gap(problem, w, oracles.sklearn_lasso(problem)) < 1e-5


@pytest.mark.slow_in_jax
def test_a_domain_that_steps_leave(twin):
    # Poisson-like: the logarithm of a negative number is NaN, and of zero infinite.
    counts = np.array([3, 0.03, 1])
    given = twin.array(counts)
    params, found = solve(
        twin,
        lambda xp, params: (params["w"] - given * xp.log(params["w"])).sum(),
        {"w": np.array([1.0, 5.0, 1.0])},
        0.5,
        tol=1e-9,
    )
    np.testing.assert_allclose(params["w"], counts / 1.5, rtol=1e-8)
    assert bool(found.converged)


@pytest.mark.slow_in_jax
def test_a_loss_that_falls_to_zero(twin):
    # Separable, without a penalty: the loss has no minimum, and rounding all to itself.
    loss = cross_entropy(twin, *few_digits())
    start = {"w": np.zeros((64, 10)), "b": np.zeros(10)}
    params, found = solve(twin, loss, start, 0.0, tol=1e-7)
    assert bool(found.converged)
    assert float(found.loss) < 1e-5
    assert np.isfinite(params["w"]).all()


@pytest.mark.slow_in_jax
def test_it_starts_where_it_is_told_and_leaves_the_start_alone(twin):
    problem = problems.diabetes()
    wanted = oracles.sklearn_lasso(problem)
    loss = of_problem(twin, problem)
    params, found = solve(twin, loss, {"w": wanted}, problem.strength, tol=1e-8)
    assert int(found.iterations) == 0
    np.testing.assert_array_equal(params["w"], wanted)
    start = {"w": twin.array(np.ones(10)), "unused": twin.array(np.ones(2))}
    kept = {k: twin.numpy(v).copy() for k, v in start.items()}
    found = solver(twin)(
        lambda params: loss(XP[twin.name], params), start | {"n": None}, 0.01
    )
    for name, value in kept.items():
        np.testing.assert_array_equal(twin.numpy(start[name]), value)
    assert found.params["n"] is None
    assert not twin.numpy(found.params["unused"]).any()


def test_it_solves_a_bare_array_and_a_module():
    X, y = torch.eye(3, dtype=torch.float64), torch.tensor([3.0, -2.0, 0.5]).double()
    found = solver(TORCH)(
        lambda w: ((X @ w - y) ** 2).sum() / 2, torch.zeros(3).double(), 1.0, tol=1e-9
    )
    np.testing.assert_allclose(found.params, [2, -1, 0], atol=1e-8)
    model = torch.nn.Linear(3, 1).double()
    before = {k: v.detach().clone() for k, v in model.named_parameters()}

    def loss(params):
        out = torch.func.functional_call(model, params, (X,))
        return ((out[:, 0] - y) ** 2).mean()

    found = solver(TORCH)(loss, dict(model.named_parameters()), 0.1)
    assert found.converged
    again = solver(TORCH)(loss, found.params, 0.1)
    assert again.iterations == 0
    assert again.params["weight"].data_ptr() != found.params["weight"].data_ptr()
    assert not any(v.requires_grad for v in found.params.values())
    for name, param in model.named_parameters():
        assert torch.equal(param, before[name])
        assert param.grad is None
