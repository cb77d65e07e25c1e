"""Fixtures of this folder."""

import pytest

from parity_tests.frameworks.twins import TWINS
from parity_tests.paths.diabetes_paths import COUNT, lasso, run


@pytest.fixture(scope="session")
def paths():
    """Return the same path by both twins, by their names."""
    return {
        twin.name: run(twin, *lasso(twin), count=COUNT, tol=1e-11) for twin in TWINS
    }
