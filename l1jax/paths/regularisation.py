"""Regularisation paths: one solution for each of many strengths.

`min loss(params) + strength * penalty(params)` for strengths that fall from the one at
which all penalised weights are zero.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l1jax.numerics.checks import check_flag, check_int, described
from l1jax.parameters.masks import Mask, selected, weights_only
from l1jax.parameters.trees import PyTree, Tree, named_leaves
from l1jax.paths.fits import Settings, fit_all, require_vectorisable
from l1jax.paths.grids import (
    check_settings,
    check_spacing,
    check_strengths,
    require_finite_loss,
    shorten,
    spaced_strengths,
)
from l1jax.penalties.base import Penalty
from l1jax.penalties.separable import l1
from l1jax.solvers.full_batch import require_arrays, require_scalar
from l1jax.solvers.optimality import OptimalityResidual, penalised_rows
from l1jax.solvers.zero_solution import lambda_at_zero, zero_solution

Scores = Sequence[float] | np.ndarray | jax.Array
"""A number for each strength of a path."""


class PathPoint(NamedTuple):
    """One solution of a path, chosen by `RegularisationPath.best`."""

    index: int
    """Its place in the path."""
    strength: float
    """Its strength, in units of the loss."""
    params: PyTree
    """Its parameters."""
    scores: np.ndarray
    """The scores of all strengths, of shape (strengths,)."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RegularisationPath:
    """The solutions of a path, from the largest strength to the smallest.

    The numbers are numpy arrays of shape (strengths,).
    """

    strengths: np.ndarray
    """In units of the loss, strictly falling."""
    params: PyTree
    """The parameters' tree, with a leading axis of strengths on every array."""
    objective: np.ndarray
    """`loss + strength * penalty`."""
    loss: np.ndarray
    """The loss alone."""
    nnz: np.ndarray
    """How many elements of penalised arrays are not zero."""
    size: int
    """How many elements the penalised arrays have."""
    residual: OptimalityResidual
    """How far each solution is from stationary, see `optimality_residual`."""
    converged: np.ndarray
    """Whether each solution reached the tolerance asked for."""
    gap: np.ndarray | None = None
    """The duality gap, relative to the objective of zero coefficients with the best
    intercept, see `duality_gap`, where there is one; else None."""

    def __len__(self) -> int:
        return len(self.strengths)

    def __repr__(self) -> str:
        return (
            f"RegularisationPath({len(self)} strengths from {self.strengths[0]:.3g} to "
            f"{self.strengths[-1]:.3g}, {self.nnz[0]} to {self.nnz[-1]} of {self.size} "
            f"not zero, {np.count_nonzero(self.converged)} converged)"
        )

    def at(self, index: int) -> PyTree:
        """Return the parameters of one strength, as a tree like the one passed in."""
        index = check_int("index", index, "0 for the largest strength", least=None)
        if not -len(self) <= index < len(self):
            raise IndexError(
                f"index must be in -{len(self)}..{len(self) - 1}, got {index}. The "
                f"path has {len(self)} strengths."
            )
        return jax.tree.map(lambda x: x[index], self.params)

    def best(self, score: Callable[[PyTree], SupportsFloat] | Scores) -> PathPoint:
        """Choose the solution of the highest score; of equal ones the sparsest.

        Args:
          score: a function from parameters to a number, or an array with a number for
            each strength. Higher is better, as in scikit-learn: pass a loss, or an
            `information_criterion`, with a minus sign.

        Raises:
          ValueError: a score that is NaN, or not one number for each strength.
        """
        try:
            if callable(score):
                score = [float(score(self.at(i))) for i in range(len(self))]
            scores = np.asarray(score, float)
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(
                f"score must be numbers, or a function from parameters to one, got "
                f"{described(score)}: {error}. Pass one such as -losses."
            ) from error
        if scores.shape != self.strengths.shape:
            raise ValueError(
                f"score must be one number for each of {len(self)} strengths, got "
                f"shape {scores.shape}. Pass an array of shape ({len(self)},), or a "
                "function of the parameters."
            )
        if np.isnan(scores).any():
            bad = self.strengths[np.isnan(scores)]
            raise ValueError(
                f"score must be a number, got NaN at strengths {shorten(bad)}. Leave "
                "out these strengths, or look for the NaN in your data."
            )
        index = int(np.argmax(scores))
        return PathPoint(index, float(self.strengths[index]), self.at(index), scores)


def require_path(path: RegularisationPath) -> None:
    """Raise TypeError for what is no path."""
    if not isinstance(path, RegularisationPath):
        raise TypeError(
            f"path must be a RegularisationPath, got {described(path)}. Pass what "
            "regularisation_path or linear_path gives."
        )


def regularisation_path(
    loss: Callable[[Tree], jax.Array],
    params: Tree,
    strengths: Sequence[float] | np.ndarray | None = None,
    *,
    count: int = 100,
    ratio: float = 1e-3,
    penalty: Penalty = l1(),
    mask: Mask = weights_only,
    tol: float = 1e-6,
    max_iterations: int = 10_000,
    optimizer: Callable[..., optax.GradientTransformation] | None = None,
    steps: int | None = None,
    warm_start: bool = True,
    vectorised: bool = False,
) -> RegularisationPath:
    """Solve `min loss + strength * penalty` for many strengths.

    By default each solution starts from the one before, and the first from zero
    weights, with the rest fitted to them, which is where the largest strength ends. For
    a network this is wrong, as zero weights are stationary: pass `warm_start=False`
    with strengths of your own.

    Args:
      loss: a smooth function from the parameters to the mean loss, a scalar, of the
        full batch.
      params: tree of arrays of any shape.
      strengths: positive, strictly falling, in units of the loss. By default `count`
        of them, log-spaced from `lambda_max` down to `ratio * lambda_max`.
      count: how many strengths, if none are given.
      ratio: the smallest strength over the largest, if none are given.
      penalty: the penalty, of unit strength.
      mask: the leaves to penalise, see `weights_only`; `None` penalises all.
      tol: a solution counts as converged if its largest residual is at most this, in
        units of the gradient of the loss, in [0, 1), see `solve`.
      max_iterations: of `solve`, for each strength; without effect on an optimizer.
      optimizer: a function from a strength to an optax optimizer that is used instead
        of `solve`, such as `lambda s: l1jax.proximal(optax.adam, 1e-2, s)`. Give it
        the penalty and the mask that you give here.
      steps: full-batch steps of the optimizer for each strength.
      warm_start: whether each strength starts from the solution before; else all start
        from `params` as given.
      vectorised: whether all strengths run at once, by `jax.vmap`, all from `params`
        as given. It takes the memory of all, and as long as the slowest.

    Returns:
      A `RegularisationPath`.

    Warns:
      UserWarning: once, naming the strengths that did not converge.

    Raises:
      TypeError: strengths that are no numbers, an optimizer that is no function.
      ValueError: strengths that are empty, not positive and finite, or not falling;
        `count`, `ratio`, `tol`, `max_iterations` or `steps` out of range; `steps`
        without `optimizer` or the reverse; a loss that is NaN at the start; a penalty
        or network without a largest strength, where no strengths are given.

    Source: Friedman, Hastie, Tibshirani (2010), section 2.5.

    Example:
      >>> y = jnp.array([1.0, 0.25])
      >>> loss = lambda params: ((params["w"] - y) ** 2).sum() / 2
      >>> path = regularisation_path(loss, {"w": jnp.zeros(2)}, [0.5, 0.125])
      >>> print(path.strengths, path.nnz)
      [0.5   0.125] [1 2]
    """
    settings = Settings(
        penalty=penalty,
        mask=mask,
        tol=tol,
        max_iterations=max_iterations,
        optimizer=optimizer,
        steps=steps,
        warm_start=warm_start,
        vectorised=vectorised,
    )
    check_settings(optimizer, steps, max_iterations, tol)
    check_flag("warm_start", warm_start)
    check_flag("vectorised", vectorised)
    if vectorised:
        require_vectorisable(settings)
    check_spacing(count, ratio, strengths)
    if strengths is not None:
        strengths = check_strengths(strengths)
    penalised_rows(params, 0.0, penalty, mask)  # raises for what does not fit
    require_arrays(params)
    require_scalar(loss, params)
    params = jax.tree.map(jnp.asarray, params)
    start, warm = params, warm_start and not vectorised
    if warm or strengths is None:
        zero = zero_solution(loss, params, penalty, mask, tol, max_iterations).params
        start = zero if warm else params
    if strengths is None:
        top = lambda_at_zero(loss, zero, penalty, mask, tol)
        strengths = spaced_strengths(float(top), count, ratio)
    require_finite_loss(loss(start))
    fits = fit_all(loss, start, strengths, settings)
    nnz, size = count_nonzero(fits.params, params, mask)
    path = RegularisationPath(
        strengths=strengths,
        params=fits.params,
        objective=fits.objective,
        loss=fits.loss,
        nnz=nnz,
        size=size,
        residual=fits.residual,
        converged=fits.residual.largest <= tol,
    )
    warn_unless_converged(
        path,
        f"a residual of tol={float(tol):g}",
        path.residual.largest,
        "Raise max_iterations (steps, of an optimizer), or tol.",
    )
    return path


def warn_unless_converged(
    path: RegularisationPath, wanted: str, reached: np.ndarray, remedy: str
) -> None:
    """Warn once of all the strengths that did not converge."""
    missed = ~path.converged
    if missed.any():
        warnings.warn(
            f"{np.count_nonzero(missed)} of {len(path)} strengths did not converge to "
            f"{wanted}: {shorten(path.strengths[missed])}; the worst reached "
            f"{np.max(reached[missed]):.2g}. {remedy}",
            UserWarning,
            stacklevel=3,
        )


def count_nonzero(stacked: Any, params: Any, mask: Mask) -> tuple[np.ndarray, int]:
    """Counts, for each strength, what is not zero, and all, of the penalised leaves.

    Args:
      stacked: the tree with a leading axis of strengths.
      params: the tree without.
      mask: the leaves to penalise.
    """
    rows = zip(
        jax.tree.leaves(stacked, is_leaf=lambda x: x is None),
        named_leaves(params),
        selected(mask, params),
        strict=True,
    )
    chosen = [(x, leaf.size) for x, (_, leaf), flag in rows if flag]
    counts = [jnp.sum(x != 0, axis=tuple(range(1, x.ndim))) for x, _ in chosen]
    return np.asarray(sum(counts)), sum(size for _, size in chosen)
