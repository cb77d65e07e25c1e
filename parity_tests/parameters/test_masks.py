"""Which parameters are weights, in the trees and modules that people train."""

import dataclasses

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
from l1jax.parameters.trees import named_leaves
from parity_tests.parameters.penalised_paths import penalised


class Linen(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        x = flax.linen.Embed(5, 4)(x)
        x = flax.linen.Conv(4, (3,))(x)
        x = flax.linen.BatchNorm(use_running_average=True)(x)
        x = flax.linen.MultiHeadDotProductAttention(num_heads=2)(x)
        x = flax.linen.LayerNorm()(x)
        x = flax.linen.RNN(flax.linen.OptimizedLSTMCell(3))(x)
        x = flax.linen.PReLU()(x)
        return flax.linen.Dense(2)(x)


def test_linen():
    x = jnp.zeros((1, 6), jnp.int32)
    params = jax.eval_shape(lambda: Linen().init(jax.random.key(0), x))["params"]
    weights = penalised(l1jax.weights_only, params)
    everything = {path for path, _ in named_leaves(params)}
    assert weights == {
        path for path in everything if path.endswith(("kernel", "embedding"))
    }
    biases = {path for path in everything if path.endswith("bias")}
    assert any("query.bias" in path for path in biases)  # two-dimensional
    assert everything - weights - biases == {
        "BatchNorm_0.scale",
        "LayerNorm_0.scale",
        "PReLU_0.negative_slope",
    }


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 4, rngs=rngs, decode=False)
        self.head = nnx.Linear(4, 2, rngs=rngs)


NNX_WEIGHTS = {
    "conv.kernel",
    "attention.query.kernel",
    "attention.key.kernel",
    "attention.value.kernel",
    "attention.out.kernel",
    "head.kernel",
}


def test_nnx_init_and_update_trees():
    model = Nnx(nnx.Rngs(0))
    seen = []

    def mask(params):
        seen.append(penalised(l1jax.weights_only, params))
        return l1jax.weights_only(params)

    tx = l1jax.proximal_step(0.1, 0.1, mask=mask)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    at_init = len(seen)
    grads = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    optimizer.update(model, grads)
    assert 0 < at_init < len(seen)
    assert all(paths == NNX_WEIGHTS for paths in seen)


@dataclasses.dataclass
class Layer:
    """A module in equinox's manner: attributes are leaves, absent ones are None."""

    weight: jax.Array | None
    bias: jax.Array | None
    children: tuple = ()

    def __call__(self, x):
        return x


jax.tree_util.register_dataclass(
    Layer, data_fields=["weight", "bias", "children"], meta_fields=[]
)


def test_equinox_like_tree():
    norm = Layer(jnp.ones(8), jnp.zeros(8))
    conv = Layer(jnp.ones((8, 3, 5)), jnp.zeros((8, 1)))
    linear = Layer(jnp.ones((2, 8)), None)
    tree = Layer(None, None, (conv, norm, linear))
    assert penalised(l1jax.weights_only, tree) == {
        "children.0.weight",
        "children.2.weight",
    }
    mask = l1jax.weights_only(tree)  # callable itself, as the tree is
    assert penalised(mask, tree) == {"children.0.weight", "children.2.weight"}


def test_haiku_like_tree():
    tree = {
        "mlp/~/linear_0": {"w": jnp.ones((3, 4)), "b": jnp.ones(4)},
        "mlp/~/layer_norm": {"scale": jnp.ones(4), "offset": jnp.ones(4)},
        "lstm/linear": {"w": jnp.ones((4, 4)), "b": jnp.ones(4)},
    }
    assert penalised(l1jax.weights_only, tree) == {"mlp/~/linear_0.w", "lstm/linear.w"}


def test_running_statistics_are_no_weights():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    mask = l1torch.weights_only(model.state_dict())
    assert {name for name, flag in mask.items() if flag} == {"0.weight"}
    variables = {
        "params": {"bn": {"scale": jnp.ones(2)}, "dense": {"kernel": jnp.ones(2)}},
        "batch_stats": {"bn": {"mean": jnp.ones(2), "var": jnp.ones(2)}},
    }
    assert penalised(l1jax.weights_only, variables) == {"params.dense.kernel"}


def test_a_field_called_value_keeps_its_name():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Attention:
        key: jax.Array
        value: jax.Array

    tree = {"attention": Attention(jnp.ones((2, 2)), jnp.ones((2, 2)))}
    assert [path for path, _ in named_leaves(tree)] == [
        "attention.key",
        "attention.value",
    ]


def test_a_mask_that_is_taken_for_a_schedule_raises():
    params = {"kernel": jnp.ones(3), "bias": jnp.ones(3)}
    for mask in (l1jax.weights_only, l1jax.by_path("kernel")):
        tx = optax.inject_hyperparams(l1jax.proximal_step)(0.1, 1.0, mask=mask)
        with pytest.raises(TypeError, match="static_args='mask'"):
            tx.init(params)
    tx = optax.inject_hyperparams(l1jax.proximal_step)(0.1, 1.0)
    with pytest.raises(TypeError, match="static_args='mask'"):
        jax.jit(tx.init)(params)


def test_bare_arrays_and_vectors():
    assert l1torch.weights_only(torch.ones(3)) == {"": True}
    assert penalised(l1jax.weights_only, jnp.ones(3)) == {""}
    tree = {"w": jnp.ones(3), "coef": jnp.ones(3), "intercept": jnp.ones(())}
    assert penalised(l1jax.weights_only, tree) == {"w", "coef"}
    lists = {"weights": [jnp.ones((2, 2)), jnp.ones(2)], "biases": [jnp.ones(2)]}
    assert penalised(l1jax.weights_only, lists) == {"weights.0", "weights.1"}


class Torch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 4)
        self.conv = torch.nn.Conv1d(4, 4, 3)
        self.norms = torch.nn.ModuleList([torch.nn.BatchNorm1d(4)])
        self.attention = torch.nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.layer_norm = torch.nn.LayerNorm(4)
        self.lstm = torch.nn.LSTM(4, 3, bidirectional=True)
        self.activation = torch.nn.PReLU(4)
        self.head = torch.nn.Linear(6, 2)
        self.gates = torch.nn.ParameterList([torch.zeros(3)])


TORCH_WEIGHTS = {
    "embedding.weight",
    "conv.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "lstm.weight_ih_l0",
    "lstm.weight_hh_l0",
    "lstm.weight_ih_l0_reverse",
    "lstm.weight_hh_l0_reverse",
    "head.weight",
    "gates.0",
}


def test_torch_modules():
    model = Torch()
    for params in (model, dict(model.named_parameters())):
        mask = l1torch.weights_only(params)
        assert {name for name, flag in mask.items() if flag} == TORCH_WEIGHTS
        assert set(mask) == set(dict(model.named_parameters()))
    unnamed = list(model.parameters())
    assert l1torch.weights_only(unnamed) == [p.dim() > 1 for p in unnamed]


def test_the_twins_agree_on_a_flat_tree(twin):
    names = [
        "w",
        "b",
        "bias",
        "scale",
        "weight",
        "kernel",
        "layer.weight",
        "layer.0",
        "q.bias",
        "log_scale",
    ]
    for shape in ((3,), (3, 3)):
        params = twin.tree({name: np.ones(shape) for name in names})
        chosen = {name for name, flag in twin.lib.weights_only(params).items() if flag}
        dense = {"weight", "layer.weight"} if len(shape) > 1 else set()
        assert chosen == {"w", "kernel", "layer.0"} | dense


def test_mask_may_be_a_prefix():
    params = {"a": {"w": jnp.ones(2), "b": jnp.ones(2)}, "c": jnp.ones(2)}
    assert penalised({"a": True, "c": False}, params) == {"a.w", "a.b"}
    assert penalised(None, params) == {"a.w", "a.b", "c"}


def transforms(twin, mask):
    yield twin.lib.add_subgradient(0.1, mask=mask)
    yield twin.lib.proximal_step(0.1, 0.1, mask=mask)


def test_bad_masks(twin):
    params = twin.tree({"layer.bias": [1.0], "layer.scale": [2.0]})
    cases = [
        (twin.lib.weights_only, ValueError, r"selects nothing.*'layer.bias' \(1,\)"),
        ({"layer.bias": False, "layer.scale": False}, ValueError, "selects nothing"),
        (twin.lib.by_path("layer.weight"), ValueError, "'layer.weight' matches no"),
        ({"layer.bias": True}, ValueError, "mask does not fit the parameters"),
        ({"layer.bias": 1, "layer.scale": True}, TypeError, "booleans, got 1"),
        ("layer.bias", TypeError, r"got 'layer.bias' .*Pass by_path"),
    ]
    for mask, error, message in cases:
        for tx in transforms(twin, mask):
            with pytest.raises(error, match=message):
                tx.init(params)
    for patterns in ("", (), 3, [1], None):
        with pytest.raises((TypeError, ValueError), match="patterns"):
            twin.lib.by_path(patterns)(params)


def test_error_lists_at_most_twenty_leaves(twin):
    params = twin.tree({f"{i:02}.bias": [1.0] for i in range(30)})
    with pytest.raises(ValueError, match=r"'19.bias' \(1,\), ... and 10 more"):
        twin.lib.proximal_step(0.1, 0.1).init(params)
