"""The derivative of every prox against finite differences, away from its kinks."""

import functools

import jax
import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from parity_tests.frameworks.twins import JAX, TORCH
from parity_tests.oracles.formulas import PENALTIES

# torch's own forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

QUICK = ("l1()", "weighted_l1", "mcp(0.8, 3.0)", "group_l1(0, block=2)", "l1_ball(1.5)")
WITH_METRIC = [n for n, e in PENALTIES.items() if e.make(JAX.lib).takes_metric]
CASES = [
    pytest.param(
        twin,
        name,
        by_element,
        marks=() if name in QUICK else pytest.mark.slow,
        id=f"{twin.name}-{name}" + ("-by element" if by_element else ""),
    )
    for twin in (JAX, TORCH)
    for name in PENALTIES
    for by_element in (False, True)
    if name in WITH_METRIC or not by_element
]


def points(name, by_element):
    """Points inside sets and outside, with zeros, and thresholds, some of them 0."""
    shape = PENALTIES[name].shape
    for trial in range(8):
        rng = np.random.default_rng(trial)
        x = rng.normal(size=shape) * (0.1, 1, 30)[trial % 3]
        t = 10.0 ** rng.uniform(
            *((-4, 1), (-1, 0))[trial % 2], shape if by_element else ()
        )
        # Of zeros as equals n_of_m keeps some: it has no derivative there.
        if trial % 4 == 0 and not name.startswith("n_of_m"):
            x = np.where(rng.random(shape) < 0.3, 0, x)
        if trial % 4 == 1:
            t = np.where(rng.random(t.shape) < 0.3, 0, t)
        yield x, t


@functools.cache
def derivatives(twin, penalty):
    """The prox, and its Jacobians by forward and by reverse mode."""
    if twin is JAX:
        modes = [mode(penalty.prox, (0, 1)) for mode in (jax.jacfwd, jax.jacrev)]
        return jax.jit(penalty.prox), jax.jit(lambda x, t: [f(x, t) for f in modes])

    def forward(*given):
        columns = ([], [])
        for k, argument in enumerate(given):
            for i in range(argument.numel()):
                tangent = torch.zeros_like(argument)
                tangent.view(-1)[i] = 1
                with forward_ad.dual_level():
                    moved = list(given)
                    moved[k] = forward_ad.make_dual(argument, tangent)
                    found = forward_ad.unpack_dual(penalty.prox(*moved))
                slope = found.tangent
                columns[k].append(slope if slope is not None else 0 * found.primal)
        return [torch.stack(column, -1) for column in columns]

    def jacobians(*given):
        reverse = torch.autograd.functional.jacobian(penalty.prox, given)
        return [forward(*given), reverse]

    return torch.no_grad()(penalty.prox), jacobians


def differences(f, z):
    """Central differences, and where the two sides agree: elsewhere is a kink."""
    columns, smooth = [], []
    for i in range(z.size):
        step = np.zeros(z.size)
        step[i] = h = 1e-6 * max(abs(z.flat[i]), 1e-3)
        here, above, below = f(z), *(f(z + s.reshape(z.shape)) for s in (step, -step))
        right, left = (above - here).ravel() / h, (here - below).ravel() / h
        columns.append((right + left) / 2)
        smooth.append(np.abs(right - left).max() <= 1e-4 * (1 + np.abs(right).max()))
    return np.stack(columns, -1), np.array(smooth)


@pytest.mark.parametrize(("twin", "name", "by_element"), CASES)
def test_every_prox_has_the_derivative_of_finite_differences(twin, name, by_element):
    prox, jacobians = derivatives(twin, PENALTIES[name].make(twin.lib))

    def value(x, t):
        return twin.numpy(prox(twin.array(x), twin.array(t)))

    seen, wanted = 0, 0
    for x, t in points(name, by_element):
        by_point = differences(lambda x, t=t: value(x, t), x)
        # The absolute value gives a threshold of 0 a kink, having no other side.
        by_threshold = differences(lambda t, x=x: value(x, np.abs(t)), t)
        for found in jacobians(twin.array(x), twin.array(t)):
            for jacobian, (expected, smooth) in zip(
                found, (by_point, by_threshold), strict=True
            ):
                jacobian = twin.numpy(jacobian).reshape(expected.shape)
                assert np.isfinite(jacobian).all()
                np.testing.assert_allclose(
                    jacobian[:, smooth],
                    expected[:, smooth],
                    rtol=1e-5,
                    atol=1e-5 * (1 + np.abs(expected).max()),
                )
                seen, wanted = seen + smooth.sum(), wanted + smooth.size
    assert seen > 0.9 * wanted


# On the ball's corners one element is left, whose sum is the radius to rounding.
BALLS = [
    ([2.05, 0.01], [1.0, 1.0], [[0, 0], [0, 0]]),
    ([-2.096, 0.8], [0.0062, 0.6], [[0, 0], [0, 0]]),
    ([-3.0, 2.0], [1.0, 1.0], [[1 / 2, 1 / 2], [1 / 2, 1 / 2]]),
    ([3.0, -2.0], [1.0, 0.5], [[1 / 3, 2 / 3], [1 / 3, 2 / 3]]),
    ([0.3, 0.0], [1.0, 1.0], [[1, 0], [0, 1]]),
    ([0.0, 0.0], [1.0, 1.0], [[1, 0], [0, 1]]),
]


@pytest.mark.parametrize(
    "scope", ["array", pytest.param("tree", marks=pytest.mark.slow)]
)
def test_the_derivative_of_the_ball_by_hand(twin, scope):
    _, jacobians = derivatives(twin, twin.lib.l1_ball(2.0, scope=scope))
    for x, t, expected in BALLS:
        for by_point, _ in jacobians(twin.array(x), twin.array(t)):
            np.testing.assert_allclose(
                twin.numpy(by_point), expected, atol=1e-12, err_msg=str(x)
            )


@pytest.mark.parametrize("name", ["l1()", "mcp(0.8, 3.0)", "group_l1(0, block=2)"])
def test_a_threshold_of_zero_is_the_identity_in_derivatives_too(twin, name):
    entry = PENALTIES[name]
    _, jacobians = derivatives(twin, entry.make(twin.lib))
    x = np.zeros(entry.shape)
    for t in (0.0, x):
        for by_point, _ in jacobians(twin.array(x), twin.array(t)):
            by_point = twin.numpy(by_point).reshape(x.size, x.size)
            np.testing.assert_array_equal(by_point, np.eye(x.size))


STRUCTURED = ("nuclear()", "total_variation()", "fused_lasso(0.4)", "slope(0.3)")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n == "slope(0.3)" else ())
        for n in (*STRUCTURED, "l1()")
    ],
)
def test_a_threshold_of_zero_has_the_derivative_from_above(twin, name):
    entry = PENALTIES[name]
    prox, jacobians = derivatives(twin, entry.make(twin.lib))
    x, h = np.random.default_rng(0).normal(size=entry.shape), 1e-6
    moved = twin.numpy(prox(twin.array(x), twin.array(h)))
    np.testing.assert_array_equal(twin.numpy(prox(twin.array(x), twin.array(0.0))), x)
    for by_point, by_threshold in jacobians(twin.array(x), twin.array(0.0)):
        by_point = twin.numpy(by_point).reshape(x.size, x.size)
        np.testing.assert_array_equal(by_point, np.eye(x.size))
        by_threshold = twin.numpy(by_threshold).reshape(x.shape)
        np.testing.assert_allclose(by_threshold, (moved - x) / h, atol=1e-5)
