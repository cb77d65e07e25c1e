"""The network of the examples on digits: 64, 256, 256 and 10 units, as plain arrays."""

import itertools
import math
from typing import Any

import numpy as np
import torch

from data import Split

UNITS = (64, 256, 256, 10)
BATCH = 100
Weights = dict[str, Any]
"""`kernel_i` of shape (inputs, outputs) and `bias_i`, for i from 0."""


def initial(seed: int, units: tuple[int, ...] = UNITS) -> dict[str, np.ndarray]:
    """Draw the initial weights (He, normal), in float32; biases are 0."""
    rng = np.random.default_rng(seed)
    made = {}
    for i, (m, n) in enumerate(itertools.pairwise(units)):
        made[f"kernel_{i}"] = rng.normal(0, math.sqrt(2 / m), (m, n)).astype("float32")
        made[f"bias_{i}"] = np.zeros(n, np.float32)
    return made


def forward(params: Weights, X: Any) -> Any:
    """Apply the network with ReLU, to arrays of NumPy or JAX, or to tensors."""
    last = len(params) // 2 - 1
    for i in range(last + 1):
        X = X @ params[f"kernel_{i}"] + params[f"bias_{i}"]
        X = X * (X > 0) if i < last else X
    return X


def to_torch(weights: dict[str, np.ndarray]) -> torch.nn.Sequential:
    """Make the same network as a torch module, at these weights."""
    layers: list[torch.nn.Module] = []
    for i, kernel in enumerate(kernels(weights)):
        linear = torch.nn.Linear(*kernel.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(kernel.T))  # torch: (outputs, inputs)
            linear.bias.copy_(torch.tensor(weights[f"bias_{i}"]))
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def from_torch(model: torch.nn.Sequential) -> dict[str, np.ndarray]:
    """Read the weights of a network that `to_torch` made."""
    weights = {}
    for i, linear in enumerate(m for m in model if isinstance(m, torch.nn.Linear)):
        weights[f"kernel_{i}"] = linear.weight.detach().numpy().T
        weights[f"bias_{i}"] = linear.bias.detach().numpy()
    return weights


def kernels(params: Weights) -> list[Any]:
    """Return what is penalised, and counted: the kernels, without the biases."""
    return [v for k, v in params.items() if k.startswith("kernel")]


def pruning_ramp(done: Any, begin: float = 0.05, end: float = 0.6) -> Any:
    """Return how much of magnitude pruning is done: a cubic ramp from 0 to 1.

    Args:
      done: the fraction of the steps that is done.
      begin: the fraction before which nothing is pruned.
      end: the fraction from which on nothing more is (Zhu and Gupta, 2017).
    """
    return 1 - (1 - np.clip((done - begin) / (end - begin), 0, 1)) ** 3


def measure(weights: dict[str, np.ndarray], data: Split) -> tuple[float, float, float]:
    """Return exact zeros, weights below 1e-3, and test accuracy: all in percent."""
    flat = np.concatenate([kernel.ravel() for kernel in kernels(weights)])
    right = forward(weights, data.X_test).argmax(1) == data.y_test
    shares = (flat == 0).mean(), (np.abs(flat) < 1e-3).mean(), right.mean()
    return tuple(100 * float(share) for share in shares)
