"""Masks: which parameters are penalised.

A mask is `None` (every parameter), a mapping from parameter names to booleans, or a
function from the parameters to one. A function may look at names and shapes only.
"""

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from l1torch.numerics.checks import described
from l1torch.parameters.trees import (
    Params,
    describe,
    has_names,
    named_leaves,
    require_params,
    spread,
)

Flags = Mapping[str, bool] | Sequence[bool]
"""Booleans by name, or in the order of a sequence of parameters."""

Mask = Flags | Callable[[Any], Flags] | None
"""`None`, booleans, or a function from the parameters to booleans."""

_NOT_WEIGHTS = frozenset(
    ["beta", "bias", "biases", "gamma", "intercept", "offset", "scale"]
)
_NOT_A_WEIGHT = frozenset(
    ["b", "negative_slope", "num_batches_tracked", "running_mean", "running_var"]
)
_NOT_PARAMETERS = "batch_stats"
_PARAMETRISED = frozenset(["layer_instance", "parametrizations"])


def weights_only(params: Params) -> dict[str, bool] | list[bool]:
    """Mark the weights: everything but biases and what normalisation layers hold.

    A parameter is left out if a word of its own name (between underscores) is one of
    beta, bias, biases, gamma, intercept, offset, scale; if it is called b or
    negative_slope, or is a running statistic (torch's names, flax's collection
    batch_stats); or if it is called weight and has fewer than two dimensions (the scale
    of a torch or equinox normalisation layer). A vector called otherwise, or a bare
    tensor, is a weight. A parameter in a list is known by the list's name.

    What a parametrisation derives a weight from is left out too, its norm and its
    direction: under `g v / |v|` a penalty would pull v to zero without moving the
    weight, and 0/0 follows. By their names: all in a scope called parametrizations
    (torch) or layer_instance (flax); `*_g` with `*_v` (torch's weight_norm of old); the
    weight that has a `*/scale` of `flax.linen.WeightNorm`; `g` with `layer.*`
    (equinox). To prune whole rows name the norms, which stay finite, with `by_path`.
    Names do not tell what spectral normalisation in linen, in equinox, or in torch's
    old manner (`weight_orig`, as in `torch.nn.utils.prune`) normalises: it is a weight.

    A scale called `weight` of two or more dimensions (layer normalisation over several
    axes) cannot be told from a kernel: name it with `by_path`.

    Args:
      params: a module, or a mapping from dotted names to tensors. In a sequence of
        tensors, which have no names, those of two or more dimensions are weights,
        whatever they are for.

    Returns:
      A dict from the names to Python bools; a list for a sequence.
    """
    require_params(params)
    weights = weights_among(params)
    flags = {name: name in weights for name, _ in named_leaves(params)}
    return flags if has_names(params) else list(flags.values())


def weights_among(params: Params) -> set[str]:
    """Return the names of the weights, or their indices, see `weights_only`."""
    leaves = [row for row in named_leaves(params) if isinstance(row[1], Tensor)]
    if not has_names(params):
        return {name for name, x in leaves if x.dim() > 1}
    derived = _derived_from({name: tuple(x.shape) for name, x in leaves})
    return {name for name, x in leaves if name not in derived and _is_weight(name, x)}


@dataclasses.dataclass(frozen=True)
class by_path:  # noqa: N801 - called like a function, an object so that it pickles
    """Marks the parameters whose dotted name matches one of the glob patterns.

    Args:
      patterns: a glob pattern or several, as in `fnmatch`: `*` matches any run of
        characters, dots too; case counts.

    Raises:
      TypeError: `patterns` is no string and no sequence of strings.
      ValueError: no pattern given, or (when called) a pattern matches no parameter.

    Example:
      >>> mask = by_path(["encoder.*.weight", "head.*"])
    """

    patterns: str | Sequence[str]

    def __post_init__(self) -> None:
        patterns = self.patterns
        patterns = (patterns,) if isinstance(patterns, str) else patterns
        if not isinstance(patterns, Sequence) or not all(
            isinstance(p, str) for p in patterns
        ):
            raise TypeError(
                f"patterns must be a string or a sequence of strings, got "
                f"{self.patterns!r}. Pass globs such as 'encoder.*.weight'."
            )
        if not patterns:
            raise ValueError(
                "patterns must not be empty, got (). Pass at least one glob; mask=None "
                "penalises every parameter."
            )
        object.__setattr__(self, "patterns", tuple(patterns))

    def __call__(self, params: Params) -> dict[str, bool]:
        """Return the booleans for `params`."""
        require_params(params)
        leaves = named_leaves(params)
        if not has_names(params):
            raise ValueError(
                f"patterns {self.patterns} need parameter names, got {len(leaves)} "
                "parameters without. Build the optimizer from model.named_parameters()."
            )
        names = [name for name, _ in leaves]
        for pattern in self.patterns if leaves else ():
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"patterns: '{pattern}' matches no parameter. The parameters are "
                    f"{describe(leaves)}."
                )
        return {
            name: any(fnmatch.fnmatchcase(name, glob) for glob in self.patterns)
            for name in names
        }


def _called(mask: Callable[[Any], Flags], params: Params) -> Flags:
    try:
        return mask(params)
    except TypeError as error:
        raise TypeError(
            f"mask must be a function of the parameters, got {described(mask)}, which "
            f"raised: {error}. Pass one of one argument, or by_path(...) for names."
        ) from error


def _require_no_names(mask: object) -> None:
    names = mask if isinstance(mask, list | tuple) else [mask]
    if names and all(isinstance(name, str) for name in names):
        raise TypeError(
            f"mask must be None, a mapping of booleans or a function of the "
            f"parameters, got {described(mask)}. Pass by_path(...) to name them."
        )


def selected(mask: Mask, params: Params) -> list[bool]:
    """Evaluate a mask: one bool for each leaf of `named_leaves(params)`.

    Raises:
      ValueError: the mask does not fit the parameters, or selects none of them.
      TypeError: the mask holds something else than booleans.
    """
    require_params(params)
    leaves = named_leaves(params)
    if mask is None:
        return [leaf is not None for _, leaf in leaves]
    values = _called(mask, params) if callable(mask) else mask
    _require_no_names(values)
    flags = []
    for (name, leaf), flag in zip(leaves, spread(values, params, "mask"), strict=True):
        if leaf is None:
            flag = False
        if not isinstance(flag, bool):
            raise TypeError(
                f"mask must hold booleans, got {flag!r} for '{name}'. Return True for "
                "a parameter to penalise and False for one to leave alone."
            )
        flags.append(flag)
    if leaves and not any(flags):
        raise ValueError(
            f"mask {mask!r} selects nothing to penalise among the params "
            f"{describe(leaves)}. Pass mask=None to penalise every parameter, or "
            "by_path(...) to name some."
        )
    return flags


def _is_weight(name: str, leaf: Tensor) -> bool:
    parts = [part for part in re.split(r"[./]", name) if not part.isdigit()]
    own_name = parts[-1] if parts else ""
    if _NOT_PARAMETERS in parts:
        return False
    if own_name in _NOT_A_WEIGHT or not _NOT_WEIGHTS.isdisjoint(own_name.split("_")):
        return False
    return not (own_name == "weight" and leaf.dim() < 2)


def _derived_from(shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Return the names of what a weight is derived from, see `weights_only`."""
    found = set()
    for name, shape in shapes.items():
        *scope, own_name = name.split(".")
        if not _PARAMETRISED.isdisjoint(scope):
            found.add(name)
        elif "/" in own_name and own_name.endswith("/scale"):
            # The normalised layer stands beside the module that holds its scale.
            found.add(".".join([*scope[:-1], *own_name.split("/")[:-1]]))
        for norm in _norms_of(scope, own_name):
            of_all = own_name.endswith("_v") and shapes.get(norm) == ()
            if of_all or (norm in shapes and _is_norm(shapes[norm], shape)):
                found |= {name, norm}
    return found


def _norms_of(scope: list[str], direction: str) -> Iterator[str]:
    """Yield the names that equinox and torch would give to the norm of a direction."""
    if scope[-1:] == ["layer"]:
        yield ".".join([*scope[:-1], "g"])
    if direction.endswith("_v"):
        yield ".".join([*scope, direction.removesuffix("_v") + "_g"])


def _is_norm(norm: tuple[int, ...], direction: tuple[int, ...]) -> bool:
    """Return whether `norm` is the shape of one number for each slice along an axis."""
    return (
        len(norm) == len(direction) > 1
        and sum(n != 1 for n in norm) <= 1
        and all(n in (1, size) for n, size in zip(norm, direction, strict=True))
    )
