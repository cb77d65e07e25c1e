"""Which elements form a group, and which axis is which in either framework."""

import dataclasses
import functools

import numpy as np
import pytest

from parity_tests.frameworks.twins import JAX, TORCH
from parity_tests.oracles.formulas.groups import group_value


def layouts_of(twin):
    return twin.lib.layouts


def labels_of(twin, penalty, shape):
    """Tells elements of one group by a label: they share what one of them changes."""
    labels = np.full(shape, -1)
    grad = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    slope = twin.jit(lambda x: penalty.subgradient(x))
    for position in np.ndindex(shape):
        if labels[position] < 0:
            x = grad.copy()
            x[position] *= 2
            changed = twin.numpy(slope(twin.array(x))) != twin.numpy(
                slope(twin.array(grad))
            )
            changed[position] = True
            labels[changed] = labels.max() + 1
    return labels


def same_partition(a, b):
    pairs = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    return len(pairs) == len(np.unique(a)) == len(np.unique(b))


def index(shape, axis):
    return np.indices(shape)[axis]


def by_rows(shape, *axes):
    """One label for each tuple of indices along the axes."""
    label = np.zeros(shape, int)
    for axis in axes:
        label = label * shape[axis] + index(shape, axis)
    return label


SHAPE = (4, 3, 2)
KINDS = [
    ({}, np.zeros(SHAPE)),
    ({"axis": 1}, by_rows(SHAPE, 0, 2)),
    ({"axis": (0, -1)}, by_rows(SHAPE, 1)),
    ({"axis": [2]}, by_rows(SHAPE, 0, 1)),
    ({"axis": 0, "block": 2}, by_rows(SHAPE, 1, 2) * 2 + index(SHAPE, 0) // 2),
    ({"axis": 1, "block": 3}, by_rows(SHAPE, 0, 2)),
    ({"groups": {"a": [2, 0], "b": [3, 1]}}, index(SHAPE, 0) % 2),
    ({"groups": {"a": range(2), "b": [2]}, "axis": -2}, index(SHAPE, 1) // 2),
]


@pytest.mark.slow_in_jax
@pytest.mark.parametrize(("kwargs", "labels"), KINDS, ids=range(len(KINDS)))
def test_groups_by_axis_block_and_name(twin, kwargs, labels):
    penalty = twin.lib.group_l1(**kwargs)
    penalty.require_fit("x", SHAPE)
    assert same_partition(labels_of(twin, penalty, SHAPE), labels)
    x = np.random.default_rng(0).normal(size=SHAPE)
    for scale in (True, False):
        value = twin.lib.group_l1(**kwargs, scale_by_size=scale).value(twin.array(x))
        expected = group_value(labels, scale_by_size=scale)(x)
        np.testing.assert_allclose(twin.numpy(value), expected, rtol=1e-14)


OUT, IN, K, H, D = 3, 2, 2, 2, 2  # units, kernel positions, heads, units of a head

# Of each layout a shape, and the labels of outputs, inputs and heads.
LAYOUTS = {
    "io": ((IN, OUT), (1,), (0,), None),
    "oi": ((OUT, IN), (0,), (1,), None),
    "kio": ((K, IN, OUT), (2,), (1,), None),
    "oikk": ((OUT, IN, K, K), (0,), (1,), None),
    "iok": ((IN, OUT, K), (1,), (0,), None),
    "iho": ((IN, H, D), (1, 2), (0,), (1,)),
    "hio": ((H, D, OUT), (2,), (0, 1), (0,)),
    "ioo": ((IN, OUT, D), (1, 2), (0,), None),
}


def bound(twin, groups, layout, shape):
    penalty = twin.lib.group_l1(groups=groups, layouts={"w": layout})
    return penalty.at("w", shape)


@pytest.mark.slow_in_jax
@pytest.mark.parametrize("layout", LAYOUTS)
def test_groups_of_units(twin, layout):
    shape, *axes = LAYOUTS[layout]
    for groups, wanted in zip(("output", "input", "heads"), axes, strict=True):
        if wanted is None:
            with pytest.raises(ValueError, match="groups='heads': there are none"):
                bound(twin, groups, layout, shape).require_fit("w", shape)
            continue
        found = labels_of(twin, bound(twin, groups, layout, shape), shape)
        assert same_partition(found, by_rows(shape, *wanted)), groups


@pytest.mark.slow_in_jax
def test_fused_heads(twin):
    # Three projections of two heads with two units each, by two inputs.
    shape = (3 * H * D, IN)
    heads = labels_of(twin, bound(twin, "heads", "6oi", shape), shape)
    assert same_partition(heads, index(shape, 0) // D)
    output = labels_of(twin, bound(twin, "output", "6oi", shape), shape)
    assert same_partition(output, index(shape, 0))
    shape = (OUT, H * D)
    heads = labels_of(twin, bound(twin, "heads", "o2i", shape), shape)
    assert same_partition(heads, index(shape, 1) // D)


def formed(twin, penalty, shape):
    """The groups as the library describes them, of which both twins make the same."""
    return dataclasses.astuple(penalty._grouping(shape))


def test_twins_form_the_same_groups():
    for kwargs, _ in KINDS:
        ours, theirs = (
            formed(twin, twin.lib.group_l1(**kwargs), SHAPE) for twin in (JAX, TORCH)
        )
        assert ours == theirs
    for layout, (shape, *axes) in LAYOUTS.items():
        for groups in ("output", "input", "heads")[: 3 if axes[2] else 2]:
            ours, theirs = (
                formed(twin, bound(twin, groups, layout, shape), shape)
                for twin in (JAX, TORCH)
            )
            assert ours == theirs
    shape = (12, 2)
    ours, theirs = (
        formed(twin, bound(twin, "heads", "6oi", shape), shape) for twin in (JAX, TORCH)
    )
    assert ours == theirs


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
        known = layouts_of(TORCH)(model)
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
    assert layouts_of(TORCH)(model) == recurrent | {
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
        layouts_of(TORCH)(dict(model.named_parameters()))


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
    assert layouts_of(JAX)(nnx.state(model, nnx.Param)) == known
    haiku = {"mlp/~/linear_0": {"w": np.ones((2, 3)), "b": np.ones(3)}}
    equinox = {"weight": np.ones((2, 3)), "none": None, "scalar": np.ones(())}
    assert layouts_of(JAX)(haiku | equinox) == {"mlp/~/linear_0.w": "io"}


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
    ("kwargs", "error", "match"),
    [
        ({"axis": 1.0}, TypeError, "axis must be a Python int, got 1.0"),
        ({"axis": True}, TypeError, "axis must be a Python int, got True"),
        ({"axis": "0"}, TypeError, "axis must be a Python int, got '0'"),
        ({"axis": ()}, ValueError, "axis must name an axis"),
        ({"block": 2}, ValueError, "axis must be one axis"),
        ({"axis": (0, 1), "block": 2}, ValueError, "axis must be one axis"),
        ({"axis": 0, "block": 0}, ValueError, "block must be a Python int >= 1, got 0"),
        (
            {"axis": 0, "block": 2.0},
            TypeError,
            "block must be a Python int >= 1, got 2.0",
        ),
        ({"axis": (0, 1), "groups": {"a": [0]}}, ValueError, "axis must be one axis"),
        ({"block": 1, "groups": {"a": [0]}}, ValueError, "cannot be given both"),
        ({"groups": "units"}, ValueError, "groups must be one of .* got 'units'"),
        ({"groups": [[0], [1]]}, TypeError, "groups must be one of"),
        ({"groups": {}}, ValueError, "groups must not be empty"),
        ({"groups": {"a": [0], "b": []}}, ValueError, r"groups\['b'\] must hold"),
        (
            {"groups": {"a": [-1]}},
            ValueError,
            r"groups\['a'\] must be a Python int >= 0",
        ),
        ({"groups": {"a": [0.5]}}, TypeError, r"groups\['a'\] must be a Python int"),
        (
            {"groups": {"a": [0, 1], "b": [1]}},
            ValueError,
            "'a' and 'b' both hold the index 1",
        ),
        ({"groups": "output", "axis": 0}, ValueError, "chooses the axes itself"),
        ({"groups": "output", "block": 2}, ValueError, "chooses the axes itself"),
        ({"layouts": {"w": "io"}}, ValueError, "layouts has no meaning without"),
        ({"groups": "output", "layouts": "io"}, TypeError, "layouts must be a mapping"),
        *(
            (
                {"groups": "output", "layouts": {"w": layout}},
                ValueError,
                f"layouts must hold strings .* got {layout!r}",
            )
            for layout in ("", "ix", "IO", "h", "oh", "8k", "0oi", "h8o", 3)
        ),
        ({"scale_by_size": 1}, TypeError, "scale_by_size must be True or False, got 1"),
    ],
    ids=str,
)
def test_bad_arguments(twin, kwargs, error, match):
    with pytest.raises(error, match=match):
        twin.lib.group_l1(**kwargs)
    with pytest.raises(error, match=match):
        twin.lib.sparse_group_l1(0.5, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"axis": 2}, "axis 2 does not exist in 'net.w' of shape"),
        ({"axis": (0, -2)}, "names an axis of 'net.w' of shape .* twice"),
        ({"axis": 1, "block": 4}, "block=4 does not divide axis 1 of 'net.w'"),
        ({"groups": {"a": [0, 2]}}, "once: no group holds 1, 3. Give"),
        ({"groups": {"a": range(5)}}, "once: there are no indices 4. Give"),
        ({"groups": {"a": [19]}, "axis": 1}, r"holds 0, 1, 2, 3, 4, 5. there are no"),
    ],
    ids=str,
)
def test_groups_that_do_not_fit_the_array(twin, kwargs, match):
    penalty = twin.lib.group_l1(**kwargs)
    with pytest.raises(ValueError, match=match):
        penalty.at("net.w", (4, 6)).require_fit("net.w", (4, 6))
    params = {"net.w": twin.array(np.ones((4, 6)))}
    with pytest.raises(ValueError, match=match):
        twin.lib.proximal_step(0.1, 1.0, penalty=penalty).init(params)
    x = params["net.w"]
    for call in (
        lambda: penalty.prox(x, 0.1),
        lambda: penalty.value(x),
        lambda: penalty.subgradient(x),
        lambda: penalty.optimality_distance(x, x),
        lambda: penalty.lambda_max(x),
    ):
        with pytest.raises(ValueError, match=match.replace("net.w", "x")):
            call()


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
