"""The effective steps, measured on the optimizers themselves."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import l1jax
import l1jax.thresholds.effective_steps
import l1torch
import l1torch.numerics.second_moments
import l1torch.thresholds.effective_steps
import l1torch.thresholds.optimizer_steps
from parity_tests.oracles.convergence_matrix import ROWS

GRADIENT = np.array([-3.0, -0.2, 1e-3, 0.07, 40.0])
LR = 0.01
# How long until the optimizer has settled at a constant gradient: averages that start
# at zero without correction, accumulated momentum, growing momentum.
SETTLED = 6_000

# A constant gradient has no variance: with a tiny eps, rounding is all there is of it.
VARIANCE = "rmsprop, centered"
OPTIONS = {
    f"{framework}: {name}": getattr(row, framework)
    for name, row in ROWS.items()
    for framework in ("jax", "torch")
    if getattr(row, framework) and name != VARIANCE
} | {
    "jax: rmsprop, centered": (
        optax.rmsprop,
        {"centered": True, "eps": 0.1, "eps_in_sqrt": False},
    ),
    "torch: rmsprop, centered": (torch.optim.RMSprop, {"centered": True, "eps": 0.1}),
    "jax: adam, eps_root": (optax.adam, {"eps_root": 0.1, "eps": 0.3}),
    "jax: amsgrad, biased": (optax.amsgrad, {"bias_correction_nu": False}),
    "jax: rmsprop, centered, unbiased": (
        optax.rmsprop,
        {"centered": True, "bias_correction": True, "eps": 0.1},
    ),
    "jax: rmsprop, centered, momentum": (
        optax.rmsprop,
        {"centered": True, "momentum": 0.5, "nesterov": True, "eps": 0.1},
    ),
    "jax: adabelief, nesterov": (optax.adabelief, {"nesterov": True, "eps": 0.1}),
    "jax: radam, nesterov": (optax.radam, {"nesterov": True}),
    "torch: radam, eps": (torch.optim.RAdam, {"eps": 0.1}),
    "torch: nadam, momentum": (torch.optim.NAdam, {"momentum_decay": 0.1}),
    "torch: adamw, amsgrad": (
        torch.optim.AdamW,
        {"amsgrad": True, "weight_decay": 0.0, "eps": 0.1},
    ),
}


def measured_in_jax(make, settings, steps):
    """Update / gradient at the last step, and what the rule says of it."""
    optimizer = make(LR, **settings)
    grad = jnp.asarray(GRADIENT)

    def body(state, _):
        updates, state = optimizer.update(grad, state, jnp.zeros(5))
        return state, updates

    known = l1jax.thresholds.effective_steps.lookup(make, settings)
    state, updates = jax.lax.scan(body, optimizer.init(jnp.zeros(5)), length=steps)
    step, _ = known.step_size(known.init(), 0, state, LR)
    return -updates[-1] / grad, step.scale / step.denominator, step


def measured_in_torch(make, settings, steps):
    w = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = make([w], lr=LR, **settings)
    w.grad = torch.tensor(GRADIENT)
    for _ in range(steps):
        with torch.no_grad():
            w.zero_()
        optimizer.step()
    known = l1torch.thresholds.effective_steps.known_class(optimizer)
    step = l1torch.thresholds.effective_steps.effective_step(
        known, optimizer.state.get(w, {}), optimizer.param_groups[0]
    )
    denominator = step.denominator
    if isinstance(denominator, l1torch.numerics.second_moments.SecondMomentRoot):
        denominator = denominator.tensor()
    return -w.detach() / w.grad, step.scale / denominator, step


@pytest.mark.parametrize("name", OPTIONS)
def test_a_constant_gradient_moves_weights_by_the_step_times_it(name):
    make, settings = OPTIONS[name]
    run = measured_in_jax if name.startswith("jax") else measured_in_torch
    # torch's variance of a constant gradient ends below zero, by rounding.
    steps = 1_000 if name == "torch: rmsprop, centered" else SETTLED
    actual, told, step = run(make, settings, steps)
    actual = np.asarray(actual)
    np.testing.assert_allclose(np.broadcast_to(told, 5), actual, rtol=2e-6)
    # The reach bounds |g| / D, sharply but for eps and for methods that keep the sum.
    bound = np.broadcast_to(np.asarray(step.scale * step.reach), 5)
    assert (actual * np.abs(GRADIENT) <= bound * 1.002).all()
    if "sgd" in name:
        assert np.isinf(bound).all()
    elif "adagrad" not in name:
        settled = np.abs(GRADIENT) > 1
        np.testing.assert_allclose(
            (actual * np.abs(GRADIENT))[settled], bound[settled], rtol=0.2
        )


def test_amsgrad_remembers_larger_gradients():
    """In both frameworks, each with its own correction of the bias."""
    make, settings = OPTIONS["jax: amsgrad"]
    optimizer, state = make(LR), make(LR).init(jnp.zeros(5))
    w = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    theirs = torch.optim.Adam([w], lr=LR, amsgrad=True)
    for size in [10.0] * 300 + [1.0] * 400:
        with torch.no_grad():
            w.zero_()
        w.grad = torch.tensor(GRADIENT) * size
        theirs.step()
        updates, state = optimizer.update(jnp.asarray(GRADIENT) * size, state)
    known = l1jax.thresholds.effective_steps.lookup(make, settings)
    step, _ = known.step_size(known.init(), 0, state, LR)
    np.testing.assert_allclose(-updates / GRADIENT, LR / step.denominator, rtol=1e-8)
    assert (step.denominator > 5 * np.abs(GRADIENT)).all()
    step = l1torch.thresholds.effective_steps.effective_step(
        torch.optim.Adam, theirs.state[w], theirs.param_groups[0]
    )
    root = step.denominator.tensor()
    np.testing.assert_allclose(-w.detach() / w.grad, LR / root, rtol=1e-8)


@pytest.mark.parametrize("steps", [1, 2, 5, 6, 7, 50])
@pytest.mark.parametrize("name", ["jax: radam", "torch: radam", "torch: radam, eps"])
def test_both_regimes_of_radam(name, steps):
    make, settings = OPTIONS[name]
    run = measured_in_jax if name.startswith("jax") else measured_in_torch
    actual, told, step = run(make, settings, steps)
    np.testing.assert_allclose(np.broadcast_to(told, 5), actual, rtol=1e-6)
    early = steps <= 5
    assert np.allclose(np.asarray(actual), LR) == early
    # Before, too, the cap is in the gradient's own scale.
    reach = np.broadcast_to(np.asarray(step.reach), 5)
    if early:
        assert (reach >= np.abs(GRADIENT) * (1 - 1e-6)).all()
    if not early or "eps" not in name:
        np.testing.assert_allclose(reach, np.abs(GRADIENT) if early else 1, rtol=1e-3)


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adagrad", "radam", "adamax"])
def test_capturable_numbers_give_the_same_step(name):
    """Numbers kept in tensors, as on an accelerator, take no other way to the step."""
    make, settings = OPTIONS[f"torch: {name}"]
    w = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = make([w], lr=LR, **settings)
    w.grad = torch.tensor(GRADIENT)
    known = l1torch.thresholds.effective_steps.known_class(optimizer)
    step_size = functools.partial(
        l1torch.thresholds.effective_steps.effective_step, known
    )
    group = optimizer.param_groups[0]

    class Unread(torch.Tensor):
        """A tensor whose values are not to be read."""

        def item(self):
            raise AssertionError("waits for the device")

        __bool__ = __float__ = item

    for _ in range(8):
        optimizer.step()
        plain = step_size(optimizer.state[w], group)
        state = {
            k: v.as_subclass(Unread).expand(()).reshape(()) if k == "step" else v
            for k, v in optimizer.state[w].items()
        }
        kept = l1torch.thresholds.optimizer_steps.as_number
        l1torch.thresholds.optimizer_steps.as_number = lambda value: value
        try:
            there = step_size(state, group)
        finally:
            l1torch.thresholds.optimizer_steps.as_number = kept
        for a, b in zip(worked_out(plain), worked_out(there), strict=True):
            torch.testing.assert_close(
                torch.as_tensor(b, dtype=torch.float64).as_subclass(torch.Tensor),
                torch.as_tensor(a, dtype=torch.float64),
                # The step is in single precision, and RAdam takes differences of it.
                rtol=1e-2 if name == "radam" else 1e-5,
                atol=0,
                check_dtype=False,
            )


def worked_out(step):
    denominator = step.denominator
    if isinstance(denominator, l1torch.numerics.second_moments.SecondMomentRoot):
        denominator = denominator.tensor()
    one = torch.ones(5, dtype=torch.float64)
    return [step.scale * one, denominator * one, step.reach * one]


def test_optimizers_that_are_not_known():
    for factory in (optax.lion, optax.lamb, optax.noisy_sgd, lambda learning_rate: 0):
        with pytest.raises(TypeError) as error:
            l1jax.proximal(factory, 0.1, 0.1)
        for part in ("register_step_size", "proximal_step", "step_size='learning_rate"):
            assert part in str(error.value)
    with pytest.raises(TypeError, match="lion, whose effective step is not known"):
        l1jax.proximal(optax.lion, 0.1, 0.1)
    with pytest.raises(TypeError, match="built already.*static_args"):
        l1jax.proximal(optax.adam(0.1), 0.1, 0.1)
    injected = optax.inject_hyperparams(optax.adam)
    with pytest.raises(TypeError, match="wrapped around adam.*wrap proximal"):
        l1jax.proximal(injected, 0.1, 0.1)
    rated = functools.partial(optax.adam, learning_rate=5.0)
    with pytest.raises(TypeError, match="factory must not bring a learning rate"):
        l1jax.proximal(rated, 0.1, 0.1)
    with pytest.raises(TypeError, match="got 'adam'. Pass a factory"):
        l1jax.proximal("adam", 0.1, 0.1)
    wrapped = functools.partial(l1jax.proximal, optax.adam)
    with pytest.raises(TypeError, match="got proximal, whose effective"):
        l1jax.proximal(wrapped, 0.1, 0.1)
    w = torch.nn.Parameter(torch.ones(2, 2))
    for cls in (torch.optim.Rprop, torch.optim.LBFGS, torch.optim.ASGD):
        with pytest.raises(TypeError, match=f"got {cls.__name__}, whose effective"):
            l1torch.Proximal(cls([w]), 0.1)


def test_arguments_that_the_factory_does_not_take():
    with pytest.raises(TypeError, match=r"adam cannot be called.*'beta1'.*'b1', 'b2'"):
        l1jax.proximal(optax.adam, 0.1, 0.1, beta1=0.5)
    with pytest.raises(TypeError, match="momentum.*It takes"):
        l1jax.proximal(optax.adam, 0.1, 0.1, momentum=0.5)
    for make in (optax.sgd, optax.rmsprop):
        with pytest.raises(
            ValueError, match=r"momentum must be .* in \[0, 1\), got 1.0"
        ):
            l1jax.proximal(make, 0.1, 0.1, momentum=1.0)


def test_partial_factories_keep_their_arguments():
    inside = functools.partial(optax.adamw, b2=0.9, mask={"w": False})
    known = l1jax.thresholds.effective_steps.lookup(inside, {"eps": 0.5})
    assert known.step_size.keywords["b2"] == 0.9
    assert known.step_size.keywords["eps"] == 0.5
    assert known.step_size.keywords["mask"] == {"w": False}
    known = l1jax.thresholds.effective_steps.lookup(optax.nadam, {})
    assert known.step_size.keywords["nesterov"] is True


def half_as_fast(learning_rate, gain=1.0):
    return optax.scale(-learning_rate * gain / 2)


class HalfAsFast(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                with torch.no_grad():
                    p -= group["lr"] / 2 * p.grad


def test_registering_ones_own():
    l1jax.register_step_size(
        half_as_fast,
        lambda state, learning_rate, gain: l1jax.EffectiveStep(
            learning_rate * gain / 2
        ),
    )
    tx = l1jax.proximal(half_as_fast, 0.5, 0.5, gain=2.0)
    w = {"w": jnp.array([1.0, 0.2])}
    updates, _ = tx.update({"w": jnp.zeros(2)}, tx.init(w), w)
    np.testing.assert_allclose(optax.apply_updates(w, updates)["w"], [0.75, 0.0])

    with pytest.raises(TypeError, match="got HalfAsFast, whose effective"):
        l1torch.Proximal(HalfAsFast([torch.nn.Parameter(torch.ones(2, 2))], 1.0), 0.1)
    l1torch.register_step_size(
        HalfAsFast, lambda state, group: l1torch.EffectiveStep(group["lr"] / 2)
    )
    p = torch.nn.Parameter(torch.tensor([1.0, 0.2]))
    p.grad = torch.zeros(2)
    l1torch.Proximal(HalfAsFast([("w", p)], lr=1.0), 0.5).step()
    np.testing.assert_allclose(p.detach(), [0.75, 0.0])


def test_registering_what_is_not_one():
    with pytest.raises(TypeError, match="optimizer must be a function, got 3"):
        l1jax.register_step_size(3, lambda state, learning_rate: None)
    with pytest.raises(TypeError, match="step_size must be a function, got 0.1"):
        l1jax.register_step_size(optax.lion, 0.1)
    with pytest.raises(TypeError, match="optimizer must be a class of optimizers"):
        l1torch.register_step_size(torch.nn.Linear, lambda state, group: None)
    with pytest.raises(TypeError, match="step_size must be a function, got 0.1"):
        l1torch.register_step_size(torch.optim.Rprop, 0.1)


class Derived(torch.optim.Adam):
    """Keeps its base's step; torch wraps that of the class made first."""


class Other(torch.optim.Adam):
    def step(self, closure=None):
        return super().step(closure)


def test_derived_classes():
    w = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = l1torch.Proximal(Derived([w], lr=0.1), 0.1)
    assert (
        l1torch.thresholds.effective_steps.known_class(optimizer.optimizer)
        is torch.optim.Adam
    )
    assert pickle.loads(pickle.dumps(optimizer)).metric == "coordinate"
    with pytest.raises(TypeError, match="got Other, whose effective"):
        l1torch.Proximal(Other([w], lr=0.1), 0.1)
