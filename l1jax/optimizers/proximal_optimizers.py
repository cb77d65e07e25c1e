"""Proximal optimizers: an optimizer of optax with the threshold that belongs to it."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l1jax.numerics.elementwise import as_float, compute_dtype, dtype_of
from l1jax.optimizers.penalised_leaves import (
    check_params,
    penalised_leaves,
    split_target,
)
from l1jax.optimizers.proximal_steps import (
    Move,
    Rule,
    proximal_updates,
)
from l1jax.parameters.masks import Mask, weights_only
from l1jax.parameters.sparsity import Control
from l1jax.parameters.trees import is_none, spread
from l1jax.penalties.base import Penalty, require_penalty
from l1jax.penalties.separable import l1
from l1jax.strengths.targets import TargetSparsity
from l1jax.strengths.values import Strength, check_learning_rate, learning_rate_at
from l1jax.thresholds.cumulative import check_window
from l1jax.thresholds.effective_steps import EffectiveStep, Factory, lookup
from l1jax.thresholds.metrics import Metric, check_max_ratio, check_metric
from l1jax.thresholds.target_control import initial_control


class ProximalState(NamedTuple):
    """State of `proximal`."""

    count: jax.Array
    """Steps taken, int32 of shape (): the argument of the schedules."""

    optimizer_state: Any
    """The state of the optimizer inside."""

    rate: jax.Array | None
    """For `optax.rmsprop` with momentum, the learning rates summed under it, of shape
    (); else None."""

    plus: Any
    """What positive weights still owe, like the parameters; None for `window=1`."""

    minus: Any
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
    cap, traced_ratio = max_ratio, None
    if target:
        cap = math.inf
    elif isinstance(max_ratio, jax.Array):
        cap, traced_ratio = math.inf, max_ratio
    rule = Rule(penalty, target, metric, cap, window)
    known = lookup(factory, factory_kwargs)
    optimizer = optax.with_extra_args_support(
        factory(learning_rate=learning_rate, **factory_kwargs)
    )

    @functools.cache
    def parts_of(treedef: Any, kinds: tuple[Any, ...]) -> str:
        leaves = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in kinds]
        return _parts(jax.eval_shape(make_state, jax.tree.unflatten(treedef, leaves)))

    def make_state(params: Any) -> ProximalState:
        def budget() -> Any:
            def zeros(x: Any) -> jax.Array:
                return jnp.zeros_like(x, dtype=compute_dtype(dtype_of(x)))

            return None if window == 1 else jax.tree.map(zeros, params)

        return ProximalState(
            count=jnp.zeros([], jnp.int32),
            optimizer_state=optimizer.init(params),
            rate=None if known.rate_momentum is None else jnp.zeros([]),
            plus=budget(),
            minus=budget(),
            control=target and initial_control(target, params, mask),
        )

    def init_fn(params: Any) -> ProximalState:
        check_params(params, mask, strength, learning_rate, penalty)
        return make_state(params)

    def update_fn(
        updates: Any, state: ProximalState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, ProximalState]:
        count = state.count if isinstance(state, ProximalState) else 0
        rows = penalised_leaves(updates, params, strength, mask, count, penalty.joint)
        leaves, treedef = jax.tree.flatten(params)
        expected = parts_of(treedef, tuple((jnp.shape(x), dtype_of(x)) for x in leaves))
        if _parts(state) != expected:
            raise ValueError(
                f"state must be that of this optimizer, got {_parts(state)} where "
                f"{expected} is wanted. Make it by init(params), or restore the "
                "checkpoint of the same optimizer with the same window."
            )
        rate, summed = learning_rate_at(learning_rate, state.count), None
        if known.rate_momentum is not None:
            summed = _summed(rate, known.rate_momentum, state)
            rate = rate + known.rate_momentum * summed if known.nesterov else summed
        updates, optimizer_state = optimizer.update(
            updates, state.optimizer_state, params, **extra_args
        )
        step = known.step_size(optimizer_state, rate, **known.hyperparameters)
        if not isinstance(step, EffectiveStep):
            raise TypeError(
                f"step_size must return an EffectiveStep, got {step!r}. Return "
                "EffectiveStep(scale=...) from the function given to "
                "register_step_size."
            )
        leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
        columns = [spread(x, params, "EffectiveStep") for x in step]
        owed = [_leaves(state.plus, len(leaves)), _leaves(state.minus, len(leaves))]
        moves = {
            i: Move(
                param=row.param,
                update=leaves[i],
                strength=row.strength,
                step=EffectiveStep(*(column[i] for column in columns)),
                max_ratio=traced_ratio,
                owed=None if window == 1 else (owed[0][i], owed[1][i]),
            )
            for i, row in rows.items()
        }
        new_count = optax.safe_increment(state.count)
        leaves, control, budgets = proximal_updates(
            rule, leaves, rows, moves, new_count, state.control
        )
        for i, kept in zip(rows, budgets, strict=False):
            owed[0][i], owed[1][i] = kept
        plus, minus = (
            None if window == 1 else jax.tree.unflatten(treedef, values)
            for values in owed
        )
        return jax.tree.unflatten(treedef, leaves), ProximalState(
            count=new_count,
            optimizer_state=optimizer_state,
            rate=summed,
            plus=plus,
            minus=minus,
            control=control,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _summed(rate: Any, momentum: Any, state: ProximalState) -> jax.Array:
    # As if the first learning rate had always been there: the steady step.
    first = rate / (1 - momentum)
    summed = jnp.where(state.count == 0, first, momentum * state.rate + rate)
    return summed.astype(state.rate.dtype)


def _parts(state: Any) -> str:
    """Names the kinds of state that a state consists of."""
    if isinstance(state, ProximalState):
        window = "" if state.plus is None else ", window"
        target = "" if state.control is None else ", target"
        return f"proximal({_parts(state.optimizer_state)}{window}{target})"
    if type(state) is tuple:
        return f"({', '.join(map(_parts, state))})"
    return type(state).__name__


def _leaves(tree: Any, count: int) -> list[Any]:
    return [None] * count if tree is None else jax.tree.leaves(tree, is_leaf=is_none)
