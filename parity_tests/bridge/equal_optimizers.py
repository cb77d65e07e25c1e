"""Batches, and optimizers that are equal in both frameworks."""

import numpy as np
import optax
import torch

import l1jax
import l1torch

RATE, STRENGTH = 0.01, 0.02


def batches(steps=8, shape=(5,), classes=3, seed=0):
    """Return inputs and labels for each step."""
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(16, *shape)), rng.integers(0, classes, 16))
        for _ in range(steps)
    ]


def optimizers(strength=STRENGTH, theirs=None, **settings):
    """Equal optimizers, but for torch's settings."""
    return (
        l1jax.proximal(optax.adam, RATE, STRENGTH),
        lambda named: l1torch.Proximal(
            torch.optim.Adam(named, **({"lr": RATE} | settings)), strength
        ),
    )
