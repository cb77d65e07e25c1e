"""Which layer of a Flax model is which of a torch model's."""

import dataclasses
import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from parity_tests.bridge import flax_tree, torch_modules
from parity_tests.bridge.flax_tree import Appearance, FlaxLayer
from parity_tests.bridge.layers import Rule
from parity_tests.bridge.pairs import (
    Layer,
    Leaf,
    Match,
    Matching,
    Pairs,
    describe,
    shapes_of,
)
from parity_tests.bridge.torch_modules import TorchLayer

REMEDY = (
    'Name the layers that belong together, pairs={"flax/path": "torch.path"}; give '
    'what is no known layer array by array, {"flax/path/array": Leaf("torch.name")}, '
    "or with a rule of its own, Layer(torch, rule=Rule(...))."
)


def match(
    variables: Any, torch_model: torch.nn.Module, pairs: Pairs | None = None
) -> Matching:
    """Pair the layers of a Flax model with those of a torch model.

    What `pairs` does not name pairs kind by kind: by path, if all paths of the kind are
    the same (`block_0/fc`, `block.0.fc` and `layers/0` of a Sequential count as the
    same where only separators differ); else by order of appearance, which is the order
    of declaration in torch and in nnx modules, and that of the keys in dicts. Dicts
    whose keys `jit`, `jax.tree.map` or `optax.apply_updates` have sorted, and nnx
    states, have no such order: there the shapes have to tell, and where they fit in
    several ways the numbers of names that differ in a number (`Conv_2`, `Conv_10`),
    with a warning. Layers that are paired by order and fit each other may still be the
    wrong ones: print the matching, and compare the outputs.

    Args:
      variables: linen variables, with or without collections, an nnx model or state.
      torch_model: a torch module.
      pairs: layers by their path in Flax, `"encoder/Dense_0"`, each with its path in
        torch, or a `Layer` with more to say; and arrays by theirs, each with a `Leaf`.

    Returns:
      A `Matching`.

    Raises:
      ValueError: a layer without a partner, or that does not fit it, or more than one
        way to pair; the message lists their names and shapes. `pairs` with names that
        do not exist.
      TypeError: a value of `pairs` of another type.
    """
    pairs = dict(pairs or {})
    for name, value in pairs.items():
        if not isinstance(value, str | Layer | Leaf):
            raise TypeError(
                f"pairs[{name!r}] must be a torch path, a Layer or a Leaf, got "
                f"{value!r}."
            )
    leaves = {name: value for name, value in pairs.items() if isinstance(value, Leaf)}
    matches = _match_leaves(variables, torch_model, leaves)
    flax = flax_tree.layers_of(
        variables, [path for m in matches for path in m.flax.leaves.values()]
    )
    theirs = torch_modules.layers_of(
        torch_model,
        any(layer.kind == "batch norm" for layer in flax),
        [key for m in matches for key in m.torch.keys.values()],
    )
    options = {
        name: Layer(value) if isinstance(value, str) else value
        for name, value in pairs.items()
        if name not in leaves
    }
    left = _Unpaired({each.name: each for each in flax}, {t.name: t for t in theirs})
    for name in options:
        _require(name, left.flax, "is no layer of the Flax model, which has")
    for name, option in options.items():
        if option.torch is not None:
            _require(
                option.torch, left.torch, "is none of the torch layers not yet paired:"
            )
            left.pair(left.flax[name], left.torch[option.torch], option)
    order = Appearance(variables)
    for kind in dict.fromkeys([*(x.kind for x in flax), *(x.kind for x in theirs)]):
        _match_kind(kind, left, options, order)
    if left.problems or left.flax or left.torch:
        raise ValueError(left.message())
    position = {key: i for i, key in enumerate(torch_model.state_dict())}
    matches += left.matches
    return Matching(
        tuple(
            sorted(matches, key=lambda m: position[next(iter(m.torch.keys.values()))])
        )
    )


@dataclasses.dataclass
class _Unpaired:
    """The layers that have no partner yet, and what went wrong."""

    flax: dict[str, FlaxLayer]
    torch: dict[str, TorchLayer]
    matches: list[Match] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def pair(self, flax: FlaxLayer, torch: TorchLayer, option: Layer) -> None:
        """Make two layers partners, or note why they cannot be."""
        made = _fit(flax, torch, option)
        if isinstance(made, str):
            self.problems.append(f"{describe(flax)}  and  {describe(torch)}: {made}")
            return
        self.matches.append(made)
        del self.flax[flax.name], self.torch[torch.name]

    def message(self) -> str:
        """List what is left, with shapes."""
        lines = ["The layers of the two models do not pair up."]
        lines += [f"- {problem}" for problem in self.problems]
        for framework, layers in (("Flax", self.flax), ("torch", self.torch)):
            lines.append(f"Without a partner in {framework}:")
            lines += [f"    {describe(x)}" for x in layers.values()] or ["    none"]
        return "\n".join([*lines, REMEDY])


def _match_leaves(
    variables: Any, torch_model: torch.nn.Module, leaves: Mapping[str, Leaf]
) -> list[Match]:
    arrays = {"/".join(path): path for path in flax_tree.arrays_of(variables)}
    shapes = {p: tuple(x.shape) for p, x in flax_tree.arrays_of(variables).items()}
    state = torch_model.state_dict()
    matches = []
    for name, leaf in leaves.items():
        _require(name, arrays, "is no array of the Flax model, which has")
        _require(leaf.torch, state, "is not in torch's state dict, which has")
        path = arrays[name]
        flax = FlaxLayer(path, "other", {"": path}, {"": shapes[path]})
        theirs = TorchLayer(
            leaf.torch,
            "other",
            torch_model,
            {"": leaf.torch},
            {"": tuple(state[leaf.torch].shape)},
        )
        made = _fit(flax, theirs, Layer(leaf.torch, rule=_leaf_rule(leaf)))
        if isinstance(made, str):
            raise ValueError(
                f"pairs[{name!r}]: {describe(flax)} and {describe(theirs)}: {made}. "
                "Give Leaf functions that make one of the other."
            )
        matches.append(made)
    return matches


def _leaf_rule(leaf: Leaf) -> Rule:
    return Rule(
        lambda flax, shapes: {"": leaf.to_torch(flax[""])},
        lambda torch, shapes: {"": leaf.to_flax(torch[""])},
    )


def _match_kind(
    kind: str, left: _Unpaired, options: Mapping[str, Layer], order: Appearance
) -> None:
    flax = [layer for layer in left.flax.values() if layer.kind == kind]
    theirs = [layer for layer in left.torch.values() if layer.kind == kind]
    if kind == "other" or len(flax) != len(theirs) or not flax:
        return  # what is left over is listed
    paths = [flax_tree.normalised(layer.path) for layer in flax]
    names = [flax_tree.normalised(layer.name.split(".")) for layer in theirs]
    if len(set(paths)) == len(flax) and set(paths) == set(names):
        by_name = dict(zip(names, theirs, strict=True))
        found: Iterable = [(f, by_name[p]) for f, p in zip(flax, paths, strict=True)]
    elif all(order.knows(a, b) for a, b in itertools.combinations(flax, 2)):
        found = zip(flax, theirs, strict=True)
    else:
        found = _by_shape(flax, theirs, options, order)
    found = list(found)
    if not found:
        left.problems.append(
            f"{kind}: the names do not tell the order, as the keys may have been "
            "sorted, and the shapes do not tell which is which"
        )
    parts = {layer.name: _words(layer.name.split(".")) for layer in theirs}
    for ours, other in found:
        for part in _words(ours.path) - parts[other.name]:
            better = [name for name, words in parts.items() if part in words]
            if better:
                left.problems.append(
                    f"{kind}: by order {ours.name} would be {other.name}, but torch "
                    f"has a {better[0]} too"
                )
                return
    for ours, other in found:
        left.pair(ours, other, options.get(ours.name, Layer()))


def _by_shape(
    flax: Sequence[FlaxLayer],
    theirs: Sequence[TorchLayer],
    options: Mapping[str, Layer],
    order: Appearance,
) -> list[tuple[FlaxLayer, TorchLayer]]:
    """Pair by shape where one way exists, given the orders that are known."""
    groups: dict[tuple[int, ...], list[FlaxLayer]] = {}
    by_number: list[str] = []
    for layer in flax:
        option = options.get(layer.name, Layer())
        fits = (
            i
            for i, each in enumerate(theirs)
            if isinstance(_fit(layer, each, option), Match)
        )
        groups.setdefault(tuple(fits), []).append(layer)
    if sum(map(len, groups)) != len(theirs):
        return []  # a torch layer would be taken twice, or by none
    found = []
    for fits, members in groups.items():
        both = list(itertools.combinations(members, 2))
        known = all(order.knows(a, b) for a, b in both)
        numbered = all(order.numbers(a, b) for a, b in both)
        if len(fits) != len(members) or not (known or numbered):
            return []
        made = list(zip(members, (theirs[i] for i in fits), strict=True))
        if not known:
            by_number += [f"{ours.name} <-> {other.name}" for ours, other in made]
        found += made
    if by_number:
        warnings.warn(
            f"Paired by their numbers: {', '.join(by_number)}. Their shapes fit any "
            "other way too, and a number is the order in which linen made the layers, "
            "which may not be that of the forward pass. Compare the outputs, or name "
            "the pairs.",
            stacklevel=2,
        )
    return found


def _words(path: Sequence[str]) -> set[str]:
    """Return the parts of a layer's path that are not numbers."""
    parts = flax_tree.normalised(path).split(".")
    return {part for part in parts if not part.isdigit()}


def _fit(flax: FlaxLayer, torch: TorchLayer, option: Layer) -> Match | str:
    """Return the pair, or why the two do not fit: found without their numbers."""
    try:
        rule = option.rule
        if rule is None:
            if flax.kind != torch.kind:
                return f"one is {flax.kind}, the other {torch.kind}"
            rule = torch.rule(option.flattened, option.transpose_kernel)
        zero = np.float32(0)
        there = {n: np.broadcast_to(zero, shape) for n, shape in flax.shapes.items()}
        there = rule.to_torch(there, torch.shapes)
        made = {name: tuple(x.shape) for name, x in there.items()}
        if made != torch.shapes:
            return f"Flax's arrays make {shapes_of(made)} in torch"
        back = rule.to_flax(there, flax.shapes)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    made = {name: tuple(x.shape) for name, x in back.items()}
    if made != flax.shapes:
        return f"torch's arrays make {shapes_of(made)} in Flax"
    return Match(flax, torch, rule)


def _require(name: str, known: Iterable[str], what: str) -> None:
    if name not in known:
        raise ValueError(
            f"pairs: {name!r} {what} {', '.join(map(repr, known)) or 'none'}."
        )
