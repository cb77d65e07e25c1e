"""A penalty of one's own that says its formula has a gap and the fast solvers too."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from parity_tests.frameworks.twin import Twin
from parity_tests.oracles import problems


def own(lib: Any, **terms: Any) -> Any:
    """A user's elastic net, whose formula may be overwritten."""

    @dataclasses.dataclass(frozen=True)
    class Own(lib.Penalty):
        l1_ratio: float
        convex = True
        separable = True

        def value(self, x, strength=1.0):
            r = self.l1_ratio
            return (strength * (r * abs(x) + (1 - r) / 2 * x**2)).sum()

        def subgradient(self, x, strength=1.0):
            return strength * (self.l1_ratio * self._sign(x) + (1 - self.l1_ratio) * x)

        def prox(self, x, threshold):
            t = threshold * self.l1_ratio
            return (x - x.clip(-t, t)) / (1 + threshold * (1 - self.l1_ratio))

        def optimality_distance(self, x, grad, strength=1.0):
            at_zero = (abs(grad) - strength * self.l1_ratio).clip(0)
            away = abs(grad + self.subgradient(x, strength))
            return at_zero * (x == 0) + away * (x != 0)

        def formula(self, shape):
            if "formula" in terms:
                return terms["formula"]
            return lib.PenaltyFormula(slopes=self.l1_ratio, ridge=1 - self.l1_ratio)

        def _sign(self, x):
            return (x > 0) * 1.0 - (x < 0) * 1.0

    return Own(0.7)


def data(twin: Twin, loss: str = "squared") -> tuple[Any, Any]:
    problem = problems.diabetes()
    y = problem.y if loss == "squared" else (problem.y > 0) * 1.0
    return twin.array(problem.X), twin.array(y)


@pytest.mark.parametrize("method", ["gram", "working_set"])
def test_an_elastic_net_of_ones_own_is_the_librarys(twin: Twin, method):
    X, y = data(twin)
    settings = {"method": method, "tol": 1e-12}
    ours, theirs = (
        twin.lib.solve_linear(X, y, 0.05, penalty=penalty, **settings)
        for penalty in (own(twin.lib), twin.lib.elastic_net(0.7))
    )
    assert ours.converged
    assert ours.relative_gap <= 1e-12
    coefs = twin.numpy(ours.coef), twin.numpy(theirs.coef)
    np.testing.assert_allclose(*coefs, rtol=0, atol=1e-10)
    assert 0 < np.count_nonzero(coefs[0]) < len(coefs[0])
    gaps = [
        twin.lib.duality_gap(
            X, y, ours.coef, 0.05, intercept=ours.intercept, penalty=penalty
        )
        for penalty in (own(twin.lib), twin.lib.elastic_net(0.7))
    ]
    np.testing.assert_allclose(gaps[0], gaps[1], rtol=1e-12, atol=1e-14)


@pytest.mark.slow_in_jax
def test_paths_choose_strengths_for_it(twin: Twin):
    X, y = data(twin, "logistic")
    settings = {"count": 3, "loss": "logistic", "tol": 1e-8}
    for function, field in (("linear_path", "objective"), ("cross_validate", "mean")):
        ours, theirs = (
            getattr(twin.lib, function)(X, y, penalty=penalty, **settings)
            for penalty in (own(twin.lib), twin.lib.elastic_net(0.7))
        )
        np.testing.assert_allclose(ours.strengths, theirs.strengths, rtol=1e-12)
        np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field))
    kept = twin.lib.keep_features(X, y, 3, penalty=own(twin.lib), loss="logistic")
    assert kept.exact


def test_a_ridge_on_some_coefficients_only_has_a_certificate(twin: Twin):
    X, y = data(twin)
    ridge = 10.0 * (np.arange(X.shape[1]) % 2)
    formula = twin.lib.PenaltyFormula(slopes=1.0, ridge=twin.array(ridge))
    penalty = own(twin.lib, formula=formula)
    settings = {"penalty": penalty, "fit_intercept": False}
    found = twin.lib.solve_linear(X, y, 0.05, tol=1e-12, **settings)
    assert found.converged
    X, y, w = (twin.numpy(a) for a in (X, y, found.coef))
    grad = X.T @ (X @ w - y) / len(y) + 0.05 * ridge * w
    np.testing.assert_allclose(grad[w != 0], -0.05 * np.sign(w[w != 0]), atol=1e-7)
    assert (np.abs(grad[w == 0]) <= 0.05 + 1e-7).all()
    for share in (0.0, 0.5, 1.0):
        arrays = [twin.array(a) for a in (X, y, share * w)]
        gap = twin.lib.duality_gap(*arrays, 0.05, penalty=penalty)
        assert gap.dual <= found.objective + 1e-14


def test_groups_of_ones_own_are_the_librarys(twin: Twin):
    X, y = data(twin)
    owners = twin.array(np.arange(10) // 2, "int64")
    formula = twin.lib.PenaltyFormula(
        slopes=0.5, owners=owners, group_slopes=twin.array(np.full(5, 0.5))
    )
    theirs = twin.lib.sparse_group_l1(0.5, 0, block=2, scale_by_size=False)
    found = [
        twin.numpy(twin.lib.solve_linear(X, y, 0.1, penalty=penalty, tol=1e-13).coef)
        for penalty in (own(twin.lib, formula=formula), theirs)
    ]
    np.testing.assert_allclose(*found, rtol=0, atol=1e-10)
    assert 0 < np.count_nonzero(found[0]) < 10


def test_without_a_formula_there_is_no_gap(twin: Twin):
    X, y = data(twin)
    with pytest.raises(ValueError, match=r"Own.*no duality gap: its dual is not known"):
        twin.lib.solve_linear(X, y, 0.1, penalty=own(twin.lib, formula=None))


@pytest.mark.parametrize(
    ("terms", "match"),
    [
        ({"slopes": -1.0}, "slopes and ridge must be >= 0"),
        ({"slopes": math.nan}, "slopes and ridge must be >= 0"),
        ({"ridge": math.inf}, "ridge finite"),
        ({"ridge": 1.0, "nonnegative": True}, "slopes must be > 0 where"),
        ({"slopes": np.ones(3)}, r"slopes of shape \(3,\) does not broadcast"),
        ({"owners": np.zeros(9), "group_slopes": np.ones(1)}, "owners must have the"),
        ({"owners": np.ones(10), "group_slopes": np.ones(1)}, "owners must be numbers"),
        ({"owners": np.zeros(10), "group_slopes": -np.ones(1)}, "all > 0 or all 0"),
        (
            {"owners": np.zeros(10), "group_slopes": np.ones(1), "ridge": 1.0},
            "groups cannot go with ridge",
        ),
    ],
)
def test_a_formula_that_cannot_be_used_raises(twin: Twin, terms, match):
    X, y = data(twin)
    dtypes = {"owners": "int64"}
    given = {
        field: twin.array(value, dtypes.get(field, "float64"))
        if isinstance(value, np.ndarray)
        else value
        for field, value in terms.items()
    }
    penalty = own(twin.lib, formula=twin.lib.PenaltyFormula(**given))
    with pytest.raises(ValueError, match=match):
        twin.lib.solve_linear(X, y, 0.1, penalty=penalty)
