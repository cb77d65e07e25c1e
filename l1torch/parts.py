"""The effective step of one parameter, worked out in parts that fit into the cache."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from l1torch.groups import Group, as_number
from l1torch.hyperparameters import Number
from l1torch.kernels import Root
from l1torch.leaves import blocks_with, compute_dtype
from l1torch.sharding import local, over_shards
from l1torch.step_sizes import EffectiveStep, StepSize, has_no_denominator

State = dict[str, Any]
"""What an optimizer keeps for one parameter."""


def parts(
    param: Tensor, state: State, strength: Number
) -> Iterator[tuple[Tensor, State, Number]]:
    """Cuts parameter, state and strength alike; on accelerators they stay whole.

    Of the state, what has the parameter's shape is cut, and handed on in at least
    single precision. Of a DTensor, this process's shard is meant.
    """
    dtype = compute_dtype(param.dtype)
    like = {key: value for key, value in state.items() if _is_like(value, param)}
    for x, *values, part_strength in blocks_with(strength, param, *like.values()):
        cut = (value.to(dtype) for value in values)
        yield x, {**state, **dict(zip(like, cut, strict=True))}, part_strength


def whole(param: Tensor, state: State) -> State:
    """Gives the state uncut, for a prox that needs all of an array at once."""
    dtype = compute_dtype(param.dtype)
    return {k: v.to(dtype) if _is_like(v, param) else v for k, v in state.items()}


def scalar_step(
    step_size: StepSize, param: Tensor, state: State, group: Group
) -> EffectiveStep:
    """Gives the step without its denominator: the learning rate with its gain."""
    return EffectiveStep(step_size(_without_elements(param, state), group).scale)


def divides_by_root(
    step_size: StepSize, param: Tensor, state: State, group: Group
) -> bool:
    """Tells whether the denominator is a `Root`, at the price of no elements."""
    step = step_size(_without_elements(param, state), group)
    return isinstance(step.denominator, Root)


def _is_like(value: Any, param: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == param.shape


def _without_elements(param: Tensor, state: State) -> State:
    return {
        key: local(value).new_empty(0)
        if _is_like(value, param) and value.dim()
        else value
        for key, value in state.items()
    }


def tensor_step(
    step_size: StepSize, param: Tensor, state: State, group: Group
) -> EffectiveStep:
    """Gives one step for all: the denominator's root mean square, the largest reach."""
    dtype = compute_dtype(param.dtype)
    squares, reaches = [], []
    for x, part, _ in parts(param, state, 0.0):
        step = step_size(part, group)
        if has_no_denominator(step):
            return step
        denominator, reach = (
            value
            if isinstance(value, Tensor)
            else value.tensor()
            if isinstance(value, Root)
            else torch.full((), value, dtype=dtype, device=x.device)
            for value in step[1:]
        )
        squares.append(denominator.expand(x.shape).square().sum())
        # A parameter, or this shard of it, may be empty.
        reaches.append(torch.cat([reach.flatten(), reach.new_zeros(1)]).amax())
    total = over_shards(torch.stack(squares).sum(), param, "sum")
    reach = over_shards(torch.stack(reaches).amax(), param, "max")
    rms = (total / max(param.numel(), 1)).sqrt()
    # A float makes the prox one kernel; NaN goes on as a tensor, to be seen.
    number = as_number(rms)
    seen = isinstance(number, float) and math.isfinite(number)
    return EffectiveStep(step.scale, number if seen else rms, as_number(reach))
