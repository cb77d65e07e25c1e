"""Explicit meshes: arrays whose type says how devices share them out.

What couples all elements of an array cannot be computed on its shards; on a mesh of
automatic axes the compiler gathers the array by itself; on an explicit one it must be
told to.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def torn(x: object, parts: Sequence[Sequence[int]]) -> bool:
    """Return whether shards cut through the blocks that axes are split into.

    Args:
      x: any array.
      parts: for each axis its length, or number and length of its blocks.
    """
    sharding = explicit_sharding(x)
    if sharding is None:
        return False
    for names, part in zip(sharding.spec, parts, strict=False):
        names = names if isinstance(names, tuple) else (names,)
        shards = math.prod(sharding.mesh.shape[n] for n in names if n is not None)
        if len(part) > 1 and part[0] % shards:
            return True
    return False


def gathered(compute: Callable[..., jax.Array], *arrays: Any) -> jax.Array:
    """Compute on gathered arrays, and shard the result as the first one is."""
    return _shared_like(compute(*map(_whole, arrays)), arrays[0])


def gathering(
    needed: Callable[..., bool] = lambda penalty, x: True,
) -> Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]]:
    """Return a decorator by which a penalty's method gathers sharded arrays first.

    It is for penalties that couple elements of several shards. Every device computes on
    the whole array, and keeps its own shard of the result.

    Args:
      needed: whether to gather, given the penalty and the array.
    """

    def wrap(method: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        @functools.wraps(method)
        def wrapped(self: Any, *args: Any, **kwargs: Any) -> jax.Array:
            x = args[0] if args else kwargs.get("x", kwargs.get("grad"))
            if explicit_sharding(x) is None or not needed(self, x):
                return method(self, *args, **kwargs)
            others = {name: _whole(value) for name, value in kwargs.items()}
            return _shared_like(method(self, *map(_whole, args), **others), x)

        return wrapped

    return wrap


def explicit_sharding(x: object) -> NamedSharding | None:
    """Return the sharding in an array's type, or None if the array is whole."""
    if not isinstance(x, jax.Array) or not hasattr(jax, "typeof"):
        return None
    sharding = getattr(jax.typeof(x), "sharding", None)
    spec = getattr(sharding, "spec", ())
    return sharding if any(axis is not None for axis in spec) else None


def _whole(x: Any) -> Any:
    sharding = explicit_sharding(x)
    if sharding is None:
        return x
    return _reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))


def _shared_like(y: jax.Array, x: object) -> jax.Array:
    sharding = explicit_sharding(x)
    same = sharding is not None and y.shape == x.shape
    return _reshard(y, sharding) if same else y


def _reshard(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    if not hasattr(jax.sharding, "reshard"):
        raise ValueError(
            f"an array on an explicit mesh must be whole here, got {jax.typeof(x)}, "
            "which this version of JAX cannot gather. Make the axes of the mesh "
            "AxisType.Auto, leave the array out with mask=, or install a newer JAX."
        )
    return jax.sharding.reshard(x, sharding)
