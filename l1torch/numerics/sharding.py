"""DTensors: tensors of which each process has a shard."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

_T = TypeVar("_T")


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a DTensor, or any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(value: _T) -> _T:
    """Gather a DTensor in every process; return anything else as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def sharded_like(x: Tensor, other: Tensor) -> Tensor:
    """Shard a tensor that all processes hold, in the way of the DTensor `other`."""
    from torch.distributed.tensor import DTensor, Replicate

    copies = [Replicate()] * other.device_mesh.ndim
    shared = DTensor.from_local(x, other.device_mesh, copies, run_check=False)
    return shared.redistribute(placements=other.placements)


def over_shards(value: Tensor, param: Tensor, operation: str) -> Tensor:
    """Reduce over the processes what each has computed on its shard of a DTensor."""
    if not hasattr(param, "to_local"):
        return value
    from torch.distributed.tensor import DTensor, Partial, Replicate

    placements = [
        Partial(operation) if placement.is_shard() else Replicate()
        for placement in param.placements
    ]
    return DTensor.from_local(value, param.device_mesh, placements).full_tensor()


def gathering(
    needed: Callable[..., bool] = lambda penalty, x: True,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Return a decorator by which a penalty's method gathers DTensors first.

    It is for penalties that couple elements of several shards. Every process computes
    on the whole array, and keeps its own shard of the result.

    Args:
      needed: whether to gather, given the penalty and the DTensor.
    """

    def wrap(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(method)
        def gathered(self: Any, *args: Any, **kwargs: Any) -> Tensor:
            x = args[0] if args else kwargs.get("x", kwargs.get("grad"))
            if not hasattr(x, "full_tensor") or not needed(self, x):
                return method(self, *args, **kwargs)
            others = {name: whole(value) for name, value in kwargs.items()}
            y = method(self, *map(whole, args), **others)
            return sharded_like(y, x) if y.shape == x.shape else y

        return gathered

    return wrap
