"""Proximal optimizers: an optimizer of optax with the threshold that belongs to it."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l1jax.numerics.checks import described
from l1jax.numerics.elementwise import as_float, compute_dtype, dtype_of
from l1jax.optimizers.penalised_leaves import (
    check_params,
    check_updates,
    penalised_leaves,
    split_target,
)
from l1jax.optimizers.proximal_steps import Kept, Rule, chosen_step
from l1jax.parameters.masks import Mask, weights_only
from l1jax.parameters.sparsity import Control
from l1jax.parameters.trees import PyTree, replaced
from l1jax.penalties.base import Penalty, require_penalty
from l1jax.penalties.separable import l1
from l1jax.strengths.targets import TargetSparsity
from l1jax.strengths.values import Strength, check_learning_rate, learning_rate_at
from l1jax.thresholds.cumulative import check_window
from l1jax.thresholds.effective_steps import Factory, lookup
from l1jax.thresholds.metrics import Metric, check_max_ratio, check_metric
from l1jax.thresholds.target_control import initial_control


class ProximalState(NamedTuple):
    """State of `proximal`."""

    count: jax.Array
    """Steps taken, int32 of shape (): the argument of the schedules."""

    optimizer_state: optax.OptState
    """The state of the optimizer inside."""

    rate: jax.Array | None
    """What the optimizer's registered step keeps of its own: for `optax.rmsprop` with
    momentum, the learning rates summed under it, of shape (); for others None."""

    plus: PyTree
    """What positive weights still owe, like the parameters; None for `window=1`."""

    minus: PyTree
    """The same for negative weights."""

    control: Control | None = None
    """Under a target sparsity, the strength in use, `control.strength`: a scalar, or
    with `scope="array"` a tree of scalars like the parameters, 0 where nothing is
    penalised, either of which a run of fixed strength can take; and how far the ramp
    is, see `Control`. Else None."""


def proximal(
    factory: Factory,
    learning_rate: optax.ScalarOrSchedule,
    strength: Strength | TargetSparsity,
    *,
    penalty: Penalty = l1(),
    mask: Mask = weights_only,
    metric: Metric = "coordinate",
    max_ratio: float = 10.0,
    window: float = 1,
    **factory_kwargs: Any,
) -> optax.GradientTransformationExtraArgs:
    """Make an optax optimizer minimise `loss + strength * penalty`, with exact zeros.

    After each step `u` of the optimizer it takes `prox(w + u, threshold)`. The
    threshold is the step that this optimizer really takes, weight by weight, times the
    strength: `learning_rate * min(strength / (sqrt(v_hat) + eps), max_ratio)` for Adam,
    `learning_rate * strength / (1 - momentum)` for SGD. Let nothing scale, clip or
    average its updates afterwards: the zeros would be lost. Clip gradients before it.

    What each metric minimises, the order in a chain, the first steps, momentum and
    minibatch noise are explained in `l1jax/optimizers/README.md`.

    Args:
      factory: a function such as `optax.adam` that makes the optimizer, called as
        `factory(learning_rate, **factory_kwargs)`, or a `functools.partial` of one,
        which can hold arguments named as ours (adamw's `mask`). For one that optax does
        not bring, see `register_step_size`.
      learning_rate: a number >= 0 or a schedule (step count, from 0, to number).
      strength: lambda, per unit of the mean loss: a number >= 0, an array that
        broadcasts to its parameter, a schedule, or a tree of these that is a prefix of
        the parameters'; or a `target_sparsity`, which finds the strength.
      penalty: the penalty, of unit strength; `metric="coordinate"` needs one whose prox
        takes a threshold for each weight, see `Penalty.takes_metric`.
      mask: the leaves to penalise, see `weights_only`; `None` for all. The optimizer
        steps all leaves.
      metric: `"coordinate"` for the objective as written, `"tensor"` for one step size
        in each array, `"none"` for a decoupled threshold `learning_rate * strength`.
      max_ratio: a cap for the first steps, a number above 1; `math.inf` for none.
      window: the steps over which the penalty may accumulate, a whole number >= 1, or
        `math.inf`; 1 is the ordinary prox. 10 to 100 keep more zeros under minibatch
        noise; `l1()` only.
      **factory_kwargs: further arguments of the factory.

    Returns:
      A transformation whose updates have the dtype of the parameters; float32 for half
      precision, see `proximal_step`.

    Raises:
      TypeError: a factory that is not known, or does not take the arguments; a strength
        or learning rate that is not a real number; a window that is no whole number; at
        `init`, a penalised parameter that is not real floating.
      ValueError: a number outside its range; a penalty that metric or window cannot
        take; at `init`, a strength, schedule or mask that does not fit; at `update`,
        missing parameters, updates of another tree, or the state of another optimizer.

    Example:
      >>> tx = proximal(optax.adam, learning_rate=1e-3, strength=1e-4, b1=0.95)
    """
    # optax.inject_hyperparams hands a function's keyword arguments on as one.
    factory_kwargs |= factory_kwargs.pop("factory_kwargs", {})
    check_learning_rate(learning_rate)
    learning_rate = as_float(learning_rate)
    require_penalty(penalty)
    check_metric(metric, penalty)
    max_ratio = check_max_ratio(max_ratio)
    window = check_window(window, penalty)
    strength, target = split_target(strength, penalty, window)
    cap = math.inf if target else max_ratio
    traced = isinstance(cap, jax.Array)
    rule = Rule(
        penalty=penalty,
        target=target,
        metric=metric,
        max_ratio=math.inf if traced else cap,
        window=window,
    )
    take_step = chosen_step(rule, max_ratio=cap if traced else None)
    known = lookup(factory, factory_kwargs)
    optimizer = optax.with_extra_args_support(
        factory(learning_rate=learning_rate, **factory_kwargs)
    )

    def make_state(params: optax.Params) -> ProximalState:
        return ProximalState(
            count=jnp.zeros([], jnp.int32),
            optimizer_state=optimizer.init(params),
            rate=known.init(),
            plus=None if window == 1 else _budgets(params),
            minus=None if window == 1 else _budgets(params),
            control=target and initial_control(target, params, mask),
        )

    check_state = _state_check(make_state)

    def init_fn(params: optax.Params) -> ProximalState:
        check_params(params, mask, strength, learning_rate, penalty)
        return make_state(params)

    def update_fn(
        updates: optax.Updates,
        state: ProximalState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ProximalState]:
        check_updates(updates, params)
        check_state(state, params)
        updates, optimizer_state = optimizer.update(
            updates, state.optimizer_state, params, **extra_args
        )
        rate = learning_rate_at(learning_rate, state.count)
        step, own = known.step_size(state.rate, state.count, optimizer_state, rate)
        leaves = penalised_leaves(
            updates,
            params,
            strength=strength,
            mask=mask,
            count=state.count,
            penalty=penalty,
            step=step,
        )
        count = optax.safe_increment(state.count)
        kept = Kept(state.plus, state.minus, state.control)
        new, kept = take_step(leaves, count, kept)
        return replaced(updates, leaves, new), ProximalState(
            count=count,
            optimizer_state=optimizer_state,
            rate=own,
            plus=kept.plus,
            minus=kept.minus,
            control=kept.control,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _budgets(params: optax.Params) -> optax.Params:
    def zeros(x: jax.Array) -> jax.Array:
        return jnp.zeros_like(x, dtype=compute_dtype(dtype_of(x)))

    return jax.tree.map(zeros, params)


def _state_check(
    make_state: Callable[[optax.Params], ProximalState],
) -> Callable[[Any, optax.Params], None]:
    """Return a check that a state has the structure of those that are made."""

    @functools.cache
    def expected(treedef: Any, kinds: tuple[tuple[Any, ...], ...]) -> ProximalState:
        leaves = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in kinds]
        return jax.eval_shape(make_state, jax.tree.unflatten(treedef, leaves))

    def check(state: Any, params: optax.Params) -> None:
        leaves, treedef = jax.tree.flatten(params)
        kinds = tuple((jnp.shape(x), dtype_of(x)) for x in leaves)
        wanted = expected(treedef, kinds)
        if _structure(state) != _structure(wanted):
            raise ValueError(
                f"state must be that of this optimizer, got {_outline(state)} where "
                f"{_outline(wanted)} is wanted. Make it by init(params), or restore "
                "the checkpoint of the same optimizer with the same window."
            )

    return check


def _is_content(part: Any) -> bool:
    """Tell what states hold, arrays and trees of them, from the states themselves."""
    return part is not None and not isinstance(part, tuple)


def _structure(state: Any) -> Any:
    return jax.tree.structure(state, is_leaf=_is_content)


def _outline(state: Any) -> str:
    """Write the structure of a state, with `*` for what it holds."""
    if not isinstance(state, tuple):
        return described(state)
    outline = jax.tree.map(lambda _: "*", state, is_leaf=_is_content)
    return repr(outline).replace("'*'", "*")
