"""The soft threshold by `pull / (sqrt(second / correction) + eps)`, in few passes.

This is the prox of L1 in the metric of Adam and its kin, which every step applies to
every weight: it is worth a path of its own.
"""

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from l1torch.hyperparameters import Number


@dataclasses.dataclass(frozen=True)
class Root:
    """The denominator `sqrt(second / correction) + eps`, not yet worked out."""

    second: Tensor
    correction: Number
    eps: Number

    def tensor(self) -> Tensor:
        """Works it out, as a new tensor."""
        root = self.second.sqrt()
        if isinstance(self.correction, float) and isinstance(self.eps, float):
            # One pass for two: eps + root * factor.
            return torch.add(
                root.new_full((), self.eps), root, alpha=self.correction**-0.5
            )
        return root / self.correction**0.5 + self.eps


def shrink_by_root_(x: Tensor, root: Root, pull: Number, floor: Number) -> None:
    """Soft-thresholds `x` in place by `pull / max(root, floor)`: one compiled kernel.

    It takes a compiler that torch can use: of C++ on CPU, Triton on a GPU. The first
    call for a precision compiles it.
    """
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
    return torch.compile(_formula, dynamic=True, fullgraph=True)
