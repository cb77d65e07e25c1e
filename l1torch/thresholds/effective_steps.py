"""The step that an optimizer really takes: from its state to a size per coordinate.

At a constant gradient `g` an optimizer settles to updates `-E * g`. This effective step
`E = scale / denominator` is what a penalty's threshold must follow: `E * strength`
makes the fixed points those of `loss + strength * penalty`, whatever the denominator
(Duchi and Singer, 2009, where it is the learning rate; Yun, Lozano and Yang, 2021,
where the method is adaptive).
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l1torch.numerics.checks import as_number, check_real, check_scalar, described
from l1torch.numerics.elementwise import Number
from l1torch.numerics.second_moments import SecondMomentRoot
from l1torch.parameters.trees import Group


class EffectiveStep(NamedTuple):
    r"""The effective step `scale / denominator` of an optimizer in its present state.

    .. math::

       \mathrm{threshold} = \mathrm{scale} \cdot \min(\mathrm{strength} / D, m),
       \quad m = \mathrm{max\_ratio} \cdot \mathrm{reach},
       \quad D = \mathrm{denominator}
    """

    scale: Number
    """Scalar: the learning rate times the gain of the momentum."""

    denominator: Number | SecondMomentRoot = 1.0
    """What the gradient is divided by: a number, a tensor like the parameter, or a
    `SecondMomentRoot`, a tensor that is only computed when it is needed."""

    reach: Number = math.inf
    """A bound of `|g| / denominator` at a stationary point, number or tensor. It is 1
    where the denominator is the gradient's own size, as Adam's is, and infinite where
    there is none, as in SGD. `max_ratio` is measured in it."""


OptimizerClass = type[torch.optim.Optimizer]

State = dict[str, Any]
"""What an optimizer keeps for one parameter."""

StepSize = Callable[[State, Group], EffectiveStep]
"""`step_size(state, group)`, see `register_step_size`."""


def never(state: State, group: Group) -> bool:
    """Return False."""
    del state, group
    return False


class KnownStep(NamedTuple):
    """What is known of an optimizer's step."""

    step_size: StepSize
    is_lazy: Callable[[State, Group], bool] = never
    """`is_lazy(state, group)`: whether the step is made of numbers and, at most, a
    `SecondMomentRoot`, so that `step_size` works out nothing of the parameter's size
    and may be given the whole state. All others are given the state in parts."""


REGISTRY: dict[OptimizerClass, KnownStep] = {}
"""What is known, by class. Steps that are not lazy go by `register_step_size`."""


def register_step_size(
    optimizer: type[torch.optim.Optimizer], step_size: StepSize
) -> None:
    """Make an optimizer known to `Proximal`.

    Args:
      optimizer: a class of optimizers such as `torch.optim.Adam`. Those derived from it
        that keep its `step` are known with it. Known ones are replaced.
      step_size: a function `(state, group)` that returns the `EffectiveStep` of one
        parameter. The state is what the optimizer keeps for it, after its step; the
        group holds the hyperparameters. It must be elementwise: on CPU it is called
        for parts, the state's tensors of the parameter's shape being cut alike. It
        must neither change the state nor, on accelerators, wait for a value.

    Raises:
      TypeError: no class of optimizers, or no function.

    Example:
      >>> class AveragedSGD(torch.optim.SGD):
      ...     def step(self, closure=None):
      ...         ...
      >>> def step_size(state, group):
      ...     return EffectiveStep(scale=group["lr"])  # the gain of an average is 1
      >>> register_step_size(AveragedSGD, step_size)
    """
    is_class = isinstance(optimizer, type)
    if not is_class or not issubclass(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be a class of optimizers, got {optimizer!r}. Pass the "
            "class, such as torch.optim.Adam."
        )
    if not callable(step_size):
        raise TypeError(
            f"step_size must be a function, got {step_size!r} of type "
            f"{type(step_size).__name__}. Pass a function (state, group) -> "
            "EffectiveStep."
        )
    try:
        inspect.signature(step_size).bind({}, {})
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"step_size must take (state, group), got {described(step_size)}: {error}. "
            "Pass a function of these two."
        ) from error
    REGISTRY[optimizer] = KnownStep(step_size)


def has_no_denominator(step: EffectiveStep) -> bool:
    """Tell whether the step is the same for all coordinates, as that of SGD is."""
    numbers_only = isinstance(step.denominator, float | int) and isinstance(
        step.reach, float | int
    )
    return numbers_only and step.denominator == 1 and step.reach == math.inf


def known_class(optimizer: torch.optim.Optimizer) -> OptimizerClass:
    """Return the registered class that tells of an optimizer's step.

    Raises:
      TypeError: neither its class nor one whose `step` it keeps is registered.
    """
    step = inspect.unwrap(type(optimizer).step)  # torch wraps it for its profiler
    classes = [
        cls
        for cls in type(optimizer).__mro__
        if cls in REGISTRY and inspect.unwrap(cls.step) is step
    ]
    if not classes:
        names = ", ".join(sorted(cls.__name__ for cls in REGISTRY))
        raise TypeError(
            f"optimizer must be one whose step is known ({names}), got "
            f"{type(optimizer).__name__}, whose effective step is not. Tell it to "
            "register_step_size; or pass step_size='learning_rate' for the decoupled "
            "form, which thresholds by lr * strength and solves another problem (what "
            "proximal_step does to updates of your own)."
        )
    return classes[0]


def effective_step(known: OptimizerClass, state: State, group: Group) -> EffectiveStep:
    """Return what the function registered for a class says of a state, or a part."""
    step = REGISTRY[known].step_size(state, group)
    if not isinstance(step, EffectiveStep):
        raise TypeError(
            f"step_size, as registered for {known.__name__}, must return an "
            f"EffectiveStep, got {step!r}. Return EffectiveStep(scale=...) from "
            "the function given to register_step_size."
        )
    return step


def is_lazy(known: OptimizerClass, state: State, group: Group) -> bool:
    """Tell whether the step may be asked for a whole state at once, see `KnownStep`."""
    return REGISTRY[known].is_lazy(state, group)


def check_rate(group: Group) -> None:
    """Raise unless the group has a learning rate that is finite and >= 0."""
    if "lr" not in group:
        raise ValueError(
            f"optimizer must have a learning rate 'lr', got a group with "
            f"{sorted(group)}. Use proximal_step with a learning rate of your own."
        )
    check_scalar("lr", as_number(group["lr"]))


def check_momentum(group: Group) -> None:
    """Raise ValueError for momentum or dampening outside [0, 1)."""
    for name in ("momentum", "dampening"):
        value = as_number(group.get(name, 0.0))
        check_scalar(name, value)
        if not isinstance(value, Tensor):
            # Outside [0, 1) the steps at a constant gradient never become steady.
            check_real(name, value, "[0, 1)", _MOMENTA)


_MOMENTA = "one such as 0.9, or step_size='learning_rate' for the decoupled form"


def check_state_dict(
    optimizer: torch.optim.Optimizer,
    known: OptimizerClass,
    state_dict: Mapping[str, Any],
) -> None:
    """Raise ValueError if a state dict was saved by another kind of optimizer.

    It is one if a group lacks hyperparameters of this optimizer or has some that only
    other registered optimizers know, or if the step size cannot be read from a state.
    """
    own = set(optimizer.defaults)
    foreign = {name for cls in REGISTRY for name in _hyperparameters(cls)} - own
    foreign -= {key for group in optimizer.param_groups for key in group}
    for group in state_dict["param_groups"]:
        missing = own - set(group) - _OPTIONAL
        strange = foreign & set(group)
        if missing or strange:
            raise ValueError(
                f"state_dict must be that of {type(optimizer).__name__}, got a group "
                f"without {sorted(missing)} and with {sorted(strange)}. Load the "
                "checkpoint into the optimizer that saved it."
            )
        for index in group["params"][:1]:
            if state := state_dict["state"].get(index):
                try:
                    effective_step(known, state, group)
                except (KeyError, AttributeError, TypeError) as error:
                    raise ValueError(
                        f"state_dict must be that of {type(optimizer).__name__}, got a "
                        f"state with {sorted(state)}. Load the checkpoint into the "
                        "optimizer that saved it."
                    ) from error


# Hyperparameters that older checkpoints lack, or have from other versions of torch.
_OPTIONAL = {
    "capturable",
    "decoupled_weight_decay",
    "differentiable",
    "foreach",
    "fused",
    "maximize",
}


def _hyperparameters(cls: type) -> set[str]:
    return set(inspect.signature(cls).parameters) - _OPTIONAL - {"params"}
