"""A linear model's data: what is large stays where it is, what is small is double.

A duality gap of 1e-6 needs double precision. Products with all of X run where X is;
columns that are picked out of it, and what must be certain, are computed on the CPU.
"""

from typing import Any

import torch
from torch import Tensor

from l1torch.numerics.checks import as_numbers

_BLOCK = 2**20
"""How many numbers are converted to double precision at a time."""


class Design:
    """The matrix X of shape (n, p), checked."""

    def __init__(self, X: Tensor) -> None:
        X = as_numbers("X", X)
        if X.dim() != 2 or 0 in X.shape:
            raise ValueError(
                "X must have the shape (samples, features), one or more of each, got "
                f"shape {tuple(X.shape)}. Pass X[:, None] for a single feature."
            )
        self.n, self.p = X.shape
        dtype = X.dtype if X.dtype.is_floating_point else torch.float64
        self.like = torch.empty(0, dtype=dtype, device=X.device)
        self._host = X.detach().cpu()  # no copy on CPU
        if not X.dtype.is_floating_point:
            self._host = self._host.double()
        # One pass without a copy: a sum is finite only if all its terms are.
        finite = torch.sum(self._host, dtype=torch.float64).isfinite()
        if not finite and not self._host.isfinite().all():
            row, column = torch.nonzero(~self._host.isfinite())[0].tolist()
            raise ValueError(
                f"X must be finite, got {self._host[row, column]} in row {row}, column "
                f"{column}. Drop or fill in what is missing."
            )
        self._device = None if X.device.type == "cpu" else X.detach()

    def gradient(self, residual: Tensor, precise: bool = True) -> Tensor:
        """Return `X' residual / n`, of shape (p, k), for a residual of shape (n, k).

        Args:
          residual: the derivative of each sample's loss by its scores.
          precise: whether in double precision; else in the precision of X.
        """
        # Multiply rows by X: its memory lies in rows and is then read once, in order.
        rows = residual.T / self.n
        if self._host.dtype == torch.float64:
            return (rows @ self._host).T
        if not precise and self._host.dtype == torch.float32:
            X = self._host if self._device is None else self._device
            product = rows.to(X) @ X
            return product.cpu().double().T
        total = torch.zeros((rows.shape[0], self.p), dtype=torch.float64)
        size = max(1, _BLOCK // self.p)
        for start in range(0, self.n, size):
            block = self._host[start : start + size].double()
            total += rows[:, start : start + size] @ block
        return total.T

    def columns(self, features: Tensor) -> Tensor:
        """Copy some columns, in double precision."""
        return self._host[:, features].double()

    def scores(self, coef: Tensor) -> Tensor:
        """Return `X coef`, of shape (n, k), in double precision."""
        support = torch.nonzero(coef.any(1)).flatten()
        return self.columns(support) @ coef[support]


def as_data(X: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Return features and labels as tensors; bool labels as 0 and 1."""
    return as_numbers("X", X), as_numbers("y", y, labels=True)


def double(argument: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of a shape on the CPU in double precision, checked."""
    value = as_numbers(argument, value)
    if tuple(value.shape) != shape:
        raise ValueError(
            f"{argument} must have the shape {shape}, got {tuple(value.shape)}. Look "
            "at the shapes of X and y."
        )
    return value.detach().cpu().double()
