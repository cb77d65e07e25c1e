"""Many small arrays stacked into few, so that programs stay small."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from l1jax.numerics.sharding import explicit_sharding

MANY = 16  # arrays; a loop over more of them takes long to compile

_SMALL = 1 << 16  # elements: below, a copy costs less than a kernel of its own


def alike(*columns: Sequence[jax.Array]) -> list[list[int]]:
    """Return the positions of arrays in groups to be stacked: small ones of one type.

    A large array is a group of its own. Where there are few arrays, each is.

    Args:
      columns: the arrays, then further arrays that belong to them, one by one, and
        are to be stacked in the same groups.
    """
    groups: dict[Any, list[int]] = {}
    many = len(columns[0]) >= MANY
    for i, row in enumerate(zip(*columns, strict=True)):
        kind = tuple((x.shape, x.dtype, explicit_sharding(x)) for x in row)
        small = many and max(x.size for x in row) <= _SMALL
        groups.setdefault(kind if small else i, []).append(i)
    return list(groups.values())


def stacked(
    arrays: Sequence[jax.Array], groups: Sequence[Sequence[int]]
) -> list[jax.Array]:
    """Stack groups of arrays along a new axis, so that shards stay where they are.

    The array of a group of one keeps its shape.
    """
    return [
        jnp.stack([arrays[i] for i in group]) if len(group) > 1 else arrays[group[0]]
        for group in groups
    ]


def kept(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """Make XLA compute arrays once that are used in several places.

    Otherwise it may compute them again in each place, and round them differently.
    """
    return list(jax.lax.optimization_barrier(list(arrays)))
