"""Which elements of an array form a group, and sums over the groups.

An array is looked at through a view, a reshape that splits some axes in two, so that a
group extends along whole axes of the view. What belongs to a group (a norm, say) is an
array with as many axes as the view, which broadcasts to it after `Grouping.spread`.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from l1torch.numerics.checks import check_int, described

UNITS = ("heads", "input", "output")
"""The units of layers that groups may belong to."""

Members = tuple[tuple[str, tuple[int, ...]], ...]
"""Named groups: for each name the indices along an axis."""


@dataclasses.dataclass(frozen=True)
class Grouping:
    """The groups of an array of one shape."""

    parts: tuple[tuple[int, ...], ...]
    """For each axis of the array its length, or the two that it is split into."""

    axes: tuple[int, ...]
    """The axes of the view along which a group extends; all but `axis` if named."""

    members: tuple[tuple[int, ...], ...] = ()
    """The indices along `axis` of each named group; then no axis is split."""

    axis: int = 0

    @functools.cached_property
    def lengths(self) -> tuple[int, ...]:
        """The shape of the view."""
        return tuple(itertools.chain.from_iterable(self.parts))

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(math.prod(part) for part in self.parts)

    @functools.cached_property
    def extent(self) -> tuple[int, ...]:
        """The axes of the array along which a group extends."""
        if self.members:
            return tuple(range(len(self.parts)))
        ends = itertools.accumulate(map(len, self.parts), initial=0)
        return tuple(
            i
            for i, (start, part) in enumerate(zip(ends, self.parts, strict=False))
            if any(start + j in self.axes for j in range(len(part)))
        )

    @functools.cached_property
    def sizes(self) -> float | np.ndarray:
        """The number of elements of each group, at least 1."""
        others = math.prod(self.lengths[i] for i in self.axes)
        if not self.members:
            return float(max(others, 1))
        slices = np.array([len(group) for group in self.members], float)
        return self._along_axis(np.maximum(others * slices, 1.0))

    @functools.cached_property
    def owners(self) -> np.ndarray:
        """The number of each element's group, from 0, in the shape of the array."""
        lengths = [1 if i in self.axes else n for i, n in enumerate(self.lengths)]
        if self.members:
            lengths[self.axis] = len(self.members)
        numbers = np.arange(math.prod(lengths)).reshape(lengths)
        if self.members:
            numbers = numbers.take(self._owner, self.axis)
        return np.broadcast_to(numbers, self.lengths).reshape(self.shape)

    def needs_whole(self, x: Tensor) -> bool:
        """Return whether a DTensor must be gathered: if shards cut through the view."""
        split = [i for i, part in enumerate(self.parts) if len(part) > 1]
        return bool(self.members) or any(
            placement.is_shard(i) for placement in x.placements for i in split
        )

    def view(self, x: Tensor) -> Tensor:
        """Reshape the array to the view."""
        return x.reshape(self.lengths)

    def back(self, x: Tensor) -> Tensor:
        """Reshape the view to the array."""
        return x.reshape(self.shape)

    def total(self, x: Tensor) -> Tensor:
        """Sum over each group of the view."""
        x = x.sum(self.axes, keepdim=True) if self.axes else x
        return self._gather(x).sum(self.axis + 1) if self.members else x

    def top(self, x: Tensor) -> Tensor:
        """Return the largest element of each group, at least 0."""
        if x.numel() == 0:
            x = x.sum(self.axes, keepdim=True) if self.axes else x
        elif self.axes:
            x = x.amax(self.axes, keepdim=True)
        x = x.clamp(min=0)
        return self._gather(x).amax(self.axis + 1) if self.members else x

    def spread(self, x: Tensor) -> Tensor:
        """Return what belongs to the groups in a shape that broadcasts to the view."""
        if not self.members or x.dim() == 0:
            return x
        owner = torch.as_tensor(self._owner, device=x.device)
        return x.index_select(self.axis, owner)

    def is_constant(self, shape: tuple[int, ...]) -> bool:
        """Return whether an array of this shape is constant in each group."""
        padded = (1,) * (len(self.parts) - len(shape)) + tuple(shape)
        return all(padded[i] == 1 for i in self.extent)

    def per_group(self, value: Tensor, argument: str, path: str = "x") -> Tensor:
        """Return a number or array reshaped to the groups of the view.

        Raises:
          ValueError: by its shape it is not constant in each group.
        """
        self.require_constant(tuple(value.shape), argument, path)
        if value.dim() == 0:
            return value
        padded = (1,) * (len(self.parts) - value.dim()) + tuple(value.shape)
        lengths = ((n,) * len(part) for n, part in zip(padded, self.parts, strict=True))
        return value.reshape(tuple(itertools.chain.from_iterable(lengths)))

    def require_constant(
        self, shape: tuple[int, ...], argument: str, path: str
    ) -> None:
        """Raise ValueError unless an array of this shape is constant in each group."""
        if not self.is_constant(shape):
            raise ValueError(
                f"{argument} of shape {shape} differs within the groups of '{path}' of "
                f"shape {self.shape}. Pass a scalar, or an array with length 1 along "
                f"the axes {self.extent}, which the groups extend along."
            )

    @functools.cached_property
    def _owner(self) -> np.ndarray:
        owner = np.zeros(self.shape[self.axis], np.int32)
        for i, group in enumerate(self.members):
            owner[list(group)] = i
        return owner

    def _gather(self, x: Tensor) -> Tensor:
        """Return the slices of each group along one further axis, zeros at its end."""
        n, longest = x.shape[self.axis], max(map(len, self.members))
        index = np.full((len(self.members), longest), n, np.int32)
        for row, group in zip(index, self.members, strict=True):
            row[: len(group)] = group
        zero = torch.zeros_like(x.narrow(self.axis, 0, 1))
        x = torch.cat([x, zero], self.axis)
        flat = torch.as_tensor(index.ravel(), device=x.device)
        return x.index_select(self.axis, flat).unflatten(self.axis, index.shape)

    def _along_axis(self, values: np.ndarray) -> np.ndarray:
        lengths = [1] * len(self.parts)
        lengths[self.axis] = len(values)
        return values.reshape(lengths)


def along(shape: tuple[int, ...], axes: tuple[int, ...] | None, path: str) -> Grouping:
    """Groups along axes, one for each index of the others; None is all axes.

    Raises:
      ValueError: an axis that the array does not have, or has twice.
    """
    wanted = range(len(shape)) if axes is None else axes
    found = {_position(axis, shape, path) for axis in wanted}
    if len(found) < len(wanted):
        raise ValueError(
            f"axis {axes!r} names an axis of '{path}' of shape {shape} twice. Name "
            "each axis once."
        )
    return Grouping(tuple((n,) for n in shape), tuple(sorted(found)))


def in_blocks(shape: tuple[int, ...], axis: int, block: int, path: str) -> Grouping:
    """Groups of `block` consecutive elements along an axis.

    Raises:
      ValueError: blocks that do not divide the axis.
    """
    axis = _position(axis, shape, path)
    if shape[axis] % block:
        raise ValueError(
            f"block={block} does not divide axis {axis} of '{path}' of shape {shape}, "
            f"of length {shape[axis]}. Choose a divisor, or leave '{path}' out with "
            "mask=."
        )
    parts = [(n,) for n in shape]
    parts[axis] = (shape[axis] // block, block)
    return Grouping(tuple(parts), (axis + 1,))


def named(shape: tuple[int, ...], axis: int, members: Members, path: str) -> Grouping:
    """Groups of whole slices along an axis, by their indices.

    Raises:
      ValueError: an index that does not exist, or that no group holds.
    """
    axis = _position(axis, shape, path)
    found = {i for _, group in members for i in group}
    wanted = set(range(shape[axis]))
    if found != wanted:
        missing, excess = sorted(wanted - found), sorted(found - wanted)
        raise ValueError(
            f"groups must hold each index along axis {axis} of '{path}' of shape "
            f"{shape} once: "
            + (f"no group holds {_some(missing)}. " if missing else "")
            + (f"there are no indices {_some(excess)}. " if excess else "")
            + "Give an index of its own a group of its own."
        )
    others = tuple(i for i in range(len(shape)) if i != axis)
    return Grouping(
        tuple((n,) for n in shape), others, tuple(group for _, group in members), axis
    )


def check_axes(axis: object) -> tuple[int, ...]:
    """Return one axis or several as a tuple, or raise."""
    axes = axis if isinstance(axis, Sequence) else (axis,)
    if not axes:
        raise ValueError("axis must name an axis, got none. Use l1() for elements.")
    return tuple(
        check_int("axis", one, "an axis such as 0", least=None) for one in axes
    )


def check_members(groups: object) -> Members:
    """Return a mapping from names to indices as tuples, or raise."""
    if not isinstance(groups, Mapping):
        raise TypeError(
            f"groups must be one of {UNITS}, or a mapping from names to indices, got "
            f"{groups!r} of type {type(groups).__name__}. Pass one of these."
        )
    owners: dict[int, str] = {}
    members = []
    for name, indices in groups.items():
        if isinstance(indices, str | Mapping) or not hasattr(indices, "__iter__"):
            raise TypeError(
                f"groups[{name!r}] must be a sequence of indices, got "
                f"{described(indices)}. Pass one such as [0, 1]."
            )
        indices = tuple(
            check_int(f"groups[{name!r}]", i, "indices such as 0", least=0)
            for i in indices
        )
        if not indices:
            raise ValueError(
                f"groups[{name!r}] must hold one index at least, got {indices}. Leave "
                "empty groups out."
            )
        for i in indices:
            if i in owners:
                raise ValueError(
                    f"groups must not overlap: {owners[i]!r} and {name!r} both hold "
                    f"the index {i}. Put each index into one group."
                )
            owners[i] = name
        members.append((str(name), indices))
    if not owners:
        raise ValueError("groups must not be empty, got {}. Name the groups.")
    return tuple(members)


def _position(axis: int, shape: tuple[int, ...], path: str) -> int:
    if not -len(shape) <= axis < len(shape):
        raise ValueError(
            f"axis {axis} does not exist in '{path}' of shape {shape}. Choose an axis "
            f"that all penalised arrays have, or leave '{path}' out with mask=."
        )
    return axis % len(shape)


def _some(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:10]))
    return shown + (f", ... ({len(indices)} in all)" if len(indices) > 10 else "")
