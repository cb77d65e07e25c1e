"""Choosing a strength: by cross-validation, or by an information criterion."""

import dataclasses
import math
import numbers
import random
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jax.typing import ArrayLike

from l1jax.linear.design import Design
from l1jax.linear.fitting import warn_unless_solved
from l1jax.linear.paths import linear_strengths, solve_all
from l1jax.linear.problem import LinearProblem, LinearSolution, scores_of
from l1jax.numerics.checks import (
    LARGEST,
    check_choice,
    check_int,
    check_real,
    is_number,
    scalar,
)
from l1jax.paths.grids import shorten
from l1jax.paths.regularisation import RegularisationPath, require_path
from l1jax.penalties.base import Penalty
from l1jax.penalties.separable import l1

Rule = Literal["one_se", "min"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CrossValidation:
    """What `cross_validate` found. Arrays are numpy's; K is the number of folds."""

    strengths: np.ndarray
    """In units of the loss, strictly falling, of shape (strengths,)."""
    losses: np.ndarray
    """The mean loss on each fold left out, of shape (K, strengths)."""
    mean: np.ndarray
    """The mean of the losses over the folds, of shape (strengths,)."""
    standard_error: np.ndarray
    """Of that mean: the standard deviation over the folds, over sqrt(K)."""
    strength_min: float
    """The strength of the smallest mean."""
    strength_one_se: float
    """The largest strength whose mean is within one standard error of the smallest."""
    strength: float
    """The one of the two that `rule` asks for."""
    solution: LinearSolution
    """The solution at `strength` for all data."""

    def __repr__(self) -> str:
        return (
            f"CrossValidation({len(self.losses)} folds, {len(self.strengths)} "
            f"strengths, strength={self.strength:.4g}, strength_min="
            f"{self.strength_min:.4g}, strength_one_se={self.strength_one_se:.4g})"
        )


def cross_validate(
    X: ArrayLike,
    y: ArrayLike,
    strengths: Sequence[float] | np.ndarray | None = None,
    *,
    folds: int | Sequence[Sequence[int]] = 5,
    rule: Rule = "min",
    shuffle: int | Literal[False] | None = None,
    count: int = 100,
    ratio: float = 1e-3,
    loss: str = "squared",
    penalty: Penalty = l1(),
    fit_intercept: bool = True,
    method: str = "auto",
    tol: float = 1e-6,
    max_iterations: int = 10_000,
) -> CrossValidation:
    """Choose the strength of a linear model by K-fold cross-validation.

    Each fold is left out once: a path is fitted to the other rows, and its mean loss
    on the fold is measured. The rule "min" takes the strength of the smallest mean
    over the folds, the one that scikit-learn's `LassoCV` takes of the same strengths
    and folds; "one_se" takes the largest one whose mean exceeds it by no more than its
    standard error, a sparser model that is not measurably worse (Breiman, Friedman,
    Olshen, Stone, 1984).

    The columns of X are used as they are: scale them before.

    Args:
      X: of shape (n, p).
      y: of shape (n,): numbers, labels 0 and 1, or classes, see `solve_linear`.
      strengths: positive, strictly falling, the same for all folds. By default `count`
        of them, log-spaced from the `lambda_max` of all data.
      folds: their number, for folds of consecutive rows as scikit-learn's `KFold`
        makes them; or the row indices of each fold.
      rule: which strength to choose, "min" or "one_se".
      shuffle: a seed >= 0 by which to shuffle the rows before they are cut into folds,
        the same in both twins; `None` or False leaves their order.
      count: how many strengths, if none are given.
      ratio: the smallest strength over the largest, if none are given.
      loss: "squared", "logistic" or "multinomial", see `solve_linear`.
      penalty: the penalty, of unit strength.
      fit_intercept: whether there is an intercept, which is not penalised.
      method: of `solve_linear`.
      tol: of `solve_linear`, in [0, 1).
      max_iterations: of `solve_linear`, for each strength.

    Returns:
      A `CrossValidation`.

    Warns:
      UserWarning: once, naming the strengths at which a fold did not converge.

    Raises:
      TypeError: data that are no numbers; folds that are neither a number nor
        sequences of row indices; a shuffle that is no seed, such as True.
      ValueError: fewer than two folds, or more than rows; an empty fold, one that
        leaves no row, or every row of a class out, or row indices out of range or
        twice; an unknown rule; a validation loss that is NaN; strengths, and data that
        do not fit, as in `linear_path`.

    Example:
      >>> import jax.numpy as jnp
      >>> X = jnp.arange(12.0).reshape(6, 2) % 5
      >>> found = cross_validate(X, X[:, 0], [1.0, 0.1, 0.01], folds=3)
      >>> found.strength
      0.01
    """
    check_choice("rule", rule, ("min", "one_se"))
    problem = LinearProblem(
        X,
        y,
        loss=loss,
        penalty=penalty,
        fit_intercept=fit_intercept,
        method=method,
        tol=tol,
        max_iterations=max_iterations,
    )
    parts = fold_indices(folds, problem.design.n, shuffle)
    if loss == "multinomial" or (loss == "logistic" and fit_intercept):
        _require_classes(np.asarray(problem.labels), parts)
    strengths = linear_strengths(problem, strengths, count, ratio)
    losses, converged = [], []
    for fold in parts:
        rest = np.setdiff1d(np.arange(problem.design.n), fold)
        found = solve_all(problem.on_rows(rest), strengths)
        losses.append(_mean_losses(problem, fold, found))
        converged.append([one.converged for one in found])
    losses = np.stack(losses)
    mean = losses.mean(0)
    if np.isnan(mean).any():
        raise ValueError(
            "the validation loss is NaN at strengths "
            f"{shorten(strengths[np.isnan(mean)])}. Look for NaN and for very large "
            "numbers in X and y."
        )
    missed = ~np.all(converged, axis=0)
    if missed.any():
        warnings.warn(
            f"in {np.count_nonzero(missed)} of {len(strengths)} strengths a fold did "
            f"not converge to a relative gap of tol={float(tol):g}: "
            f"{shorten(strengths[missed])}. Raise max_iterations, or tol; or scale the "
            "columns of X.",
            UserWarning,
            stacklevel=2,
        )
    error = losses.std(0, ddof=1) / math.sqrt(len(parts))
    smallest = int(mean.argmin())
    within = int((mean <= mean[smallest] + error[smallest]).argmax())
    chosen = float(strengths[smallest if rule == "min" else within])
    solution = problem.solve(chosen)
    warn_unless_solved(solution, tol)
    return CrossValidation(
        strengths=strengths,
        losses=losses,
        mean=mean,
        standard_error=error,
        strength_min=float(strengths[smallest]),
        strength_one_se=float(strengths[within]),
        strength=chosen,
        solution=solution,
    )


def fold_indices(
    folds: int | Sequence[Sequence[int]],
    n: int,
    shuffle: int | Literal[False] | None,
) -> list[np.ndarray]:
    """Return the rows of each fold, checked."""
    if isinstance(shuffle, bool | np.bool_) and not shuffle:
        shuffle = None
    if shuffle is not None:
        shuffle = check_int("shuffle", shuffle, "a seed such as 0, or None", least=0)
    if is_number(scalar(folds), numbers.Integral):
        folds = check_int("folds", folds, "5", least=2, most=n)
        rows = list(range(n))
        if shuffle is not None:
            random.Random(shuffle).shuffle(rows)
        return [np.array(part) for part in np.array_split(rows, folds)]
    try:
        parts = [np.asarray(fold) for fold in folds]
        whole = all(fold.ndim == 1 and fold.dtype.kind in "iu" for fold in parts)
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise TypeError(
            f"folds must be a number or sequences of row indices, got {folds!r}. Pass "
            "5, or the second arrays of KFold.split."
        )
    if shuffle is not None:
        raise ValueError(
            f"shuffle must be None where folds are given by their rows, got {shuffle}. "
            "Shuffle the rows yourself."
        )
    if len(parts) < 2:
        raise ValueError(
            f"folds must be at least two, got {len(parts)}. Pass 5, or more folds."
        )
    for i, fold in enumerate(parts):
        distinct = np.unique(fold)
        fits = distinct.size and distinct[0] >= 0 and distinct[-1] < n
        if not fits or not distinct.size == fold.size < n:
            raise ValueError(
                f"folds must each be some but not all of the rows 0..{n - 1}, none of "
                f"them twice, got {fold.tolist()} for fold {i}. Pass 5, or the second "
                "arrays of KFold.split."
            )
    return parts


def _mean_losses(
    problem: LinearProblem, fold: np.ndarray, found: Sequence[LinearSolution]
) -> np.ndarray:
    """Return the mean loss of each solution on the samples of a fold."""
    design, labels = Design(problem.X[fold]), problem.labels[fold]
    return np.array(
        [problem.loss.value(scores_of(one, design), labels) for one in found]
    )


def _require_classes(labels: np.ndarray, parts: Sequence[np.ndarray]) -> None:
    """Raise unless every class is in the rows that each fold leaves for training."""
    for i, fold in enumerate(parts):
        rest = np.delete(labels, fold, axis=0)
        # A column of labels that does not vary is a class that no row has, or all have.
        if (rest.min(0) == rest.max(0)).any():
            raise ValueError(
                "folds must leave rows of every class of y to train on, got fold "
                f"{i}, outside of which a class has none. Pass shuffle=0, or "
                "stratified folds, such as the second arrays of StratifiedKFold.split."
            )


def information_criterion(
    path: RegularisationPath,
    n: int,
    *,
    kind: Literal["aic", "bic", "ebic"] = "bic",
    loss: str = "squared",
    noise_variance: float | None = None,
    gamma: float = 0.5,
) -> np.ndarray:
    """Score the solutions of a linear model's path: lower is better.

    With L the likelihood, k the number of weights that are not zero, of p::

      aic  = -2 log L + 2 k
      bic  = -2 log L + log(n) k
      ebic = bic + 2 gamma log(p choose k)

    k is an unbiased estimate of the Lasso's degrees of freedom (Zou, Hastie,
    Tibshirani, 2007); for other penalties it is a convention. `ebic` (Chen, Chen,
    2008) is for p of the order of n, or larger. Choose by it with
    `path.best(-information_criterion(path, n))`.

    Args:
      path: of `linear_path`, or of `regularisation_path` with such a loss.
      n: the number of rows it was fitted to.
      kind: "aic", "bic" or "ebic".
      loss: the path's: "squared" (half the mean squared error), "logistic" or
        "multinomial" (minus the mean log-likelihood).
      noise_variance: of the squared loss, where it is known, as in scikit-learn's
        `LassoLarsIC`. By default each solution's own mean squared error is taken,
        which is of use only while p is well below n.
      gamma: of `ebic`, in [0, 1]; 0 is `bic`.

    Returns:
      An array of shape (strengths,).

    Raises:
      TypeError: a gamma that is no number.
      ValueError: an unknown kind or loss; n < 1, gamma outside [0, 1]; a noise variance
        that is not positive, or for another loss.

    Example:
      >>> import jax.numpy as jnp
      >>> from l1jax import linear_path
      >>> X = jnp.arange(12.0).reshape(6, 2) % 5
      >>> path = linear_path(X, X[:, 0] + X[:, 1] % 2, [1.0, 0.1, 0.01])
      >>> path.best(-information_criterion(path, n=6)).strength
      0.1
    """
    require_path(path)
    check_choice("kind", kind, ("aic", "bic", "ebic"))
    check_choice("loss", loss, ("squared", "logistic", "multinomial"))
    n = check_int("n", n, "the number of rows, len(X)", most=LARGEST)
    gamma = check_real("gamma", gamma, "[0, 1]", "0.5")
    known = noise_variance is not None
    if known and loss != "squared":
        raise ValueError(
            "noise_variance must be None but for the squared loss, got "
            f"{noise_variance!r} for {loss!r}. Pass None."
        )
    if known:
        noise_variance = check_real(
            "noise_variance", noise_variance, "(0, inf)", "one such as 1.0"
        )
    if loss != "squared":
        deviance = 2 * n * path.loss
    elif not known:
        with np.errstate(divide="ignore"):  # a perfect fit is infinitely likely
            deviance = n * (np.log(4 * math.pi * path.loss) + 1)
    else:
        squares = 2 * n * path.loss
        deviance = n * math.log(2 * math.pi * noise_variance) + squares / noise_variance
    score = deviance + (2 if kind == "aic" else math.log(n)) * path.nnz
    if kind == "ebic":
        score = score + 2 * gamma * np.array(
            [_log_choose(path.size, int(k)) for k in path.nnz]
        )
    return score


def _log_choose(p: int, k: int) -> float:
    return math.lgamma(p + 1) - math.lgamma(k + 1) - math.lgamma(p - k + 1)
