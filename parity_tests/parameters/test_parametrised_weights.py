"""Weights that are derived from other arrays, such as by weight normalisation."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import l1jax
import l1torch
from parity_tests.parameters.penalised_paths import penalised


def test_what_a_parametrisation_derives_from_is_no_weight(twin):
    dense = np.ones((3, 3))
    derived = {
        "0.parametrizations.weight.original0": np.ones((3, 1)),
        "0.parametrizations.weight.original1": dense,
        "1.parametrizations.weight.original": dense,
        "2.weight_g": np.ones((3, 1)),
        "2.weight_v": dense,
        "3.weight_hh_l0_g": np.ones((1, 3)),
        "3.weight_hh_l0_v": dense,
        "4.weight_g": np.ones(()),
        "4.weight_v": dense,
        "5.g": np.ones((3, 1)),
        "5.layer.weight": dense,
        "params.a.WeightNorm_0.Dense_0/kernel/scale": np.ones(3),
        "params.a.Dense_0.kernel": dense,
        "params.b.layer_instance.kernel": dense,
    }
    weights = {
        "0.weight": dense,
        "6.weight_orig": dense,  # of torch.nn.utils.prune
        "attention.weight_v": dense,
        "gated.weight_g": dense,
        "gated.weight_v": dense,
        "vectors.w_g": np.ones(3),
        "vectors.w_v": np.ones(3),
        "7.g": np.ones(()),
        "7.layer.weight": dense,
        "params.a.Dense_1.kernel": dense,
        "params.Dense_0.kernel": dense,
    }
    params = twin.tree(derived | weights)
    mask = twin.lib.weights_only(params)
    assert {name for name, flag in mask.items() if flag} == set(weights)
    # By name they can be had: to prune whole rows.
    assert twin.lib.by_path("*weight_g")(params)["2.weight_g"]


def test_the_frameworks_own_parametrisations():
    normalised = torch.nn.utils.parametrizations
    model = torch.nn.Sequential(
        normalised.weight_norm(torch.nn.Conv1d(2, 3, 2)),
        normalised.spectral_norm(torch.nn.Linear(2, 3)),
        normalised.orthogonal(torch.nn.Linear(3, 3)),
        torch.nn.Linear(3, 2),
    )
    mask = l1torch.weights_only(model)
    assert {name for name, flag in mask.items() if flag} == {"3.weight"}

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.WeightNorm(nnx.Linear(2, 3, rngs=rngs), rngs=rngs)
            self.b = nnx.SpectralNorm(nnx.Linear(2, 3, rngs=rngs), rngs=rngs)
            self.c = nnx.Linear(2, 3, rngs=rngs)

    state = nnx.state(Model(nnx.Rngs(0)), nnx.Param)
    assert penalised(l1jax.weights_only, state) == {"c.kernel"}
    equinox = pytest.importorskip("equinox")
    key = jax.random.key(0)
    layers = [
        equinox.nn.WeightNorm(equinox.nn.Conv1d(2, 3, 2, key=key)),
        equinox.nn.WeightNorm(equinox.nn.Linear(2, 3, key=key), axis=None),
        equinox.nn.Linear(2, 3, key=key),
    ]
    params = equinox.filter(layers, equinox.is_array)
    assert penalised(l1jax.weights_only, params) == {"2.weight"}


STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4)


def regression():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(32, 6)).astype("float32")
    return X, X[:, :1] - X[:, 1:2] ** 2


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("mask", ["weights_only", "norms"])
def test_weight_normed_torch_networks_stay_finite(strength, mask):
    torch.manual_seed(0)
    norm = torch.nn.utils.parametrizations.weight_norm
    hidden = [norm(torch.nn.Linear(6, 8)), torch.nn.ReLU(), norm(torch.nn.Linear(8, 8))]
    model = torch.nn.Sequential(*hidden, torch.nn.ReLU(), torch.nn.Linear(8, 1))
    norms = l1torch.by_path("*.original0")
    optimizer = l1torch.Proximal(
        torch.optim.Adam(model.named_parameters(), lr=1e-2),
        strength,
        mask=l1torch.weights_only if mask == "weights_only" else norms,
    )
    X, y = map(torch.tensor, regression())
    for _ in range(250):
        optimizer.zero_grad()
        loss = (model(X) - y).square().mean()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
    rows = (model[0].weight == 0).all(1).sum() + (model[2].weight == 0).all(1).sum()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    if strength == STRENGTHS[0]:
        assert (model[4].weight == 0).any() if mask == "weights_only" else rows > 0


class WeightNormed(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        for _ in range(2):
            x = flax.linen.relu(flax.linen.WeightNorm(flax.linen.Dense(8))(x))
        return flax.linen.Dense(1)(x)


@pytest.mark.parametrize("mask", ["weights_only", "norms"])
def test_weight_normed_flax_networks_stay_finite(mask):
    X, y = regression()
    params = WeightNormed().init(jax.random.key(0), X)["params"]
    norms = l1jax.by_path("*/kernel/scale")
    chosen = l1jax.weights_only if mask == "weights_only" else norms
    if mask == "weights_only":
        assert penalised(chosen, params) == {"Dense_2.kernel"}

    def trained(strength):
        tx = l1jax.proximal(optax.adam, 1e-2, strength, mask=chosen)

        def step(carry, _):
            params, state = carry
            loss, grads = jax.value_and_grad(
                lambda p: jnp.mean((WeightNormed().apply({"params": p}, X) - y) ** 2)
            )(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        (end, _), losses = jax.lax.scan(step, (params, tx.init(params)), length=250)
        return end, losses

    ends, losses = jax.jit(jax.vmap(trained))(jnp.array(STRENGTHS))
    assert jnp.isfinite(losses).all()
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(ends))
    for i in range(2):
        scale = ends[f"WeightNorm_{i}"][f"Dense_{i}/kernel/scale"]
        assert ((scale[0] == 0).sum() > 0) == (mask == "norms")
