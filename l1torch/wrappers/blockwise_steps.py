"""Parameters in pieces of the cache's size: large ones cut up, small ones joined."""

import dataclasses
import math
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from l1torch.numerics.blocks import (
    BLOCK,
    blocks_with,
    cut,
    is_small,
    joined,
    write_joined,
)
from l1torch.numerics.checks import as_number
from l1torch.numerics.elementwise import Number, compute_dtype
from l1torch.numerics.second_moments import SecondMomentRoot
from l1torch.numerics.sharding import local, over_shards
from l1torch.parameters.trees import Group
from l1torch.thresholds.effective_steps import (
    EffectiveStep,
    OptimizerClass,
    State,
    effective_step,
    has_no_denominator,
)


class Member(NamedTuple):
    """A penalised parameter that takes a step."""

    name: str
    param: Tensor
    strength: Number
    state: State
    group: Group


@dataclasses.dataclass(frozen=True)
class Pack:
    """Parameters that are treated as one: one alone, or small ones joined to a vector.

    Elementwise work on thousands of small tensors is calls and no arithmetic. Those
    whose thresholds have all numbers in common are copied, for a moment and no more
    than fit into the cache, into one.
    """

    members: list[Member]

    @property
    def group(self) -> Group:
        """The hyperparameters of all."""
        return self.members[0].group

    @property
    def strength(self) -> Number:
        """The strength of all."""
        return self.members[0].strength

    @property
    def params(self) -> list[Tensor]:
        """The parameters themselves."""
        return [member.param for member in self.members]

    def read(self) -> tuple[Tensor, State]:
        """Return parameter and state: themselves if alone, else joined copies."""
        param, state = self.members[0].param, self.members[0].state
        if len(self.members) == 1:
            return param.detach(), state
        return joined(self.params), {
            key: joined(self._of_state(key)) if _is_like(value, param) else value
            for key, value in state.items()
        }

    def write(self, x: Tensor, state: State, keys: Iterable[str] = ()) -> None:
        """Write back what has changed of what `read` returned: `x`, some of `state`."""
        if len(self.members) == 1:
            return
        write_joined(x, self.params)
        for key in keys:
            write_joined(state[key], self._of_state(key))

    def cut(self, value: Number) -> list[Number]:
        """Return each member's part of a number or joined tensor."""
        if len(self.members) == 1 or not isinstance(value, Tensor) or not value.dim():
            return [value] * len(self.members)
        return cut(value, self.params)

    def _of_state(self, key: str) -> list[Tensor]:
        return [member.state[key] for member in self.members]


def packs(members: Iterable[Member], *, join: bool = True) -> list[Pack]:
    """Join neighbours that can be joined; each parameter stands alone otherwise."""
    found: list[Pack] = []
    last, size = None, 0
    for member in members:
        kind = _kind(member) if join else None
        size += member.param.numel()
        if kind is not None and kind == last and size <= BLOCK:
            found[-1].members.append(member)
            continue
        found.append(Pack([member]))
        last, size = kind, member.param.numel()
    return found


def _kind(member: Member) -> tuple[Hashable, ...] | None:
    """Return what joined parameters must have in common; None for one to stand alone.

    It is the group, the strength, and of the state all numbers and dtypes.
    """
    param, strength = member.param, member.strength
    if isinstance(strength, Tensor) or not is_small(param):
        return None
    shape = param.shape
    kind: list[Hashable] = [id(member.group), strength, param.dtype, param.device]
    for key, value in member.state.items():
        if isinstance(value, Tensor):
            if value.shape == shape:
                value = value.dtype if value.is_contiguous() else None
            else:
                value = value.item() if value.is_cpu and value.numel() == 1 else None
            if value is None:
                return None
        elif value is not None:
            return None
        kind += key, value
    return tuple(kind)


class Part(NamedTuple):
    """A part of a parameter, with the same part of its state and strength."""

    x: Tensor
    state: State
    strength: Number


def parts(param: Tensor, state: State, strength: Number) -> Iterator[Part]:
    """Cut parameter, state and strength alike; on accelerators they stay whole.

    Of the state, what has the parameter's shape is cut, and handed on in at least
    single precision. Of a DTensor, this process's shard is meant.
    """
    dtype = compute_dtype(param.dtype)
    like = {key: value for key, value in state.items() if _is_like(value, param)}
    for x, *values, part_strength in blocks_with(strength, param, *like.values()):
        cut = (value.to(dtype) for value in values)
        yield Part(x, {**state, **dict(zip(like, cut, strict=True))}, part_strength)


def widened(param: Tensor, state: State) -> State:
    """Return the state uncut, for a prox that needs all of an array at once."""
    dtype = compute_dtype(param.dtype)
    return {k: v.to(dtype) if _is_like(v, param) else v for k, v in state.items()}


def scalar_step(
    known: OptimizerClass, param: Tensor, state: State, group: Group
) -> EffectiveStep:
    """Return the step without its denominator: the learning rate with its gain."""
    step = effective_step(known, _without_elements(param, state), group)
    return EffectiveStep(step.scale)


def _is_like(value: object, param: Tensor) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.shape == param.shape


def _as_tensor(value: Number | SecondMomentRoot, x: Tensor) -> Tensor:
    if isinstance(value, SecondMomentRoot):
        return value.tensor()
    if isinstance(value, Tensor):
        return value
    return torch.full((), value, dtype=compute_dtype(x.dtype), device=x.device)


def _without_elements(param: Tensor, state: State) -> State:
    return {
        key: local(value).new_empty(0)
        if _is_like(value, param) and value.dim()
        else value
        for key, value in state.items()
    }


def tensor_step(
    known: OptimizerClass, param: Tensor, state: State, group: Group
) -> EffectiveStep:
    """Return one step for all: the root mean square of `D`, the largest reach."""
    squares, reaches = [], []
    for part in parts(param, state, strength=0.0):
        step = effective_step(known, part.state, group)
        if has_no_denominator(step):
            return step
        denominator = _as_tensor(step.denominator, part.x)
        reach = _as_tensor(step.reach, part.x)
        squares.append(denominator.expand(part.x.shape).square().sum())
        # With a zero, since a parameter, or this shard of it, may have no elements.
        reaches.append(torch.cat([reach.flatten(), reach.new_zeros(1)]).amax())
    total = over_shards(torch.stack(squares).sum(), param, "sum")
    reach = over_shards(torch.stack(reaches).amax(), param, "max")
    rms = (total / max(param.numel(), 1)).sqrt()
    # The prox by a float is one kernel. NaN stays a tensor, which makes weights NaN.
    number = as_number(rms)
    seen = isinstance(number, float) and math.isfinite(number)
    return EffectiveStep(step.scale, number if seen else rms, as_number(reach))
