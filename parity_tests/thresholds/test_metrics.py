"""From the effective step to the threshold: metrics and cap, and what is minimised."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import l1jax
import l1jax.thresholds.metrics
import l1torch
import l1torch.thresholds.metrics
from parity_tests.frameworks.twins import JAX, TORCH, TRAIN
from parity_tests.oracles import optima, problems
from parity_tests.oracles.convergence_matrix import ROWS, Row, case, cosine, named

MODULES = {"jax": l1jax.thresholds.metrics, "torch": l1torch.thresholds.metrics}
SCALE, STRENGTH = 0.1, 0.3
D = np.array([0.0, 1e-9, 0.02, 0.5, 3.0, np.inf])


@pytest.fixture(params=[JAX, TORCH], ids=["jax", "torch"])
def threshold(request):
    twin = request.param

    def compute(
        step, strength=STRENGTH, metric="coordinate", max_ratio=10.0, slope=1.0
    ):
        fields = [twin.array(x) if isinstance(x, np.ndarray) else x for x in step]
        strength = (
            twin.array(strength) if isinstance(strength, np.ndarray) else strength
        )
        value = MODULES[twin.name].threshold_of(
            twin.lib.EffectiveStep(*fields),
            strength,
            metric,
            max_ratio,
            slope,
            twin.array(D).dtype,
        )
        return np.asarray(value)

    return compute


def test_the_formula(threshold):
    with np.errstate(divide="ignore"):
        ratio = STRENGTH / D
    for cap in (1.5, 10.0):
        expected = SCALE * np.minimum(ratio, cap)
        np.testing.assert_allclose(
            threshold((SCALE, D, 1.0), max_ratio=cap), expected, rtol=1e-14
        )
    uncapped = threshold((SCALE, D, 1.0), max_ratio=math.inf)
    np.testing.assert_allclose(uncapped[1:], SCALE * ratio[1:], rtol=1e-14)
    assert uncapped[0] > 1e300
    reach = np.array([1.0, 2.0, 0.5, 1.0, 0.01, 1.0])
    np.testing.assert_allclose(
        threshold((SCALE, D, reach), max_ratio=2.0),
        SCALE * np.minimum(ratio, 2.0 * reach),
        rtol=1e-14,
    )
    np.testing.assert_allclose(
        threshold((SCALE, D, 1.0), slope=0.25), SCALE * np.minimum(ratio, 40.0)
    )
    np.testing.assert_allclose(
        threshold((SCALE, D[1:], 1.0), slope=0.0), SCALE * ratio[1:]
    )
    assert (threshold((SCALE, D, 1.0), metric="none") == SCALE * STRENGTH).all()
    some = D[1:5]
    np.testing.assert_allclose(
        threshold((SCALE, np.sqrt((some**2).mean()), 1.0), metric="tensor"),
        SCALE * STRENGTH / np.sqrt((some**2).mean()),
    )


def test_the_tensor_metric_reduces_by_itself_in_jax():
    some, reach = jnp.asarray(D[1:5]), jnp.array([1.0, 0.2, 3.0, 0.5])
    step = l1jax.EffectiveStep(SCALE, some, reach)
    rms = float(np.sqrt(np.mean(D[1:5] ** 2)))
    for strength, expected in (
        (0.1, SCALE * 0.1 / rms),
        (1e3, SCALE * 2.0 * 3.0),
    ):
        t = l1jax.thresholds.metrics.threshold_of(
            step, strength, "tensor", 2.0, 1.0, jnp.float64
        )
        assert float(t) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["coordinate", "tensor", "none"])
@pytest.mark.parametrize("name", ["radam", "rmsprop, centered", "adadelta", "adam"])
def test_parameters_without_elements(name, metric):
    params = {"w": jnp.ones((0, 3)), "v": jnp.ones((2, 2))}
    make, settings = ROWS[name].jax
    tx = l1jax.proximal(make, 0.1, 0.1, metric=metric, **settings)
    updates, _ = tx.update(params, tx.init(params), params)
    assert np.isfinite(updates["v"]).all()
    empty, full = (torch.nn.Parameter(torch.ones(n, 3)) for n in (0, 2))
    make, settings = ROWS[name].torch
    base = make([("w", empty), ("v", full)], lr=0.1, **settings)
    optimizer = l1torch.Proximal(base, 0.1, metric=metric)
    for p in (empty, full):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert full.isfinite().all()


def test_zeros_make_no_nan(threshold):
    """A learning rate, strength or denominator of 0, and no cap, in every mix."""
    for scale in (0.0, SCALE):
        for strength in (0.0, STRENGTH, np.array([0.0, 1.0] * 3)):
            for max_ratio in (2.0, math.inf):
                for reach in (0.0, 1.0, math.inf, np.zeros(6)):
                    t = threshold((scale, D, reach), strength, "coordinate", max_ratio)
                    assert not np.isnan(t).any()
                    off = np.broadcast_to((scale == 0) | (strength == 0), 6)
                    assert (np.broadcast_to(t, 6)[off] == 0).all()


def test_nan_stays_visible(threshold):
    spoilt = np.where(np.arange(6) == 3, np.nan, D)
    for max_ratio in (2.0, math.inf):
        t = threshold((SCALE, spoilt, 1.0), max_ratio=max_ratio)
        np.testing.assert_array_equal(np.isnan(t), np.isnan(spoilt))
    strength = np.array([-1.0, 1.0] * 3)
    t = threshold((SCALE, D, 1.0), strength)
    np.testing.assert_array_equal(np.isnan(t), strength < 0)


def make(twin, **kwargs):
    if twin == "jax":
        return l1jax.proximal(optax.adam, 0.1, 0.1, **kwargs)
    base = torch.optim.Adam([("w", torch.nn.Parameter(torch.ones(2, 2)))], lr=0.1)
    return l1torch.Proximal(base, 0.1, **kwargs)


class Norm(l1jax.Penalty):
    """Not separable: the Euclidean norm, of either framework."""

    value = subgradient = optimality_distance = None

    def prox(self, x, threshold):
        return x


class TorchNorm(l1torch.Penalty):
    """Its twin."""

    value = subgradient = optimality_distance = None

    def prox(self, x, threshold):
        return x


@pytest.mark.parametrize("twin", ["jax", "torch"])
def test_bad_input(twin):
    for error, values in (
        (ValueError, (1.0, 1, 0.5, -2.0, math.nan)),
        (TypeError, (True, "10", None, np.ones(2))),
    ):
        for bad in values:
            with pytest.raises(error, match=r"max_ratio must be .* \(1, inf\], got"):
                make(twin, max_ratio=bad)
    with pytest.raises(ValueError, match="metric must be one of .*'tensor'.*got 'l2'"):
        make(twin, metric="l2")
    for bad in (0, -1):
        with pytest.raises(ValueError, match=f"window must be .* >= 1 .* got {bad}"):
            make(twin, window=bad)
    for bad in (2.0, True, "3"):
        with pytest.raises(TypeError, match="window must be a Python int"):
            make(twin, window=bad)
    lib = l1jax if twin == "jax" else l1torch
    with pytest.raises(ValueError, match=r"window must be 1 with _ElasticNet.*got 2"):
        make(twin, window=2, penalty=lib.elastic_net(0.5))
    norm = Norm() if twin == "jax" else TorchNorm()
    with pytest.raises(ValueError, match="metric must not be 'coordinate'"):
        make(twin, penalty=norm)
    make(twin, penalty=norm, metric="tensor")
    with pytest.raises(TypeError, match="penalty must be a Penalty"):
        make(twin, penalty={"w": lib.l1()})


def test_a_max_ratio_that_cannot_be_checked_gives_nan():
    inject = optax.inject_hyperparams(
        l1jax.proximal, static_args=("factory", "mask", "window")
    )
    params = {"w": jnp.ones(3)}
    for max_ratio, bad in ((10.0, False), (1.0, True)):
        tx = inject(optax.adam, 0.1, 0.1, max_ratio=10.0)
        state = tx.init(params)
        state.hyperparams["max_ratio"] = jnp.asarray(max_ratio)
        updates, _ = jax.jit(tx.update)(params, state, params)
        assert np.isnan(updates["w"]).all() == bad


def gradient(params):
    problem = case("lasso")
    return problem.gradient(np, problem.X, problem.y, params)["w"]


@pytest.mark.parametrize("framework", TRAIN)
def test_tensor_metric_minimises_a_weighted_l1(framework):
    """With the weights D / rms(D): on a full batch D is the gradient's size."""
    row = Row(named("adam", b2=0.9), named("Adam", betas=(0.9, 0.9)))
    w = TRAIN[framework]("lasso", row, 6_000, metric="tensor")["w"]
    g, strength = gradient({"w": w}), case("lasso").strength
    # Here D is |g|: where w is not 0, |g_j| = strength * |g_j| / rms(g), and rms(g) is
    # the strength; where it is 0, the same with <=.
    assert (w == 0).any()
    assert (g * w <= 0).all()
    assert np.sqrt(np.mean(g**2)) == pytest.approx(strength, rel=1e-3)


@pytest.mark.parametrize("framework", TRAIN)
def test_decoupled_ends_at_the_minimum_of_the_loss_alone(framework):
    row = Row(named("adam", b2=0.9), named("Adam", betas=(0.9, 0.9)))
    w = TRAIN[framework]("lasso", row, 6_000, metric="none")["w"]
    problem = problems.diabetes()
    least_squares = np.linalg.lstsq(problem.X, problem.y, rcond=None)[0]
    np.testing.assert_allclose(w, least_squares, atol=1e-4)
    assert (w != 0).all()
    assert optima.relative_gap(problem, w, case("lasso").optimum["w"]) > 0.01


@pytest.mark.parametrize("framework", TRAIN)
def test_decoupled_weight_decay_adds_its_term_in_adams_metric(framework):
    decay = 0.5
    row = Row(
        named("adamw", weight_decay=decay, b2=0.9),
        named("AdamW", weight_decay=decay, betas=(0.9, 0.9)),
    )
    w = TRAIN[framework]("lasso", row, 8_000)["w"]
    g = gradient({"w": w})
    residual = g + case("lasso").strength * np.sign(w) + decay * np.abs(g) * w
    assert np.abs(residual[w != 0]).max() < 1e-6
    assert (w == 0).any()


def test_clipping_before_the_optimizer_scales_the_strength():
    """What is minimised is the problem with strength / s, s the clipping's factor."""
    problem = case("lasso")
    limit = 0.8 * float(np.linalg.norm(gradient(problem.optimum)))
    X, y = jnp.asarray(problem.X), jnp.asarray(problem.y)
    tx = optax.chain(
        optax.clip_by_global_norm(limit),
        l1jax.proximal(
            optax.adam,
            lambda t: cosine(0.03, t, 4_000, jnp.cos),
            problem.strength,
        ),
    )

    def body(carry, _):
        updates, state = tx.update(
            problem.gradient(jnp, X, y, carry[0]), carry[1], carry[0]
        )
        return (optax.apply_updates(carry[0], updates), state), None

    start = {"w": jnp.full(10, 0.01)}
    (params, _), _ = jax.lax.scan(body, (start, tx.init(start)), length=4_000)
    w = np.asarray(params["w"])
    g = gradient({"w": w})
    factor = limit / np.linalg.norm(g)
    assert factor < 1
    np.testing.assert_allclose(
        factor * g[w != 0], -problem.strength * np.sign(w[w != 0]), rtol=1e-6
    )
    assert (w == 0).sum() > (problem.optimum["w"] == 0).sum()


@pytest.mark.parametrize("framework", TRAIN)
def test_the_first_step_is_capped(framework):
    """Of weights without any gradient, the cap takes max_ratio * lr, not all."""
    row = Row(named("adam"), named("Adam"), rate=5e-5)
    params = {}
    for max_ratio in (2.0, 10.0, math.inf):
        params[max_ratio] = TRAIN[framework](
            "multinomial", row, 1, schedule=False, max_ratio=max_ratio
        )["w"]
    dead = (case("multinomial").X == 0).all(0)
    assert dead.sum() == 3
    rate = row.learning_rate(case("multinomial"))
    np.testing.assert_allclose(params[2.0][dead], 0.01 - 2 * rate)
    np.testing.assert_allclose(params[10.0][dead], 0.01 - 10 * rate, atol=1e-16)
    assert (params[math.inf][dead] == 0).all()


def test_a_learning_rate_of_zero_moves_nothing():
    w = np.array([[1.0, -2.0], [0.5, 0.0]])
    for max_ratio in (10.0, math.inf):
        p = torch.nn.Parameter(torch.tensor(w))
        p.grad = torch.ones_like(p)
        base = torch.optim.Adam([("w", p)], lr=0.0)
        l1torch.Proximal(base, 0.5, max_ratio=max_ratio).step()
        np.testing.assert_array_equal(p.detach(), w)
        params = {"w": jnp.asarray(w)}
        tx = l1jax.proximal(optax.adam, 0.0, 0.5, max_ratio=max_ratio)
        updates, _ = tx.update(params, tx.init(params), params)
        np.testing.assert_array_equal(optax.apply_updates(params, updates)["w"], w)


@pytest.mark.parametrize("rate", [False, True])
def test_rmsprop_with_momentum_follows_a_falling_learning_rate(rate):
    """optax puts the momentum behind the rate: the threshold knows past rates."""
    row = ROWS["rmsprop, nesterov" if rate else "rmsprop, momentum"]
    tx = l1jax.proximal(
        row.jax.make, lambda t: 0.5**t, STRENGTH, max_ratio=math.inf, **row.jax.settings
    )
    base = row.jax.make(lambda t: 0.5**t, **row.jax.settings)
    w, g = {"w": jnp.full(1, 1e6)}, {"w": jnp.ones(1)}
    state, base_state = tx.init(w), base.init(w)
    for _ in range(30):
        moved, state = tx.update(g, state, w)
        alone, base_state = base.update(g, base_state, w)
    nu = base_state[0].nu["w"]
    eps = 1e-8
    inside = row.jax.settings.get("eps_in_sqrt", True)
    root = jnp.sqrt(nu + eps) if inside else jnp.sqrt(nu) + eps
    # Only the momentum is left of the first steps; D has hardly moved since then.
    shrunk = float((alone["w"] - moved["w"])[0])
    summed = 1 / (1 - 0.9)  # before, the first rate is taken to have been there
    for t in range(1, 30):
        summed = 0.9 * summed + 0.5**t
    summed = 0.5**29 + 0.9 * summed if rate else summed
    assert shrunk == pytest.approx(float(STRENGTH * summed / root[0]), rel=1e-6)
    assert summed > 1e3 * 0.5**29 / (1 - 0.9)
