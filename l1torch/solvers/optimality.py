"""Certificates: numbers that tell how far parameters are from a solution."""

import functools
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l1torch.numerics.elementwise import Number, compute_dtype, largest
from l1torch.numerics.sharding import local, over_shards
from l1torch.parameters.masks import Mask, selected, weights_only
from l1torch.parameters.trees import (
    Params,
    named_leaves,
    require_dense,
    require_real_floating,
    require_same_tree,
)
from l1torch.penalties.base import Penalty, require_fit, require_penalty
from l1torch.penalties.separable import l1
from l1torch.strengths.values import Strength, check_strength, strengths_at


class OptimalityResidual(NamedTuple):
    """How far the optimality conditions are from being met, in units of a gradient."""

    largest: Tensor
    """The largest violation of an element, a scalar."""
    norm: Tensor
    """The Euclidean norm of the violations of all elements, a scalar."""


def optimality_residual(
    grads: Params,
    params: Params,
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

    It is cheap, a few passes over the gradients that do not wait for the device, and
    may stand in a training step as a metric. What is a good value depends on the
    strength: `largest <= 1e-3 * strength` says that every condition holds to 0.1 % of
    it, whereas weights that are dense or not trained have residuals of about the
    strength or more.

    - Give it gradients of the whole training set, or of a large batch: with those of
      minibatches it does not fall below their noise.
    - If loss and penalty are convex, zero means that the parameters are optimal; for a
      network it means that they are stationary, not that they are the best.
    - It says nothing of the objective: for linear models see `duality_gap`.

    Args:
      grads: the gradients of the mean loss, without the penalty, by name: `{name:
        param.grad for name, param in model.named_parameters()}`. A parameter whose
        gradient is `None` is passed over.
      params: a module, or a mapping from names to tensors of any shapes.
      strength: lambda, per unit of the mean loss: a number >= 0, a tensor that
        broadcasts to its parameter, or a mapping from parameter names to these. A
        constraint takes any: it has no effect.
      penalty: the penalty, of unit strength. At a point outside a constraint the
        violations are infinite.
      mask: the parameters that are penalised, see `weights_only`; `None` means all.

    Returns:
      An `OptimalityResidual` of scalars in the widest dtype of the parameters, at least
      float32. Of sharded parameters every process must ask for it.

    Raises:
      TypeError: no penalty; a strength that is no number (a schedule: call it with
        your step count); a penalised parameter that is not real floating; a sparse
        gradient.
      ValueError: a negative or NaN strength; a strength or mask that does not fit;
        gradients of other names, or a joint penalty and gradients of some parameters
        only.

    Example:
      >>> grads = {"w": torch.tensor([-0.5, 0.3, 0.75]), "b": torch.tensor(0.25)}
      >>> params = {"w": torch.tensor([2.0, 0.0, 0.0]), "b": torch.tensor(1.0)}
      >>> optimality_residual(grads, params, strength=0.5).largest.item()
      0.25
    """
    rows = penalised_rows(params, strength, penalty, mask)
    require_same_tree(grads, params, "grads")
    found = dict(named_leaves(grads))
    slopes = [found[name] for name, _, _ in rows]
    missing = [
        name
        for (name, x, s), grad in zip(rows, slopes, strict=True)
        if x is not None and s is not None and grad is None
    ]
    if missing and penalty.joint:
        raise ValueError(
            f"grads must not be None under a penalty that holds for all penalised "
            f"tensors together, got None for {missing}. Leave these out with mask=."
        )
    for (name, _, _), grad in zip(rows, slopes, strict=True):
        if grad is not None:
            require_dense(f"grads['{name}']", grad)
    with torch.no_grad():
        return residual_of(penalty, rows, slopes)


def penalised_rows(
    params: Any, strength: Strength, penalty: Penalty, mask: Mask
) -> list[tuple[str, Any, Any]]:
    """Return name, tensor and strength of each of `named_leaves(params)`, all checked.

    The strength is `None` where a tensor is not penalised.
    """
    require_penalty(penalty)
    _require_numbers(strength)
    if all(leaf is None for _, leaf in named_leaves(params)):
        raise ValueError(
            f"params must hold at least one tensor, got {params!r}. Pass the "
            "parameters of your model."
        )
    rows = []
    for (name, leaf), penalised, leaf_strength in zip(
        named_leaves(params),
        selected(mask, params),
        strengths_at(strength, 0, params),
        strict=True,
    ):
        if penalised:
            require_real_floating(name, leaf)
            require_fit(penalty, name, leaf, leaf_strength)
        rows.append((name, leaf, leaf_strength if penalised else None))
    return rows


def residual_of(
    penalty: Penalty,
    rows: Sequence[tuple[str, Any, Number | None]],
    grads: Sequence[Tensor | None],
) -> OptimalityResidual:
    """Measure the residual of the rows of `penalised_rows` and their gradients."""
    penalised, violations = [], []
    for (name, x, strength), grad in zip(rows, grads, strict=True):
        if x is None or grad is None:
            continue
        if strength is None:
            violations.append(grad.to(compute_dtype(grad.dtype)).abs())
        else:
            penalised.append((name, x, grad, strength))
    violations += penalty.tree_optimality_distance(penalised)
    dtype = functools.reduce(
        torch.promote_types, [v.dtype for v in violations], torch.float32
    )
    largest_, squares = [], []
    for v in violations:
        part = local(v).to(dtype)
        largest_.append(over_shards(largest(part), v, "max"))
        squares.append(over_shards((part * part).sum(), v, "sum"))
    zero = torch.zeros((), dtype=dtype)
    return OptimalityResidual(
        largest=functools.reduce(torch.maximum, largest_) if largest_ else zero,
        norm=sum(squares).sqrt() if squares else zero,
    )


def _require_numbers(strength: Strength) -> None:
    """Raise TypeError for what becomes a strength only in the course of a training."""
    values = strength.values() if isinstance(strength, Mapping) else [strength]
    for value in values:
        if not isinstance(value, Real | Tensor):
            raise TypeError(
                f"strength must be a number, a tensor or a mapping to these here, got "
                f"{value!r} of type {type(value).__name__}. Call a schedule with your "
                "step count and pass the result; for a wanted number of zeros see "
                "regularisation_path and keep_features."
            )
    check_strength(strength)
