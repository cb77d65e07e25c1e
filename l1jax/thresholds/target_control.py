"""From a target sparsity to the strength of each step, which others apply."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from l1jax.numerics.blocks import kept
from l1jax.numerics.elementwise import dtype_of, widest_dtype
from l1jax.numerics.order_statistics import (
    count,
    k_largest,
    k_largest_of_each,
    of_each,
    order_keys,
    total,
)
from l1jax.numerics.quantiles import kth_smallest, least_strength
from l1jax.parameters.masks import Mask, selected
from l1jax.parameters.sparsity import Control
from l1jax.parameters.trees import named_leaves, replaced, values_at
from l1jax.penalties.base import Penalty
from l1jax.strengths.targets import TargetSparsity


class Row(NamedTuple):
    """A penalised array that takes a step."""

    path: str
    index: int
    """Its position among the parameters."""
    x: jax.Array
    """The parameter after the optimizer's own step."""
    threshold: Callable[[ArrayLike], jax.Array]
    """Return the threshold of each weight at a strength."""


class ProxRow(NamedTuple):
    """A row of `Penalty.tree_prox`."""

    path: str
    x: jax.Array
    threshold: jax.Array


class Found(NamedTuple):
    """What a search returns for a set of rows that have one strength."""

    strength: jax.Array
    rows: list[ProxRow]
    """The rows at this strength: what was counted, to the last bit."""


def check_target(target: TargetSparsity, penalty: Penalty, window: float = 1) -> None:
    """Raise ValueError for a penalty or window that a target cannot go with."""
    makes_zeros = penalty.makes_zeros and not penalty.constraint
    if not makes_zeros or not penalty.takes_metric:
        raise ValueError(
            f"penalty must set single weights or groups to zero under target_sparsity, "
            f"and more of them the stronger it is, got {penalty!r}. Pass l1(), or a "
            "number as the strength."
        )
    if penalty.joint and target.scope == "array":
        raise ValueError(
            f"scope must be 'global' with {penalty!r}, got 'array': it couples the "
            "arrays. Pass scope='global' to target_sparsity."
        )
    if window != 1:
        raise ValueError(
            f"window must be 1 under target_sparsity, got {window!r}: what accumulates "
            "would come on top of the strength that meets the target. Pass window=1."
        )


def initial_control(target: TargetSparsity, params: Any, mask: Mask) -> Control:
    """Return the control before the first step."""
    rows = list(zip(named_leaves(params), selected(mask, params), strict=True))
    kinds = [dtype_of(leaf) for (_, leaf), chosen in rows if chosen]
    dtype = widest_dtype(*kinds) if kinds else jnp.result_type(float)

    zeros = jnp.zeros([], dtype)
    # Of no leaves, which optax.tree.map_params asks for, one number too: a tree would
    # make it take the strengths for parameters.
    if target.scope == "array" and rows:
        zeros = jax.tree.map(lambda _: jnp.zeros([], dtype), params)
    return Control(zeros, target.fraction(0), jnp.array(target.target, float))


def at_step(target: TargetSparsity, step: jax.Array, control: Control) -> Control:
    """Return the control with the fraction of zeros that step `step`, from 1, wants."""
    wanted = target.fraction(step)
    return control._replace(wanted=wanted.astype(control.wanted.dtype))


def next_control(
    target: TargetSparsity,
    penalty: Penalty,
    rows: Sequence[Row],
    step: jax.Array,
    control: Control,
) -> tuple[list[ProxRow], Control]:
    """Find the strength of this step, the least whose prox makes the zeros wanted.

    Args:
      target: the target.
      penalty: the penalty.
      rows: the arrays that take the step, one or more.
      step: the number of this step, from 1.
      control: that of the step before, whose strength is the guess to start from.

    Returns:
      The rows for the penalty's prox at this strength, in order, and the control.
    """
    together = target.scope == "global"
    sets = [rows] if together else [[row] for row in rows]
    sizes = [sum(row.x.size for row in each) for each in sets]
    counts = {size: target.count(step, size) for size in {*sizes}}
    search = _by_quantiles if penalty.prox_is_soft_threshold else _by_bisection
    found = search(
        penalty,
        sets,
        wanted=[counts[size] for size in sizes],
        guesses=_strengths(target, rows, control),
    )
    strengths = [each.strength for each in found]
    return (
        [row for each in found for row in each.rows],
        _with_strengths(target, rows, control, strengths),
    )


def without_strength(
    target: TargetSparsity, rows: Sequence[Row], control: Control
) -> Control:
    """Return the control of a step that prunes, or leaves what is zero where it is."""
    zeros = [jnp.zeros_like(s) for s in _strengths(target, rows, control)]
    return _with_strengths(target, rows, control, zeros)


def largest_kept(
    target: TargetSparsity, arrays: Sequence[jax.Array]
) -> list[jax.Array]:
    """Mark what the pruning step keeps: the largest."""
    dtype = widest_dtype(*(x.dtype for x in arrays))
    sizes = [jnp.abs(x).astype(dtype) for x in arrays]

    def kept_of(size: int) -> int:
        return size - round(target.target * size)

    if target.scope == "global":
        return k_largest(sizes, kept_of(sum(x.size for x in arrays)))
    return k_largest_of_each(sizes, [kept_of(x.size) for x in arrays])


def _strengths(
    target: TargetSparsity, rows: Sequence[Row], control: Control
) -> list[jax.Array]:
    """Return the strengths of the step before: one, or that of each row."""
    if target.scope == "global":
        return [control.strength]
    return values_at(control.strength, rows)


def _with_strengths(
    target: TargetSparsity,
    rows: Sequence[Row],
    control: Control,
    strengths: Sequence[jax.Array],
) -> Control:
    if target.scope == "global":
        return control._replace(strength=strengths[0])
    return control._replace(strength=replaced(control.strength, rows, strengths))


def _by_bisection(
    penalty: Penalty,
    sets: Sequence[Sequence[Row]],
    wanted: Sequence[jax.Array],
    guesses: Sequence[jax.Array],
) -> list[Found]:
    """Find the strength of each set by counting the zeros of the prox."""

    def search(rows: Sequence[Row], k: jax.Array, guess: jax.Array) -> Found:
        # What is counted must be what is shrunk, to the last bit: computed once.
        fixed = kept([row.x for row in rows])

        def rows_at(strength: jax.Array) -> list[ProxRow]:
            return [
                ProxRow(row.path, x, row.threshold(strength))
                for row, x in zip(rows, fixed, strict=True)
            ]

        def zeros(strength: jax.Array) -> jax.Array:
            return total([count(x == 0) for x in penalty.tree_prox(rows_at(strength))])

        strength = _settled(least_strength(zeros, k, guess), k, guess)
        return Found(strength, rows_at(strength))

    return list(map(search, sets, wanted, guesses))


def _by_quantiles(
    penalty: Penalty,
    sets: Sequence[Sequence[Row]],
    wanted: Sequence[jax.Array],
    guesses: Sequence[jax.Array],
) -> list[Found]:
    """Find what `_by_bisection` does for `l1()`, by quantiles of `|x| / E`."""
    del penalty
    dtype = guesses[0].dtype
    rows = [row for rows in sets for row in rows]
    ratios = [(jnp.abs(row.x) / row.threshold(1.0)).astype(dtype) for row in rows]
    # Kept once and used twice, since XLA would compute them twice, and not alike.
    keys = kept([order_keys(x) for x in ratios])
    ks = [jnp.maximum(k, 1) for k in wanted]
    if len(sets) == 1:
        quantiles = [kth_smallest(keys, *ks, *guesses)]
    else:
        quantiles = of_each(
            lambda key, *of: kth_smallest([key], *of), keys, ks, guesses
        )
    found, rest = [], iter(keys)
    for rows, quantile, k, guess in zip(sets, quantiles, wanted, guesses, strict=True):
        # The threshold is a product and a quotient that were rounded: by this much.
        eps = max(float(jnp.finfo(row.x.dtype).eps) for row in rows)
        strength = _settled(quantile * (1 + 4 * eps), k, guess)
        at_strength = [_at_ratio(row, next(rest), strength) for row in rows]
        found.append(Found(strength, at_strength))
    return found


def _at_ratio(row: Row, key: jax.Array, strength: jax.Array) -> ProxRow:
    """Return a row with its threshold `E * strength`, from the kept ratio `|x| / E`.

    So `E` is not computed again, and what was counted as zero is so.
    """
    ratio = jax.lax.bitcast_convert_type(key, strength.dtype).astype(row.x.dtype)
    threshold = jnp.abs(row.x) * (strength.astype(row.x.dtype) / ratio)
    return ProxRow(row.path, row.x, jnp.where(row.x == 0, 0, threshold))


def _settled(found: jax.Array, wanted: jax.Array, guess: jax.Array) -> jax.Array:
    """Return the strength found, 0 if no zeros are wanted.

    Where no finite strength makes so many zeros, as at a learning rate of 0 or among
    NaN, it stays as it was.
    """
    found = jnp.where(found < np.array(math.inf, found.dtype), found, guess)
    return jnp.where(wanted > 0, found, 0).astype(guess.dtype)
