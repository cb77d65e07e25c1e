"""The support: holding zeros where they are, and fitting again what is not zero."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor

from l1torch.numerics.sharding import local
from l1torch.optimizers.transformations import (
    GradientTransformation,
)
from l1torch.parameters.masks import Mask, selected, weights_only
from l1torch.parameters.trees import Group, named_leaves, require_same_tree
from l1torch.wrappers.delegating import (
    DelegatingOptimizer,
    require_closure,
    require_param_group,
)
from l1torch.wrappers.param_groups import all_params

Closure = Callable[[], Tensor | float]


@overload
def freeze_zeros(
    optimizer: torch.optim.Optimizer, *, mask: Mask = ...
) -> "FrozenZeros": ...


@overload
def freeze_zeros(
    optimizer: GradientTransformation, *, mask: Mask = ...
) -> GradientTransformation: ...


def freeze_zeros(
    optimizer: torch.optim.Optimizer | GradientTransformation,
    *,
    mask: Mask = weights_only,
) -> "FrozenZeros | GradientTransformation":
    """Make an optimizer leave weights of exactly 0 where they are, from now on.

    It takes their gradients for 0, and their updates: neither momentum nor Adam's
    moments from before, nor weight decay move them. The others are trained as if the
    zeros had been cut out of the model. Which weights are zero is read off the
    parameters at every step, so that one that becomes zero later stays so too, and a
    checkpoint needs nothing beside them. Under a `target_sparsity`, whose count knows
    nothing of what is held, more than the target would become zero: there pass `snap=`.

    The state is the optimizer's own. To freeze zeros in the midst of a training, wrap
    the optimizer that you have, and take the penalty off it::

      optimizer = l1torch.Proximal(base, strength)  # until the zeros are found
      frozen = l1torch.freeze_zeros(base)  # then fit without shrinking

    Args:
      optimizer: of `torch.optim`, or a wrapper of this library around one; or a
        `GradientTransformation` whose updates are added to the parameters.
      mask: the parameters whose zeros are held, see `weights_only`; `None` for all,
        biases that begin at 0 among them.

    Returns:
      An optimizer with the state and groups of the one given, which sets the gradients
      of what it holds to 0 in place; or a transformation with the state of the one
      given. It must be outermost, and come last.

    Raises:
      TypeError: what is neither, or holds zeros already; at `step`, a sparse gradient.
      ValueError: a mask that does not fit, or selects nothing, of a transformation at
        `init`; at `update`, missing parameters, or updates of other names.

    Example:
      >>> model = torch.nn.Linear(2, 1)
      >>> with torch.no_grad():
      ...     _ = model.weight.copy_(torch.tensor([[0.0, 2.0]]))
      >>> optimizer = freeze_zeros(torch.optim.SGD(model.named_parameters(), lr=0.1))
      >>> model(torch.ones(1, 2)).sum().backward()
      >>> optimizer.step()
      >>> print(model.weight.detach())
      tensor([[0.0000, 1.9000]])
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        return FrozenZeros(optimizer, mask)
    if not isinstance(optimizer, GradientTransformation):
        raise TypeError(
            "optimizer must be a torch.optim.Optimizer or a GradientTransformation, "
            f"got {optimizer!r} of type {type(optimizer).__name__}. Pass one that is "
            "built, such as torch.optim.Adam(model.named_parameters())."
        )

    def init_fn(params: Mapping[str, Tensor]) -> Any:
        selected(mask, params)
        return optimizer.init(params)

    def update_fn(
        updates: Mapping[str, Tensor],
        state: Any,
        params: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], Any]:
        if params is None:
            raise ValueError(
                "params must be given, got None. Call update(updates, state, params)."
            )
        require_same_tree(updates, params)
        updates = _without_zeros(updates, params, mask)
        updates, state = optimizer.update(updates, state, params)
        return _without_zeros(updates, params, mask), state

    return GradientTransformation(init_fn, update_fn)


class FrozenZeros(DelegatingOptimizer):
    """What `freeze_zeros` makes of an optimizer."""

    _kept = (*DelegatingOptimizer._kept, "mask", "_held")

    def __init__(self, optimizer: torch.optim.Optimizer, mask: Mask) -> None:
        super().__init__(optimizer)
        self.mask = mask
        self._held = self._select()

    def __repr__(self) -> str:
        return f"freeze_zeros({self.optimizer!r})"

    def add_param_group(self, param_group: Group) -> None:
        """Add a group to the base optimizer."""
        require_param_group(param_group)
        self.optimizer.add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor | float | None:
        """Take one step; return the closure's loss, if there is a closure."""
        require_closure(closure)
        params = [param for group in self.param_groups for param in group["params"]]
        if len(params) != len(self._held):  # a group was added to the base
            self._held = self._select()
        rows = []
        for param in itertools.compress(params, self._held):
            x = local(param.detach())
            rows.append((param, x, x == 0))

        def clear() -> None:
            for param, _, zeros in rows:
                if param.grad is not None:
                    _require_dense(param.grad)
                    local(param.grad.detach()).masked_fill_(zeros, 0)

        if closure is None:
            clear()
            loss = self._step_base()
        else:

            def cleared() -> Any:
                with torch.enable_grad():
                    loss = closure()
                with torch.no_grad():
                    clear()
                return loss

            loss = self._step_base(cleared)
        for _, x, zeros in rows:
            x.masked_fill_(zeros, 0)
        return loss

    def _check_base(self, optimizer: object) -> None:
        if not isinstance(optimizer, DelegatingOptimizer):
            super()._check_base(optimizer)
        elif isinstance(optimizer, FrozenZeros):
            raise TypeError(
                f"optimizer holds zeros already, got {optimizer!r}. Use this one."
            )

    def _select(self) -> list[bool]:
        return selected(self.mask, all_params(self.param_groups))


def _require_dense(grad: Tensor) -> None:
    if grad.layout != torch.strided:
        raise TypeError(
            f"a gradient has layout {grad.layout}, of a parameter whose zeros are "
            "held. Use dense gradients (sparse=False in torch.nn.Embedding), or leave "
            "the parameter out with mask=."
        )


def _without_zeros(
    updates: Mapping[str, Tensor], params: Mapping[str, Tensor], mask: Mask
) -> dict[str, Tensor]:
    """Return the updates with 0 where the parameter is 0."""
    updates = dict(updates)
    for (name, x), chosen in zip(
        named_leaves(params), selected(mask, params), strict=True
    ):
        if chosen and updates[name] is not None:
            updates[name] = updates[name].masked_fill(x == 0, 0)
    return updates
