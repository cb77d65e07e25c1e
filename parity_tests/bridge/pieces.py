"""Small modules and trees to pair up."""

import numpy as np
import torch


def names(matching):
    """Return the paired layers, torch's by Flax's name."""
    return {m.flax.name: m.torch.name for m in matching.matches}


class Pieces(torch.nn.Module):
    """Modules by name, never called."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def dense(*shape):
    """Return the arrays of a dense layer in Flax."""
    return {"kernel": np.ones(shape), "bias": np.ones(shape[-1])}


def linear(*shape):
    """Return the same layer in torch, in double precision."""
    return torch.nn.Linear(*shape).double()
