"""Layouts: which axis of an array is input, output or attention head.

A layout is a string with one letter for each axis:

- `i`: the input units; `o`: the output units; `k`: the positions in a convolution's
  kernel.
- `h`: the attention heads among which the units of the next letter are divided.
- `g`: in a convolution by groups of channels, the units of one group; those of the
  letter that is missing.
- `l`: layers in a stack, which share no unit.

A number before `i` or `o` says that the units of so many heads follow one another along
this axis. A number before `l` says that so many layers do: projections or gates, kept
in one array.

| layout | array |
|---|---|
| `io`, `kio`, `kkio`, `kkkio` | `kernel` of flax's Dense and Conv, `w` of haiku |
| `io` | an embedding: an entry of its table is an input unit, a feature an output |
| `iho` | `kernel` of flax's query, key and value, `hio` of its out |
| `oi`, `oik`, `oikk`, `oikkk` | `weight` of torch's and equinox' Linear and Conv |
| `iok`, `iokk`, `iokkk` | `weight` of torch's ConvTranspose |
| `3l8oi`, `o8i` | `in_proj_weight`, `out_proj.weight` of torch with 8 heads |
| `4loi`, `3loi` | `weight_ih`, `weight_hh` of torch's LSTM and GRU |
"""

import fnmatch
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from l1jax.parameters.trees import PyTree, named_leaves, parameters_of, require_params
from l1jax.penalties.groups import Grouping

Layouts = tuple[tuple[str, str], ...]
"""Pairs of a glob pattern and a layout; the last that matches holds. An array that none
matches is known by its name."""


class _AxisLayout(NamedTuple):
    layers: int
    """How many layers follow one another along the axis; 0 if the layout names none."""
    heads: int
    """How many heads do; 0 if the layout names none."""
    letter: str


_LAYOUT = re.compile(r"([kgl]|([1-9]\d*l)?([1-9]\d*)?[io]|h[io])+")
_TOKEN = re.compile(r"(?:(\d+)l)?(\d*)(\D)")
_KERNELS = {2: "io", 3: "kio", 4: "kkio", 5: "kkkio"}
_ATTENTION = {"query": "iho", "key": "iho", "value": "iho", "out": "hio"}


def layouts(params: PyTree) -> dict[str, str]:
    """Return the layouts of a model's arrays, for `group_l1("...", layouts=)`.

    They are known by name, see `penalties.group_layouts`: those of flax and of haiku,
    attention kernels by the name of their parent. Others are left out; add them, as
    `layouts(params) | {"*.my_weight": "oi"}`. Two things that a name does not tell must
    be added too: a `kernel` of three axes that is not a convolution's (flax's
    DenseGeneral, or a stack of layers under `nn.scan`: `lio`), and convolutions by
    groups of channels (`kkgo`) or transposed (`kkoi`, flax's `transpose_kernel=True`).

    Args:
      params: a tree of arrays, or a flax `nnx.Module`.

    Returns:
      Mapping from the dotted path of an array to its layout.

    Example:
      >>> layouts({"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}})
      {'dense.kernel': 'io'}
    """
    require_params(params)
    known = (
        (path, _by_name(path, jnp.ndim(leaf)))
        for path, leaf in named_leaves(parameters_of(params))
        if leaf is not None
    )
    return {path: layout for path, layout in known if layout}


def check_layouts(layouts: object) -> Layouts | None:
    """Return a mapping from paths to layouts as pairs, or raise."""
    if layouts is None:
        return None
    if not isinstance(layouts, Mapping):
        raise TypeError(
            f"layouts must be a mapping from dotted paths to layouts, got {layouts!r} "
            f"of type {type(layouts).__name__}. Pass l1jax.layouts(params), or such as "
            "{'*.weight': 'oi'}."
        )
    for layout in layouts.values():
        if not isinstance(layout, str) or not _LAYOUT.fullmatch(layout):
            raise ValueError(
                "layouts must hold strings of the letters i, o, k, h, g, l, one for "
                f"each axis, got {layout!r}. Write 'oi' for a matrix of outputs by "
                "inputs, 'iho' with an axis of heads before the units of each, "
                "'8oi' for 8 heads in one axis."
            )
    return tuple((str(pattern), layout) for pattern, layout in layouts.items())


def layout_of(path: str, shape: tuple[int, ...], given: Layouts | None) -> str:
    """Return the layout of an array.

    Raises:
      ValueError: it is not known, or has another number of axes.
    """
    layout = _by_name(path, len(shape))
    for pattern, value in given or ():
        if path == pattern or fnmatch.fnmatchcase(path, pattern):
            layout = value
    if layout is None:
        raise ValueError(
            f"groups: the layout of '{path}' of shape {tuple(shape)} is not known. "
            "Pass layouts=l1jax.layouts(params), with | {'*.weight': 'oi'} for what "
            f"is called otherwise, or leave '{path}' out with mask=."
        )
    _axes(layout, shape, path)
    return layout


def by_units(shape: tuple[int, ...], layout: str, unit: str, path: str) -> Grouping:
    """Groups that hold all weights of one input unit, output unit or head.

    Raises:
      ValueError: the layout has no such unit, or does not fit the shape.
    """
    layout_axes = _axes(layout, shape, path)
    parts, axes, first, found = [], [], 0, False
    for j, (layers, heads, letter) in enumerate(layout_axes):
        owner = layout_axes[j + 1].letter if letter == "h" else letter
        of_heads = unit == "heads" and heads > 0
        belongs = letter == "h" if unit == "heads" else owner == unit[0]
        count = (heads if of_heads else 1) * (1 if belongs else max(layers, 1))
        split = of_heads or count > 1
        # The first of two parts numbers units or layers, the second is in a group.
        parts.append((count, shape[j] // count) if split else (shape[j],))
        axes += range(first + (belongs or split or letter == "l"), first + 1 + split)
        first += 1 + split
        found |= belongs or of_heads
    if not found:
        raise ValueError(_no_such_unit(layout, unit, shape, path))
    return Grouping(tuple(parts), tuple(axes))


def _axes(layout: str, shape: tuple[int, ...], path: str) -> list[_AxisLayout]:
    """Return the parts of a layout, one for each axis."""
    axes = [
        _AxisLayout(int(layers or 0), int(heads or 0), letter)
        for layers, heads, letter in _TOKEN.findall(layout)
    ]
    if len(axes) != len(shape):
        raise ValueError(
            f"layouts: '{layout}' has {len(axes)} axes but '{path}' has shape "
            f"{tuple(shape)}. Write one letter for each axis."
        )
    for length, (layers, heads, letter) in zip(shape, axes, strict=True):
        if length % (max(layers, 1) * max(heads, 1)):
            raise ValueError(
                f"layouts: '{layout}' says {_fused(layers, heads)} in axis '{letter}' "
                f"of '{path}' of shape {tuple(shape)}, which do not divide its length "
                f"{length}. Write the numbers before the axis that holds them."
            )
    return axes


def _fused(layers: int, heads: int) -> str:
    of = f"{layers} layers" if layers else ""
    return f"{of} of {heads} heads" if layers and heads else of or f"{heads} heads"


def _no_such_unit(layout: str, unit: str, shape: tuple[int, ...], path: str) -> str:
    where = f"of '{path}' of shape {tuple(shape)}, whose layout is '{layout}'"
    leave = f"Leave '{path}' out with mask="
    if unit == "heads":
        return (
            f"groups='heads': there are none {where}. {leave}, or write them into its "
            "layout: '8oi' for 8 heads among the outputs."
        )
    if "g" in layout:
        return (
            f"groups='{unit}': the {unit} units {where}, are divided among groups of "
            f"channels. {leave}."
        )
    return f"groups='{unit}': there is no {unit} axis {where}. {leave}."


def _by_name(path: str, ndim: int) -> str | None:
    *_, parent, name = ["", *re.split(r"[./]", path)]
    if name == "kernel" and ndim > 2 and parent in _ATTENTION:
        return _ATTENTION[parent] if ndim == 3 else None  # a stack of them, perhaps
    if name in ("kernel", "w"):
        return _KERNELS.get(ndim)
    if ndim == 2 and name in ("embedding", "embeddings"):
        return "io"
    return "3loi" if ndim == 2 and name == "in_proj_weight" else None
