"""The layers of a Flax model, found in its arrays: linen variables or an nnx state."""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from parity_tests.bridge.cells import gate_names

Path = tuple[str, ...]
STATISTICS = frozenset({"mean", "var"})
_COLLECTIONS = ("params", "batch_stats")
# Newer versions of flax have nnx objects that are no modules.
_OBJECTS = (nnx.Module, getattr(nnx, "Pytree", nnx.Module))
_ATTENTION = {"query", "key", "value", "out"}


@dataclasses.dataclass(frozen=True)
class FlaxLayer:
    """A layer: what holds arrays, and whose kind their names and shapes tell."""

    path: Path
    kind: str
    """As in `TorchLayer`; "other" for what is not known."""
    leaves: Mapping[str, Path]
    """The arrays' names inside the layer, and their paths in the model."""
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def name(self) -> str:
        """The path as one writes it in `pairs`."""
        return "/".join(self.path)


def arrays_of(variables: Any) -> dict[Path, Any]:
    """Return the parameters and running statistics of a model by path.

    Args:
      variables: linen variables with collections or the parameters alone, an nnx model
        or state. Other collections, random keys and caches are passed over.
    """
    named = zip(*_named(variables)[:2], strict=True)
    return {path: leaf for path, leaf in named if path is not None}


def replaced(variables: Any, arrays: Mapping[Path, np.ndarray]) -> Any:
    """Return the tree with new arrays at `arrays_of`'s paths, the rest as it is.

    They get the dtypes and the devices of the old ones, which may be abstract. Dicts
    keep the order of their keys.

    Raises:
      ValueError: a dtype that JAX does not have without x64.
    """
    paths, leaves, treedef = _named(variables)
    new = [
        leaf if path is None else _placed(path, arrays[path], leaf)
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    return _in_order_of(variables, jax.tree.unflatten(treedef, new))


def layers_of(variables: Any, without: Collection[Path] = ()) -> list[FlaxLayer]:
    """List the layers in order of appearance.

    Args:
      variables: see `arrays_of`.
      without: paths of arrays to leave out.
    """
    shapes = {path: tuple(x.shape) for path, x in arrays_of(variables).items()}
    order = Appearance(variables).order

    def rank(path: Path) -> int:
        return order.get(path, len(order))

    tree: dict[str, Any] = {}
    for path in sorted(shapes.keys() - set(without), key=rank):
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = shapes[path]
    layers = _layers(tree, ())
    return sorted(layers, key=lambda each: min(map(rank, each.leaves.values())))


class Appearance:
    """The order in which a model's arrays appear, and how far it can be trusted.

    Attributes:
      order: the rank of each array's path.
    """

    def __init__(self, variables: Any) -> None:
        self._trusted: dict[Path, bool] = {}
        self.order: dict[Path, int] = {}
        ranks: dict[int, int] = {}
        for root in _roots(variables):
            for path, leaf in self._walk(root, (), set()):
                rank = len(self.order)
                # A variable that several nnx modules share counts where it is first.
                if isinstance(leaf, nnx.Variable):
                    rank = ranks.setdefault(id(leaf), rank)
                self.order.setdefault(path, rank)

    def knows(self, a: FlaxLayer, b: FlaxLayer) -> bool:
        """Return whether it is known which of two layers comes first.

        The keys of a dict in alphabetical order may have been sorted by `jax.tree`,
        `jit` or nnx, and tell nothing.
        """
        level = _parting(a, b)
        return level is not None and self._trusted.get(a.path[:level], False)

    def numbers(self, a: FlaxLayer, b: FlaxLayer) -> bool:
        """Return whether a number in their names puts two layers in order.

        It is the order in which linen made them, which in `Dense(4)(relu(Dense(4)(x)))`
        is not that in which they are called.
        """
        level = _parting(a, b)
        if level is None:
            return False
        found = [re.fullmatch(r"(.*?)(\d+)", p.path[level]) for p in (a, b)]
        return None not in found and found[0][1] == found[1][1]

    def _walk(
        self, node: Any, path: Path, above: set[int]
    ) -> Iterator[tuple[Path, Any]]:
        children = _children(node)
        if children is None:
            yield path, node
        elif id(node) not in above:
            names = list(children)
            alphabetical = names == sorted(names) and isinstance(node, Mapping)
            self._trusted[path] = not alphabetical
            for name in sorted(names, key=_natural) if alphabetical else names:
                yield from self._walk(children[name], (*path, name), above | {id(node)})


def _parting(a: FlaxLayer, b: FlaxLayer) -> int | None:
    """The first level at which the paths of two layers differ."""
    both = enumerate(zip(a.path, b.path, strict=False))
    return next((level for level, (x, y) in both if x != y), None)


def _placed(path: Path, x: np.ndarray, leaf: Any) -> Any:
    x = x.astype(leaf.dtype)
    if isinstance(leaf, np.ndarray):
        return x
    placed = jax.device_put(x, getattr(leaf, "sharding", None))
    if placed.dtype != x.dtype:
        raise ValueError(
            f"{'/'.join(path)} would be rounded from {x.dtype} to {placed.dtype}. "
            'Enable it by jax.config.update("jax_enable_x64", True).'
        )
    return placed


def _in_order_of(like: Any, tree: Any) -> Any:
    """Return a tree whose dicts, which jax.tree sorts, have the order of `like`'s."""
    if type(like) is not dict:
        return tree
    return {key: _in_order_of(child, tree[key]) for key, child in like.items()}


def normalised(path: Sequence[str]) -> str:
    """Write a path as both frameworks could: `blocks_0` and `layers.0` are numbers."""
    dotted = ".".join(re.sub(r"_(?=\d+$)", ".", part) for part in path)
    return re.sub(r"\blayers\.(?=\d)", "", dotted)


def _layers(tree: Mapping[str, Any], path: Path) -> Iterator[FlaxLayer]:
    kind = _compound(tree)
    if kind is not None:
        yield _layer(kind, path, dict(_flat(tree)))
        return
    own = {name: x for name, x in tree.items() if not isinstance(x, Mapping)}
    if own:
        yield _layer(_kind(own), path, own)
    for name, child in tree.items():
        if isinstance(child, Mapping):
            yield from _layers(child, (*path, name))


def _layer(kind: str, path: Path, shapes: dict[str, Any]) -> FlaxLayer:
    leaves = {name: (*path, *name.split("/")) for name in shapes}
    return FlaxLayer(path, kind, leaves, shapes)


def _kind(own: Mapping[str, tuple[int, ...]]) -> str:
    names = set(own)
    if names in ({"kernel"}, {"kernel", "bias"}):
        dims = len(own["kernel"])
        return {2: "dense", 3: "conv1d", 4: "conv2d", 5: "conv3d"}.get(dims, "other")
    if names == {"embedding"}:
        return "embed"
    if names >= STATISTICS and names <= STATISTICS | {"scale", "bias"}:
        return "batch norm"
    return "norm" if names <= {"scale", "bias"} else "other"


def _compound(tree: Mapping[str, Any]) -> str | None:
    """Return the kind of a layer that is made of dense ones."""
    if not all(isinstance(x, Mapping) and "kernel" in x for x in tree.values()):
        return None
    kernels = {name: x["kernel"] for name, x in tree.items()}
    biases = {name for name, _ in _flat(tree) if name.endswith("bias")}
    if set(tree) == _ATTENTION:
        of_heads = all(len(kernel) == 3 for kernel in kernels.values())
        return "attention" if of_heads else None
    if set(tree) == {"dense_i", "dense_h"}:
        rows, columns = (*kernels["dense_h"], 0, 0)[:2]
        cells = {4: ("lstm", {"dense_h/bias"}), 3: ("gru", {"dense_i/bias"})}
        kind, wanted = cells.get(columns // max(rows, 1), (None, set()))
        return kind if biases == wanted else None
    for kind, gates, with_bias in (
        ("lstm", "ifgo", ["hi", "hf", "hg", "ho"]),
        ("gru", "rzn", ["ir", "iz", "in", "hn"]),
    ):
        wanted = [*gate_names("i", gates), *gate_names("h", gates)]
        named = all(names & set(tree) for names in wanted)
        if len(tree) == len(wanted) and named:
            found = {name.split("/")[0].rstrip("_") for name in biases}
            return kind if found == set(with_bias) else None
    return None


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, x in tree.items():
        if isinstance(x, Mapping):
            yield from _flat(x, f"{prefix}{name}/")
        else:
            yield prefix + name, x


def _named(variables: Any) -> tuple[list[Path | None], list[Any], Any]:
    """Flatten a tree; what is neither parameter nor statistic has no path."""
    if isinstance(variables, nnx.Module):
        variables = nnx.state(variables)
    flat, treedef = jax.tree_util.tree_flatten_with_path(variables)
    paths: list[Path | None] = [_path(keys) for keys, _ in flat]
    if isinstance(variables, nnx.State):
        kept = nnx.filter_state(variables, nnx.Any(nnx.Param, nnx.BatchStat))
        known = {tuple(map(str, path)) for path, _ in nnx.to_flat_state(kept)}
        paths = [path if path in known else None for path in paths]
    elif _has_collections(variables):
        paths = [path[1:] if path[0] in _COLLECTIONS else None for path in paths]
    return paths, [leaf for _, leaf in flat], treedef


def _roots(variables: Any) -> list[Any]:
    if _has_collections(variables):
        return [variables[name] for name in _COLLECTIONS if name in variables]
    return [variables]


def _has_collections(variables: Any) -> bool:
    return (
        isinstance(variables, Mapping)
        and not isinstance(variables, nnx.State)
        and isinstance(variables.get("params"), Mapping)
    )


def _children(node: Any) -> dict[str, Any] | None:
    """Return what a node holds, or None for a leaf."""
    if isinstance(node, Mapping):
        return {str(name): child for name, child in node.items()}
    if isinstance(node, list | tuple):
        return {str(i): child for i, child in enumerate(node)}
    return vars(node) if isinstance(node, _OBJECTS) else None


def _path(keys: Sequence[Any]) -> Path:
    names = [
        next(str(getattr(k, a)) for a in ("key", "name", "idx") if hasattr(k, a))
        for k in keys
    ]
    # The attribute by which flax's variables and metadata boxes reach their array.
    boxed = isinstance(keys[-1], jax.tree_util.GetAttrKey) and names[-1] == "value"
    return tuple(names[:-1] if boxed else names)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts]
