"""Linear models at every strength and in every unit: what is certified is true."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sklearn.linear_model import ElasticNet

from parity_tests.frameworks.twins import JAX, Twin
from parity_tests.linear.unit_data import N, P, data
from parity_tests.oracles.optima import linear_bounds

OWNERS = np.arange(P) // 2
STRENGTHS = 10.0 ** np.arange(6, -7, -2)
FEELABLE = 1e-8
"""Strengths below this share of the largest of use are lost in rounding."""


SIZES = (1e-3, 1.0, 1e3)
PENALTIES = {  # with their slopes of elements and of groups
    "l1()": (1.0, 0.0),
    "group_l1(0, block=2)": (0.0, np.sqrt(2)),
    "sparse_group_l1(0.3, 0, block=2)": (0.3, 0.7 * np.sqrt(2)),
}
CORE = [
    ("squared", "l1()", 1.0, 1.0),
    ("squared", "group_l1(0, block=2)", 1e3, 1.0),
    ("squared", "sparse_group_l1(0.3, 0, block=2)", 1e-3, 1e3),
]
CASES = [
    pytest.param(
        loss,
        penalty,
        unit,
        size,
        marks=() if (loss, penalty, unit, size) in CORE else pytest.mark.slow,
    )
    for loss in ("squared", "logistic", "multinomial")
    for penalty in PENALTIES
    for unit, size in itertools.product(SIZES, SIZES if loss == "squared" else (1.0,))
    if loss != "multinomial" or penalty == "l1()"  # blocks are of rows there
]


def parts(twin, penalty, strength):
    slope, norm = PENALTIES[penalty]
    made = eval(f"lib.{penalty}", {"lib": twin.lib})
    groups = (OWNERS, np.full(P // 2, strength * norm)) if norm else None
    return made, strength * slope, groups


def null_of(loss, y):
    if loss == "squared":
        return np.var(y) / 2
    shares = np.bincount(y.astype(int)) / len(y)
    return -float(shares @ np.log(shares))


def require_certified(loss, X, y, w, b, found, relative, parts, tol=1e-6):
    """The objective is what numpy says, and numpy's own gap is as small."""
    _, slope, groups = parts
    primal, dual = linear_bounds(loss, X, y, w, b, slope, groups)
    null = null_of(loss, y)
    np.testing.assert_allclose(found, primal, rtol=1e-9)
    assert -1e-12 <= relative <= tol
    assert primal - dual <= (tol + 1e-10) * null


@pytest.mark.parametrize(("loss", "penalty", "unit", "size"), CASES)
def test_solutions_gaps_and_paths(twin: Twin, loss, penalty, unit, size):
    X, y = data(loss, unit, size)
    arrays = twin.array(X), twin.array(y)
    settings = {"loss": loss, "penalty": parts(twin, penalty, 1.0)[0]}
    largest = np.abs((X - X.mean(0)).T @ (y - y.mean())).max() / N
    strengths = STRENGTHS[STRENGTHS / largest > FEELABLE]
    path = twin.lib.linear_path(*arrays, strengths, **settings)
    assert path.converged.all()
    before = None
    for i, strength in enumerate(strengths):
        own = parts(twin, penalty, strength)
        w, b = (twin.numpy(path.params[name][i]) for name in ("coef", "intercept"))
        require_certified(loss, X, y, w, b, path.objective[i], path.gap[i], own)
        for init in (None, before):  # of a far larger strength
            found = twin.lib.solve_linear(*arrays, strength, **settings, init=init)
            w, b = twin.numpy(found.coef), twin.numpy(found.intercept)
            result = found.objective, found.relative_gap
            require_certified(loss, X, y, w, b, *result, own)
            assert found.converged
        if before is not None:
            # What was the solution elsewhere is not certified here.
            old, c = twin.numpy(before.coef), twin.numpy(before.intercept)
            gap = twin.lib.duality_gap(
                *arrays,
                before.coef,
                strength,
                intercept=before.intercept,
                **settings,
            )
            primal, _ = linear_bounds(loss, X, y, old, c, *own[1:])
            np.testing.assert_allclose(gap.primal, primal, rtol=1e-12)
            assert gap.dual <= found.objective * (1 + 1e-12)
            assert gap.gap >= (primal - found.objective) * (1 - 1e-9) - 1e-12 * primal
        before = found


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_minima_are_scikit_learns(twin: Twin, unit, positive):
    X, y = data("squared", unit, 1 / unit)
    made = twin.lib.nonnegative_l1() if positive else twin.lib.elastic_net(0.5)
    model = ElasticNet(
        l1_ratio=1.0 if positive else 0.5,
        positive=positive,
        tol=1e-15,
        max_iter=1_000_000,
    )
    for strength in STRENGTHS:
        w = model.set_params(alpha=strength).fit(X, y).coef_
        residual = y - model.predict(X)
        penalty = w.sum() if positive else np.abs(w).sum() / 2 + w @ w / 4
        best = residual @ residual / (2 * N) + strength * penalty
        found = twin.lib.solve_linear(
            twin.array(X), twin.array(y), strength, penalty=made, tol=1e-9
        )
        assert abs(found.objective - best) <= 2e-9 * null_of("squared", y)


@pytest.mark.parametrize(
    ("strength", "unit", "size", "penalty"),
    [
        pytest.param(*case, "l1()", marks=() if i == 0 else pytest.mark.slow)
        for i, case in enumerate(itertools.product((3.0, 1e-6, 1e6), SIZES[::2], SIZES))
    ]
    + [
        pytest.param(3.0, 1.0, 1e3, "group_l1(0, block=2)", marks=pytest.mark.slow),
    ],
)
def test_solve_is_right_in_every_unit(twin: Twin, strength, unit, size, penalty):
    if twin is not JAX and penalty == "l1()" and strength < unit * size / 10:
        pytest.skip("50,000 steps, which take minutes where they are not compiled")
    X, y = data("squared", unit, size)
    A, c, lib = twin.array(X), twin.array(y), jnp if twin is JAX else torch
    largest = np.abs((X - X.mean(0)).T @ (y - y.mean())).max() / N
    found = twin.lib.solve(
        lambda q: lib.mean((A @ q["coef"] + q["intercept"] - c) ** 2) / 2,
        {"coef": twin.array(np.zeros(P)), "intercept": twin.array(np.zeros(()))},
        strength,
        penalty=parts(twin, penalty, 1.0)[0],
        mask=lambda tree: {"coef": True, "intercept": False},
        tol=max(1e-9 * min(largest, strength), 1e-11 * largest),
        max_iterations=100_000,
    )
    w, b = (twin.numpy(found.params[name]) for name in ("coef", "intercept"))
    _, slope, groups = parts(twin, penalty, strength)
    primal, dual = linear_bounds("squared", X, y, w, b, slope, groups)
    np.testing.assert_allclose(float(found.objective), primal, rtol=1e-12)
    # No penalty is below 0: a second bound, for strengths that are next to nothing.
    least = np.linalg.lstsq(X - X.mean(0), y - y.mean())[1][0] / (2 * N)
    assert primal - max(dual, least) <= 1e-5 * null_of("squared", y)
