"""The soft threshold by `pull / (sqrt(second / correction) + eps)`, in few passes.

This is the prox of L1 in the metric of Adam and its kin, which every step applies to
every weight, so that it is worth a path of its own.
"""

import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from l1torch.numerics.blocks import BLOCK, blocks, sampled
from l1torch.numerics.elementwise import Number


@dataclasses.dataclass(frozen=True)
class SecondMomentRoot:
    """The denominator `sqrt(second / correction) + eps`, kept as its parts."""

    second: Tensor
    correction: Number
    eps: Number

    def tensor(self) -> Tensor:
        """Return the denominator as a new tensor."""
        root = self.second.sqrt()
        if isinstance(self.correction, float) and isinstance(self.eps, float):
            # One pass for two: eps + root * factor.
            return torch.add(
                root.new_full((), self.eps), root, alpha=self.correction**-0.5
            )
        return root / self.correction**0.5 + self.eps


# Elements; for fewer, calling a compiled kernel costs more than it saves.
_SMALLEST = 1 << 12


def soft_threshold_by_root_(
    x: Tensor, root: SecondMomentRoot, pull: Number, floor: Number, compiled: bool
) -> bool:
    """Soft-threshold `x` in place by `pull / max(root, floor)`, where there is a way.

    Args:
      x: a parameter, or a shard of one.
      root: the denominator, whose `second` has the shape of `x`.
      pull: scalar, the learning rate with its gain times the strength.
      floor: scalar, the least denominator.
      compiled: whether to compile one kernel, at the first call for each precision. It
        takes a compiler that torch can use: of C++ on CPU, Triton on a GPU. Otherwise
        the work is done in blocks, on the CPU only, for numbers rather than tensors,
        and not in half precision. The memory for blocks is kept from step to step:
        pages fresh from the system would cost more than the arithmetic.

    Returns:
      Whether it was done.
    """
    if compiled and x.numel() >= _SMALLEST:
        _threshold_compiled(x, root, pull, floor)
        return True
    if not _works_in_blocks(x, root, pull, floor):
        return False
    _threshold_in_blocks(x, root, pull, floor)
    return True


def ratios_by_root(
    x: Tensor, root: SecondMomentRoot, scale: Number, every: int = 1
) -> Iterator[Tensor] | None:
    """Return `|x| * max(root, tiny) / scale` in blocks, or None where that is not done.

    Each block is overwritten when the next is asked for, and is `sampled` by `every`.
    It is done where `soft_threshold_by_root_`, which has the other arguments, works in
    blocks.
    """
    if not _works_in_blocks(x, root, scale) or not 0 < scale < math.inf:
        return None
    return _ratios_in_blocks(x, root, scale, every)


def _works_in_blocks(x: Tensor, root: SecondMomentRoot, *scalars: Number) -> bool:
    """Whether all are plain tensors and numbers of the CPU, in full precision."""
    scalars = (*scalars, root.correction, root.eps)
    return (
        x.device.type == "cpu"
        and type(x) is Tensor
        and x.dtype == root.second.dtype
        and x.dtype.itemsize >= 4
        and not torch.compiler.is_compiling()
        and not any(isinstance(value, Tensor) for value in scalars)
    )


def _ratios_in_blocks(
    x: Tensor, root: SecondMomentRoot, scale: float, every: int
) -> Iterator[Tensor]:
    eps_tensor = x.new_full((), root.eps)
    factor, tiny = root.correction**-0.5, torch.finfo(x.dtype).tiny
    for part, second in blocks(x, root.second):
        if every > 1:
            part, second = sampled(part, every), sampled(second, every)
        ratio = _kept(x.dtype, part.numel())[0][: part.numel()].view(part.shape)
        torch.sqrt(second, out=ratio)
        torch.add(eps_tensor, ratio, alpha=factor, out=ratio)
        yield ratio.clamp_(min=tiny).mul_(1 / scale).mul_(part).abs_()


def _threshold_in_blocks(
    x: Tensor, root: SecondMomentRoot, pull: float, floor: float
) -> None:
    # A number as a tensor makes a division or a sum one pass.
    pull_tensor, eps_tensor = (x.new_full((), value) for value in (pull, root.eps))
    factor = root.correction**-0.5
    for part, second in blocks(x, root.second):
        threshold, negative = (
            kept[: part.numel()].view(part.shape)
            for kept in _kept(x.dtype, part.numel())
        )
        torch.sqrt(second, out=threshold)
        torch.add(eps_tensor, threshold, alpha=factor, out=threshold)
        threshold.clamp_(min=floor)
        torch.div(pull_tensor, threshold, out=threshold)
        torch.neg(threshold, out=negative)
        part.sub_(torch.clamp(part, negative, threshold, out=negative))


_memory = threading.local()


def _kept(dtype: torch.dtype, size: int) -> tuple[Tensor, Tensor]:
    """Return two blocks of memory, this thread's own, of at least `size` elements."""
    kept = _memory.__dict__.setdefault("blocks", {})
    if dtype not in kept or kept[dtype][0].numel() < size:
        with torch.inference_mode(False):  # for whatever comes later
            kept[dtype] = tuple(torch.empty(2, max(size, BLOCK), dtype=dtype))
    return kept[dtype]


def _threshold_compiled(
    x: Tensor, root: SecondMomentRoot, pull: Number, floor: Number
) -> None:
    dtype = torch.float32 if x.dtype.itemsize < 4 else x.dtype
    # As tensors, numbers that change do not compile the kernel anew.
    scalars = [
        value.to(dtype)
        if isinstance(value, Tensor)
        else torch.full((), value, dtype=dtype)
        for value in (pull, floor, root.correction, root.eps)
    ]
    tensors = (x, root.second)
    if all(tensor.is_contiguous() for tensor in tensors):
        tensors = tuple(tensor.view(-1) for tensor in tensors)
    _compiled()(*tensors, *scalars)


def _formula(
    x: Tensor,
    second: Tensor,
    pull: Tensor,
    floor: Tensor,
    correction: Tensor,
    eps: Tensor,
) -> None:
    wide = x.to(pull.dtype)
    root = (second.to(pull.dtype) / correction).sqrt() + eps
    t = pull / torch.maximum(root, floor)
    x.copy_(wide - torch.clamp(wide, -t, t))


@functools.cache
def _compiled() -> Callable[..., None]:
    return torch.compile(_formula, dynamic=True)
