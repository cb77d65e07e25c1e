"""Training agrees for models with images, running statistics and recurrence."""

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
    Layer,
    channels_first,
    channels_last,
    compare_training,
)
from parity_tests.bridge.equal_optimizers import RATE, batches, optimizers
from parity_tests.bridge.random_trees import F64


class Conv(nnx.Module):
    def __init__(self, momentum=0.9, bias=False):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(1, 4, (3, 3), use_bias=bias, rngs=rngs, **F64)
        self.norm = nnx.BatchNorm(4, momentum=momentum, rngs=rngs, **F64)
        self.head = nnx.Linear(16, 3, rngs=rngs, **F64)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.head(nnx.avg_pool(x, (2, 2), (2, 2)).reshape(len(x), -1))


class TorchConv(torch.nn.Module):
    def __init__(self, bias=False):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3, padding=1, bias=bias)
        self.norm = torch.nn.BatchNorm2d(4)
        self.head = torch.nn.Linear(16, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(torch.nn.functional.avg_pool2d(x, 2).flatten(1))


IMAGE = {"head": Layer(flattened=(2, 2, 4))}


def compare_images(ours=None, bias=False, steps=5, **kwargs):
    return compare_training(
        ours or Conv(bias=bias),
        TorchConv(bias).double(),
        batches(steps, (4, 4, 1)),
        optimizers(),
        steps,
        torch_inputs=channels_first,
        **{"pairs": IMAGE, **kwargs},
    )


@pytest.mark.slow
def test_images():
    ours = Conv()
    ours.eval()
    before = nnx.state(ours)
    comparison = compare_images(ours)
    assert comparison.agree
    assert comparison.largest("running mean") < 1e-13
    assert min(step.variance for step in comparison.steps) > 1e-5
    assert "which does not count" in str(comparison)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(ours), before)
    assert ours.norm.use_running_average


@pytest.mark.slow
def test_images_flattened_in_another_order():
    comparison = compare_images(pairs=None, steps=1)
    assert comparison.first_parting.what == "outputs"
    assert "pairs={'head': Layer(flattened=(height, width, 4))}" in comparison.hint


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4, use_bias=False, **F64)(x)
        x = nn.BatchNorm(not train, momentum=0.9, **F64)(x)
        return nn.Dense(3, **F64)(x)


@pytest.mark.slow
def test_statistics_of_linen():
    theirs = torch.nn.Sequential(
        torch.nn.Linear(5, 4, bias=False),
        torch.nn.BatchNorm1d(4),
        torch.nn.Linear(4, 3),
    ).double()
    variables = Normed().init(jax.random.key(0), np.ones((1, 5)), False)
    models, data = ((Normed(), variables), theirs), batches(4)
    comparison = compare_training(*models, data, optimizers(), 4, call={"train": True})
    assert comparison.agree
    assert (theirs[1].running_mean != 0).all()
    comparison = compare_training(*models, data, optimizers(), 4, call={"train": False})
    assert comparison.first_parting.what == "outputs"


def test_momentum_of_statistics():
    comparison = compare_images(Conv(momentum=0.99), steps=1)
    parting = comparison.first_parting
    assert (parting.what, parting.array) == ("running mean", "norm.running_mean")
    assert "0.9 in Flax is 0.1 in torch" in comparison.hint


def test_a_bias_without_a_gradient():
    comparison = compare_images(bias=True, tolerance=1e-12, steps=1)
    parting = comparison.first_parting
    assert (parting.what, parting.array) == ("update", "conv.bias")
    assert "nothing but rounding" in comparison.hint


class Recurrent(nn.Module):
    cell: type

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, **F64)(nn.RNN(self.cell(4, **F64))(x)[:, -1])


class TorchRecurrent(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell = kind(2, 4, batch_first=True)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


@pytest.mark.parametrize(
    ("cell", "kind"),
    [(nn.OptimizedLSTMCell, torch.nn.LSTM), (nn.GRUCell, torch.nn.GRU)],
)
def test_biases_that_only_torch_has_are_held(cell, kind):
    ours, theirs = Recurrent(cell), TorchRecurrent(kind).double()
    data = batches(5, (6, 2))
    variables = ours.init(jax.random.key(0), data[0][0])
    tx = l1jax.proximal(optax.adam, RATE, 1e-3)
    comparison = compare_training(
        (ours, variables),
        theirs,
        data,
        (tx, lambda named: l1torch.Proximal(torch.optim.Adam(named, RATE), 1e-3)),
        5,
    )
    assert comparison.agree
    assert comparison.size == sum(x.size for x in jax.tree.leaves(variables))
    second = theirs.cell.bias_ih_l0 if kind is torch.nn.LSTM else theirs.cell.bias_hh_l0
    assert (second == 0).any()
    # From now on they are free again.
    theirs(torch.tensor(data[0][0])).sum().backward()
    assert (theirs.cell.bias_ih_l0.grad != 0).all()


def test_images_as_outputs():
    ours = nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0), **F64)
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(2, 5, 4, 2)), rng.normal(size=(2, 5, 4, 3)))] * 2
    arguments = {"loss": "squared", "torch_inputs": channels_first}

    theirs = torch.nn.Conv2d(2, 3, 3, padding=1).double()

    def run(**kwargs):
        chosen = optax.sgd(RATE), torch.optim.SGD(theirs.parameters(), RATE)
        return compare_training(ours, theirs, data, chosen, 2, **arguments, **kwargs)

    assert run(torch_outputs=channels_last).agree
    with pytest.raises(ValueError, match="outputs of shape .2, 3, 5, 4.*channels_last"):
        run()
    assert theirs.training


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, param_dtype=jnp.float64)(x)
        norm = nn.BatchNorm(False, momentum=0.9, param_dtype=jnp.float64)
        x = norm(x)
        return nn.Dense(3, param_dtype=jnp.float64)(nn.relu(x))


@pytest.mark.parametrize("strength", [0.0, 0.3])
def test_zeros_among_rounding_do_not_count_and_others_do(strength):
    """The bias before the normalisation has no gradient but rounding."""
    rng = np.random.default_rng(0)
    batches = [
        (rng.normal(size=(16, 5)), rng.integers(0, 3, 16, np.int32)) for _ in range(20)
    ]
    module, model = (
        Normalised(),
        torch.nn.Sequential(
            torch.nn.Linear(5, 8),
            torch.nn.BatchNorm1d(8),
            torch.nn.ReLU(),
            torch.nn.Linear(8, 3),
        ),
    )
    found = compare_training(
        (module, module.init(jax.random.key(0), batches[0][0])),
        model.double(),
        batches,
        (
            optax.sgd(0.01),
            lambda named: l1torch.Proximal(torch.optim.SGD(named, 0.01), strength),
        ),
        20,
        tolerance=1e-10 if strength == 0 else 1.0,
    )
    assert found.agree == (strength == 0)
    if strength:
        assert found.first_parting.what == "zeros"
        assert found.first_parting.array.endswith("weight")


def test_labels_that_are_none_and_models_that_are_frozen(capsys):
    module, model = nn.Dense(3), torch.nn.Linear(5, 3)
    model = (module, module.init(jax.random.key(0), np.ones((1, 5), np.float32))), model
    tx = optax.sgd(0.01), lambda named: torch.optim.SGD(named, 0.01)
    one_hot = [(np.ones((4, 5)), np.eye(4, 3))]
    with pytest.raises(ValueError, match="integer labels as targets, got float64"):
        compare_training(*model, one_hot, tx, 1)
    model[1].requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter to train"):
        compare_training(*model, [(np.ones((4, 5)), np.arange(4) % 3)], tx, 1)
