"""Certificates: numbers that tell how far parameters are from a solution."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from l1jax.numerics.elementwise import compute_dtype, widest_dtype
from l1jax.parameters.masks import Mask, selected, weights_only
from l1jax.parameters.trees import (
    PyTree,
    named_leaves,
    parameters_of,
    require_real_floating,
    require_same_tree,
)
from l1jax.penalties.base import Penalty, require_penalty
from l1jax.penalties.separable import l1
from l1jax.strengths.values import Strength, check_strength, strengths_at


class OptimalityResidual(NamedTuple):
    """How far the optimality conditions are from being met, in units of a gradient."""

    largest: jax.Array
    """The largest violation of an element, a scalar."""
    norm: jax.Array
    """The Euclidean norm of the violations of all elements, a scalar."""


def optimality_residual(
    grads: PyTree,
    params: PyTree,
    strength: Strength,
    *,
    penalty: Penalty = l1(),
    mask: Mask = weights_only,
) -> OptimalityResidual:
    """Measure how far parameters are from a solution, by its optimality conditions.

    At a minimum of `loss + strength * penalty` the gradient of the loss is met by a
    subgradient of the penalty (Karush-Kuhn-Tucker). The violation of an element with
    gradient g and strength s is its distance to that: for `l1()`::

      |g + s sign(w)|    where w != 0
      max(|g| - s, 0)    where w = 0
      |g|                where w is not penalised

    It is cheap, a few passes over the gradients, and may stand in a compiled training
    step as a metric. What is a good value depends on the strength: `largest <= 1e-3 *
    strength` says that every condition holds to 0.1 % of it, whereas weights that are
    dense or not trained have residuals of about the strength or more.

    - Give it gradients of the whole training set, or of a large batch: with those of
      minibatches it does not fall below their noise.
    - If loss and penalty are convex, zero means that the parameters are optimal; for a
      network it means that they are stationary, not that they are the best.
    - It says nothing of the objective: for linear models see `duality_gap`.

    Args:
      grads: the gradients of the mean loss, without the penalty: a tree as `params`. A
        leaf whose gradient is `None` is passed over.
      params: tree of arrays, of any shapes, or a flax `nnx.Module`: its `nnx.Param`
        leaves.
      strength: lambda, per unit of the mean loss: a number >= 0, an array that
        broadcasts to its parameter, or a tree of these that is a prefix of the
        parameters'. A constraint takes any: it has no effect.
      penalty: the penalty, of unit strength. At a point outside a constraint the
        violations are infinite.
      mask: the leaves that are penalised, see `weights_only`; `None` means all.

    Returns:
      An `OptimalityResidual` of scalars in the widest dtype of the leaves, at least
      float32.

    Raises:
      TypeError: no penalty; a strength that is no number (a schedule: call it with
        your step count); a penalised leaf that is not real floating.
      ValueError: a negative or NaN strength; a strength or mask that does not fit;
        gradients of another tree, or a joint penalty and gradients of some leaves only.

    Example:
      >>> grads = {"w": jnp.array([-0.5, 0.3, 0.75]), "b": jnp.array(0.25)}
      >>> params = {"w": jnp.array([2.0, 0.0, 0.0]), "b": jnp.array(1.0)}
      >>> print(optimality_residual(grads, params, strength=0.5).largest)
      0.25
    """
    grads, params = parameters_of(grads), parameters_of(params)
    rows = penalised_rows(params, strength, penalty, mask)
    require_same_tree(grads, params, "grads")
    slopes = [grad for _, grad in named_leaves(grads)]
    missing = [
        path
        for (path, x, s), grad in zip(rows, slopes, strict=True)
        if x is not None and s is not None and grad is None
    ]
    if missing and penalty.joint:
        raise ValueError(
            f"grads must not be None under a penalty that holds for all penalised "
            f"arrays together, got None for {missing}. Leave these out with mask=."
        )
    return residual_of(penalty, rows, slopes)


def penalised_rows(
    params: Any, strength: Strength, penalty: Penalty, mask: Mask
) -> list[tuple[str, Any, Any]]:
    """Return path, leaf and strength of each of `named_leaves(params)`, all checked.

    The strength is `None` where a leaf is not penalised.
    """
    require_penalty(penalty)
    _require_numbers(strength)
    if all(leaf is None for _, leaf in named_leaves(params)):
        raise ValueError(
            f"params must hold at least one array, got {params!r}. Pass the "
            "parameters of your model."
        )
    rows = []
    for (path, leaf), penalised, leaf_strength in zip(
        named_leaves(params),
        selected(mask, params),
        strengths_at(strength, 0, params),
        strict=True,
    ):
        if penalised:
            require_real_floating(path, leaf)
            penalty.at(path, jnp.shape(leaf)).require_fit(
                path, jnp.shape(leaf), jnp.shape(leaf_strength)
            )
        rows.append((path, leaf, leaf_strength if penalised else None))
    return rows


def residual_of(
    penalty: Penalty, rows: Sequence[tuple[str, Any, Any]], grads: Sequence[Any]
) -> OptimalityResidual:
    """Measure the residual of the rows of `penalised_rows` and their gradients."""
    penalised, violations = [], []
    for (path, x, strength), grad in zip(rows, grads, strict=True):
        if x is None or grad is None:
            continue
        if strength is None:
            grad = jnp.asarray(grad)
            violations.append(jnp.abs(grad.astype(compute_dtype(grad.dtype))))
        else:
            penalised.append((path, x, grad, strength))
    violations += penalty.tree_optimality_distance(penalised)
    dtype = widest_dtype(*(v.dtype for v in violations))
    violations = [v.astype(dtype) for v in violations]
    zero = jnp.zeros([], dtype)
    return OptimalityResidual(
        largest=functools.reduce(
            jnp.maximum, [jnp.max(v, initial=0) for v in violations], zero
        ),
        norm=jnp.sqrt(sum((jnp.sum(v * v) for v in violations), zero)),
    )


def _require_numbers(strength: Strength) -> None:
    """Raise TypeError for what becomes a strength only in the course of a training."""
    for leaf in jax.tree.leaves(strength):
        numeric = isinstance(leaf, int | float) or hasattr(leaf, "dtype")
        if callable(leaf) or not numeric:
            raise TypeError(
                f"strength must be a number, an array or a tree of these here, got "
                f"{leaf!r} of type {type(leaf).__name__}. Call a schedule with your "
                "step count and pass the result; for a wanted number of zeros see "
                "regularisation_path and keep_features."
            )
    check_strength(strength)
