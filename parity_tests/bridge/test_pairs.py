"""Which layers pair up, what is refused, and that not a bit changes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity_tests.bridge import Layer, Leaf, Rule, match, to_flax, to_torch
from parity_tests.bridge.pieces import Pieces, dense, linear, names
from parity_tests.bridge.random_trees import (
    F64,
    assert_close,
    assert_same_arrays,
    quickly,
    random_like,
)


class Tower(nn.Module):
    """Eleven dense layers, two of each shape or more, a block, a shared embedding."""

    @nn.compact
    def __call__(self, x):
        for _ in range(11):
            x = nn.Dense(4, **F64)(x)
        return nn.LayerNorm(**F64)(x)


def tower(depth=11, width=4):
    layers = [torch.nn.Linear(width, width) for _ in range(depth)]
    return torch.nn.Sequential(*layers, torch.nn.LayerNorm(width, eps=1e-6)).double()


@pytest.mark.parametrize("compiled", [False, True])
def test_numbers_are_ordered_as_numbers(compiled):
    x = np.ones((2, 4))
    init = jax.jit(Tower().init) if compiled else Tower().init
    variables = random_like(jax.eval_shape(init, jax.random.key(0), x))
    keys = list(variables["params"])
    assert (keys.index("Dense_10") < keys.index("Dense_2")) or not compiled
    model = tower()
    expected = {f"Dense_{i}": str(i) for i in range(11)} | {"LayerNorm_0": "11"}
    # Sorted keys do not tell the order of the calls.
    with pytest.warns(UserWarning, match="Paired by their numbers: Dense_0 <-> 0"):
        assert names(match(variables, model)) == expected
    with pytest.warns(UserWarning, match="Paired by their numbers"):
        assert names(match(variables["params"], model)) == expected
    with pytest.warns(UserWarning, match="Paired by their numbers"):
        model.load_state_dict(to_torch(variables, model))
    assert_close(
        model(torch.tensor(x)).detach().numpy(), quickly(Tower().apply)(variables, x)
    )


def test_same_paths_come_before_order():
    flax = {"b": dense(3, 3), "a": dense(3, 3), "blocks_1": {"fc": dense(3, 3)}}
    blocks = torch.nn.ModuleList([torch.nn.ReLU(), Pieces(fc=linear(3, 3))])
    model = Pieces(a=linear(3, 3), blocks=blocks, b=linear(3, 3))
    assert names(match(flax, model)) == {
        "a": "a",
        "b": "b",
        "blocks_1/fc": "blocks.1.fc",
    }


def test_order_of_appearance():
    class Model(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.up = nnx.Linear(3, 3, rngs=rngs)
            self.down = nnx.Sequential(
                nnx.Linear(3, 3, rngs=rngs), jax.nn.relu, nnx.Linear(3, 3, rngs=rngs)
            )

    flax = {"up": dense(3, 3), "down": {"c": dense(3, 3), "b": dense(3, 3)}}
    model = torch.nn.Sequential(linear(3, 3), linear(3, 3), linear(3, 3))
    assert list(names(match(flax, model)).values()) == ["0", "1", "2"]
    assert list(names(match(flax, model))) == ["up", "down/c", "down/b"]
    found = names(match(Model(), model))
    assert found == {"up": "0", "down/layers/0": "1", "down/layers/2": "2"}


def test_sorted_names_pair_by_shape_or_not_at_all():
    flax = {"decoder": dense(3, 4), "encoder": dense(4, 3)}
    model = torch.nn.Sequential(linear(4, 3), linear(3, 4))
    assert names(match(flax, model)) == {"encoder": "0", "decoder": "1"}
    square = {"decoder": dense(3, 3), "encoder": dense(3, 3)}
    model = torch.nn.Sequential(linear(3, 3), linear(3, 3))
    with pytest.raises(ValueError, match="the names do not tell the order"):
        match(square, model)
    # Written in another order, the order is known; and it can be said.
    assert names(match(dict(reversed(square.items())), model)) == {
        "encoder": "0",
        "decoder": "1",
    }
    pairs = {"decoder": "0", "encoder": "1"}
    assert names(match(square, model, pairs)) == pairs


def test_a_layer_that_could_be_two_is_not_guessed():
    scale = np.ones(4)
    flax = {"a": {"scale": scale}, "b": {"scale": scale, "bias": scale}}
    model = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.LayerNorm(4))
    with pytest.raises(ValueError, match="the names do not tell the order"):
        match(flax, model)


def test_order_against_names_is_refused():
    flax = {"one": dense(3, 3), "head": dense(3, 3)}
    model = Pieces(head=linear(3, 3), tail=linear(3, 3))
    with pytest.raises(ValueError, match="by order head would be tail"):
        match(flax, model)


@pytest.mark.parametrize(
    ("flax", "model", "words"),
    [
        (
            {"Dense_0": dense(3, 4), "Dense_1": dense(4, 2)},
            torch.nn.Sequential(torch.nn.Linear(3, 4)),
            ["Dense_1  kernel (4, 2), bias (2,)", "0  weight (4, 3), bias (4,)"],
        ),
        (
            {"Dense_1": dense(3, 4), "Dense_0": dense(4, 2)},
            torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Linear(3, 4)),
            ["Dense_1", "make weight (4, 3), bias (4,) in torch", "0  weight (2, 4)"],
        ),
        (
            {"Dense_0": {"kernel": np.ones((3, 4))}},
            torch.nn.Sequential(torch.nn.Linear(3, 4)),
            ["Dense_0  kernel (3, 4)", "0  weight (4, 3), bias (4,)"],
        ),
        (
            {"Dense_0": dense(3, 4), "position": np.ones((5, 4))},
            torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.PReLU()),
            ["(the model itself)  position (5, 4)", "1  weight (1,)"],
        ),
        (
            {"Dense_0": dense(3, 4)},
            torch.nn.Sequential(torch.nn.Conv1d(3, 4, 1)),
            ["Dense_0  kernel (3, 4)", "0  weight (4, 3, 1)"],
        ),
        (
            {"Conv_0": {"kernel": np.ones((3, 3, 2, 4))}},
            torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, groups=2, bias=False)),
            None,
        ),
        (
            {"Conv_0": {"kernel": np.ones((3, 3, 2, 4))}},
            torch.nn.Sequential(torch.nn.ConvTranspose2d(4, 2, 3, bias=False)),
            ["make weight (2, 4, 3, 3) in torch"],
        ),
    ],
)
def test_unmatched_layers_are_listed(flax, model, words):
    if words is None:
        assert len(match(flax, model).matches) == 1
        return
    with pytest.raises(ValueError, match="do not pair up") as error:
        to_torch(flax, model)
    for word in [*words, "pairs={"]:
        assert word in str(error.value)
    with pytest.raises(ValueError, match="do not pair up"):
        to_flax(model, like=flax)


class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.position = torch.nn.Parameter(torch.zeros(4, 5))
        self.both = torch.nn.Parameter(torch.zeros(2, 3))
        self.fc = torch.nn.Linear(3, 4)
        self.register_buffer("constant", torch.arange(3.0))


def test_a_map_for_anything_else():
    rng = np.random.default_rng(0)
    draw = rng.normal
    flax = {
        "fc": {"kernel": draw(size=(3, 4)), "bias": draw(size=4)},
        "table": draw(size=(5, 4)),
        "gates": {"left": draw(size=3), "right": draw(size=3)},
    }
    model = Own().double()
    rule = Rule(
        lambda flax, shapes: {"both": np.stack([flax["left"], flax["right"]])},
        lambda torch, shapes: dict(zip(("left", "right"), torch["both"], strict=True)),
    )
    pairs = {
        "table": Leaf("position", np.transpose, np.transpose),
        "gates": Layer("", rule=rule),
    }
    state = to_torch(flax, model, pairs=pairs)
    assert list(state) == list(model.state_dict())
    np.testing.assert_array_equal(state["position"], flax["table"].T)
    np.testing.assert_array_equal(state["both"][1], flax["gates"]["right"])
    np.testing.assert_array_equal(state["constant"], [0, 1, 2])
    assert (model.position == 0).all()
    back = to_flax(model, like=flax, pairs=pairs, state_dict=state)
    assert_same_arrays(back, jax.tree.map(jnp.asarray, flax))


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ({"nothing": "fc"}, ["'nothing' is no layer", "'fc', 'gates'"]),
        ({"fc": "nothing"}, ["'nothing' is none of the torch layers", "'fc'"]),
        ({"nothing": Leaf("position")}, ["'nothing' is no array", "'table'"]),
        ({"table": Leaf("nothing")}, ["not in torch's state dict", "'position'"]),
        ({"table": Leaf("position")}, ["pairs['table']", "make (5, 4) in torch"]),
        ({"gates": "fc"}, ["one is other, the other dense"]),
        ({"fc": Layer(flattened=(2, 2, 3))}, ["has 12 elements, the layer 3 inputs"]),
        ({"fc": Layer(transpose_kernel=True)}, ["fc is none"]),
    ],
)
def test_bad_maps(pairs, words):
    flax = {"fc": dense(3, 4), "gates": {"left": np.ones(3)}, "table": np.ones((5, 4))}
    with pytest.raises(ValueError, match="pair") as error:
        match(flax, Own(), pairs)
    for word in words:
        assert word in str(error.value)


def test_bad_map_types():
    with pytest.raises(TypeError, match="must be a torch path, a Layer or a Leaf"):
        match({"fc": dense(3, 4)}, linear(3, 4), {"fc": 3})
    with pytest.raises(ValueError, match="rule needs torch="):
        Layer(rule=Rule(None, None))


def test_shared_parameters():
    flax = {"embed": {"embedding": np.random.default_rng(0).normal(size=(7, 3))}}
    model = Pieces(
        embed=torch.nn.Embedding(7, 3), head=torch.nn.Linear(3, 7, bias=False)
    ).double()
    model.head.weight = model.embed.weight
    state = to_torch(flax, model)
    assert list(state) == ["embed.weight", "head.weight"]
    np.testing.assert_array_equal(state["head.weight"], flax["embed"]["embedding"])
    model.load_state_dict(state)
    assert model.head.weight is model.embed.weight
    back = to_flax(model, like=flax)
    np.testing.assert_array_equal(
        back["embed"]["embedding"], model.head.weight.detach()
    )


def test_levels_of_an_lstm():
    rng = np.random.default_rng(0)
    cells = [nn.RNN(nn.OptimizedLSTMCell(4, **F64)) for _ in range(2)]
    model = nn.Sequential(cells)
    x = rng.normal(size=(2, 5, 3))
    variables = random_like(jax.eval_shape(model.init, jax.random.key(0), x))
    theirs = torch.nn.LSTM(3, 4, num_layers=2, batch_first=True).double()
    assert set(names(match(variables, theirs)).values()) == {"l0", "l1"}
    theirs.load_state_dict(to_torch(variables, theirs))
    output = theirs(torch.tensor(x))[0].detach().numpy()
    assert_close(output, quickly(model.apply)(variables, x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_every_bit_in_every_dtype(dtype):
    bits = np.array([0.0, -0.0, 1e-40, np.inf, -np.nan, 3.14], np.float32)
    kernel = jnp.asarray(bits.reshape(2, 3), dtype)
    variables = {"params": {"kernel": kernel}}
    model = torch.nn.Linear(2, 3, bias=False, dtype=getattr(torch, dtype))
    state = to_torch(variables, model)
    assert state["weight"].dtype == getattr(torch, dtype)
    model.load_state_dict(state)
    back = to_flax(model, like=variables)
    width = {2: np.uint16, 4: np.uint32, 8: np.uint64}[kernel.dtype.itemsize]
    ours, theirs = (np.asarray(t["params"]["kernel"]) for t in (variables, back))
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours.view(width), theirs.view(width))


def test_nothing_is_rounded():
    model = torch.nn.Linear(2, 3)
    with pytest.raises(ValueError, match="weight would be rounded from float64"):
        to_torch(dense(2, 3), model)
    like = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), dense(2, 3))
    with pytest.raises(ValueError, match="kernel would be rounded from float32"):
        to_flax(model, like=like)
    state = to_torch(like, model)
    assert state["weight"].dtype == torch.float32


def test_what_flax_cannot_express():
    model = torch.nn.Sequential(torch.nn.GRUCell(3, 5), torch.nn.BatchNorm1d(4))
    flax = nnx.Sequential(
        nnx.GRUCell(3, 5, rngs=nnx.Rngs(0)),
        nnx.BatchNorm(4, use_scale=False, rngs=nnx.Rngs(0)),
    )
    before = nnx.state(flax)
    with torch.no_grad():
        model[0].bias_hh[:] = 0
        model[1].weight[0] = 2
        with pytest.raises(ValueError, match="weight is not 1 everywhere"):
            to_flax(model, like=flax)
        model[1].weight[:] = 1
        model[0].bias_hh[-1] = 1e-30
        with pytest.raises(ValueError, match="last third of bias_hh is not zero"):
            to_flax(model, like=flax)
        model[0].bias_hh[-1] = 0
    to_flax(model, like=flax)
    assert_same_arrays(nnx.state(flax), before)


def test_the_rest_of_the_tree_stays():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.fc = nnx.Linear(4, 4, rngs=rngs)

    ours = Model(nnx.Rngs(0))
    model = Pieces(fc=torch.nn.Linear(4, 4), norm=torch.nn.BatchNorm1d(4))
    new = to_flax(model, like=ours)
    nnx.update(ours, new)
    np.testing.assert_array_equal(ours.fc.kernel[...], model.fc.weight.detach().T)
    assert_same_arrays(to_flax(model, like=nnx.state(ours)), new)
    parameters = nnx.state(ours, nnx.Param)
    assert len(jax.tree.leaves(to_flax(model, like=parameters))) == 4
    with torch.no_grad():
        model.norm.running_mean.fill_(3)
    state = to_torch(parameters, model)
    assert (state["norm.running_mean"] == 3).all()
    assert (to_torch(ours, model)["norm.running_mean"] == 0).all()
    state["more"] = state.pop("fc.bias")
    with pytest.raises(ValueError, match="lacks .'fc.bias'.* adds .'more'"):
        to_flax(model, like=ours, state_dict=state)
