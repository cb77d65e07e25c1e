"""An optimizer that hands everything to another, and is one nevertheless."""

import dataclasses
import functools
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

from l1torch.numerics.checks import described

_P, _R = ParamSpec("_P"), TypeVar("_R")


def eager(
    method: Callable[Concatenate[Any, _P], _R],
) -> Callable[Concatenate[Any, _P], _R]:
    """Keep a method out of the graphs of `torch.compile`, which break at its call.

    What reads groups, states and gradients would be traced anew for each parameter. The
    optimizer's own step is still compiled.
    """
    # Made at the first use: torch's decorator imports the compiler, slowly.
    outside: list[Callable[..., _R]] = []

    @functools.wraps(method)
    def call(self: Any, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not torch.compiler.is_compiling():
            return method(self, *args, **kwargs)
        if not outside:
            outside.append(torch.compiler.disable(method))
        return outside[0](self, *args, **kwargs)

    return call


@dataclasses.dataclass
class _Watch:
    """What the hook of a wrapped optimizer must know."""

    wrapper: "weakref.ref[DelegatingOptimizer]"
    """The last one around it."""
    inside: bool = False
    """Whether a wrapper takes the step, the last one or one before."""
    warned: bool = False


# Kept by the base optimizer and not in its hook: a hook that held the wrapper could be
# neither copied nor pickled.
_watches: weakref.WeakKeyDictionary[torch.optim.Optimizer, _Watch] = (
    weakref.WeakKeyDictionary()
)


def _warn_outside(base: torch.optim.Optimizer, args: object, kwargs: object) -> None:
    """Warn once of a step that the base takes without its wrapper."""
    if torch.compiler.is_compiling() or base not in _watches:
        return
    watch = _watches[base]
    wrapper = watch.wrapper()
    if wrapper is None or watch.inside or watch.warned:
        return
    watch.warned = True
    inner, outer = type(base).__name__, type(wrapper).__name__
    warnings.warn(
        f"optimizer must step through its wrapper, got {inner}.step() of the {inner} "
        f"inside of a {outer}, which then does nothing. Call step() of the {outer}, "
        "and hand it to schedulers and trainers; delete it if it is not needed.",
        stacklevel=3,
    )


class DelegatingOptimizer(torch.optim.Optimizer):
    """Delegate to a base optimizer; derived classes bring their own `step`.

    `param_groups`, `state` and `defaults` are the base's own, so that schedulers,
    `GradScaler` and checkpoints see one optimizer. Step hooks are the wrapper's. It
    says nothing of AMP scaling, so that `GradScaler` unscales the gradients before and
    leaves out the steps that it skips. A step of the base alone is warned of, once.

    A derived class names its own attributes in `_kept`: these are copied and pickled.
    """

    _kept: tuple[str, ...] = ("optimizer",)

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._check_base(optimizer)
        self.optimizer = optimizer
        # Optimizer.__init__ would make groups of its own. Apart from these it makes the
        # dictionaries of hooks, and so does __setstate__.
        super().__setstate__({})
        self._watch_base()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's groups."""
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.optimizer.param_groups = groups

    @property
    def state(self) -> Any:
        """The base optimizer's state."""
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.optimizer.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The base optimizer's defaults."""
        return self.optimizer.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.optimizer.defaults = defaults

    def __getstate__(self) -> dict[str, Any]:
        # Hooks are not pickled, as in torch's own optimizers, nor the `step` by which a
        # scheduler hides that of the class.
        return {name: self.__dict__[name] for name in self._kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._watch_base()

    def _watch_base(self) -> None:
        if self.optimizer not in _watches:
            self.optimizer.register_step_pre_hook(_warn_outside)
        self._watch = _watches.setdefault(self.optimizer, _Watch(weakref.ref(self)))
        self._watch.wrapper = weakref.ref(self)

    def _step_base(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step the base optimizer, for a wrapper's own `step`."""
        # If the step raises, `inside` stays True until the next step. A `finally` that
        # resets it would break the graphs of torch.compile.
        self._watch.inside = True
        loss = self.optimizer.step(closure)
        self._watch.inside = False
        return loss

    def _check_base(self, optimizer: object) -> None:
        """Raise TypeError for a base that this wrapper does not take."""
        require_optimizer(optimizer)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, see `torch.optim.Optimizer.zero_grad`."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state dict."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of the base optimizer."""
        if not isinstance(state_dict, Mapping):
            raise TypeError(
                f"state_dict must be a mapping, got {described(state_dict)}. Pass what "
                "state_dict() gave."
            )

        def look(optimizer: torch.optim.Optimizer, state_dict: Any) -> None:
            require_state_dict(state_dict)

        # A hook that is registered last sees what the user's own hooks have made of the
        # state dict, before anything is loaded.
        handle = self.optimizer.register_load_state_dict_pre_hook(look)
        try:
            self.optimizer.load_state_dict(state_dict)
        finally:
            handle.remove()

    def register_state_dict_pre_hook(self, hook: Any, prepend: bool = False) -> Any:
        """Register with the base optimizer, which makes the state dict."""
        return self.optimizer.register_state_dict_pre_hook(hook, prepend)

    def register_state_dict_post_hook(self, hook: Any, prepend: bool = False) -> Any:
        """Register with the base optimizer, which makes the state dict."""
        return self.optimizer.register_state_dict_post_hook(hook, prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Any, prepend: bool = False
    ) -> Any:
        """Register with the base optimizer, which loads the state dict."""
        return self.optimizer.register_load_state_dict_pre_hook(hook, prepend)

    def register_load_state_dict_post_hook(
        self, hook: Any, prepend: bool = False
    ) -> Any:
        """Register with the base optimizer, which loads the state dict."""
        return self.optimizer.register_load_state_dict_post_hook(hook, prepend)


def require_state_dict(state_dict: Mapping[str, Any]) -> None:
    """Raise ValueError unless a state dict has what those of optimizers have."""
    missing = {"state", "param_groups"} - set(state_dict)
    if missing:
        raise ValueError(
            f"state_dict must hold 'state' and 'param_groups', got "
            f"{described(list(state_dict))}. Pass what state_dict() gave."
        )


def require_param_group(param_group: object) -> None:
    """Raise unless this is a group of parameters."""
    if not isinstance(param_group, dict):
        raise TypeError(
            f"param_group must be a dict, got {described(param_group)}. Pass one such "
            "as {'params': list(module.named_parameters())}."
        )
    if "params" not in param_group:
        raise ValueError(
            f"param_group must have the key 'params', got "
            f"{described(list(param_group))}. Pass one such as {{'params': "
            "list(module.named_parameters())}."
        )


def require_closure(closure: object) -> None:
    """Raise TypeError unless this is a function or None."""
    if closure is not None and not callable(closure):
        raise TypeError(
            f"closure must be a function that returns the loss, got "
            f"{described(closure)}. Pass one without arguments, or None."
        )


def require_optimizer(optimizer: object) -> None:
    """Raise TypeError unless this is an optimizer that is not wrapped yet."""
    if isinstance(optimizer, DelegatingOptimizer):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__} already, got a second wrapper. "
            "Use one, or wrap optimizer.optimizer."
        )
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            "optimizer must be a torch.optim.Optimizer, got "
            f"{described(optimizer)}. Pass one that is built, such as "
            "torch.optim.SGD(model.named_parameters(), lr=0.1)."
        )
