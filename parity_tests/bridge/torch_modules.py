"""The layers of a torch model: its modules that hold arrays."""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping

import torch

from parity_tests.bridge.cells import gru, lstm
from parity_tests.bridge.layers import (
    Rule,
    attention,
    conv,
    conv_transpose,
    dense,
    embed,
    norm,
)

_NORMS = (
    torch.nn.LayerNorm,
    torch.nn.GroupNorm,
    torch.nn.RMSNorm,
    torch.nn.InstanceNorm1d,
    torch.nn.InstanceNorm2d,
    torch.nn.InstanceNorm3d,
)
_BATCH_NORMS = (
    torch.nn.BatchNorm1d,
    torch.nn.BatchNorm2d,
    torch.nn.BatchNorm3d,
    torch.nn.SyncBatchNorm,
)
_KINDS: Mapping[str, tuple[type[torch.nn.Module], ...]] = {
    "dense": (torch.nn.Linear,),
    "conv1d": (torch.nn.Conv1d, torch.nn.ConvTranspose1d),
    "conv2d": (torch.nn.Conv2d, torch.nn.ConvTranspose2d),
    "conv3d": (torch.nn.Conv3d, torch.nn.ConvTranspose3d),
    "embed": (torch.nn.Embedding,),
    "batch norm": _BATCH_NORMS,
    "norm": _NORMS,
    "attention": (torch.nn.MultiheadAttention,),
    "lstm": (torch.nn.LSTM, torch.nn.LSTMCell),
    "gru": (torch.nn.GRU, torch.nn.GRUCell),
}
_TRANSPOSED = (
    torch.nn.ConvTranspose1d,
    torch.nn.ConvTranspose2d,
    torch.nn.ConvTranspose3d,
)
STATISTICS = frozenset({"running_mean", "running_var"})


@dataclasses.dataclass(frozen=True)
class TorchLayer:
    """A layer: a module with arrays of its own, or one level of an LSTM or GRU."""

    name: str
    """The module's path; that of an LSTM's levels has l0, l0_reverse, l1, ... after."""
    kind: str
    """dense, conv1d to conv3d (transposed too), embed, batch norm, norm, attention,
    lstm, gru; "other" for what is not known."""
    module: torch.nn.Module
    keys: Mapping[str, str]
    """The arrays' names inside the layer, and their names in the state dict."""
    shapes: Mapping[str, tuple[int, ...]]

    def rule(
        self, flattened: tuple[int, ...] | None = None, transpose_kernel: bool = False
    ) -> Rule:
        """Return the rule of the layer's kind.

        Raises:
          ValueError: an option that this kind does not have; a kind that is not known.
        """
        transposed = isinstance(self.module, _TRANSPOSED)
        if flattened is not None and self.kind != "dense":
            raise ValueError(f"flattened is for dense layers, {self.name} is not one")
        if transpose_kernel and not transposed:
            raise ValueError(
                f"transpose_kernel is for transposed convolutions, {self.name} is none"
            )
        if self.kind == "dense":
            return dense(flattened)
        if self.kind.startswith("conv"):
            return conv_transpose(transpose_kernel) if transposed else conv()
        if self.kind == "attention":
            return attention(self.module.num_heads)
        rules = {"embed": embed, "batch norm": norm, "norm": norm}
        rules |= {"lstm": lstm, "gru": gru}
        if self.kind not in rules:
            raise ValueError(
                f"no rule is known for torch's {type(self.module).__name__}"
            )
        return rules[self.kind]()


def layers_of(
    model: torch.nn.Module, statistics: bool = True, without: Collection[str] = ()
) -> list[TorchLayer]:
    """List the layers in the order in which the modules are declared.

    A parameter that several modules share is listed with the first. Buffers are no part
    of a layer, but for running means and variances.

    Args:
      model: a torch module.
      statistics: False to leave the running statistics out.
      without: names in the state dict to leave out.
    """
    names: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), name)
    names = {key: name for key, name in names.items() if name not in set(without)}
    layers: list[TorchLayer] = []
    for path, module in model.named_modules():
        kind = _kind(module)
        deep = kind == "attention"  # which takes its output layer along
        tensors = dict(module.named_parameters(recurse=deep))
        if statistics and "norm" in kind:
            buffers = dict(module.named_buffers(recurse=False))
            tensors |= {n: buffers[n] for n in sorted(STATISTICS & buffers.keys())}
        elif kind == "batch norm":
            kind = "norm"
        # Taken out, so that what is shared, or attention's inner layer, is not new.
        own = {
            name: (names.pop(id(x)), tuple(x.shape))
            for name, x in tensors.items()
            if id(x) in names
        }
        for level, part in _levels(kind, own):
            name = ".".join(filter(None, (path, level)))
            keys = {n: key for n, (key, _) in part.items()}
            shapes = {n: shape for n, (_, shape) in part.items()}
            layers.append(TorchLayer(name, kind, module, keys, shapes))
    return layers


def shared_names(model: torch.nn.Module) -> dict[str, str]:
    """Map the further names of shared tensors in the state dict to their first."""
    first: dict[int, str] = {}
    return {
        name: first[id(x)]
        for name, x in model.state_dict(keep_vars=True).items()
        if first.setdefault(id(x), name) != name
    }


def _kind(module: torch.nn.Module) -> str:
    for kind, types in _KINDS.items():
        if isinstance(module, types):
            return kind
    return "other"


def _levels(
    kind: str, own: dict[str, tuple[str, tuple[int, ...]]]
) -> Iterator[tuple[str, dict[str, tuple[str, tuple[int, ...]]]]]:
    """Split an LSTM's or GRU's arrays by level and direction."""
    levels: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}
    for name, x in own.items():
        level = re.fullmatch(r"(\w+?)_(l\d+(_reverse)?)", name)
        if kind in ("lstm", "gru") and level:
            levels.setdefault(level[2], {})[level[1]] = x
        else:
            levels.setdefault("", {})[name] = x
    for level, part in levels.items():
        yield ("" if len(levels) == 1 else level), part
