"""Models of a given number of features: on scikit-learn's path, and the weakest."""

import numpy as np
import pytest

from parity_tests.linear.data_sets import (
    EXACT,
    call,
    diabetes,
    digits,
    sklearn_path,
    spaced,
)


@pytest.mark.slow
def test_features_kept_by_number(twin):
    X, y = diabetes()
    counts = np.count_nonzero(sklearn_path(X, y, spaced(X, y, 2000)), axis=1)
    for k in (0, 3, 10):
        kept = call(twin, "keep_features", X, y, k, count=20, **EXACT)
        assert kept.exact
        assert len(kept.features) == k
        (expected,) = sklearn_path(X, y, [kept.strength])
        if k > 0:  # at the largest strength rounding decides
            np.testing.assert_array_equal(kept.features, np.flatnonzero(expected))
        coef = twin.numpy(kept.solution.coef)
        np.testing.assert_allclose(coef, expected, rtol=0, atol=1e-7)
        # The weakest of a grid that keeps them, before more come in.
        later = spaced(X, y, 2000)[(counts > k).argmax()] if k < 10 else 0
        assert later <= kept.strength * (1 + 1e-9)
        assert kept.strength <= max(1.5 * later, spaced(X, y, 20)[-1] * (1 + 1e-9))


def test_features_that_come_in_together(twin):
    X, y = diabetes()
    X, penalty = np.repeat(X, 2, axis=1), twin.lib.elastic_net(0.5)
    kept = call(twin, "keep_features", X, y, 3, penalty=penalty, tol=1e-10)
    assert not kept.exact
    np.testing.assert_array_equal(kept.features, [4, 5])
    kept = call(twin, "keep_features", X, y, 2, penalty=penalty, tol=1e-10)
    assert kept.exact


@pytest.mark.slow
def test_features_of_several_classes(twin):
    X, y = digits()
    settings = {"loss": "multinomial", "count": 20}
    kept = call(twin, "keep_features", X, y, 4, **settings)
    coef = twin.numpy(kept.solution.coef)
    assert kept.exact
    np.testing.assert_array_equal(kept.features, np.flatnonzero((coef != 0).any(1)))
    path = call(twin, "keep_features", X, y, 60, count=3, ratio=0.5, loss="multinomial")
    assert not path.exact
