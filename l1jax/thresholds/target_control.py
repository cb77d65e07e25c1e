"""From a target sparsity to the strength of each step, and the step itself."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
from l1jax.numerics.quantiles import key_of, kth_smallest, least_strength
from l1jax.parameters.masks import Mask, selected
from l1jax.parameters.sparsity import Control
from l1jax.parameters.trees import is_none, named_leaves
from l1jax.penalties.base import Penalty
from l1jax.strengths.targets import TargetSparsity

Threshold = Callable[[Any], jax.Array]
"""Gives an array's threshold at a strength."""


class Row(NamedTuple):
    """A penalised array that takes a step."""

    path: str
    param: jax.Array
    x: jax.Array
    """The parameter after the optimizer's own step."""
    threshold: Threshold


def check_target(target: TargetSparsity, penalty: Penalty, window: float = 1) -> None:
    """Raises ValueError for a penalty or window that a target cannot go with."""
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
    """Makes the control before the first step."""
    rows = list(zip(named_leaves(params), selected(mask, params), strict=True))
    kinds = [dtype_of(leaf) for (_, leaf), chosen in rows if chosen]
    dtype = widest_dtype(*kinds) if kinds else jnp.result_type(float)

    zeros = jnp.zeros([], dtype)
    # Of no leaves, which optax.tree.map_params asks for, one number too: a tree would
    # make it take the strengths for parameters.
    if target.scope == "array" and rows:
        zeros = jax.tree.map(lambda _: jnp.zeros([], dtype), params)
    return Control(zeros, target.fraction(0), jnp.array(target.target, float))


def follow(
    target: TargetSparsity,
    penalty: Penalty,
    rows: dict[int, Row],
    step: jax.Array,
    control: Control,
) -> tuple[list[jax.Array], Control]:
    """Takes the proximal step that the target asks for.

    Args:
      target: the target.
      penalty: the penalty.
      rows: the arrays that take the step, by their position among the parameters.
      step: the number of this step, from 1.
      control: what was kept from the step before.

    Returns:
      The new arrays, in the rows' order, and what to keep.
    """
    wanted = target.fraction(step).astype(control.wanted.dtype)
    control = control._replace(wanted=wanted)
    if not rows:
        return [], control
    chosen = list(rows.values())
    if target.scope == "global":
        found = _follow(target, penalty, [chosen], step, [control.strength])
        return found.new, control._replace(strength=found.strengths[0])
    strengths, treedef = jax.tree.flatten(control.strength, is_leaf=is_none)
    guesses = [strengths[i] for i in rows]
    found = _follow(target, penalty, [[row] for row in chosen], step, guesses)
    for i, strength in zip(rows, found.strengths, strict=True):
        strengths[i] = strength
    strength = jax.tree.unflatten(treedef, strengths)
    return found.new, control._replace(strength=strength)


class _Found(NamedTuple):
    strengths: list[jax.Array]
    """One of each set."""
    new: list[jax.Array]
    """The arrays of all sets, shrunk at these strengths."""


def _follow(
    target: TargetSparsity,
    penalty: Penalty,
    sets: Sequence[Sequence[Row]],
    step: jax.Array,
    guesses: Sequence[jax.Array],
) -> _Found:
    """Takes the step of sets of arrays, each with a strength of its own."""
    sizes = [sum(row.x.size for row in rows) for rows in sets]
    rows = [row for rows in sets for row in rows]

    def shrink() -> _Found:
        counts = {size: target.count(step, size) for size in {*sizes}}
        wanted = [counts[size] for size in sizes]
        search = _quantiles if penalty.prox_is_soft_threshold else _by_search
        return search(penalty, sets, wanted, guesses)

    def prune() -> _Found:
        arrays = [jnp.abs(row.x).astype(guesses[0].dtype) for row in rows]
        ks = [size - round(target.target * size) for size in sizes]
        together = len(sets) == 1
        marks = k_largest(arrays, *ks) if together else k_largest_of_each(arrays, ks)
        new = [jnp.where(mark, row.x, 0) for mark, row in zip(marks, rows, strict=True)]
        return _Found([jnp.zeros_like(guess) for guess in guesses], new)

    def freeze() -> _Found:
        new = [jnp.where(row.param == 0, 0, row.x) for row in rows]
        return _Found([jnp.zeros_like(guess) for guess in guesses], new)

    if target.snap_step is None:
        return shrink()
    due, over = step >= target.snap_step, step > target.snap_step
    phase = due.astype(jnp.int32) + over.astype(jnp.int32)
    return jax.lax.switch(phase, (shrink, prune, freeze))


def _by_search(
    penalty: Penalty,
    sets: Sequence[Sequence[Row]],
    wanted: Sequence[jax.Array],
    guesses: Sequence[jax.Array],
) -> _Found:
    """Gives the least strengths at which the prox makes so many zeros."""
    strengths, new = [], []
    for rows, k, guess in zip(sets, wanted, guesses, strict=True):
        # What is counted must be what is shrunk, to the last bit: computed once.
        fixed = kept([row.x for row in rows])
        rows = [row._replace(x=x) for row, x in zip(rows, fixed, strict=True)]

        def zeros(strength: jax.Array, rows: Sequence[Row] = rows) -> jax.Array:
            return total([count(x == 0) for x in _prox(penalty, rows, strength)])

        strength = _settled(least_strength(zeros, k, guess), k, guess)
        strengths.append(strength)
        new += _prox(penalty, rows, strength)
    return _Found(strengths, new)


def _quantiles(
    penalty: Penalty,
    sets: Sequence[Sequence[Row]],
    wanted: Sequence[jax.Array],
    guesses: Sequence[jax.Array],
) -> _Found:
    """Gives what `_by_search` does for `l1()`, by quantiles of the ratios."""
    del penalty
    dtype = guesses[0].dtype
    rows = [row for rows in sets for row in rows]
    ratios = [(jnp.abs(row.x) / row.threshold(1.0)).astype(dtype) for row in rows]
    # Kept once and used twice, since XLA would compute them twice, and not alike.
    keys = kept([order_keys(x) for x in ratios])
    ks = [jnp.maximum(k, 1) for k in wanted]
    if len(sets) == 1:
        found = [kth_smallest(keys, *ks, *guesses)]
    else:
        found = of_each(lambda key, *of: kth_smallest([key], *of), keys, ks, guesses)
    strengths, new, rest = [], [], iter(keys)
    for rows, quantile, k, guess in zip(sets, found, wanted, guesses, strict=True):
        # The threshold is a product and a quotient that were rounded: by this much.
        eps = max(float(jnp.finfo(row.x.dtype).eps) for row in rows)
        strength = _settled(quantile * (1 + 4 * eps), k, guess)
        strengths.append(strength)
        reached = (k > 0) & (quantile < np.array(math.inf, dtype))
        bound = jnp.where(reached, key_of(quantile), -1)
        for row in rows:
            key = next(rest)
            # x - sign(x) * E * strength, without computing E again, or keeping it.
            ratio = jax.lax.bitcast_convert_type(key, dtype).astype(row.x.dtype)
            shrunk = row.x - row.x * (strength.astype(row.x.dtype) / ratio)
            gone = (key <= bound) | (row.x == 0)
            new.append(jnp.where(gone, 0, shrunk))
    return _Found(strengths, new)


def _settled(found: jax.Array, wanted: jax.Array, guess: jax.Array) -> jax.Array:
    # Not to be reached with a learning rate of 0, or so much NaN: as it was.
    found = jnp.where(found < np.array(math.inf, found.dtype), found, guess)
    return jnp.where(wanted > 0, found, 0).astype(guess.dtype)


def _prox(penalty: Penalty, rows: Sequence[Row], strength: Any) -> list[jax.Array]:
    return penalty.tree_prox(
        [(row.path, row.x, row.threshold(strength)) for row in rows]
    )
