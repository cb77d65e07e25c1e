"""Sparsity reports: how many weights are exactly zero, array by array."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from l1torch.numerics.checks import described, require_known_float
from l1torch.numerics.elementwise import Number
from l1torch.parameters.masks import Mask, selected, weights_among
from l1torch.parameters.trees import Params, describe, named_leaves


class Control(NamedTuple):
    """What a target keeps from step to step: what is asked for, and by which strength.

    A training that stops while `wanted` is below `target` has stopped too early.
    """

    strength: Number | Mapping[str, Number] | list[Number]
    """The strength of the last step: a number, or one for each parameter."""

    wanted: float
    """The fraction of zeros asked for at the last step."""

    target: float
    """The fraction asked for from the end of the ramp on."""


class _Counts(NamedTuple):
    nnz: int
    zero_rows: int | None = None
    zero_columns: int | None = None


@dataclasses.dataclass(frozen=True)
class ArraySparsity:
    """Counts of one array. -0.0 counts as zero, NaN does not."""

    path: str
    """Dotted name in the module or mapping."""
    shape: tuple[int, ...]
    size: int
    nnz: int
    """Number of elements that are not zero."""
    zero_rows: int | None
    """Slices along the first axis that are zero throughout; None below 2 dimensions."""
    zero_columns: int | None
    """Slices along the last axis that are zero throughout; None below 2 dimensions."""

    is_weight: bool
    """Whether `weights_only` takes it for a weight."""

    @property
    def sparsity(self) -> float:
        """Fraction of zeros, 0 for an empty array."""
        return 1 - self.nnz / self.size if self.size else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the sparsity as plain Python values, ready for JSON."""
        return dataclasses.asdict(self) | {"sparsity": self.sparsity}


@dataclasses.dataclass(frozen=True)
class SparsityReport:
    """One row per array, and the totals. `str()` gives a table."""

    arrays: tuple[ArraySparsity, ...]
    wanted: float | None = None
    """Under a target sparsity, the fraction of zeros asked for by now."""
    target: float | None = None
    """Likewise, the fraction asked for in the end."""

    @property
    def dead(self) -> tuple[str, ...]:
        """Paths of the weights that are zero throughout: these layers pass nothing on.

        Biases and scales that are all zero are not among them.
        """
        return tuple(
            row.path
            for row in self.arrays
            if row.is_weight and row.size and not row.nnz
        )

    @property
    def size(self) -> int:
        """Number of elements of all arrays."""
        return sum(row.size for row in self.arrays)

    @property
    def nnz(self) -> int:
        """Number of elements that are not zero, of all arrays."""
        return sum(row.nnz for row in self.arrays)

    @property
    def sparsity(self) -> float:
        """Fraction of zeros among all elements, 0 if there are none."""
        return 1 - self.nnz / self.size if self.size else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the totals and the rows as plain Python values, ready for JSON."""
        return {
            "size": self.size,
            "nnz": self.nnz,
            "sparsity": self.sparsity,
            "dead": list(self.dead),
            "wanted": self.wanted,
            "target": self.target,
            "arrays": [row.to_dict() for row in self.arrays],
        }

    def __str__(self) -> str:
        header = ("path", "shape", "size", "nnz", "sparsity", "zero rows", "zero cols")
        cells = [header]
        for row in self.arrays:
            shape = "x".join(map(str, row.shape)) or "scalar"
            zeros = [
                "-" if n is None else str(n) for n in (row.zero_rows, row.zero_columns)
            ]
            counts = (str(row.size), str(row.nnz), f"{row.sparsity:.2%}")
            cells.append((row.path or "(array)", shape, *counts, *zeros))
        totals = (str(self.size), str(self.nnz), f"{self.sparsity:.2%}")
        cells.append(("total", "", *totals, "", ""))
        for name, fraction in (("wanted", self.wanted), ("target", self.target)):
            if fraction is not None:
                cells.append((name, "", "", "", f"{fraction:.2%}", "", ""))
        widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        if self.dead:
            names = ", ".join(path or "(array)" for path in self.dead)
            lines.append(f"All weights are zero in: {names}")
        return "\n".join(lines)


def sparsity_report(
    params: Params | Mapping[str, object],
    mask: Mask = None,
    *,
    control: Control | None = None,
) -> SparsityReport:
    """Count the exact zeros of every tensor of a model.

    Layers whose weights are all zero are named, see `SparsityReport.dead`.

    Args:
      params: a module (its parameters), a state dict or other mapping from names to
        tensors, nested or not, or a sequence of tensors. Values that are not tensors
        are passed over. Of sharded tensors every process must ask for the report.
      mask: the tensors to report, see `weights_only`; the default reports all.
      control: where a target sparsity stands, `optimizer.control`. The last lines then
        say which fraction of the penalised weights is asked for by now, and in the end:
        compare it with a report of these, `mask=weights_only`.

    Returns:
      A `SparsityReport`.

    Raises:
      TypeError: `params` is none of these; a tensor without numbers (meta), or of a
        float type of 8 bits or less; a `control` of another type.
      ValueError: a mask that does not fit, or selects nothing; no tensor at all.

    Example:
      >>> import torch
      >>> print(sparsity_report({"w": torch.tensor([[1.0, 0.0], [2.0, 0.0]])}))
      path   shape  size  nnz  sparsity  zero rows  zero cols
      w      2x2       4    2    50.00%          0          1
      total            4    2    50.00%
    """
    if not (control is None or isinstance(control, Control)):
        raise TypeError(
            f"control must be a Control, got {described(control)}. Pass "
            "optimizer.control."
        )
    params = _flat(params)
    leaves, weights = named_leaves(params), weights_among(params)
    rows = []
    for (path, leaf), chosen in zip(leaves, selected(mask, params), strict=True):
        if chosen and isinstance(leaf, Tensor):
            _require_numbers(path, leaf)
            shape, counts = tuple(leaf.shape), _counts(leaf.detach())
            rows.append(
                ArraySparsity(path, shape, leaf.numel(), *counts, path in weights)
            )
    if not rows:
        raise ValueError(
            f"params hold no tensor, got {describe(leaves)}. Pass a module or a "
            "mapping from names to tensors."
        )
    standing = {}
    if control is not None:
        standing = {"wanted": float(control.wanted), "target": float(control.target)}
    return SparsityReport(tuple(rows), **standing)


def _flat(params: Params | Mapping[str, object]) -> Params:
    """Join the names of nested mappings with dots."""
    if not isinstance(params, Mapping):
        return params
    flat = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": leaf for inner, leaf in _flat(value).items()}
        else:
            flat[str(name)] = value
    return flat


def _require_numbers(path: str, leaf: Tensor) -> None:
    if leaf.is_meta:
        raise TypeError(
            f"params['{path}'] must hold numbers, got a meta tensor of shape "
            f"{tuple(leaf.shape)}. Pass the model when its weights are loaded."
        )
    require_known_float(f"params['{path}']", leaf.dtype)


def _counts(x: Tensor) -> _Counts:
    nonzero = x != 0
    if hasattr(nonzero, "full_tensor"):  # sharded: every process counts the whole
        nonzero = nonzero.full_tensor()
    nnz = int(nonzero.sum())
    if x.dim() < 2:
        return _Counts(nnz)
    rows = nonzero.any(dim=tuple(range(1, x.dim())))
    columns = nonzero.any(dim=tuple(range(x.dim() - 1)))
    return _Counts(nnz, int((~rows).sum()), int((~columns).sum()))
