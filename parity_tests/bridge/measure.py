"""How far one step in Flax is from the same step in torch."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from parity_tests.bridge.comparison import Difference, Step
from parity_tests.bridge.pairs import Match, Matching
from parity_tests.bridge.sides import Arrays, Seen


class Meter:
    """Compares step after step.

    Args:
      matching: the layers.
      order: the modules in the order of the forward pass.
      dtype: the coarsest of the parameters'.
      tolerance: of all differences but that of zeros.
      ours: the arrays before the first step, in Flax, by torch's names.
      theirs: those in torch.

    Attributes:
      layers: the layers' names in torch and in Flax, in the order of the forward pass.
      arrays: the arrays' names in torch and those of their layers, in the same order.
      entries: booleans for each array: which of its entries Flax has too.
      size: how many parameters Flax has.
      flattened: dense layers, as Flax calls them, that may follow a flattened image,
        and the image's channels.
    """

    def __init__(
        self,
        matching: Matching,
        order: Sequence[torch.nn.Module],
        dtype: str,
        tolerance: float,
        ours: Arrays,
        theirs: Arrays,
    ) -> None:
        rank = {id(module): i for i, module in enumerate(order)}
        matches = sorted(
            matching.matches, key=lambda m: rank.get(id(m.torch.module), len(rank))
        )
        self.layers = {m.torch.name: m.flax.name for m in matches}
        self.arrays = {
            key: m.torch.name for m in matches for key in m.torch.keys.values()
        }
        unknown = {
            path: np.full(m.flax.shapes[name], np.nan)
            for m in matches
            for name, path in m.flax.leaves.items()
        }
        self.flattened = _flattened(matches)
        # What is made of Flax's numbers is unknown if they are.
        made = matching.to_torch(unknown)
        self.entries = {name: np.isnan(made[name]) for name in self.arrays}
        self._parameters = [
            name
            for name in self.arrays
            if not name.endswith(("running_mean", "running_var"))
        ]
        self.size = sum(int(self.entries[name].sum()) for name in self._parameters)
        self._tolerance = tolerance
        self._epsilon = torch.finfo(getattr(torch, dtype)).eps
        self._before = ours, theirs

    def measure(self, number: int, ours: Seen, theirs: Seen) -> Step:
        """Compare what one step has shown."""
        updates = [
            {n: _wide(seen.arrays[n]) - _wide(before[n]) for n in self._parameters}
            for seen, before in zip((ours, theirs), self._before, strict=True)
        ]
        self._before = ours.arrays, theirs.arrays
        arrays = ours.arrays, theirs.arrays
        zeros = self._differing_zeros(arrays, updates)
        differences = {
            "outputs": Difference(distance(ours.outputs, theirs.outputs)),
            "loss": Difference(distance(np.array(ours.loss), np.array(theirs.loss))),
            "gradient": self._apart("", ours.gradients, theirs.gradients),
            "update": self._apart("", *updates),
            "parameters": self._apart("", *arrays),
            "zeros": self._located(zeros, 0, sum(zeros.values()) / max(1, self.size)),
            "running mean": self._apart("running_mean", *arrays),
        }
        return Step(
            number=number,
            losses=(ours.loss, theirs.loss),
            differences=differences,
            zeros=sum(zeros.values()),
            variance=self._apart("running_var", *arrays).size,
            gradients={
                name: float(np.abs(_wide(ours.gradients[name])).max(initial=0.0))
                for name in self._parameters
            },
        )

    def _differing_zeros(
        self, arrays: tuple[Arrays, Arrays], updates: Sequence[Arrays]
    ) -> dict[str, int]:
        """Count the entries that are zero on one side only, by array.

        An entry whose updates are rounding beside the largest of the model does not
        count: gradients that vanish, as that of a bias before a normalisation layer,
        are exactly zero on one side and not on the other.
        """
        sizes = [{n: np.abs(u) for n, u in side.items()} for side in updates]
        largest = max(x.max(initial=0.0) for side in sizes for x in side.values())
        least = 100 * self._epsilon * largest
        moves = self._own(self._parameters, *sizes)
        found = {}
        for name, (a, b) in self._own(self._parameters, *arrays).items():
            moved = np.maximum(*moves[name]) > least
            found[name] = int((((a == 0) != (b == 0)) & moved).sum())
        return found

    def _apart(self, statistic: str, ours: Arrays, theirs: Arrays) -> Difference:
        names = self._parameters
        if statistic:
            names = [name for name in self.arrays if name.endswith(statistic)]
        pairs = self._own(names, ours, theirs)
        sizes = {name: distance(a, b) for name, (a, b) in pairs.items()}
        return self._located(sizes, self._tolerance, _largest(sizes.values()))

    def _own(
        self, names: Sequence[str], ours: Arrays, theirs: Arrays
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        own = self.entries
        return {n: (ours[n][own[n]], theirs[n][own[n]]) for n in names}

    def _located(
        self, sizes: Mapping[str, float], tolerance: float, total: float
    ) -> Difference:
        """Find the largest size, and the first that exceeds the tolerance."""
        most = max(sizes, key=lambda name: _order(sizes[name]), default="")
        first = next((name for name, x in sizes.items() if not x <= tolerance), "")
        return Difference(total, most, first)


def _flattened(matches: Sequence[Match]) -> dict[str, int]:
    found: dict[str, int] = {}
    channels = 0
    for each in matches:
        if each.torch.kind.startswith("conv"):
            channels = each.torch.module.out_channels
        elif each.torch.kind == "dense":
            inputs = each.torch.module.in_features
            if channels and inputs > channels and inputs % channels == 0:
                found[each.flax.name] = channels
            channels = 0
    return found


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest number if that exceeds 1.

    NaN if any number is not finite.
    """
    ours, theirs = _wide(ours), _wide(theirs)
    if not ours.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        size = max(1.0, np.abs(ours).max(), np.abs(theirs).max())
        return float(np.abs(ours - theirs).max() / size)


def _largest(sizes: Sequence[float]) -> float:
    return max(sizes, key=_order, default=0.0)


def _order(size: float) -> float:
    return math.inf if math.isnan(size) else size


def _wide(x: np.ndarray) -> np.ndarray:
    return np.asarray(x).astype(np.float64)
