"""Pairs of layers: what may be said of them, and what they can do."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from parity_tests.bridge.flax_tree import FlaxLayer, Path
from parity_tests.bridge.layers import Rule
from parity_tests.bridge.torch_modules import TorchLayer


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is to be said about a Flax layer, as a value of `pairs`.

    Args:
      torch: the path of its torch module; None to find it automatically.
      flattened: for a dense layer whose inputs are a flattened image, the image's
        (height, width, channels): torch's inputs come in the order of channels first.
      transpose_kernel: for a transposed convolution that has this set in Flax.
      rule: how its arrays are converted; None for the rule of the torch module's kind.
    """

    torch: str | None = None
    flattened: tuple[int, ...] | None = None
    transpose_kernel: bool = False
    rule: Rule | None = None

    def __post_init__(self) -> None:
        if self.rule is not None and (
            self.torch is None or self.flattened is not None or self.transpose_kernel
        ):
            raise ValueError(
                f"rule needs torch=, the module's path, and no other option; got {self}"
            )


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array, as a value of `pairs`.

    Args:
      torch: its name in torch's state dict.
      to_torch: turns the numpy array of Flax into torch's; the same array by default.
      to_flax: the inverse.
    """

    torch: str
    to_torch: Callable[[np.ndarray], np.ndarray] = lambda x: x
    to_flax: Callable[[np.ndarray], np.ndarray] = lambda x: x


Pairs = Mapping[str, str | Layer | Leaf]


@dataclasses.dataclass(frozen=True)
class Match:
    """A pair of layers and the rule between them."""

    flax: FlaxLayer
    torch: TorchLayer
    rule: Rule

    def __str__(self) -> str:
        return f"{describe(self.flax)}  <->  {describe(self.torch)}"

    def to_torch(self, flax: Mapping[Path, np.ndarray]) -> dict[str, np.ndarray]:
        """Return a Flax layer's arrays by their names in torch's state dict."""
        own = {name: flax[path] for name, path in self.flax.leaves.items()}
        with _naming(self):
            made = self.rule.to_torch(own, self.torch.shapes)
        return {self.torch.keys[name]: x for name, x in made.items()}

    def to_flax(self, torch: Mapping[str, np.ndarray]) -> dict[Path, np.ndarray]:
        """Return a torch layer's arrays by their paths in Flax."""
        own = {name: torch[key] for name, key in self.torch.keys.items()}
        with _naming(self):
            made = self.rule.to_flax(own, self.flax.shapes)
        return {self.flax.leaves[name]: x for name, x in made.items()}


@dataclasses.dataclass(frozen=True)
class Matching:
    """All pairs of layers, in torch's order. `str()` lists them."""

    matches: tuple[Match, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.matches))

    def to_torch(self, arrays: Mapping[Path, np.ndarray]) -> dict[str, np.ndarray]:
        """Return Flax's arrays in torch's layout, by their names in the state dict."""
        made: dict[str, np.ndarray] = {}
        for pair in self.matches:
            made |= pair.to_torch(arrays)
        return made

    def to_flax(self, arrays: Mapping[str, np.ndarray]) -> dict[Path, np.ndarray]:
        """Return torch's arrays in Flax's layout, by their paths."""
        made: dict[Path, np.ndarray] = {}
        for pair in self.matches:
            made |= pair.to_flax(arrays)
        return made


def describe(layer: FlaxLayer | TorchLayer) -> str:
    """Write a layer's name and its arrays' names and shapes."""
    return f"{layer.name or '(the model itself)'}  {shapes_of(layer.shapes)}"


def shapes_of(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Write names and shapes."""
    return ", ".join(f"{name} {shape}".strip() for name, shape in shapes.items())


@contextlib.contextmanager
def _naming(pair: Match) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{pair}: {error}") from error
