"""The duality gap of linear models: how far from the optimum a model can be at most."""

import math
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l1torch.linear.design import Design, as_data, double
from l1torch.linear.free_columns import FreeColumns
from l1torch.linear.losses import LinearLoss, loss_named
from l1torch.linear.penalty_terms import PenaltyTerms, penalty_terms
from l1torch.numerics.checks import as_numbers
from l1torch.numerics.elementwise import Number
from l1torch.penalties.base import Penalty
from l1torch.penalties.separable import l1


class DualityGap(NamedTuple):
    """How far an objective is from its minimum at most. Python numbers."""

    gap: float
    """`primal - dual`, which is at least `primal - minimum`; 0 at the optimum, where
    rounding may leave it a little below."""
    relative: float
    """`gap` over the objective of zero coefficients with the best intercept."""
    primal: float
    """The objective, mean loss + strength * penalty."""
    dual: float
    """The dual objective, a lower bound of the minimum."""


def duality_gap(
    X: Tensor,
    y: Tensor,
    coef: Tensor,
    strength: Number,
    *,
    intercept: Number | None = None,
    loss: str = "squared",
    penalty: Penalty = l1(),
) -> DualityGap:
    """Tell how far a linear model is from the optimum of its problem at most.

    With the scores `s = X w + b` the objective is `P(w, b) = 1/n sum_i f(s_i, y_i) +
    strength * penalty(w)`. For any `theta` with `sum(theta) = 0`, if there is an
    intercept, the Fenchel dual (Rockafellar, 1970) bounds its minimum from below::

      D(theta) = -1/n sum_i f*(-n theta_i, y_i) - (strength * penalty)*(X' theta)

    where `*` marks convex conjugates. For L1 the last term is 0 if `|X' theta| <=
    strength` and infinite otherwise. `theta` is the residual `-f'(s_i) / n`, scaled
    down until this holds, as in Kim, Koh, Lustig, Boyd and Gorinevsky (2007), after the
    intercept, and coefficients without a penalty, have been fitted for the given
    coefficients, so that it is orthogonal to them. The gap is `P(w, b) - D(theta)`.

    A relative gap of 1e-6 is a good solution, 1e-3 a rough one.

    It is computed in double precision on the CPU whatever the dtype of the data: in
    single precision gaps stall near 2e-6.

    Args:
      X: of shape (n, p), of real numbers.
      y: of shape (n,): numbers for the squared loss, labels 0 and 1 or bool for the
        logistic, integer classes from 0 for the multinomial.
      coef: of shape (p,), or (p, classes).
      strength: lambda, per unit of the mean loss: a number >= 0, or a tensor that
        broadcasts to `coef`.
      intercept: a scalar, or of shape (classes,), which is not penalised. None means
        that the model has none, 0.0 that it has one that is 0.
      loss: "squared", `1/2 (s - y)^2`; "logistic", `log(1 + exp(s)) - y s`;
        "multinomial", `log sum_c exp(s_c) - s_y`.
      penalty: `l1()`, `elastic_net(l1_ratio)`, `weighted_l1(weights)`,
        `adaptive_l1(pilot)`, `nonnegative_l1()`, `group_l1(...)`,
        `sparse_group_l1(...)`, or one of your own that defines `Penalty.formula`.

    Returns:
      A `DualityGap`.

    Raises:
      TypeError: what is no dense tensor of real numbers.
      ValueError: shapes that do not fit; NaN; labels that do not fit the loss; an
        unknown loss; a penalty whose dual is not known, or that is not convex: then
        use `optimality_residual`.

    Example:
      >>> X, y = torch.eye(4), torch.tensor([8.0, 4.0, 2.0, 0.0])
      >>> found = duality_gap(X, y, torch.tensor([4.0, 0.0, 0.0, 0.0]), 1.0)
      >>> print(found.gap, round(found.relative, 3), found.primal)
      0.0 0.0 8.5
    """
    X, y = as_data(X, y)
    design, model = Design(X), loss_named(loss)
    labels = checked_labels(y, design.n, model, intercept is not None)
    shape = coef_shape(design, model, labels)
    terms = penalty_terms(penalty, strength, shape)
    w = double("coef", coef, shape).reshape(design.p, -1)
    fitted = intercept is not None
    b = double("intercept", intercept, shape[1:]) if fitted else 0.0
    scores = design.scores(w) + b
    loss_value = model.value(scores, labels)
    if not math.isfinite(loss_value):
        raise ValueError(
            f"coef and intercept must give a finite loss, got {loss_value}. Look for "
            "NaN, and for very large numbers, in them."
        )
    primal = loss_value + terms.value(w)
    free = FreeColumns(design, terms.free, labels.shape[1], fitted)
    optimum = free.fit(model, labels, scores)
    residual = model.residual(optimum.scores, labels)
    dual = -math.inf
    if optimum.exact:
        dual = dual_value(model, labels, residual, design.gradient(residual), w, terms)
    gap = primal - dual
    return DualityGap(
        gap, gap / null_objective(design, model, labels, fitted), primal, dual
    )


def coef_shape(design: Design, loss: LinearLoss, labels: Tensor) -> tuple[int, ...]:
    """Return the shape of the coefficients."""
    classes = tuple(labels.shape[1:]) if loss.name == "multinomial" else ()
    return design.p, *classes


def dual_value(
    loss: LinearLoss,
    labels: Tensor,
    residual: Tensor,
    grad: Tensor,
    w: Tensor,
    terms: PenaltyTerms,
) -> float:
    """Return the dual objective at the best of a few multiples of the residual.

    Args:
      loss: the loss.
      labels: of shape (n, k).
      residual: the derivative of each sample's loss by its scores, of shape (n, k).
      grad: `X' residual / n`, of shape (p, k), 0 where nothing is penalised.
      w: the coefficients, of shape (p, k).
      terms: the penalty.
    """
    if terms.groups is not None:
        return loss.dual(residual / max(1.0, terms.largest(grad)), labels)
    steepest = terms.steepest(grad)
    ridged = terms.ridge > 0

    def scale(size: Tensor, rows: Tensor) -> float:
        """The largest multiple of the residual whose size exceeds no slope in rows."""
        rows = rows & (size > terms.slopes)
        ratios = terms.slopes[rows] / size[rows]
        return float(ratios.min()) if len(ratios) else 1.0

    # The dual value is finite only if coefficients without a ridge stay feasible.
    most = scale(steepest, (terms.slopes > 0) & ~ridged)
    scales = [most]
    if ridged.any():
        # scikit-learn's choice: the ridge counts as further samples, scaled alike.
        as_samples = scale((grad + terms.ridge * w).abs(), ridged)
        scales += [min(most, scale(steepest, ridged)), min(most, as_samples)]
    best = -math.inf
    for s in scales:
        excess = (s * steepest - terms.slopes).clamp(min=0)[ridged]
        conjugate = float(torch.sum(excess**2 / (2 * terms.ridge[ridged])))
        best = max(best, loss.dual(s * residual, labels) - conjugate)
    return best


def null_objective(
    design: Design, loss: LinearLoss, labels: Tensor, intercept: bool
) -> float:
    """Return the objective of zero coefficients with the best intercept, above 0."""
    scores = torch.zeros_like(labels)
    at_zero = value = loss.value(scores, labels)
    if intercept:
        if loss.quadratic:
            scores += labels.mean(0)
        else:
            columns = FreeColumns(
                design, torch.zeros(0, dtype=torch.long), labels.shape[1], True
            )
            scores = columns.fit(loss, labels, scores).scores
        value = loss.value(scores, labels)
    # If labels are constant, nothing is left of them but rounding.
    return (value + sys.float_info.epsilon * at_zero) or 1.0


def checked_labels(y: Any, n: int, loss: LinearLoss, intercept: bool) -> Tensor:
    """Check y against the loss, and return the labels of shape (n, k)."""
    y = as_numbers("y", y, labels=True)
    if tuple(y.shape) != (n,):
        raise ValueError(
            f"y must have the shape ({n},), one number for each row of X, got "
            f"{tuple(y.shape)}. Pass one column at a time."
        )
    labels = loss.labels(y.detach().cpu().double())
    if intercept and loss.name == "logistic" and labels.min() == labels.max():
        raise ValueError(
            f"y must hold both labels for an intercept, got {labels[0, 0]:g} alone. "
            "Leave the intercept out, or take more samples."
        )
    return labels
