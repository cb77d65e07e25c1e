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
    """Makes an optax optimizer minimise `loss + strength * penalty`, with exact zeros.

    After each step `u` of the optimizer it takes `prox(w + u, threshold)`, where the
    threshold follows the step that this optimizer really takes, coordinate by
    coordinate::

      threshold = scale * min(strength / D, max_ratio)

    For Adam `scale` is the learning rate of this step and `D = sqrt(v_hat) + eps`
    (ProxGen: Yun, Lozano and Yang, 2021); for SGD with momentum m it is
    `learning_rate * strength / (1 - m)`; `register_step_size` tells for others. Known
    are sgd, adam, adamw, nadam, nadamw, amsgrad, rmsprop, adagrad, adadelta, adamax,
    adamaxw, adabelief, yogi and radam of optax.

    It is one transformation, so that nothing can come between optimizer and prox. What
    scales, clips or averages its updates afterwards destroys the zeros, and cannot be
    noticed from inside::

      optax.chain(optax.clip(1.0), l1jax.proximal(optax.adam, ...))  # right
      optax.chain(l1jax.proximal(optax.adam, ...), optax.clip(1.0))  # wrong
      optax.MultiSteps(l1jax.proximal(optax.adam, ...), 4)  # right

    Clipping before it changes the gradient of the loss, and so what is minimised: the
    gradient of the loss does not vanish at the solution, since it balances the penalty
    there. If it is scaled by s < 1 at the solution, this is the one for `strength / s`.

    What is minimised, by `metric`:

    - `"coordinate"`: `loss + strength * penalty`.
    - `"tensor"`: one step for each array, the root mean square of D in place of D:
      `loss + strength * sum_j D_j / rms(D) * |w_j|`, a weighted L1 that spares weights
      of small gradients. It often keeps networks at 80 to 95 % zeros more accurate.
    - `"none"`: decoupled, as AdamW's decay is: the threshold `scale * strength`. For
      Adam its fixed points satisfy `g_j / D_j = -strength * sign(w_j)`: a threshold on
      the normalised gradient, no objective in loss units. On a full batch `D_j` tends
      to `|g_j|`, so that any strength below 1 ends at the minimum of the loss alone and
      one above 1 at zero; under noise it is a cut, in (0, 1), on signal to noise.

    The decoupled form is not the Lasso. For the loss `1/2 (w - 1)^2` at strength 0.5
    the Lasso has `w = 0.5`:

      >>> def solve(metric):
      ...     tx = proximal(optax.adam, 0.01, 0.5, metric=metric, b2=0.9)
      ...     def step(carry, _):
      ...         updates, state = tx.update(carry[0] - 1, carry[1], carry[0])
      ...         return (optax.apply_updates(carry[0], updates), state), None
      ...     w = jnp.array([0.0])
      ...     return jax.lax.scan(step, (w, tx.init(w)), length=2000)[0][0]
      >>> print(solve("coordinate").round(2), solve("none").round(2))
      [0.5] [1.]

    Decoupled weight decay (adamw) adds `1/2 weight_decay * sum_j D_j w_j^2` to the
    objective, in Adam's metric; for the textbook elastic net set it to 0 and pass
    `penalty=elastic_net(...)`.

    The first steps: right after initialisation `v_hat` is the square of one gradient,
    and 0 for a weight that never had any. There `max_ratio` keeps the threshold below
    `max_ratio` times the largest step the optimizer could take; every value above 1 has
    the same stationary points. A strength that warms up over the first tenth of the
    training, as `optax.linear_schedule(0.0, strength, steps // 10)`, goes well with it.

    Momentum takes its gain `1 / (1 - m)` at the present learning rate, which a schedule
    that changes little within `1 / (1 - m)` steps justifies; `optax.rmsprop`, whose
    momentum comes after the learning rate, is followed exactly.

    Noise: in minibatches a zero stays zero only while the averaged gradient is below
    the strength. Momentum of 0.9 to 0.99 keeps zeros, and so does `window`; a learning
    rate that decays to 0 leaves fewer small weights beside them. Averaging the weights
    (`optax.ema`, Polyak, lookahead) loses them.

    A learning rate of 0 moves nothing, but into a constraint. A number that turns
    negative inside a compiled step, as a schedule's may, gives NaN.

    Args:
      factory: a function such as `optax.adam` that makes the optimizer, called as
        `factory(learning_rate, **factory_kwargs)`; a `functools.partial` of one too,
        which can hold arguments named as ours (adamw's `mask`).
      learning_rate: a number >= 0 or a schedule (step count, from 0, to number).
      strength: lambda, per unit of the mean loss: a number >= 0, an array that
        broadcasts to its parameter, a schedule, or a tree of these that is a prefix of
        the parameters'; or a `target_sparsity`, which finds the strength.
      penalty: the penalty, of unit strength; `metric="coordinate"` needs one whose prox
        takes a threshold for each weight, see `Penalty.takes_metric`.
      mask: the leaves to penalise, see `weights_only`; `None` for all. The optimizer
        steps all leaves.
      metric: `"coordinate"`, `"tensor"` or `"none"`, see above.
      max_ratio: the cap, a number above 1; `math.inf` for none. It does not act on
        optimizers without a denominator, nor under `metric="none"` or a target.
      window: the steps over which the penalty may accumulate, a whole number >= 1, or
        `math.inf`; 1 is the ordinary prox. The windowed cumulative penalty (after
        Tsuruoka, Tsujii and Ananiadou, 2009) keeps more exact zeros under minibatch
        noise and costs two arrays of the parameters' size; `l1()` only. Between 10 and
        100 is a useful range; without end, dead weights do not come back.
      **factory_kwargs: further arguments of the factory.

    Returns:
      A transformation whose updates have the dtype of the parameters; float32 for half
      precision, see `proximal_step`. Half precision parameters have second moments in
      half precision, which optax keeps so: train float32 parameters where that matters.

    Raises:
      TypeError: a factory that is not known, or does not take the arguments; a strength
        or learning rate that is not a real number; a window that is no whole number; at
        `init`, a penalised parameter that is not real floating.
      ValueError: a strength or learning rate that is negative, infinite or NaN; an
        unknown metric, `max_ratio <= 1`, `window < 1`, momentum outside [0, 1), or a
        penalty that metric or window cannot take; at `init`, a strength, schedule or
        mask that does not fit; at `update`, missing parameters, updates of another
        tree, or the state of another optimizer.

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
