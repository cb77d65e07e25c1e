"""Masks: which leaves are penalised.

A mask is `None` (every leaf), a function from the parameters to a tree of booleans, or
such a tree; a tree may be a prefix of the parameters'. As in `optax.masked`, a function
may look at structure, names and shapes only.
"""

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from l1jax.numerics.checks import described
from l1jax.numerics.elementwise import dtype_of, is_array
from l1jax.parameters.trees import (
    Leaf,
    PyTree,
    describe,
    named_leaves,
    parameters_of,
    require_params,
    spread,
)

Mask = PyTree | Callable[[PyTree], PyTree] | None
"""`None`, a tree of booleans, or a function from the parameters to one."""

_NOT_WEIGHTS = frozenset(
    ["beta", "bias", "biases", "gamma", "intercept", "offset", "scale"]
)
_NOT_A_WEIGHT = frozenset(
    ["b", "negative_slope", "num_batches_tracked", "running_mean", "running_var"]
)
_NOT_PARAMETERS = "batch_stats"
_PARAMETRISED = frozenset(["layer_instance", "parametrizations"])


def weights_only(params: PyTree) -> PyTree:
    """Mark the weights: everything but biases and what normalisation layers hold.

    A leaf is left out if a word of its own name (between underscores) is one of beta,
    bias, biases, gamma, intercept, offset, scale; if it is called b or negative_slope,
    or is a running statistic (torch's names, flax's collection batch_stats); or if it
    is called weight and has fewer than two dimensions (the scale of a torch or equinox
    normalisation layer). A vector called otherwise, or a bare array, is a weight. A
    leaf in a list is known by the list's name.

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
      params: a tree of arrays of any shape.

    Returns:
      The tree with a Python bool at each leaf.

    Raises:
      TypeError: given a step count, by `optax.inject_hyperparams`.
    """
    return _like(params, weights_among(_own(params)))


def weights_among(params: PyTree) -> set[str]:
    """Return the dotted paths of the weights, see `weights_only`."""
    leaves = named_leaves(params)
    derived = _derived_from(
        {path: getattr(x, "shape", ()) for path, x in leaves if x is not None}
    )
    return {path for path, x in leaves if path not in derived and _is_weight(path, x)}


@dataclasses.dataclass(frozen=True)
class by_path:  # noqa: N801 - called like a function, an object so that it pickles
    """Marks the leaves whose dotted path matches one of the glob patterns.

    Args:
      patterns: a glob pattern or several, as in `fnmatch`: `*` matches any run of
        characters, dots too; case counts.

    Raises:
      TypeError: `patterns` is no string and no sequence of strings.
      ValueError: no pattern given, or (when called) a pattern matches no leaf.

    Example:
      >>> mask = by_path(["encoder.*.kernel", "head.*"])
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
                f"{self.patterns!r}. Pass globs such as 'encoder.*.kernel'."
            )
        if not patterns:
            raise ValueError(
                "patterns must not be empty, got (). Pass at least one glob; mask=None "
                "penalises every leaf."
            )
        object.__setattr__(self, "patterns", tuple(patterns))

    def __call__(self, params: PyTree) -> PyTree:
        """Return the tree of booleans for `params`."""
        leaves = named_leaves(_own(params))
        paths = [path for path, _ in leaves]
        for pattern in self.patterns if leaves else ():
            if not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
                raise ValueError(
                    f"patterns: '{pattern}' matches no parameter. The parameters are "
                    f"{describe(leaves)}."
                )
        return _like(
            params,
            {
                path
                for path in paths
                if any(fnmatch.fnmatchcase(path, glob) for glob in self.patterns)
            },
        )


def _called(mask: Callable[[PyTree], PyTree], params: PyTree) -> PyTree:
    try:
        return mask(params)
    except TypeError as error:
        raise TypeError(
            f"mask must be a function of the parameters, got {described(mask)}, which "
            f"raised: {error}. Pass one of one argument, or by_path(...) for names."
        ) from error


def _require_no_names(mask: PyTree) -> None:
    names = mask if isinstance(mask, list | tuple) else [mask]
    if names and all(isinstance(name, str) for name in names):
        raise TypeError(
            f"mask must be None, a tree of booleans or a function of the "
            f"parameters, got {described(mask)}. Pass by_path(...) to name them."
        )


def selected(mask: Mask, params: PyTree) -> list[bool]:
    """Evaluate a mask: one bool for each leaf of `named_leaves(params)`.

    Raises:
      ValueError: the mask does not fit the tree, or selects none of its leaves.
      TypeError: the mask holds something else than booleans.
    """
    require_params(params)
    leaves = named_leaves(params)
    if mask is None or not leaves:
        return [leaf is not None for _, leaf in leaves]
    # A tree of booleans may be callable too: a module in equinox's manner.
    is_function = callable(mask) and jax.tree_util.all_leaves([mask])
    tree = _called(mask, params) if is_function else mask
    _require_no_names(tree)
    flags = []
    for (path, leaf), flag in zip(leaves, spread(tree, params, "mask"), strict=True):
        if leaf is None:
            flag = False
        if not isinstance(flag, bool | np.bool_):
            raise TypeError(
                f"mask must hold booleans, got {flag!r} for '{path}'. Return True for "
                "a leaf to penalise and False for one to leave alone."
            )
        flags.append(bool(flag))
    if not any(flags):
        raise ValueError(
            f"mask {mask!r} selects nothing to penalise among the params "
            f"{describe(leaves)}. Pass mask=None to penalise every leaf, or "
            "by_path(...) to name some."
        )
    return flags


def _own(params: PyTree) -> PyTree:
    params = parameters_of(params)
    is_count = jax.tree_util.all_leaves([params]) and is_array(params)
    if (
        is_count
        and jnp.shape(params) == ()
        and jnp.issubdtype(dtype_of(params), jnp.integer)
    ):
        raise TypeError(
            f"mask was called with a step count, not params, got {params!r}: "
            "optax.inject_hyperparams takes every function for a schedule. Pass it "
            "static_args='mask'."
        )
    require_params(params)
    return params


def _is_weight(path: str, leaf: Leaf) -> bool:
    if leaf is None:
        return False
    parts = [part for part in re.split(r"[./]", path) if not part.isdigit()]
    name = parts[-1] if parts else ""
    if _NOT_PARAMETERS in parts:
        return False
    if name in _NOT_A_WEIGHT or not _NOT_WEIGHTS.isdisjoint(name.split("_")):
        return False
    return not (name == "weight" and len(getattr(leaf, "shape", ())) < 2)


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


def _like(params: PyTree, chosen: set[str]) -> PyTree:
    """Return the tree of flags; if the module is no tree (flax < 0.11), its state."""
    if not chosen <= {path for path, _ in named_leaves(params)}:
        params = parameters_of(params)
    treedef = jax.tree.structure(params, is_leaf=lambda x: x is None)
    flags = [path in chosen for path, _ in named_leaves(params)]
    return jax.tree.unflatten(treedef, flags)
