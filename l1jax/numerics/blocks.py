"""Many small arrays stacked into few, so that programs stay small."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from l1jax.numerics.sharding import explicit_sharding

MANY = 16  # arrays, from which on loops that treat each by itself compile for long

_SMALL = 1 << 16  # elements: below, a copy costs less than a kernel of its own


def alike(*columns: Sequence[jax.Array]) -> list[list[int]]:
    """Groups the positions of arrays that are better stacked: small ones of one type.

    Large ones stand alone, and so do all where there are few.

    Args:
      columns: arrays, and what goes with each of them, to be stacked likewise.
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
    """Stacks groups of arrays along a new axis, so that shards stay where they are.

    What stands alone stays as it is.
    """
    return [
        jnp.stack([arrays[i] for i in group]) if len(group) > 1 else arrays[group[0]]
        for group in groups
    ]


def kept(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """Keeps what is used in several places, lest XLA compute it in each, not alike."""
    return list(jax.lax.optimization_barrier(list(arrays)))
