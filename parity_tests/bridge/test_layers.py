"""Every kind of layer gives the same outputs in the other framework."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity_tests.bridge import Layer, to_flax, to_torch
from parity_tests.bridge.random_trees import (
    F64,
    assert_close,
    assert_same_arrays,
    quickly,
    random_like,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer in the three ways to write it; shapes as in Flax, channels last."""

    linen: nn.Module | None
    nnx: Callable[[nnx.Rngs], nnx.Module] | None
    torch: Callable[[], torch.nn.Module]
    inputs: tuple[tuple[int, ...], ...]
    channels: bool = False
    """Whether torch's inputs and outputs have the channels first."""
    flax_call: Callable[..., Any] = lambda f, *x: f(*x)
    torch_call: Callable[..., Any] = lambda f, *x: f(*x)
    layer: Layer | None = None
    expressible: Callable[[torch.nn.Module, str], None] = lambda model, framework: None
    """Sets to what it stands for in Flax what Flax does not have."""


def conv(dims, linen=nn.Conv, modern=nnx.Conv, old=None, layer=None, **settings):
    groups = settings.pop("groups", 1)
    stride = settings.pop("stride", 1)
    size = settings.pop("size", 3)
    padding, theirs = settings.pop("padding", ("VALID", 0))
    ours = {"strides": (stride,) * dims, "padding": padding, **F64, **settings}
    ours |= {"feature_group_count": groups} if groups > 1 else {}
    old = old or getattr(torch.nn, f"Conv{dims}d")
    return Case(
        linen(6, (size,) * dims, **ours),
        lambda rngs: modern(4, 6, (size,) * dims, rngs=rngs, **ours),
        lambda: old(4, 6, size, stride=stride, padding=theirs, groups=groups),
        ((2, *(7, 6, 5)[:dims], 4),),
        channels=True,
        layer=layer,
    )


def conv_transpose(dims, **settings):
    old = getattr(torch.nn, f"ConvTranspose{dims}d")
    return conv(dims, nn.ConvTranspose, nnx.ConvTranspose, old, **settings)


def attend_in_double_precision(query, key, value, **_):
    # nnx's own is in single precision, whatever the dtype.
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)


def attention(self_attention, **settings):
    dims = {} if self_attention else {"kdim": 5, "vdim": 7}
    return Case(
        nn.MultiHeadAttention(num_heads=2, qkv_features=6, **F64, **settings),
        (
            lambda rngs: nnx.MultiHeadAttention(
                2,
                6,
                decode=False,
                attention_fn=attend_in_double_precision,
                rngs=rngs,
                **F64,
                **settings,
            )
        )
        if self_attention
        else None,
        lambda: torch.nn.MultiheadAttention(
            6, 2, batch_first=True, bias=settings.get("use_bias", True), **dims
        ),
        ((3, 4, 6),) * 3 if self_attention else ((3, 4, 6), (3, 2, 5), (3, 2, 7)),
        torch_call=lambda f, *x: f(*x)[0],
    )


def cell(linen, modern, old, carry):
    return Case(
        linen(5, **F64),
        lambda rngs: modern(3, 5, rngs=rngs, **F64),
        lambda: old(3, 5),
        ((4, 3), *[(4, 5)] * carry),
        flax_call=lambda f, x, *h: f(h[::-1] if carry == 2 else h[0], x)[1],
        torch_call=lambda f, x, *h: f(x, h)[0] if carry == 2 else f(x, h[0]),
    )


def run_sequence(f, x):
    return f(x, rngs=nnx.Rngs(0)) if isinstance(f, nnx.RNN) else f(x)


def sequence(linen, modern, old):
    return Case(
        nn.RNN(linen(5, **F64)),
        lambda rngs: nnx.RNN(modern(3, 5, rngs=rngs, **F64)),
        lambda: old(3, 5, batch_first=True),
        ((4, 6, 3),),
        flax_call=run_sequence,
        torch_call=lambda f, x: f(x)[0],
    )


def norm(linen, modern, old, channels=True, eps=1e-5, **settings):
    return Case(
        linen(epsilon=eps, **F64, **settings),
        lambda rngs: modern(4, epsilon=eps, rngs=rngs, **F64, **settings),
        old,
        ((3, 5, 6, 4),),
        channels=channels,
    )


def without_last_bias(bias, framework):
    if framework == "nnx":
        bias[-5:] = 0


CASES = {
    "dense": Case(
        nn.Dense(5, **F64),
        lambda rngs: nnx.Linear(3, 5, rngs=rngs, **F64),
        lambda: torch.nn.Linear(3, 5),
        ((4, 3),),
    ),
    "dense, no bias": Case(
        nn.Dense(5, use_bias=False, **F64),
        lambda rngs: nnx.Linear(3, 5, use_bias=False, rngs=rngs, **F64),
        lambda: torch.nn.Linear(3, 5, bias=False),
        ((4, 3),),
    ),
    "dense, flattened": Case(
        nn.Dense(5, **F64),
        lambda rngs: nnx.Linear(24, 5, rngs=rngs, **F64),
        lambda: torch.nn.Linear(24, 5),
        ((2, 2, 3, 4),),
        flax_call=lambda f, x: f(x.reshape(2, -1)),
        torch_call=lambda f, x: f(x.movedim(-1, 1).flatten(1)),
        layer=Layer(flattened=(2, 3, 4)),
    ),
    "conv1d": conv(1),
    "conv2d": conv(2),
    "conv3d": conv(3),
    "conv2d, groups": conv(2, groups=2),
    "conv2d, same": conv(2, padding=("SAME", 1)),
    "conv2d, groups and strides": conv(2, groups=2, stride=2),
    "conv_transpose1d": conv_transpose(1),
    "conv_transpose2d": conv_transpose(2, stride=2),
    "conv_transpose3d": conv_transpose(3),
    "conv_transpose2d, same, even": conv_transpose(
        2, size=4, stride=2, padding=("SAME", 1)
    ),
    "conv_transpose2d, same, odd": conv_transpose(
        2, size=3, stride=1, padding=("SAME", 1)
    ),
    "conv_transpose2d, as a gradient": conv_transpose(
        2, stride=2, transpose_kernel=True, layer=Layer(transpose_kernel=True)
    ),
    "embed": Case(
        nn.Embed(7, 3, **F64),
        lambda rngs: nnx.Embed(7, 3, rngs=rngs, **F64),
        lambda: torch.nn.Embedding(7, 3),
        ((4,),),
        flax_call=lambda f, x: f(jnp.abs(100 * x).astype(int) % 7),
        torch_call=lambda f, x: f((100 * x).abs().long() % 7),
    ),
    "batch norm, evaluation": norm(
        nn.BatchNorm,
        nnx.BatchNorm,
        lambda: torch.nn.BatchNorm2d(4).eval(),
        use_running_average=True,
    ),
    "batch norm, training": norm(
        nn.BatchNorm,
        nnx.BatchNorm,
        lambda: torch.nn.BatchNorm2d(4),
        use_running_average=False,
    ),
    "batch norm, no scale": dataclasses.replace(
        norm(
            nn.BatchNorm,
            nnx.BatchNorm,
            lambda: torch.nn.BatchNorm2d(4).eval(),
            use_running_average=True,
            use_scale=False,
        ),
        expressible=lambda model, framework: model.weight.fill_(1),
    ),
    "batch norm, statistics only": norm(
        nn.BatchNorm,
        nnx.BatchNorm,
        lambda: torch.nn.BatchNorm2d(4, affine=False).eval(),
        use_running_average=True,
        use_scale=False,
        use_bias=False,
    ),
    "layer norm": norm(
        nn.LayerNorm, nnx.LayerNorm, lambda: torch.nn.LayerNorm(4), channels=False
    ),
    "layer norm, no bias": norm(
        nn.LayerNorm,
        nnx.LayerNorm,
        lambda: torch.nn.LayerNorm(4, bias=False),
        channels=False,
        use_bias=False,
    ),
    "group norm": dataclasses.replace(
        norm(nn.GroupNorm, None, lambda: torch.nn.GroupNorm(2, 4), num_groups=2),
        nnx=lambda rngs: nnx.GroupNorm(4, 2, epsilon=1e-5, rngs=rngs, **F64),
    ),
    "rms norm": norm(
        nn.RMSNorm, nnx.RMSNorm, lambda: torch.nn.RMSNorm(4, 1e-5), channels=False
    ),
    "attention": attention(True),
    "attention, no bias": attention(True, use_bias=False),
    "attention, kdim and vdim": attention(False),
    "lstm cell": cell(nn.LSTMCell, nnx.LSTMCell, torch.nn.LSTMCell, 2),
    "optimized lstm cell": cell(
        nn.OptimizedLSTMCell, nnx.OptimizedLSTMCell, torch.nn.LSTMCell, 2
    ),
    "lstm": sequence(nn.OptimizedLSTMCell, nnx.OptimizedLSTMCell, torch.nn.LSTM),
    "gru cell": dataclasses.replace(
        cell(nn.GRUCell, nnx.GRUCell, torch.nn.GRUCell, 1),
        expressible=lambda model, framework: without_last_bias(
            model.bias_hh, framework
        ),
    ),
    "gru": dataclasses.replace(
        sequence(nn.GRUCell, nnx.GRUCell, torch.nn.GRU),
        expressible=lambda model, framework: without_last_bias(
            model.bias_hh_l0, framework
        ),
    ),
}
CALLS = [
    pytest.param(case, framework, id=f"{name}-{framework}")
    for name, case in CASES.items()
    for framework in ("linen", "nnx")
    if getattr(case, framework) is not None
]


def random_torch(make, seed=1):
    model = make().double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in model.state_dict().items():
            if x.dtype.is_floating_point:
                x.normal_(generator=generator)
                if "running_var" in name:
                    x.pow_(2)
    return model


def made(case, framework):
    """Random variables of a Flax layer, what applies them to inputs, and the inputs."""
    inputs = [np.random.default_rng(2).normal(size=shape) for shape in case.inputs]
    if framework == "nnx":
        model = nnx.eval_shape(lambda: case.nnx(nnx.Rngs(0)))
        graphdef, state = nnx.split(model)

        def apply(state, *x):
            return case.flax_call(nnx.merge(graphdef, state), *x)

        return random_like(state), quickly(apply), inputs
    found = {}

    def init(*x):
        output, variables = case.linen.init_with_output(jax.random.key(0), *x)
        found.update(variables)
        return output

    def abstract(*x):
        case.flax_call(init, *x)
        return found

    def apply(variables, *x):
        def call(*x):
            return case.linen.apply(variables, *x, mutable=["batch_stats"])[0]

        return case.flax_call(call, *x)

    return random_like(jax.eval_shape(abstract, *inputs)), quickly(apply), inputs


def outputs_of_torch(case, model, inputs):
    model = copy.deepcopy(model)  # training moves its statistics
    tensors = [torch.tensor(x) for x in inputs]
    if case.channels:
        tensors = [x.movedim(-1, 1) for x in tensors]
    with torch.no_grad():
        output = case.torch_call(model, *tensors)
    return (output.movedim(1, -1) if case.channels else output).numpy()


def assert_same_state(state, other):
    assert list(state) == list(other)
    for name, x in state.items():
        assert x.dtype == other[name].dtype
        assert torch.equal(x, other[name])
        assert torch.equal(torch.signbit(x), torch.signbit(other[name]))


@pytest.mark.parametrize(("case", "framework"), CALLS)
def test_layer(case, framework):
    variables, apply, inputs = made(case, framework)
    model = random_torch(case.torch)
    pairs = {"": case.layer} if case.layer else None

    # From Flax to torch and back.
    model.load_state_dict(to_torch(variables, model, pairs=pairs))
    assert_close(outputs_of_torch(case, model, inputs), apply(variables, *inputs))
    assert_same_arrays(to_flax(model, like=variables, pairs=pairs), variables)

    # From torch to Flax and back.
    model = random_torch(case.torch)
    with torch.no_grad():
        case.expressible(model, framework)
    theirs = to_flax(model, like=variables, pairs=pairs)
    assert_close(apply(theirs, *inputs), outputs_of_torch(case, model, inputs))
    if any("bias_ih" in name for name in model.state_dict()):
        # Two biases became one: from here on nothing changes.
        model.load_state_dict(to_torch(theirs, model, pairs=pairs))
        theirs = to_flax(model, like=variables, pairs=pairs)
    assert_same_state(to_torch(theirs, model, pairs=pairs), model.state_dict())
