import importlib
import math
import sys
import warnings

import numpy as np
import optax
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.linear_model import lasso_path

from parity_tests.frameworks.twins import JAX, TORCH, TWINS
from parity_tests.oracles import problems
from parity_tests.oracles.optima import multinomial_kkt_residual

COUNT = 12


def run(twin, *args, **kwargs):
    return twin.lib.regularisation_path(*args, **kwargs)


def lasso(twin, dtype="float64"):
    """Diabetes with an intercept, away from the solution."""
    problem = problems.diabetes()
    X, y = twin.array(problem.X, dtype), twin.array(problem.y + 1.5, dtype)

    def loss(params):
        return ((X @ params["w"] + params["b"] - y) ** 2).mean() / 2

    return loss, twin.tree({"w": np.full(10, 0.3), "b": 0.5}, dtype)


def weights(twin, path, name="w"):
    return twin.numpy(path.params[name])


def spaced(count=COUNT, ratio=1e-3):
    return problems.diabetes(1.0).strength * np.geomspace(1, ratio, count)


def reference(strengths):
    problem = problems.diabetes()
    settings = {"alphas": strengths, "tol": 1e-15, "max_iter": 1_000_000}
    return lasso_path(problem.X, problem.y, **settings)[1].T


@pytest.fixture(scope="module")
def paths():
    """The same path by both twins."""
    return {
        twin.name: run(twin, *lasso(twin), count=COUNT, tol=1e-11) for twin in TWINS
    }


def adam(twin, rate=1e-2, **kwargs):
    if twin is JAX:
        return lambda s: twin.lib.proximal(optax.adam, rate, s, **kwargs)
    return lambda named, s: twin.lib.Proximal(
        torch.optim.Adam(named, rate), s, **kwargs
    )


def sgd(twin, rate):
    if twin is JAX:
        return lambda s: twin.lib.proximal(optax.sgd, rate, s)
    return lambda named, s: twin.lib.Proximal(torch.optim.SGD(named, rate), s)


def test_the_path_is_scikit_learns(twin, paths):
    path, problem = paths[twin.name], problems.diabetes()
    np.testing.assert_allclose(path.strengths, spaced(), rtol=1e-9)
    expected = reference(path.strengths)
    np.testing.assert_allclose(weights(twin, path), expected, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(path.nnz, np.count_nonzero(weights(twin, path), 1))
    np.testing.assert_array_equal(path.nnz[1:], np.count_nonzero(expected[1:], 1))
    assert path.nnz[0] <= 1, "rounding decides at the largest strength"
    assert path.size == 10
    assert len(path) == COUNT
    assert path.converged.all()
    assert (path.residual.largest <= 1e-11).all()
    assert (path.residual.largest <= path.residual.norm * (1 + 1e-9)).all()
    residuals = problem.y - expected @ problem.X.T
    losses = (residuals**2).mean(1) / 2
    np.testing.assert_allclose(path.loss, losses, rtol=1e-9)
    objective = losses + path.strengths * np.abs(expected).sum(1)
    np.testing.assert_allclose(path.objective, objective, rtol=1e-9)
    assert path.gap is None
    assert f"{COUNT} strengths from 0.586 to 0.000586" in repr(path)


def test_twins_agree(paths):
    ours, theirs = paths["jax"], paths["torch"]
    for name in ("strengths", "objective", "loss", "nnz", "converged"):
        ours_, theirs_ = getattr(ours, name), getattr(theirs, name)
        assert type(ours_) is type(theirs_) is np.ndarray
        assert ours_.dtype == theirs_.dtype
        np.testing.assert_allclose(ours_, theirs_, rtol=1e-12)
    for name in ("w", "b"):
        np.testing.assert_allclose(
            weights(JAX, ours, name), weights(TORCH, theirs, name), rtol=0, atol=1e-10
        )


def test_one_of_the_solutions(twin, paths):
    path = paths[twin.name]
    for index in (3, -1):
        np.testing.assert_array_equal(
            twin.numpy(path.at(index)["w"]), weights(twin, path)[index]
        )
    for index in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match="index must be in -12..11"):
            path.at(index)


def test_the_best_of_the_solutions(twin, paths):
    path = paths[twin.name]
    best = path.best(lambda params: -((twin.numpy(params["w"])[2] - 0.25) ** 2))
    expected = int(np.abs(weights(twin, path)[:, 2] - 0.25).argmin())
    assert best.index == expected
    assert 0 < expected < COUNT - 1
    assert best.strength == path.strengths[expected]
    np.testing.assert_array_equal(
        twin.numpy(best.params["w"]), weights(twin, path)[expected]
    )
    assert path.best([0, 1, 0, 1] + [0] * 8).index == 1, "the sparsest of the best"
    assert path.best([-math.inf] * 11 + [0.0]).index == 11
    for scores in ([1.0], np.zeros((COUNT, 1))):
        with pytest.raises(ValueError, match="score must be one number for each of 12"):
            path.best(scores)
    with pytest.raises(ValueError, match="got NaN at strengths 0.586, 0.313"):
        path.best(
            [math.nan] * 11 + [0.0],
        )


@pytest.mark.slow
def test_all_strengths_at_once_by_vmap(paths):
    loss, params = lasso(JAX)
    path = run(JAX, loss, params, count=COUNT, tol=1e-10, vectorised=True)
    np.testing.assert_allclose(path.params["w"], paths["jax"].params["w"], atol=1e-8)
    np.testing.assert_array_equal(path.nnz[1:], paths["jax"].nnz[1:])
    np.testing.assert_allclose(path.objective, paths["jax"].objective, rtol=1e-12)
    assert path.converged.all()


def test_optimizers_start_where_they_are_said_to(twin):
    # One step for each strength, by hand.
    problem, rate = problems.diabetes(), 0.1
    strengths = [0.4, 0.1, 0.05]

    def step(w, b, strength):
        residuals = problem.X @ w + b - problem.y - 1.5
        moved = w - rate * problem.X.T @ residuals / len(residuals)
        size = np.maximum(np.abs(moved) - rate * strength, 0)
        return np.sign(moved) * size, b - rate * residuals.mean()

    def check(expected, **kwargs):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            path = run(
                *(twin, *lasso(twin), strengths),
                **{"optimizer": sgd(twin, rate), "steps": 1, "tol": 1e-13, **kwargs},
            )
        (warning,) = caught
        assert warning.filename.endswith("test_regularisation.py"), (
            "where the path is asked for"
        )
        assert "3 of 3 strengths did not converge to a residual of" in str(warning)
        worst = path.residual.largest.max()
        assert f": 0.4, 0.1, 0.05; the worst reached {worst:.2g}." in str(warning)
        for (w, b), got_w, got_b in zip(
            expected, weights(twin, path), weights(twin, path, "b"), strict=True
        ):
            np.testing.assert_allclose(got_w, w, rtol=1e-12, atol=1e-15)
            np.testing.assert_allclose(got_b, b, rtol=1e-12)
        return path

    warm, last = [], (np.zeros(10), 1.5)  # the intercept, fitted to zero weights
    for strength in strengths:
        last = step(*last, strength)
        warm.append(last)
    path = check(warm)
    g = problem.X.T @ (problem.X @ last[0] + last[1] - problem.y - 1.5) / 442
    at_zero = np.maximum(np.abs(g) - 0.05, 0)
    w = last[0]
    violation = np.where(w == 0, at_zero, np.abs(g + 0.05 * np.sign(w))).max()
    intercept = abs(last[1] - 1.5)
    expected = max(violation, intercept)
    np.testing.assert_allclose(path.residual.largest[-1], expected, rtol=1e-9)
    cold = [step(np.full(10, 0.3), 0.5, strength) for strength in strengths]
    check(cold, warm_start=False)
    check(cold, vectorised=True)


@pytest.mark.slow
def test_adam_ends_at_the_zeros_of_solve(twin):
    strengths = spaced()[[2, 5]]
    loss, params = lasso(twin)
    path = run(
        *(twin, loss, params, strengths),
        **{"optimizer": adam(twin), "steps": 1000, "tol": 1e-5},
    )
    expected = reference(strengths)
    np.testing.assert_array_equal(weights(twin, path) == 0, expected == 0)
    np.testing.assert_allclose(weights(twin, path), expected, atol=1e-4)


@pytest.mark.slow
def test_adam_at_all_strengths_at_once(twin):
    strengths, settings = [0.3, 0.1, 0.03], {"optimizer": adam(twin), "steps": 30}
    loss, params = lasso(twin)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        one_by_one = run(twin, loss, params, strengths, warm_start=False, **settings)
        at_once = run(twin, loss, params, strengths, vectorised=True, **settings)
    for name in ("w", "b"):
        np.testing.assert_allclose(
            weights(twin, at_once, name), weights(twin, one_by_one, name), atol=1e-12
        )
    zeros = [weights(twin, path) == 0 for path in (at_once, one_by_one)]
    np.testing.assert_array_equal(*zeros)


@pytest.mark.slow
def test_multinomial_on_digits(twin):
    X, Y = problems.digits()
    rows = (Y[:, :3].sum(1) == 1).nonzero()[0][:150]
    X, Y = X[rows], Y[rows, :3]
    A, B = twin.array(X), twin.array(Y)
    xp = importlib.import_module("jax.numpy" if twin is JAX else "torch")

    def loss(params):
        scores = A @ params["w"] + params["b"]
        return (xp.log(xp.exp(scores).sum(1)) - (scores * B).sum(1)).mean()

    params = twin.tree({"w": np.zeros((64, 3)), "b": np.zeros(3)})
    path = run(twin, loss, params, count=4, ratio=0.05, tol=1e-7)
    centred = Y.mean(0) - Y
    np.testing.assert_allclose(
        path.strengths[0], np.abs(X.T @ centred).max() / len(Y), rtol=1e-6
    )
    assert path.size == 192
    assert path.nnz[0] <= 1
    assert (np.diff(path.nnz) > 0).all()
    for i, strength in enumerate(path.strengths):
        solution = {name: twin.numpy(x) for name, x in path.at(i).items()}
        residual = multinomial_kkt_residual(X, Y, strength, solution)
        assert residual <= 1.0001e-7
        np.testing.assert_allclose(path.residual.largest[i], residual, atol=1e-10)


@pytest.mark.slow
def test_other_penalties_and_masks(twin):
    loss, params = lasso(twin)
    penalty = twin.lib.elastic_net(0.5)
    path = run(twin, loss, params, count=2, penalty=penalty, tol=1e-8)
    np.testing.assert_allclose(path.strengths, 2 * spaced(2), rtol=1e-7)
    everything = run(twin, loss, params, [1.6, 0.2], mask=None, tol=1e-8)
    assert everything.size == 11
    assert weights(twin, everything, "b")[0] == 0, "an intercept of 1.5, penalised"
    with pytest.raises(ValueError, match="no lambda_max"):
        run(twin, loss, params, penalty=twin.lib.l1_ball(1.0))


@pytest.mark.slow
def test_one_bare_array(twin):
    y = twin.array([1.0, -0.5, 0.25])
    path = run(twin, lambda w: ((w - y) ** 2).sum() / 2, twin.array([0.0] * 3), [0.75])
    np.testing.assert_allclose(twin.numpy(path.params), [[0.25, 0, 0]], atol=1e-6)
    assert path.at(0).shape == (3,)


@pytest.mark.slow
def test_single_precision(twin):
    loss, params = lasso(twin, "float32")
    path = run(twin, loss, params, spaced(4)[1:], tol=1e-5)
    assert twin.dtype(path.params["w"]) == "float32"
    np.testing.assert_allclose(weights(twin, path), reference(spaced(4)[1:]), atol=5e-3)


def test_what_is_passed_in_stays():
    loss, params = lasso(TORCH)
    run(TORCH, loss, params, [0.3], optimizer=sgd(TORCH, 0.5), steps=2, tol=0.99)
    np.testing.assert_array_equal(params["w"].numpy(), np.full(10, 0.3))


@pytest.mark.slow
def test_solvers_do_not_warn_beside_the_path(twin):
    loss, params = lasso(twin)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(twin, loss, params, spaced(4), max_iterations=3, tol=1e-9)
    assert len(caught) == 1
    assert "did not converge to a residual of tol=1e-09: " in str(caught[0].message)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"strengths": []}, ValueError, "at least one number, got shape (0,)"),
        ({"strengths": ["a"]}, TypeError, "strengths must be a dense"),
        ({"strengths": [0.1, 0.2]}, ValueError, "strictly decreasing, got 0.1, 0.2"),
        ({"strengths": [0.1, 0.1]}, ValueError, "strictly decreasing"),
        ({"strengths": [0.1, 0.0]}, ValueError, "positive and finite, got 0."),
        ({"strengths": [math.nan]}, ValueError, "positive and finite, got nan"),
        ({"count": 0}, ValueError, "count must be a Python int >= 1"),
        (
            {"ratio": 1.0},
            ValueError,
            "ratio must be a Python number in (0, 1), got 1.0",
        ),
        ({"tol": -1.0}, ValueError, "tol must be"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be"),
        ({"optimizer": 3, "steps": 1}, TypeError, "optimizer must be a function of"),
        ({"steps": 3}, ValueError, "steps must be given if and only if optimizer is"),
        ({"optimizer": len}, ValueError, "steps must be given if and only if"),
        ({"optimizer": len, "steps": 0}, ValueError, "steps must be a Python int >= 1"),
    ],
)
def test_bad_input(twin, kwargs, error, message):
    loss, params = lasso(twin)
    with pytest.raises(error) as caught:
        run(twin, loss, params, **kwargs)
    assert message in str(caught.value)


def test_bad_losses(twin):
    _, params = lasso(twin)
    with pytest.raises(ValueError, match="loss must be finite at"):
        run(twin, lambda p: (p["w"] * math.nan).sum(), params, [0.1])
    with pytest.raises(TypeError, match="loss must return a .*scalar, got"):
        run(twin, lambda p: p["w"] ** 2, params, [0.1])
    with pytest.raises(ValueError, match="lambda_max must be positive, got 0"):
        run(twin, lambda p: (p["w"] ** 2).sum() + p["b"] ** 2, params)


def test_what_torch_cannot_vectorise():
    loss, params = lasso(TORCH)
    with pytest.raises(ValueError, match="vectorised must be False for solve"):
        run(TORCH, loss, params, [0.1], vectorised=True)
    kwargs = {"steps": 1, "vectorised": True}
    make, penalty = adam(TORCH, metric="tensor"), TORCH.lib.group_l1(0)
    with pytest.raises(ValueError, match="must be False with metric='tensor'"):
        run(TORCH, loss, params, [0.1], optimizer=make, **kwargs)
    with pytest.raises(ValueError, match="vectorised must be False for the penalty"):
        run(TORCH, loss, params, [0.1], optimizer=len, penalty=penalty, **kwargs)


def test_the_figure(twin, paths, tmp_path):
    plot_path, path = twin.lib.plot_path, paths[twin.name]
    names = [f"feature {i}" for i in range(10)]
    figure = plot_path(path, strength=0.05, labels=names, named=3)
    assert isinstance(figure, Figure)
    above, below = figure.axes
    assert below.get_xscale() == "log"
    assert below.get_xlim() == (path.strengths[0], path.strengths[-1])
    assert "strength" in below.get_xlabel()
    np.testing.assert_array_equal(above.lines[0].get_ydata(), path.nnz)
    drawn = {tuple(line.get_ydata()[-2:]) for line in below.lines}
    assert {tuple(column) for column in weights(twin, path)[-2:].T} <= drawn
    for axes in (above, below):
        assert any(set(line.get_xdata()) == {0.05} for line in axes.lines)
    largest = np.argsort(-np.abs(weights(twin, path)[-1]))[:3]
    assert {text.get_text() for text in below.texts} == {names[i] for i in largest}
    assert [text.get_text() for text in above.texts] == ["chosen: 0.05"]
    figure.savefig(tmp_path / "path.png")
    again = plot_path(path, axes=figure.subplots(1, 2), params="w")
    assert again is figure


def test_the_figure_of_several_classes(twin):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = np.argmax(X[:, :3] + (np.arange(3) == 1), axis=1)  # unequal intercepts
    arrays = twin.array(X), twin.array(y, "int64")
    path = twin.lib.linear_path(*arrays, count=5, ratio=0.05, loss="multinomial")
    coef, intercept = (twin.numpy(path.params[k]) for k in ("coef", "intercept"))
    assert (intercept[-1] != 0).all()
    features, classes = ["age", "size", "dose", "noise"], ["low", "mid", "high"]
    for names, named in (
        ({}, (range(4), [f"class {i}" for i in range(3)])),
        ({"labels": features, "classes": classes}, (features, classes)),
        ({"labels": [*"abcdefghijkl"]}, None),
    ):
        below = twin.lib.plot_path(path, named=12, **names).axes[1]
        ends = {line.get_ydata()[-1] for line in below.lines} - {0}
        assert ends <= set(coef[-1].ravel())
        texts = {text.get_text(): text.xy[1] for text in below.texts}
        for (i, j), end in np.ndenumerate(coef[-1]):
            if end != 0:
                label = (
                    f"{named[0][i]}, {named[1][j]}"
                    if named
                    else "abcdefghijkl"[3 * i + j]
                )
                assert texts[label] == end
    with pytest.raises(
        ValueError, match="12 names, .* or 4, one for each feature, got"
    ):
        twin.lib.plot_path(path, labels=["a"])
    with pytest.raises(ValueError, match="classes must be 3 names, .* got 1"):
        twin.lib.plot_path(path, classes=["a"])


def test_bad_input_to_the_figure(twin, paths, monkeypatch):
    plot_path, path = twin.lib.plot_path, paths[twin.name]
    with pytest.raises(ValueError, match="labels must be 10 names"):
        plot_path(path, labels=["a"])
    with pytest.raises(ValueError, match="params must be a key"):
        plot_path(path, params="v")
    with pytest.raises(ValueError, match="strength must be a Python"):
        plot_path(path, strength=0.0)
    with pytest.raises(ValueError, match="axes must be two"):
        plot_path(path, axes=[None])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="plot_path needs matplotlib"):
        plot_path(path)


@pytest.mark.filterwarnings("ignore:.*did not converge")
def test_what_looks_like_a_weight_with_an_axis_of_strengths():
    # Stacked, a normalisation's scale has two dimensions.
    params = TORCH.tree({"1.weight": [[0.5, -0.3]], "2.weight": [0.4, 0.2]})
    settings = {"optimizer": sgd(TORCH, 0.1), "steps": 2}

    def loss(params):
        return ((params["1.weight"] * params["2.weight"] - 1.0) ** 2).sum()

    one_by_one = run(TORCH, loss, params, [0.9, 0.2], warm_start=False, **settings)
    at_once = run(TORCH, loss, params, [0.9, 0.2], vectorised=True, **settings)
    assert at_once.size == 2
    for name in params:
        np.testing.assert_allclose(
            weights(TORCH, at_once, name), weights(TORCH, one_by_one, name), rtol=1e-12
        )


def test_parameters_of_none_stay(twin):
    def loss(params):
        return ((params["w"] - twin.array([3.0, 1.0])) ** 2).sum() / 2

    w, strengths = twin.array([0.0, 0.0]), [2.0, 0.5]
    path = twin.lib.regularisation_path(loss, {"w": w, "b": None}, strengths)
    assert path.params["b"] is None
    np.testing.assert_allclose(
        twin.numpy(path.params["w"]), [[1, 0], [2.5, 0.5]], atol=1e-6
    )
    assert path.nnz.tolist() == [1, 2]
    assert path.at(0)["b"] is None
