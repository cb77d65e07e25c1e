"""Two trainings agree where models and optimizers do, and part where they do not."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import l1jax
import l1torch
from parity_tests.bridge import (
    compare_training,
    to_torch,
)
from parity_tests.bridge.equal_optimizers import RATE, STRENGTH, batches, optimizers
from parity_tests.bridge.random_trees import F64


@pytest.fixture(autouse=True, scope="module")
def _compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


class Dense(nn.Module):
    """Two layers, with names that torch has too."""

    dtype: str = "float64"

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(6, param_dtype=self.dtype, name="first")(x))
        return nn.Dense(3, param_dtype=self.dtype, name="last")(x)


class TorchDense(torch.nn.Module):
    def __init__(self, detach=False):
        super().__init__()
        self.last = torch.nn.Linear(6, 3)  # declared before it is called
        self.first = torch.nn.Linear(5, 6)
        self.detach = detach

    def forward(self, x):
        x = torch.tanh(self.first(x))
        return self.last(x.detach() if self.detach else x)


@functools.cache
def dense(dtype="float64"):
    module = Dense(dtype)
    return module, module.init(jax.random.key(0), np.ones((1, 5), dtype))


def compare(steps=8, **changes):
    model = changes.pop("model", None) or TorchDense().double()
    chosen = changes.pop("optimizers", None) or optimizers()
    data = changes.pop("batches", None) or batches(steps)
    return compare_training(dense(), model, data, chosen, steps, **changes)


def test_equal_models_agree():
    comparison = compare(steps=20)
    assert comparison.agree
    assert comparison.first_parting is None
    assert comparison.largest("parameters") < 1e-13
    assert [step.zeros for step in comparison.steps] == [0] * 20
    assert comparison.layers == {"first": "first", "last": "last"}
    assert comparison.size == 5 * 6 + 6 + 6 * 3 + 3
    assert "agree at every step" in str(comparison)


def test_what_is_compared_is_ordinary_training():
    model, data = TorchDense().double(), batches(30)
    module, variables = dense()
    before = jax.tree.map(np.array, variables)
    start = to_torch(variables, model)
    comparison = compare_training((module, variables), model, data, optimizers(), 30)
    jax.tree.map(np.testing.assert_array_equal, variables, before)

    by_hand = TorchDense().double()
    by_hand.load_state_dict(start)
    optimizer = optimizers()[1](by_hand.named_parameters())
    losses = []
    for x, y in data:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            by_hand(torch.tensor(x)), torch.tensor(y)
        )
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for ours, theirs in zip(by_hand.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert [step.losses[1] for step in comparison.steps] == losses

    tx, params = optimizers()[0], variables["params"]
    state = tx.init(params)

    @jax.jit
    def step(params, state, x, y):
        def cost(params):
            log_p = jax.nn.log_softmax(module.apply({"params": params}, x))
            return -log_p[jnp.arange(len(y)), y].mean()

        loss, grads = jax.value_and_grad(cost)(params)
        updates, state = tx.update(grads, state, params)
        return loss, optax.apply_updates(params, updates), state

    for (x, y), each in zip(data, comparison.steps, strict=True):
        loss, params, state = step(params, state, x, y)
        assert each.losses[0] == pytest.approx(float(loss), rel=1e-13)
    ours = to_torch(params, model)
    assert any((x == 0).any() for x in ours.values())
    for name, x in model.state_dict().items():
        np.testing.assert_allclose(x, ours[name], atol=1e-13)
        np.testing.assert_array_equal(x == 0, ours[name] == 0)


def other_loss(outputs, targets):
    return 1.001 * torch.nn.functional.cross_entropy(outputs, targets)


def true_loss(outputs, targets):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()


class Scaled(TorchDense):
    def forward(self, x):
        return super().forward(1.0001 * x)


class Grown(TorchDense):
    """Something else from the fifth step on."""

    calls = 0

    def forward(self, x):
        self.calls += self.training
        return super().forward(x if self.calls < 5 else 1.0001 * x)


@pytest.mark.parametrize(
    ("changes", "step", "what", "layer", "hint"),
    [
        ({"model": Scaled}, 1, "outputs", "", "differ before any training"),
        ({"model": Grown}, 5, "outputs", "", "agreed so far"),
        ({"loss": (true_loss, other_loss)}, 1, "loss", "", "not the same function"),
        (
            {"model": lambda: TorchDense(detach=True)},
            1,
            "gradient",
            "first",
            "detach",
        ),
        ({"optimizers": optimizers(eps=1e-7)}, 1, "update", "first", "epsilon"),
        # The first step of Adam does not depend on its decay rates.
        (
            {"optimizers": optimizers(betas=(0.9, 0.99))},
            2,
            "update",
            "first",
            "decay rates",
        ),
        ({"optimizers": optimizers(0.0201)}, 1, "update", "first", "strength"),
        (
            {"optimizers": optimizers(0.03), "tolerance": 1.0},
            1,
            "zeros",
            "first",
            "support_tolerance=",
        ),
    ],
)
def test_what_differs_is_found(changes, step, what, layer, hint):
    changes = dict(changes)
    if "model" in changes:
        changes["model"] = changes["model"]().double()
    comparison = compare(**changes)
    parting = comparison.first_parting
    assert not comparison.agree
    assert (parting.step, parting.what, parting.layer) == (step, what, layer)
    assert parting.difference > parting.tolerance
    assert hint in comparison.hint
    report = " ".join(str(comparison).split())
    assert f"First part at step {step}" in report
    assert hint in report


def test_schedules():
    tx = l1jax.proximal(
        optax.sgd, lambda t: RATE * 0.5**t, STRENGTH, momentum=0.9, nesterov=True
    )
    for stepped in (True, False):
        model = TorchDense().double()
        base = torch.optim.SGD(
            model.named_parameters(), RATE, momentum=0.9, nesterov=True
        )
        optimizer = l1torch.Proximal(base, STRENGTH)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        comparison = compare(
            model=model,
            optimizers=(tx, optimizer),
            **({"after_step": scheduler.step} if stepped else {}),
        )
        assert comparison.agree == stepped
    assert comparison.first_parting.step == 2
    assert comparison.first_parting.what == "update"


def test_nan_stays_visible():
    data = batches(6)
    data[3][0][0, 0] = np.nan
    comparison = compare(steps=6, batches=data)
    parting = comparison.first_parting
    assert (parting.step, parting.what) == (4, "outputs")
    assert np.isnan(parting.difference)
    assert np.isnan(comparison.largest("loss"))
    assert "not finite" in str(comparison)


def test_the_report_fits_on_a_screen():
    data = batches(400)
    comparison = compare(400, batches=data, optimizers=optimizers(betas=(0.9, 0.99)))
    lines = str(comparison).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    table = lines[lines.index("") + 1 :]
    assert table[0].split("  ")[:4] == ["step", "loss in Flax", "outputs", " loss"]
    numbers = [int(line.split()[0]) for line in table[1 : table.index("")]]
    assert numbers == [1, 2, 3, 5, 10, 20, 50, 100, 200, 400]
    assert [line for line in table if "  part  " in line] == [table[2]]


def test_updates_are_told_from_parameters():
    model, steps = TorchDense().double(), []

    def push():
        steps.append(None)
        if len(steps) == 3:
            with torch.no_grad():
                model.last.bias += 1e-4

    chosen = optax.sgd(RATE), torch.optim.SGD(model.parameters(), RATE)
    comparison = compare(model=model, optimizers=chosen, after_step=push)
    assert comparison.first_parting.step == 4
    sizes = {
        what: [step.differences[what].size for step in comparison.steps]
        for what in ("update", "parameters")
    }
    assert sizes["update"][3] == pytest.approx(1e-4, rel=0.1)
    assert max(sizes["update"][4:]) < 1e-5
    assert min(sizes["parameters"][3:]) > 5e-5
    assert max(sizes["parameters"][:3]) < 1e-13


@pytest.mark.slow
def test_dtypes():
    data = batches(3)

    def run(dtype, **kwargs):
        model = TorchDense().to(getattr(torch, dtype))
        chosen = (
            optax.sgd(RATE),
            lambda named: torch.optim.SGD([p for _, p in named], RATE),
        )
        return compare_training(dense(dtype), model, data, chosen, 3, **kwargs)

    comparison = run("float32")
    assert comparison.agree
    assert (comparison.dtype, comparison.tolerance) == ("float32", 5e-6)
    assert comparison.support_tolerance == 1e-4
    assert comparison.largest("parameters") > 0
    with pytest.raises(ValueError, match="the parameters are bfloat16"):
        run("bfloat16")
    assert run("bfloat16", tolerance=0.1, support_tolerance=0).agree
    with pytest.raises(ValueError, match="float32 in Flax, float64 in torch"):
        compare_training(dense("float32"), TorchDense().double(), data, optimizers(), 3)


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, **F64)(nn.Dropout(0.5, deterministic=False)(x))


def dropped():
    dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    return nnx.Sequential(dropout, nnx.Linear(5, 3, rngs=nnx.Rngs(0), **F64))


def linear():
    return torch.nn.Sequential(torch.nn.Linear(5, 3)).double()


def stepped(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 5).double()).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": 9}, "batches ends after 8 of 9"),
        ({"loss": "mse"}, "loss must be .* got 'mse'"),
        ({"loss": "squared"}, "targets of the outputs' shape .16, 3., got .16,."),
        ({"tolerance": -1.0}, "tolerance must be .* got -1"),
        ({"support_tolerance": np.nan}, "support_tolerance must be .* got nan"),
        ({"model": torch.nn.Linear(5, 3).double()}, "do not pair up"),
        (
            {"optimizer": lambda m: torch.optim.SGD(linear().parameters())},
            "lacks torch_model's first.weight|lacks torch_model's last.weight",
        ),
        (
            {"optimizer": lambda m: torch.optim.SGD([m.last.weight])},
            "lacks torch_model's last.bias",
        ),
        ({"optimizer": stepped}, "has taken steps"),
    ],
)
def test_bad_input(changes, message):
    model = changes.pop("model", None) or TorchDense().double()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    chosen = optimizers()
    if "optimizer" in changes:
        chosen = chosen[0], changes.pop("optimizer")(model)
        before = {name: x.clone() for name, x in model.state_dict().items()}
    arguments = {"steps": 2, **changes}
    with pytest.raises(ValueError, match=message):
        compare_training(dense(), model, batches(8), chosen, **arguments)
    for name, x in model.state_dict().items():
        assert torch.equal(x, before[name])


def test_dropout_is_refused():
    variables = Dropped().init(
        {"params": jax.random.key(0), "dropout": jax.random.key(1)}, np.ones((1, 5))
    )
    data = batches(1)
    for ours in ((Dropped(), variables), dropped()):
        with pytest.raises(ValueError, match="draw different random numbers"):
            compare_training(ours, linear(), data, optimizers(), 1)
    theirs = TorchDense().double()
    theirs.dropout = torch.nn.Dropout(0.1)
    with pytest.raises(ValueError, match="dropout drops 0.1 of its inputs"):
        compare(1, model=theirs)
    theirs.dropout.p = 0.0
    assert compare(1, model=theirs).agree
    with pytest.raises(TypeError, match="flax_model must be an nnx model, or"):
        compare_training(Dense(), theirs, data, optimizers(), 1)
