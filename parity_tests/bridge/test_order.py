"""Layers whose order their names do not tell, or tell wrongly."""

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch
from flax import nnx

from parity_tests.bridge import match, to_flax
from parity_tests.bridge.pieces import Pieces, dense, linear, names


class Residual(nn.Module):
    """linen makes the outer layer first, which is called last."""

    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(4)(nn.relu(nn.Dense(4)(x)))


def test_the_order_of_calls_outlives_a_round_trip():
    model = torch.nn.Sequential(linear(4, 4), linear(4, 4))
    variables = Residual().init(jax.random.key(0), np.ones((1, 4)))
    expected = {"Dense_1": "0", "Dense_0": "1"}
    assert names(match(variables, model)) == expected
    model = model.to(getattr(torch, str(variables["params"]["Dense_0"]["bias"].dtype)))
    back = to_flax(model, like=variables)
    assert list(back["params"]) == ["Dense_1", "Dense_0"]
    assert names(match(back, model)) == expected
    with pytest.warns(UserWarning, match="Dense_0 <-> 0, Dense_1 <-> 1"):
        match(jax.tree.map(lambda x: x, variables), model)


def test_parents_that_would_be_swapped_are_refused():
    flax = {"encoder": {"fc_in": dense(3, 3)}, "decoder": {"fc_in": dense(3, 3)}}
    model = Pieces(
        decoder=torch.nn.Sequential(linear(3, 3)),
        encoder=torch.nn.Sequential(linear(3, 3)),
    )
    with pytest.raises(ValueError, match="by order encoder/fc_in would be decoder.0"):
        match(flax, model)


def test_a_shared_nnx_layer_counts_where_it_is_first():
    class Shared(nnx.Module):
        def __init__(self, rngs):
            self.z = nnx.Linear(3, 3, rngs=rngs)
            self.m = nnx.Linear(3, 3, rngs=rngs)
            self.a = self.z

    model = torch.nn.Sequential(linear(3, 3), linear(3, 3))
    found = names(match(Shared(nnx.Rngs(0)), model))
    assert found == {"a": "0", "m": "1"}


def test_arrays_that_jax_would_round_are_refused():
    like = {"Dense_0": dense(3, 3)}
    model = torch.nn.Sequential(torch.nn.Linear(3, 3)).double()
    jax.config.update("jax_enable_x64", False)
    try:
        made = to_flax(model, like=like)["Dense_0"]["kernel"]
        assert isinstance(made, np.ndarray)
        np.testing.assert_array_equal(made, model[0].weight.detach().numpy().T)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
        with pytest.raises(ValueError, match="rounded from float64 to float32"):
            to_flax(model, like=abstract)
    finally:
        jax.config.update("jax_enable_x64", True)
