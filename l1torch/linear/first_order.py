"""Linear models by the first-order solver, FISTA, in the precision of the data."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from l1torch.linear.design import Design
from l1torch.numerics.elementwise import Number
from l1torch.penalties.base import Penalty
from l1torch.solvers.full_batch import find_solution


class FirstOrderFit(NamedTuple):
    """What `fit_by_fista` ends at, in double precision on the CPU."""

    coef: Tensor
    """Of shape (p, k)."""
    intercept: Tensor
    """Of shape (k,)."""
    iterations: int
    """Steps taken."""


def fit_by_fista(
    X: Tensor,
    y: Tensor,
    design: Design,
    coef: Tensor,
    intercept: Tensor,
    *,
    shape: tuple[int, ...],
    strength: Number,
    loss: str,
    penalty: Penalty,
    fit_intercept: bool,
    tol: float,
    max_iterations: int,
) -> FirstOrderFit:
    """Run FISTA; with an intercept on centred columns, which it needs to be fast.

    Args:
      X: the features, of shape (n, p).
      y: as `solve_linear` takes it.
      design: the same features.
      coef: where to start, of shape (p, k).
      intercept: where to start, of shape (k,).
      shape: that of the coefficients to the penalty, (p,) or (p, classes).
      strength: lambda.
      loss: the loss's name.
      penalty: of unit strength.
      fit_intercept: whether there is an intercept.
      tol: the largest violation of the optimality conditions to leave.
      max_iterations: the most steps to take.
    """
    X, y = X.detach().to(design.like), y.detach().to(X.device)
    params = {"coef": coef.reshape(shape).to(design.like)}
    if fit_intercept:
        ones = torch.ones((design.n, 1), dtype=torch.float64)
        means = design.gradient(ones)[:, 0]
        centred = (intercept + means @ coef).reshape(shape[1:])
        params["intercept"] = centred.to(design.like)
        shift = means.to(design.like)
    mean = _mean_loss(loss)

    def objective(params: Mapping[str, Tensor]) -> Tensor:
        scores = X @ params["coef"]
        if fit_intercept:
            scores = scores + (params["intercept"] - shift @ params["coef"])
        return mean(scores, y)

    found = find_solution(
        objective,
        params,
        {name: strength if name == "coef" else 0.0 for name in params},
        penalty=penalty,
        mask={name: name == "coef" for name in params},
        tol=tol,
        max_iterations=max_iterations,
    )
    coef = found.params["coef"].cpu().double().reshape(design.p, -1)
    if fit_intercept:
        intercept = found.params["intercept"].cpu().double().reshape(-1)
        intercept = intercept - means @ coef
    return FirstOrderFit(coef, intercept, int(found.iterations))


def _mean_loss(loss: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a mean loss as a function of scores and y that can be differentiated."""

    def squared(scores: Tensor, y: Tensor) -> Tensor:
        return torch.mean((scores - y) ** 2) / 2

    def logistic(scores: Tensor, y: Tensor) -> Tensor:
        zeros = torch.zeros_like(scores)
        return torch.mean(torch.logaddexp(zeros, scores) - y * scores)

    def multinomial(scores: Tensor, y: Tensor) -> Tensor:
        own = torch.take_along_dim(scores, y.long()[:, None], 1)[:, 0]
        return torch.mean(torch.logsumexp(scores, 1) - own)

    return {"squared": squared, "logistic": logistic, "multinomial": multinomial}[loss]
