"""Which axis holds outputs, inputs and heads: the same units in both frameworks."""

import functools

import numpy as np
import pytest

from parity_tests.frameworks.twins import JAX, TORCH
from parity_tests.penalties.partitions import bound, formed


def test_flax_and_torch_mean_the_same_by_units():
    # The layers of both frameworks, their kernels holding the same weights.
    import flax.linen as nn
    import jax
    import torch

    rng = np.random.default_rng(1)
    width, heads = 8, 2
    x = jax.numpy.ones((1, 5, width))
    attention = jax.eval_shape(
        nn.MultiHeadDotProductAttention(heads).init, jax.random.key(0), x
    )["params"]
    conv = jax.eval_shape(nn.Conv(3, (2,)).init, jax.random.key(0), x)["params"]
    embed = jax.eval_shape(
        nn.Embed(4, 6).init, jax.random.key(0), jax.numpy.zeros((1,), int)
    )["params"]
    tree = {"attention": attention, "conv": conv, "embed": embed}
    tree = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), tree)
    model = torch.nn.ModuleDict(
        {
            "attention": torch.nn.MultiheadAttention(width, heads),
            "conv": torch.nn.Conv1d(width, 3, 2),
            "embed": torch.nn.Embedding(4, 6),
        }
    )
    qkv = [tree["attention"][k]["kernel"].reshape(width, width).T for k in _QKV]
    weights = {
        "attention.in_proj_weight": np.concatenate(qkv),
        "attention.out_proj.weight": tree["attention"]["out"]["kernel"]
        .reshape(width, width)
        .T,
        "conv.weight": tree["conv"]["kernel"].transpose(2, 1, 0),
        "embed.weight": tree["embed"]["embedding"],
    }
    assert all(model.get_parameter(k).shape == v.shape for k, v in weights.items())
    for groups in ("output", "input", "heads"):
        keep = "attention" if groups == "heads" else ""
        flax_tree = {k: v for k, v in tree.items() if k.startswith(keep)}
        penalty = JAX.lib.sparse_group_l1(0.25, groups=groups)
        value = functools.partial(JAX.lib.penalty_value, strength=1.0, penalty=penalty)
        ours = jax.jit(value)(flax_tree)
        known = TORCH.lib.layouts(model)
        theirs = TORCH.lib.penalty_value(
            {k: TORCH.array(v) for k, v in weights.items() if k.startswith(keep)},
            1.0,
            TORCH.lib.sparse_group_l1(0.25, groups=groups, layouts=known),
        )
        np.testing.assert_allclose(float(ours), float(theirs), rtol=1e-14)


_QKV = ("query", "key", "value")


def test_layouts_of_torch_modules():
    from torch import nn

    model = nn.ModuleDict(
        {
            "linear": nn.Linear(2, 3),
            "conv": nn.Conv3d(4, 4, 1),
            "depthwise": nn.Conv2d(4, 4, 3, groups=4),
            "up": nn.ConvTranspose2d(4, 6, 3, groups=2),
            "upsample": nn.ConvTranspose1d(2, 4, 3),
            "bag": nn.EmbeddingBag(3, 4),
            "lstm": nn.LSTM(3, 4, proj_size=2, bidirectional=True),
            "cell": nn.GRUCell(2, 3),
            "cross": nn.MultiheadAttention(4, 2, kdim=6, vdim=2),
            "norm": nn.LayerNorm(3),
            "bilinear": nn.Bilinear(2, 2, 2),
            "encoder": nn.TransformerEncoderLayer(8, 4, 16),
        }
    )
    model["tied"] = model["linear"]
    recurrent = {
        f"lstm.weight_{k}_l0{end}": "oi" if k == "hr" else "4loi"
        for k in ("ih", "hh", "hr")
        for end in ("", "_reverse")
    }
    assert TORCH.lib.layouts(model) == recurrent | {
        "linear.weight": "oi",
        "tied.weight": "oi",
        "conv.weight": "oikkk",
        "depthwise.weight": "ogkk",
        "up.weight": "igkk",
        "upsample.weight": "iok",
        "bag.weight": "io",
        "cell.weight_ih": "3loi",
        "cell.weight_hh": "3loi",
        "cross.q_proj_weight": "2oi",
        "cross.k_proj_weight": "2oi",
        "cross.v_proj_weight": "2oi",
        "cross.out_proj.weight": "o2i",
        "encoder.self_attn.in_proj_weight": "3l4oi",
        "encoder.self_attn.out_proj.weight": "o4i",
        "encoder.linear1.weight": "oi",
        "encoder.linear2.weight": "oi",
    }
    with pytest.raises(TypeError, match="params must be a module"):
        TORCH.lib.layouts(dict(model.named_parameters()))


@pytest.mark.slow
def test_layouts_of_flax_trees():
    from flax import nnx

    model = nnx.Dict(
        attention=nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0)),
        dense=nnx.Linear(3, 2, rngs=nnx.Rngs(0)),
        embed=nnx.Embed(3, 2, rngs=nnx.Rngs(0)),
        conv=nnx.Conv(3, 2, (1, 1), rngs=nnx.Rngs(0)),
        norm=nnx.LayerNorm(3, rngs=nnx.Rngs(0)),
    )
    known = {f"attention.{k}.kernel": "iho" for k in _QKV} | {
        "attention.out.kernel": "hio",
        "dense.kernel": "io",
        "embed.embedding": "io",
        "conv.kernel": "kkio",
    }
    assert JAX.lib.layouts(nnx.state(model, nnx.Param)) == known
    haiku = {"mlp/~/linear_0": {"w": np.ones((2, 3)), "b": np.ones(3)}}
    equinox = {"weight": np.ones((2, 3)), "none": None, "scalar": np.ones(())}
    assert JAX.lib.layouts(haiku | equinox) == {"mlp/~/linear_0.w": "io"}


def test_layouts_by_pattern(twin):
    make = twin.lib.group_l1
    penalty = make(groups="output", layouts={"*.weight": "oi", "*.table.weight": "io"})
    for path, axis in (
        ("net.fc.weight", 1),
        ("net.table.weight", 0),  # the last pattern that matches holds
        ("net.fc.kernel", 0),  # known by its name
    ):
        one = penalty.at(path, (2, 3))
        one.require_fit(path, (2, 3))
        assert formed(twin, one, (2, 3)) == formed(twin, make(axis), (2, 3))
    exact = make(groups="input", layouts={"a[0].weight": "oi"})
    assert exact.at("a[0].weight", (2, 3)).at("a[0].weight", (2, 3))


def test_transforms_bind_by_name(twin):
    # The columns of a flax kernel are the rows of torch's weight.
    kernel = np.array([[3.0, 0.3, 0.0], [4.0, -0.4, 0.1]])
    penalty = twin.lib.group_l1(
        groups="output", layouts={"*.weight": "oi"}, scale_by_size=False
    )
    params = twin.tree({"a.kernel": kernel, "b.weight": kernel.T, "b.bias": [9.0]})
    tx = twin.lib.proximal_step(2.5, 1.0, penalty=penalty)

    def step(params):
        zeros = {name: 0 * leaf for name, leaf in params.items()}
        updates, _ = tx.update(zeros, tx.init(params), params)
        return twin.apply_updates(params, updates)

    new = twin.jit(step)(params)
    expected = [[1.5, 0, 0], [2, 0, 0]]
    np.testing.assert_allclose(twin.numpy(new["a.kernel"]), expected, rtol=1e-15)
    np.testing.assert_allclose(twin.numpy(new["b.weight"]).T, expected, rtol=1e-15)
    assert twin.numpy(new["b.bias"]) == 9
    rows = {"a.kernel": 1.0, "b.weight": twin.array([[1.0, 2.0]]), "b.bias": 1.0}
    with pytest.raises(ValueError, match="strength of shape .* differs within"):
        twin.lib.proximal_step(rows, 1.0, penalty=penalty).init(params)


@pytest.mark.parametrize(
    ("groups", "path", "shape", "layout", "match"),
    [
        (
            "output",
            "net.weight",
            (2, 3),
            None,
            "layout of 'net.weight' .* is not known",
        ),
        ("output", "net.kernel", (2,), None, "is not known"),
        ("output", "w", (2, 3), "oik", "'oik' has 3 axes but 'w' has shape"),
        ("heads", "w", (6, 3), "4oi", "says 4 heads in axis 'o' of 'w'"),
        ("heads", "net.kernel", (2, 3), None, "groups='heads': there are none of"),
        ("input", "w", (4, 1, 3), "ogk", "divided among groups of channels"),
        ("input", "w", (4, 3), "ok", "there is no input axis of 'w'"),
    ],
)
def test_layouts_that_do_not_fit_the_array(twin, groups, path, shape, layout, match):
    layouts = None if layout is None else {path: layout}
    penalty = twin.lib.group_l1(groups=groups, layouts=layouts)
    with pytest.raises(ValueError, match=match):
        penalty.at(path, shape).require_fit(path, shape)


def test_units_of_an_unknown_array(twin):
    penalty = twin.lib.group_l1(groups="output")
    with pytest.raises(ValueError, match=r"Call penalty.at\(path, shape\) first"):
        penalty.prox(twin.array(np.ones((2, 3))), 0.1)


def test_layers_share_no_unit(twin):
    """Stacked in an axis of their own, or fused in one; what is not known raises."""
    shape = (3, 4, 6)  # three Dense kernels
    stacked = bound(twin, "input", "lio", shape)
    wanted = twin.lib.group_l1(2)
    assert formed(twin, stacked, shape) == formed(twin, wanted, shape)
    stacked = bound(twin, "output", "lio", shape)
    wanted = twin.lib.group_l1(1)
    assert formed(twin, stacked, shape) == formed(twin, wanted, shape)
    fused = bound(twin, "input", "3loi", (6, 2))
    wanted = twin.lib.group_l1(0, block=2)
    assert formed(twin, fused, (6, 2)) == formed(twin, wanted, (6, 2))
    with pytest.raises(ValueError, match="3 layers of 4 heads in axis 'o'"):
        bound(twin, "heads", "3l4oi", (6, 2)).require_fit("w", (6, 2))
    with pytest.raises(ValueError, match="is not known"):
        twin.lib.group_l1(groups="output").at("query.kernel", (3, 8, 2, 4))
