"""Your own model in Flax and in torch: the same weights, and the same training.

    from parity_tests.bridge import to_flax, to_torch

    torch_model.load_state_dict(to_torch(variables, torch_model))
    variables = to_flax(torch_model, like=variables)

`variables` are those of a linen model; an nnx model serves as well. `compare_training`
trains both from the same weights on the same batches, and reports where they first
differ.
"""

from parity_tests.bridge.comparison import Comparison, Difference, Parting, Step
from parity_tests.bridge.conversion import to_flax, to_torch
from parity_tests.bridge.layers import Rule
from parity_tests.bridge.matching import match
from parity_tests.bridge.pairs import Layer, Leaf, Matching, Pairs
from parity_tests.bridge.training import (
    channels_first,
    channels_last,
    compare_training,
)

__all__ = [
    "Comparison",
    "Difference",
    "Layer",
    "Leaf",
    "Matching",
    "Pairs",
    "Parting",
    "Rule",
    "Step",
    "channels_first",
    "channels_last",
    "compare_training",
    "match",
    "to_flax",
    "to_torch",
]
