"""Set-up of all tests: float64 and eight CPU devices in JAX, and the fixtures.

Every process keeps to one thread, so that tests may run side by side.
"""

from collections.abc import Callable

import hypothesis
import jax
import pytest
import threadpoolctl
import torch

jax.config.update("jax_num_cpu_devices", 8)
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")

from parity_tests.frameworks.twins import JAX, TWINS, Twin  # noqa: E402 - after the configuration
from parity_tests.wrappers.wrapped import STRENGTH, WRAPPERS  # noqa: E402

for _twin in TWINS:
    _twin.set_up()
threadpoolctl.threadpool_limits(1)  # numpy's


@pytest.fixture(params=TWINS, ids=[twin.name for twin in TWINS])
def twin(request: pytest.FixtureRequest) -> Twin:
    """Run the test once for each framework."""
    return request.param


@pytest.fixture(params=WRAPPERS)
def wrap(request: pytest.FixtureRequest) -> Callable[..., torch.optim.Optimizer]:
    """Run the test once for each torch wrapper: `wrap(base, strength, ...)`."""
    wrapper = WRAPPERS[request.param]
    return lambda base, strength=STRENGTH, **kwargs: wrapper(base, strength, **kwargs)


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test marked `slow_in_jax` is quick in torch, and slow where it runs in JAX."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if item.get_closest_marker("slow_in_jax") and params.get("twin") is JAX:
        item.add_marker("slow")
