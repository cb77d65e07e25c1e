"""How the arrays of each kind of layer are laid out in Flax and in torch.

A `Rule` holds two functions that are each other's inverse. They take a layer's arrays
by name, `{"kernel": ...}` in Flax and `{"weight": ...}` in torch, and the shapes that
the other side wants, and move numbers without computing.

| layer | Flax | torch |
|---|---|---|
| Dense | kernel (in, out) | weight (out, in) |
| Conv | kernel (*space, in / groups, out) | weight (out, in / groups, *space) |
| ConvTranspose | kernel (*space, in, out) | weight (in, out, *space), space flipped |
| Embed | embedding (n, features) | weight (n, features) |
| BatchNorm and other norms | scale, bias, mean, var | weight, bias, running_mean, ... |
| attention | kernels (in, heads, depth), out | in_proj_weight, out_proj |
| LSTM, GRU: see `cells` | a kernel for each gate, or packed | weight_ih, weight_hh |

Equal arrays make equal layers only under equal settings:

- The momentum of Flax's BatchNorm (0.99) is the share of the old value, torch's (0.1)
  that of the new one: 0.9 in Flax is 0.1 in torch. Flax averages the biased variance of
  the batches, torch the unbiased one: after training, `var` and `running_var` differ.
- Epsilons: Flax's norms have 1e-6 (BatchNorm 1e-5), torch's 1e-5.
- Convolutions in Flax pad by "SAME" unless told otherwise. At a stride of 1 and an odd
  size k this is torch's `padding=(k - 1) // 2`; at larger strides it may not be
  symmetric, and then has no equal in torch but a padding of its own.
- Of transposed convolutions of size k and stride s with `k >= s`, "VALID" is
  `padding=0` in torch, and "SAME" is `padding=(k - s) / 2` where `k - s` is even.
- `nn.gelu` in Flax is torch's with `approximate="tanh"`.
- `nnx.MultiHeadAttention` attends in float32, whatever its dtype.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Arrays = dict[str, np.ndarray]
"""A layer's arrays by their names inside it."""
Shapes = Mapping[str, tuple[int, ...]]
Converter = Callable[[Arrays, Shapes], Arrays]
"""`convert(arrays, shapes that the other side wants)`."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """How one layer's arrays go from one framework to the other.

    Both functions take and give arrays by their names inside the layer, and the shapes
    by name that the other side has. They raise ValueError for what cannot be expressed.
    """

    to_torch: Converter
    to_flax: Converter


def dense(flattened: Sequence[int] | None = None) -> Rule:
    """Dense layers: the weight is the kernel transposed.

    Args:
      flattened: if the inputs are a flattened image of `(height, width, channels)`, in
        Flax's order, that shape. torch's images are (channels, height, width), so that
        the inputs come in another order.
    """

    def kernel_rows(rows: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        if math.prod(shape) != len(rows):
            raise ValueError(
                f"flattened={tuple(flattened)} has {math.prod(shape)} elements, the "
                f"layer {len(rows)} inputs. Pass (height, width, channels) of the "
                "image before it is flattened."
            )
        return rows.reshape(*shape, -1)

    def to_torch(flax: Arrays, shapes: Shapes) -> Arrays:
        kernel = flax["kernel"]
        if flattened is not None:
            image = kernel_rows(kernel, flattened)
            image = np.moveaxis(image, -2, 0)  # channels first
            kernel = image.reshape(kernel.shape)
        return {"weight": kernel.T} | _same(flax, ["bias"])

    def to_flax(torch: Arrays, shapes: Shapes) -> Arrays:
        kernel = torch["weight"].T
        if flattened is not None:
            *space, channels = flattened
            image = kernel_rows(kernel, (channels, *space))
            kernel = np.moveaxis(image, 0, -2).reshape(kernel.shape)
        return {"kernel": kernel} | _same(torch, ["bias"])

    return Rule(to_torch, to_flax)


def conv() -> Rule:
    """Convolutions of any dimension, grouped or not."""
    return Rule(
        lambda flax, shapes: (
            {"weight": np.moveaxis(flax["kernel"], (-1, -2), (0, 1))}
            | _same(flax, ["bias"])
        ),
        lambda torch, shapes: (
            {"kernel": np.moveaxis(torch["weight"], (0, 1), (-1, -2))}
            | _same(torch, ["bias"])
        ),
    )


def conv_transpose(transpose_kernel: bool = False) -> Rule:
    """Transposed convolutions of one group.

    torch's is the gradient of a convolution, which reads its kernel backwards. Flax's
    is so only with `transpose_kernel=True`, and then holds the kernel of that very
    convolution; without, its kernel is not flipped.
    """
    if transpose_kernel:
        return conv()

    def flip(kernel: np.ndarray) -> np.ndarray:
        return np.flip(kernel, range(kernel.ndim - 2))

    return Rule(
        lambda flax, shapes: (
            {"weight": np.moveaxis(flip(flax["kernel"]), (-2, -1), (0, 1))}
            | _same(flax, ["bias"])
        ),
        lambda torch, shapes: (
            {"kernel": flip(np.moveaxis(torch["weight"], (0, 1), (-2, -1)))}
            | _same(torch, ["bias"])
        ),
    )


def embed() -> Rule:
    """Embeddings: the same array."""
    return _renaming({"embedding": "weight"})


def norm() -> Rule:
    """Normalisation layers, with running statistics where both sides have them.

    A layer without scale or bias in Flax is one with 1 or 0 in torch, and only that.
    """
    fills = {"weight": ("scale", 1), "bias": ("bias", 0)}
    renamed = _renaming(
        {
            "scale": "weight",
            "bias": "bias",
            "mean": "running_mean",
            "var": "running_var",
        }
    )

    def to_torch(flax: Arrays, shapes: Shapes) -> Arrays:
        torch = renamed.to_torch(flax, shapes)
        like = next(iter(flax.values()))
        for name in (fills.keys() & shapes.keys()) - torch.keys():
            torch[name] = np.full_like(like, fills[name][1])
        return torch

    def to_flax(torch: Arrays, shapes: Shapes) -> Arrays:
        for name, (flax_name, fill) in fills.items():
            if (
                name in torch
                and flax_name not in shapes
                and (torch[name] != fill).any()
            ):
                raise ValueError(
                    f"{name} is not {fill} everywhere, and the Flax layer has no "
                    f"{flax_name} to hold it. Build it with use_{flax_name}=True."
                )
        flax = renamed.to_flax(torch, shapes)
        return {name: x for name, x in flax.items() if name in shapes}

    return Rule(to_torch, to_flax)


def attention(heads: int) -> Rule:
    """Multi-head attention without normalised queries: `torch.nn.MultiheadAttention`.

    torch packs queries, keys and values into `in_proj_weight`, unless `kdim` or `vdim`
    differ; Flax keeps them apart, with an axis of heads.
    """
    sides = ("query", "key", "value")
    apart = [f"{side[0]}_proj_weight" for side in sides]

    def to_torch(flax: Arrays, shapes: Shapes) -> Arrays:
        if flax["query/kernel"].shape[1] != heads:
            raise ValueError(
                f"Flax has {flax['query/kernel'].shape[1]} heads, torch {heads}"
            )
        kernels = [flax[f"{side}/kernel"] for side in sides]
        weights = [k.reshape(len(k), -1).T for k in kernels]
        out = flax["out/kernel"]
        torch = {"out_proj.weight": out.reshape(-1, out.shape[-1]).T}
        if "in_proj_weight" in shapes:
            torch["in_proj_weight"] = np.concatenate(weights)
        else:
            torch |= zip(apart, weights, strict=True)
        if "query/bias" in flax:
            biases = [flax[f"{side}/bias"].reshape(-1) for side in sides]
            torch["in_proj_bias"] = np.concatenate(biases)
        return torch | _same(flax, ["out/bias"], ["out_proj.bias"])

    def to_flax(torch: Arrays, shapes: Shapes) -> Arrays:
        if "in_proj_weight" in torch:
            weights = np.split(torch["in_proj_weight"], 3)
        else:
            weights = [torch[name] for name in apart]
        flax = {"out/kernel": torch["out_proj.weight"].T}
        flax |= {f"{s}/kernel": w.T for s, w in zip(sides, weights, strict=True)}
        if "in_proj_bias" in torch:
            biases = np.split(torch["in_proj_bias"], 3)
            flax |= {f"{s}/bias": b for s, b in zip(sides, biases, strict=True)}
        flax = {name: x.reshape(shapes[name]) for name, x in flax.items()}
        return flax | _same(torch, ["out_proj.bias"], ["out/bias"])

    return Rule(to_torch, to_flax)


def _same(
    arrays: Arrays, names: Sequence[str], others: Sequence[str] | None = None
) -> Arrays:
    pairs = zip(names, others or names, strict=True)
    return {other: arrays[name] for name, other in pairs if name in arrays}


def _renaming(names: Mapping[str, str]) -> Rule:
    ours, theirs = list(names), list(names.values())
    return Rule(
        lambda flax, shapes: _same(flax, ours, theirs),
        lambda torch, shapes: _same(torch, theirs, ours),
    )
