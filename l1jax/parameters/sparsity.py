"""Sparsity reports: how many weights are exactly zero, array by array."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l1jax.numerics.checks import described, require_known_float
from l1jax.parameters.masks import Mask, selected, weights_among
from l1jax.parameters.trees import (
    Leaf,
    PyTree,
    describe,
    named_leaves,
    parameters_of,
)


class Control(NamedTuple):
    """What a target keeps from step to step: what is asked for, and by which strength.

    A training that stops while `wanted` is below `target` has stopped too early.
    """

    strength: jax.Array | list[jax.Array]
    """The strength of the last step: a scalar, or one for each array."""

    wanted: jax.Array
    """The fraction of zeros asked for at the last step."""

    target: jax.Array
    """The fraction asked for from the end of the ramp on."""


class _Counts(NamedTuple):
    nnz: jax.Array
    zero_rows: jax.Array | None = None
    zero_columns: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class ArraySparsity:
    """Counts of one array. -0.0 counts as zero, NaN does not."""

    path: str
    """Dotted path in the tree."""
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
    params: PyTree, mask: Mask = None, *, control: Control | None = None
) -> SparsityReport:
    """Count the exact zeros of every array of a tree.

    Layers whose weights are all zero are named, see `SparsityReport.dead`.

    Args:
      params: any pytree: parameters, an equinox module, updates; or a flax
        `nnx.Module` or state, without running statistics and random keys. Leaves that
        are not numeric arrays are passed over. Of linen's variables pass `["params"]`,
        as all collections count.
      mask: the leaves to report, see `weights_only`; the default reports all.
      control: where a target sparsity stands, `state.control`. The last lines then say
        which fraction of the penalised weights is asked for by now, and in the end:
        compare it with a report of these, `mask=weights_only`.

    Returns:
      A `SparsityReport`.

    Raises:
      TypeError: a leaf without numbers (`jax.ShapeDtypeStruct`), or of a float type of
        8 bits or less; a `control` of another type.
      ValueError: a mask that does not fit, or selects nothing; no array at all.

    Example:
      >>> print(sparsity_report({"w": jnp.array([[1.0, 0.0], [2.0, 0.0]])}))
      path   shape  size  nnz  sparsity  zero rows  zero cols
      w      2x2       4    2    50.00%          0          1
      total            4    2    50.00%
    """
    if not (control is None or isinstance(control, Control)):
        raise TypeError(
            f"control must be a Control, got {described(control)}. Pass state.control."
        )
    params = parameters_of(params)
    leaves, weights = named_leaves(params), weights_among(params)
    chosen_leaves, counts = [], []
    for (path, leaf), chosen in zip(leaves, selected(mask, params), strict=True):
        if not chosen or not _is_numeric_array(leaf):
            continue
        _require_numbers(path, leaf)
        chosen_leaves.append((path, leaf))
        counts.append(_counts(leaf))
    if not counts:
        raise ValueError(
            f"params hold no numeric array, got {describe(leaves)}. Pass a tree "
            "of arrays."
        )
    standing = {}
    if control is not None:
        standing = {"wanted": float(control.wanted), "target": float(control.target)}
    return SparsityReport(
        tuple(
            ArraySparsity(
                path,
                tuple(leaf.shape),
                leaf.size,
                *(None if n is None else int(n) for n in count),
                is_weight=path in weights,
            )
            for (path, leaf), count in zip(
                chosen_leaves, jax.device_get(counts), strict=True
            )
        ),
        **standing,
    )


def _require_numbers(path: str, leaf: Leaf) -> None:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise TypeError(
            f"params['{path}'] must hold numbers, got a ShapeDtypeStruct of shape "
            f"{leaf.shape}. Pass the model when its weights are initialised."
        )
    require_known_float(f"params['{path}']", leaf.dtype)


def _counts(x: jax.Array | np.ndarray) -> _Counts:
    nonzero = _nonzero(x)
    if nonzero.ndim < 2:
        return _Counts(jnp.sum(nonzero))
    rows = jnp.any(nonzero, axis=tuple(range(1, nonzero.ndim)))
    columns = jnp.any(nonzero, axis=tuple(range(nonzero.ndim - 1)))
    return _Counts(jnp.sum(nonzero), jnp.sum(~rows), jnp.sum(~columns))


def _nonzero(x: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating):
        # By the bits, all but the sign: compared, a subnormal number is zero to XLA.
        bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
        return bits << 1 != 0
    return x != 0


def _is_numeric_array(leaf: Leaf) -> bool:
    if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
        return False
    return jnp.issubdtype(leaf.dtype, jnp.number) or jnp.issubdtype(
        leaf.dtype, jnp.bool_
    )
