"""The calls of the fuzz that torch alone has: optimizers around others."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import l1torch
from parity_tests.frameworks.twin import Twin
from parity_tests.fuzz.rules import (
    Case,
    choice,
    finite_strength,
    flag,
    integer,
    nothing,
    real,
)
from parity_tests.fuzz.training_cases import grads, params


def optimizers(twin: Twin) -> dict[str, Case]:
    """Return the calls by name, as `fuzz.cases.cases` does."""
    kinds = {
        "strength": finite_strength,
        "penalty": nothing,
        "mask": None,
        "metric": choice,
    }

    def parameters() -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, torch.nn.Parameter(x)) for name, x in params(twin).items()]

    def stepped(optimizer: Any) -> Any:
        held = [p for group in optimizer.param_groups for p in group["params"]]
        for _ in range(2):
            for p, grad in zip(held, grads(twin).values(), strict=True):
                p.grad = grad
            optimizer.step()
        return [p.detach() for p in held]

    def sgd(**settings: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters(), lr=0.1, **settings)

    def wrapped(kind: Any) -> Callable[..., Any]:
        return lambda **arguments: stepped(kind(**arguments))

    def base(
        make: Callable[..., Any] = sgd, **more: Any
    ) -> Callable[[], dict[str, Any]]:
        return lambda: {"optimizer": make(), "strength": 0.1, "mask": None} | more

    def window(value: Any) -> bool:
        infinite = isinstance(value, float) and value == np.inf
        return infinite or integer(1, 2**31 - 1)(value)

    def trained(kind: Any = l1torch.Proximal) -> Any:
        optimizer = kind(torch.optim.Adam(parameters(), lr=0.1), 0.1)
        stepped(optimizer)
        return optimizer

    def with_setting(name: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            optimizer = l1torch.Proximal(sgd(momentum=0.5), 0.1)
            optimizer.param_groups[0][name] = arguments[name]
            return stepped(optimizer)

        return call

    def loaded(state_dict: Any) -> Any:
        optimizer = trained()
        before = [p.clone() for p in optimizer.param_groups[0]["params"]]
        optimizer.load_state_dict(state_dict)
        return before and stepped(optimizer)

    def register(optimizer: Any, step_size: Any) -> None:
        l1torch.register_step_size(optimizer, step_size)

    def added(param_group: Any) -> Any:
        optimizer = trained()
        optimizer.add_param_group(param_group)

    more = {
        "optimizer": choice,
        "max_ratio": real(1, np.inf, "low"),
        "window": window,
        "step_size": choice,
        "fused": flag,
    }

    class Own(torch.optim.SGD):
        pass

    return {
        "proximal": Case(wrapped(l1torch.Proximal), base(), kinds | more),
        "proximal of Adam": Case(
            wrapped(l1torch.Proximal),
            base(lambda: torch.optim.Adam(parameters(), lr=0.1)),
            {"max_ratio": more["max_ratio"], "fused": flag},
        ),
        "Subgradient": Case(
            wrapped(l1torch.Subgradient),
            base(),
            {k: v for k, v in kinds.items() if k != "metric"} | {"optimizer": choice},
        ),
        "FrozenZeros": Case(
            wrapped(l1torch.freeze_zeros),
            lambda: {"optimizer": sgd(), "mask": None},
            {"optimizer": choice, "mask": None},
        ),
        "Proximal of lr": Case(
            with_setting("lr"),
            lambda: {},
            {"lr": None},
            foreign="can't convert negative int",  # torch takes ints of 64 bits
        ),
        "Proximal of momentum": Case(
            with_setting("momentum"), lambda: {}, {"momentum": None}
        ),
        "Proximal of dampening": Case(
            with_setting("dampening"), lambda: {}, {"dampening": None}
        ),
        "Proximal of l1": Case(with_setting("l1"), lambda: {}, {"l1": None}),
        "Proximal.load_state_dict": Case(
            loaded, lambda: {"state_dict": trained().state_dict()}, {"state_dict": None}
        ),
        "Proximal.add_param_group": Case(
            added,
            lambda: {
                "param_group": {"params": [("v", torch.nn.Parameter(torch.ones(2)))]}
            },
            {"param_group": None},
        ),
        "Proximal.step": Case(
            lambda closure: trained().step(closure),
            lambda: {"closure": None},
            {"closure": None},
        ),
        "register_step_size": Case(
            register,
            lambda: {
                "optimizer": Own,
                "step_size": lambda state, group: l1torch.EffectiveStep(0.1),
            },
            {"optimizer": None, "step_size": None},
        ),
        "apply_updates": Case(
            l1torch.apply_updates,
            lambda: {"params": params(twin), "updates": grads(twin)},
            {"params": None, "updates": None},
        ),
    }
