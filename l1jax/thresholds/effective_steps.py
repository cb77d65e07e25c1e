"""The step that an optimizer really takes: from its state to a size per coordinate.

At a constant gradient `g` an optimizer settles to updates `-E * g`. This effective step
`E = scale / denominator` is what a penalty's threshold must follow: `E * strength`
makes the fixed points those of `loss + strength * penalty`, whatever the denominator
(Duchi and Singer, 2009, where it is the learning rate; Yun, Lozano and Yang, 2021,
where the method is adaptive).
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from l1jax.numerics.checks import check_real, check_scalar, described
from l1jax.parameters.trees import PyTree

Factory = Callable[..., optax.GradientTransformation]


class EffectiveStep(NamedTuple):
    r"""The effective step `scale / denominator` of an optimizer in its present state.

    .. math::

       \mathrm{threshold} = \mathrm{scale} \cdot \min(\mathrm{strength} / D, m),
       \quad m = \mathrm{max\_ratio} \cdot \mathrm{reach},
       \quad D = \mathrm{denominator}
    """

    scale: ArrayLike
    """Scalar: the learning rate times the gain of the momentum."""

    denominator: PyTree = 1.0
    """What the gradient is divided by: a scalar, or a tree like the parameters."""

    reach: PyTree = jnp.inf
    """A bound of `|g| / denominator` at a stationary point, scalar or tree. It is 1
    where the denominator is the gradient's own size, as Adam's is, and infinite where
    there is none, as in SGD. `max_ratio` is measured in it."""


StepSize = Callable[..., EffectiveStep]
"""`step_size(state, learning_rate, **hyperparameters)`, see `register_step_size`."""


class KnownStep(NamedTuple):
    """What is known of an optimizer's step, which may keep an array of its own.

    In the registry both functions take the factory's hyperparameters, too; `lookup`
    returns them bound.
    """

    init: Callable[..., jax.Array | None]
    """`init()`: what is kept before the first step, None for nothing."""

    step_size: Callable[..., tuple[EffectiveStep, jax.Array | None]]
    """`step_size(kept, count, state, learning_rate)`: the effective step, and what is
    kept after it. `count` is the number of steps before this one."""


REGISTRY: dict[Factory, KnownStep] = {}
"""What is known, by factory. Functions without a memory go by `register_step_size`."""


def register_step_size(optimizer: Factory, step_size: StepSize) -> None:
    """Make an optimizer known to `proximal`.

    Args:
      optimizer: a factory such as `optax.adam`, a function with an argument
        `learning_rate` that returns a transformation. Known ones are replaced.
      step_size: a function `(state, learning_rate, **hyperparameters)` that returns the
        `EffectiveStep`. The state is the optimizer's after its update; the learning
        rate is that of this step, a scalar; the hyperparameters are all the factory's
        other arguments, defaults included.

    Raises:
      TypeError: one of the two is not a function.

    Example:
      >>> def averaged_sgd(learning_rate, decay=0.9):
      ...     return optax.chain(optax.ema(decay), optax.scale(-learning_rate))
      >>> def step_size(state, learning_rate, decay):
      ...     return EffectiveStep(scale=learning_rate)  # the gain of an average is 1
      >>> register_step_size(averaged_sgd, step_size)
    """
    for argument, value in (("optimizer", optimizer), ("step_size", step_size)):
        if not callable(value):
            raise TypeError(
                f"{argument} must be a function, got {value!r} of type "
                f"{type(value).__name__}. Pass a factory such as optax.adam, and a "
                "function (state, learning_rate, **hyperparameters) -> EffectiveStep."
            )
    try:
        factory = inspect.signature(optimizer)
        factory.bind_partial(learning_rate=None)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"optimizer must take learning_rate, got {described(optimizer)}: {error}. "
            "Pass a factory such as optax.adam."
        ) from error
    names = [
        name
        for name, parameter in factory.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name != "learning_rate"
    ]
    try:
        inspect.signature(step_size).bind(None, None, **dict.fromkeys(names))
    except (TypeError, ValueError) as error:
        raise TypeError(
            "step_size must take (state, learning_rate, **hyperparameters), which are "
            f"{names} here, got {described(step_size)}: {error}. Pass a function of "
            "these."
        ) from error
    REGISTRY[optimizer] = _keeping_nothing(step_size)


def _keeping_nothing(step_size: StepSize) -> KnownStep:
    def checked(
        kept: None, count: ArrayLike, /, *arguments: Any, **hyperparameters: Any
    ) -> tuple[EffectiveStep, None]:
        del kept, count
        step = step_size(*arguments, **hyperparameters)
        if not isinstance(step, EffectiveStep):
            raise TypeError(
                f"step_size must return an EffectiveStep, got {step!r}. Return "
                "EffectiveStep(scale=...) from the function given to "
                "register_step_size."
            )
        return step, None

    return KnownStep(init=lambda **_: None, step_size=checked)


def lookup(factory: Factory, arguments: dict[str, Any]) -> KnownStep:
    """Return what is known of the step of `factory(learning_rate, **arguments)`.

    Raises:
      TypeError: the factory is not known, or does not take the arguments.
      ValueError: a momentum outside [0, 1).
    """
    known = factory
    while isinstance(known, functools.partial) and known not in REGISTRY:
        known = known.func
    try:
        registered = REGISTRY[known]
    except (KeyError, TypeError, ValueError):  # the last two: not hashable
        raise TypeError(_unknown(factory)) from None
    if isinstance(factory, functools.partial) and "learning_rate" in factory.keywords:
        raise TypeError(
            f"factory must not bring a learning rate, got {factory!r}. Pass it to "
            "proximal, whose threshold follows it."
        )
    signature = inspect.signature(factory)
    try:
        bound = signature.bind(learning_rate=None, **arguments)
    except TypeError as error:
        takes = [name for name in signature.parameters if name != "learning_rate"]
        raise TypeError(
            f"{_name(factory)} cannot be called with learning_rate and "
            f"{sorted(arguments)}: {error}. It takes {takes}."
        ) from error
    bound.apply_defaults()
    hyperparameters = {}
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            hyperparameters.update(value)
        elif name != "learning_rate":
            hyperparameters[name] = value
    momentum = hyperparameters.get("momentum")
    if momentum is not None:
        check_scalar("momentum", momentum)
        # At 1 or above a constant gradient moves the weights without end.
        if not isinstance(momentum, jax.Array):
            check_real("momentum", momentum, "[0, 1)", "one such as 0.9")
    bound = (functools.partial(part, **hyperparameters) for part in registered)
    return KnownStep(*bound)


def _unknown(factory: object) -> str:
    if isinstance(factory, optax.GradientTransformation):
        problem = (
            "a transformation that is built already. Pass the factory itself, as in "
            "proximal(optax.adam, 1e-3, strength); under optax.inject_hyperparams name "
            "static_args=('factory', 'mask', 'window')"
        )
    elif not callable(factory):
        problem = f"{factory!r}. Pass a factory such as optax.adam"
    elif getattr(factory, "__wrapped__", None) in REGISTRY:
        problem = (
            f"one wrapped around {_name(factory)}. Pass this, and wrap proximal, as in "
            "optax.inject_hyperparams(proximal, static_args=('factory', 'mask', "
            "'window'))"
        )
    else:
        problem = (
            f"{_name(factory)}, whose effective step is not known. Tell it to "
            "register_step_size"
        )
    known = ", ".join(sorted({_name(known) for known in REGISTRY}))
    return (
        f"factory must be an optimizer whose step is known ({known}), got {problem}. "
        "For the decoupled form, which thresholds by learning_rate * strength and "
        "solves another problem, chain proximal_step behind any optimizer (what "
        "step_size='learning_rate' is in l1torch)."
    )


def _name(factory: Factory) -> str:
    while isinstance(factory, functools.partial):
        factory = factory.func
    return getattr(factory, "__name__", repr(factory))
