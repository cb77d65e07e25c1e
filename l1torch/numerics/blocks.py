"""Large tensors cut into blocks of the cache's size, small ones joined."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from l1torch.numerics.elementwise import Number
from l1torch.numerics.sharding import local

_RUN = 16  # float32 elements in a cache line

BLOCK = 1 << 18  # elements: two float32 blocks stay inside a core's cache

_SMALL = 1 << 14  # elements: below, calls cost more than their arithmetic


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield views that cover tensors of one shape, small enough for the CPU's cache.

    Elementwise work whose temporaries are of a block's size costs no page faults. On
    an accelerator, and under `torch.compile`, the tensors are yielded whole. Of a
    DTensor, this process's shard is.
    """
    tensors = tuple(local(t) for t in tensors)
    first = tensors[0]
    whole = first.device.type != "cpu" or torch.compiler.is_compiling()
    if whole or first.numel() <= BLOCK:
        yield tensors
        return
    if all(t.is_contiguous() for t in tensors):
        tensors, dim, size = tuple(t.view(-1) for t in tensors), 0, BLOCK
    else:
        dim = max(range(first.dim()), key=first.size)
        size = max(1, BLOCK * first.size(dim) // first.numel())
    yield from zip(*(t.split(size, dim) for t in tensors), strict=True)


def blocks_with(
    value: Number, *tensors: Tensor
) -> Iterator[tuple[*tuple[Tensor, ...], Number]]:
    """Yield `blocks(*tensors)`, each with its part of a number or tensor `value`."""
    if isinstance(value, Tensor) and value.dim() > 0:
        yield from blocks(*tensors, value.expand(tensors[0].shape))
    else:
        for parts in blocks(*tensors):
            yield *parts, value


def is_small(x: Tensor) -> bool:
    """Return whether joining a tensor with others pays: plain, contiguous, small."""
    plain = type(x) is Tensor or type(x) is torch.nn.Parameter
    return plain and x.numel() <= _SMALL and x.dim() > 0 and x.is_contiguous()


def joined(tensors: Iterable[Tensor]) -> Tensor:
    """Join tensors of one dtype to one vector."""
    return torch.cat(_stackable(list(tensors))).view(-1)


def write_joined(x: Tensor, into: Sequence[Tensor]) -> None:
    """Write a joined vector back, into contiguous tensors."""
    out = _stackable(into)
    sizes = [each.shape[0] for each in out]
    torch.split_with_sizes_copy(x.view(-1, *out[0].shape[1:]), sizes, out=out)


def cut(x: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Cut a joined vector into views of the tensors' shapes."""
    if _rows_alike(like):
        rows = x.view(-1, *like[0].shape[1:])
        return list(rows.split([each.shape[0] for each in like]))
    pieces = x.split([each.numel() for each in like])
    return [piece.view(each.shape) for piece, each in zip(pieces, like, strict=True)]


def _stackable(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return tensors as vectors, or unchanged if they differ in the first axis only."""
    # Each view is one more object; thousands of them keep the garbage collector busy.
    return tensors if _rows_alike(tensors) else [x.reshape(-1) for x in tensors]


def _rows_alike(tensors: Sequence[Tensor]) -> bool:
    """Return whether tensors agree in all but the first axis."""
    shape = tensors[0].shape
    if not shape or 0 in shape[1:]:
        return False
    return all(x.shape[1:] == shape[1:] for x in tensors)


def sampled(x: Tensor, every: int) -> Tensor:
    """Return about one element in `every`.

    Of many elements these are runs of neighbours, because memory is read in runs. With
    an odd `every` the sample has elements from all columns of a matrix.
    """
    x = x.reshape(-1)
    if every == 1 or x.numel() < 4 * _RUN * every:
        return x[::every]
    return x[: x.numel() // _RUN * _RUN].view(-1, _RUN)[::every].reshape(-1)
