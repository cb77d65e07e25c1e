"""The leaves of a parameter tree: their dotted names, and values spread over them."""

import collections
import sys
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp

from l1jax.numerics.checks import described, require_known_float
from l1jax.numerics.elementwise import dtype_of, is_array

PyTree = Any
"""A tree of arrays, of any type that JAX has registered: nested dicts and lists, an
equinox module, an `nnx.State`; also a bare array, or an `nnx.Module`."""

Tree = TypeVar("Tree")
"""The type of a user's own tree of arrays."""

Leaf = Any
"""An array, None for no array, or what a module holds beside its arrays."""


def named_leaves(tree: PyTree) -> list[tuple[str, Leaf]]:
    """List `(dotted path, leaf)` in JAX's leaf order; `None` counts as a leaf.

    A last attribute called `value`, without siblings, is how flax's variables and
    metadata boxes (`nnx.Param`, `nn.Partitioned`) reach their array. It is left out of
    the path, so that a tree has the same paths with boxes and without.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_none)
    siblings = collections.Counter(path[:-1] for path, _ in flat)
    return [
        (_dotted(path[:-1] if _is_box(path) and siblings[path[:-1]] == 1 else path), x)
        for path, x in flat
    ]


def parameters_of(tree: PyTree) -> PyTree:
    """Return a tree in which flax's `nnx.Module`s are replaced by their parameters.

    A module becomes the `nnx.State` of its `nnx.Param`s, without running statistics and
    random keys. From an `nnx.State`, whose variables the user has chosen, only these
    kinds are left out. Anything else stays as it is.
    """
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is None:  # flax is optional, and no tree can hold what is not imported
        return tree
    others = nnx.BatchStat, nnx.Cache, nnx.Intermediate, nnx.Perturbation, nnx.RngState

    def is_chosen(path: tuple[object, ...], variable: object) -> bool:
        kind = getattr(variable, "type", type(variable))  # of flax < 0.12, a field
        return not (isinstance(kind, type) and issubclass(kind, others))

    def own(node: PyTree) -> PyTree:
        if isinstance(node, nnx.Module):
            return nnx.state(node, nnx.Param)
        if isinstance(node, nnx.State):
            return nnx.filter_state(node, is_chosen)
        return node

    return jax.tree.map(
        own, tree, is_leaf=lambda x: isinstance(x, nnx.Module | nnx.State)
    )


def spread(prefix: PyTree, tree: PyTree, argument: str) -> list[Leaf]:
    """Return the value that `prefix` has for each leaf of `named_leaves(tree)`.

    Args:
      prefix: one value, or a tree of values whose structure is a prefix of `tree`'s.
      tree: the parameters.
      argument: what the user calls `prefix`, for the error.

    Raises:
      ValueError: `prefix` is not a prefix of `tree`.
    """
    size = len(jax.tree.leaves(tree, is_leaf=is_none))
    if not size:
        return []  # optax.tree.map_params asks for the state of a tree without leaves
    if jax.tree_util.all_leaves([prefix]):
        return [prefix] * size
    values = []

    def collect(value: Leaf, subtree: PyTree) -> None:
        values.extend([value] * len(jax.tree.leaves(subtree, is_leaf=is_none)))

    try:
        jax.tree.map(collect, prefix, tree, is_leaf=is_none)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{argument} does not fit the parameters: {error}. Pass one value, or a "
            "tree whose structure is a prefix of the parameters', which hold "
            f"{describe(named_leaves(tree))}."
        ) from error
    return values


class Placed(Protocol):
    """What knows its position in `named_leaves`."""

    @property
    def index(self) -> int:
        """The position, from 0."""


def values_at(tree: PyTree, rows: Iterable[Placed]) -> list[Leaf]:
    """Return what a tree like the parameters holds for each of the rows."""
    values = jax.tree.leaves(tree, is_leaf=is_none)
    return [values[row.index] for row in rows]


def replaced(tree: PyTree, rows: Iterable[Placed], values: Iterable[Leaf]) -> PyTree:
    """Return a tree like the parameters with new values for the rows."""
    flat, treedef = jax.tree.flatten(tree, is_leaf=is_none)
    for row, value in zip(rows, values, strict=True):
        flat[row.index] = value
    return jax.tree.unflatten(treedef, flat)


def require_same_tree(
    updates: PyTree, params: PyTree, argument: str = "updates"
) -> None:
    """Raise ValueError unless updates and parameters match, leaf by leaf.

    A `None` update stands for a parameter that takes no step and matches any leaf.
    """
    require_params(params)
    require_params(updates, argument)
    wants, has = named_leaves(params), named_leaves(updates)
    structures = [jax.tree.structure(t, is_leaf=is_none) for t in (updates, params)]
    if structures[0] != structures[1]:
        raise ValueError(
            f"{argument} must have the same tree as params; {argument} hold "
            f"{describe(has)}, params hold {describe(wants)}. Pass the gradients of "
            "these very parameters."
        )
    for (path, param), (_, update) in zip(wants, has, strict=True):
        if update is None or param is None:
            continue
        if jnp.issubdtype(dtype_of(param), jnp.floating):
            _require_floating(argument, path, update)
        if jnp.shape(update) != jnp.shape(param):
            raise ValueError(
                f"{argument}['{path}'] has shape {jnp.shape(update)} but the parameter "
                f"has shape {jnp.shape(param)}. Pass the gradients of these very "
                "parameters."
            )


def require_real_floating(path: str, leaf: Leaf) -> None:
    """Raise TypeError for a leaf that cannot be penalised: integer, bool, complex."""
    if not is_array(leaf):
        raise TypeError(
            f"params['{path}'] must be an array, got {described(leaf)}. Pass the "
            "parameters of your model, such as {'w': jnp.ones(3)}."
        )
    if not jnp.issubdtype(dtype_of(leaf), jnp.floating):
        raise TypeError(
            f"params['{path}'] has dtype {dtype_of(leaf)}; a penalised parameter must "
            "be real floating point. Leave it out with mask=, or convert it."
        )
    require_known_float(f"params['{path}']", dtype_of(leaf))


def require_params(params: PyTree, argument: str = "params") -> None:
    """Raise TypeError for a tree that has leaves, but no array among them.

    Modules hold functions, words and the like beside their arrays. What is penalised,
    `require_real_floating` checks.
    """
    leaves = [(path, leaf) for path, leaf in named_leaves(params) if leaf is not None]
    odd = [(path, leaf) for path, leaf in leaves if not is_array(leaf)]
    if odd and len(odd) == len(leaves):
        path, leaf = odd[0]
        raise TypeError(
            f"{argument}['{path}'] must be an array, got {described(leaf)}. Pass a "
            "tree of arrays, such as {'w': jnp.ones(3)}."
        )


def require_updates(updates: PyTree) -> None:
    """Raise TypeError unless all updates are arrays of floating point."""
    for path, leaf in named_leaves(updates):
        known = is_array(leaf) and jnp.issubdtype(dtype_of(leaf), jnp.complexfloating)
        if leaf is not None and not known:
            _require_floating("updates", path, leaf)


def _require_floating(argument: str, path: str, leaf: Leaf) -> None:
    if not is_array(leaf) or not jnp.issubdtype(dtype_of(leaf), jnp.floating):
        got = f"dtype {dtype_of(leaf)}" if is_array(leaf) else described(leaf)
        raise TypeError(
            f"{argument}['{path}'] must be an array of real floating point, as its "
            f"parameter is, got {got}. Pass the gradients of these very parameters."
        )


def describe(leaves: list[tuple[str, Leaf]]) -> str:
    """Return the leaves as `path shape, path shape, ...` for an error message."""
    shown = [
        f"'{path}' {jnp.shape(leaf) if is_array(leaf) else type(leaf).__name__}"
        for path, leaf in leaves[:20]
    ]
    if len(leaves) > len(shown):
        shown.append(f"... and {len(leaves) - len(shown)} more")
    return ", ".join(shown) or "no leaves"


def _is_box(path: tuple[object, ...]) -> bool:
    last = path[-1] if path else None
    return isinstance(last, jax.tree_util.GetAttrKey) and last.name == "value"


def _dotted(path: tuple[object, ...]) -> str:
    return ".".join(_key_name(key) for key in path)


def _key_name(key: object) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def is_none(x: object) -> bool:
    """Return whether a leaf is None, which stands for no array."""
    return x is None
