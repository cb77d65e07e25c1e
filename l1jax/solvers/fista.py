"""Accelerated proximal gradient steps with backtracking and restarts (FISTA)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.numerics.elementwise import (
    compute_dtype,
    dtype_of,
    nonnegative,
    widest_dtype,
)
from l1jax.penalties.base import Penalty
from l1jax.solvers.optimality import OptimalityResidual, residual_of

Leaves = list[jax.Array]

_GROWTH = 0.9
"""What the curvature is multiplied with before each step, so that steps may grow."""
_FACTOR = 2.0
"""A power of it is what the curvature is multiplied with where a step was too long."""
_TRIES = 60
"""Backtracks of one step."""
_RELIABLE = 1000.0
"""Decreases of fewer units in the last place of the loss are not looked at."""
_PATIENCE = 1000
"""Iterations without a smaller residual or objective before it stops; or half of all
so far, as the momentum swings more slowly the flatter the loss."""


class Point(NamedTuple):
    """Parameters, with the loss and its gradients there."""

    leaves: Leaves
    loss: jax.Array
    grads: Leaves


class State(NamedTuple):
    """Where the iteration stands."""

    point: Point
    """The parameters reached."""
    ahead: Leaves
    """The extrapolated point, y in Beck and Teboulle."""
    inertia: jax.Array
    """Their t."""
    curvature: jax.Array
    """Their L, an upper bound of the loss's curvature along the last step."""
    residual: OptimalityResidual
    """How far `point` is from a solution."""
    iterations: jax.Array
    """The steps taken."""
    smallest: jax.Array
    """The smallest of the residuals so far."""
    lowest: jax.Array
    """The lowest of the objectives so far."""
    since: jax.Array
    """Steps since one of these fell, or a decrease was large enough to see."""


class _Trial(NamedTuple):
    point: Point
    curvature: jax.Array
    accepted: jax.Array
    reliable: jax.Array
    tries: jax.Array


class Problem:
    """A loss of a list of leaves and its penalty, with the steps that minimise them."""

    def __init__(
        self,
        loss: Callable[[Leaves], ArrayLike],
        rows: Sequence[tuple[str, Any, Any]],
        penalty: Penalty,
    ) -> None:
        self.evaluate = jax.jit(jax.value_and_grad(loss))
        self.penalty = penalty
        self.paths = [path for path, _, _ in rows]
        self.eps = max(_eps(dtype_of(x)) for _, x, _ in rows)
        self.dtypes = [compute_dtype(dtype_of(x)) for _, x, _ in rows]
        self.dtype = widest_dtype(*self.dtypes)
        self.strengths = [
            None if s is None else nonnegative(1.0 if penalty.constraint else s, dtype)
            for (_, _, s), dtype in zip(rows, self.dtypes, strict=True)
        ]

    def at(self, leaves: Leaves) -> Point:
        """Evaluate the loss and its gradients."""
        loss, grads = self.evaluate(leaves)
        return Point(leaves, loss, grads)

    def residual(self, point: Point) -> OptimalityResidual:
        """Measure how far a point is from a solution."""
        rows = zip(self.paths, point.leaves, self.strengths, strict=True)
        return residual_of(self.penalty, list(rows), point.grads)

    def objective(self, point: Point) -> jax.Array:
        """Add the penalty to the loss."""
        rows = zip(self.paths, point.leaves, self.strengths, strict=True)
        rows = [row for row in rows if row[2] is not None]
        return point.loss + self.penalty.tree_value(rows)

    def start(self, leaves: Leaves) -> State:
        """Return the state before the first step."""
        point = self.at(leaves)
        residual = self.residual(point)
        zero = jnp.zeros([], jnp.int32)
        return State(
            point=point,
            ahead=leaves,
            inertia=jnp.ones([], self.dtype),
            curvature=self._first_curvature(point),
            residual=residual,
            iterations=zero,
            smallest=residual.largest,
            lowest=self.objective(point),
            since=zero,
        )

    def run(self, state: State, tol: float, max_iterations: int) -> State:
        """Steps until the residual is at most `tol`, or nothing is to be gained."""

        def unfinished(state: State) -> jax.Array:
            # The comparison with a NaN residual is false, so that NaN ends the loop.
            return (
                (state.residual.largest > tol)
                & jnp.isfinite(state.point.loss)
                & (state.iterations < max_iterations)
                & (state.since < jnp.maximum(_PATIENCE, state.iterations // 2))
            )

        return jax.lax.while_loop(unfinished, self._step, state)

    def _step(self, state: State) -> State:
        old, ahead = state.point, self.at(state.ahead)
        trial = self._backtracked(old, ahead, state.curvature * _GROWTH)
        new = trial.point
        moved = _difference(new.leaves, old.leaves)
        # Restart the momentum when it points against the step just taken.
        uphill = self._dot(_difference(ahead.leaves, new.leaves), moved) > 0
        inertia = jnp.where(uphill, 1, state.inertia)
        following = (1 + jnp.sqrt(1 + 4 * inertia**2)) / 2
        weight = (inertia - 1) / following
        residual = self.residual(new)
        smaller = residual.largest < state.smallest
        # Where the loss is flat, one step changes too little; many steps may do.
        objective = self.objective(new)
        rounding = 4 * _eps(objective.dtype) * jnp.abs(objective)
        lower = objective < state.lowest - rounding
        return State(
            point=new,
            ahead=[
                (x + weight.astype(c) * m).astype(x.dtype)
                for x, m, c in zip(new.leaves, moved, self.dtypes, strict=True)
            ],
            inertia=following,
            curvature=trial.curvature,
            residual=residual,
            iterations=state.iterations + 1,
            smallest=jnp.where(smaller, residual.largest, state.smallest),
            lowest=jnp.where(lower, objective, state.lowest),
            since=jnp.where(smaller | lower | trial.reliable, 0, state.since + 1),
        )

    def _backtracked(self, old: Point, ahead: Point, curvature: jax.Array) -> _Trial:
        """Take a proximal step from `ahead`, short enough for the loss's curvature."""
        hidden = _RELIABLE * _eps(old.loss.dtype) * jnp.abs(ahead.loss)

        def attempt(trial: _Trial) -> _Trial:
            bound = trial.curvature
            new = self.at(self._proximal_step(ahead, bound))
            step = _difference(new.leaves, ahead.leaves)
            squares = self._dot(step, step)
            some = squares > 0
            safe = jnp.where(some, squares, 1)
            excess = new.loss - ahead.loss - self._dot(ahead.grads, step)
            reliable = bound * squares > hidden
            turn = self._dot(_difference(new.grads, ahead.grads), step)
            # Where rounding hides the decrease of the loss, the change of its gradient
            # still shows the curvature.
            found = jnp.where(reliable, 2 * excess, turn) / safe
            accepted = ~some | (found <= bound)  # a NaN is not
            return _Trial(
                point=new,
                curvature=jnp.where(accepted, bound, _raised(bound, found)),
                accepted=accepted,
                reliable=reliable,
                tries=trial.tries + 1,
            )

        def open_(trial: _Trial) -> jax.Array:
            return ~trial.accepted & (trial.tries < _TRIES) & jnp.isfinite(ahead.loss)

        # Where the loss is not finite at the point ahead, go on from the old one.
        false = jnp.zeros([], bool)
        first = _Trial(old, curvature, false, false, jnp.zeros([], jnp.int32))
        return jax.lax.while_loop(open_, attempt, first)

    def _proximal_step(self, point: Point, curvature: jax.Array) -> Leaves:
        new, moved = [], []
        step = 1 / curvature
        for x, grad, dtype in zip(point.leaves, point.grads, self.dtypes, strict=True):
            new.append(x.astype(dtype) - step.astype(dtype) * grad.astype(dtype))
        for path, x, s, dtype in zip(
            self.paths, new, self.strengths, self.dtypes, strict=True
        ):
            if s is not None:
                moved.append((path, x, step.astype(dtype) * s))
        shrunk = iter(self.penalty.tree_prox(moved))
        return [
            (x if s is None else next(shrunk)).astype(old.dtype)
            for x, s, old in zip(new, self.strengths, point.leaves, strict=True)
        ]

    def _first_curvature(self, point: Point) -> jax.Array:
        """Measure the curvature along the gradient, by a difference of gradients."""
        slope = self._norm(point.grads)
        reach = self.eps**0.5 * jnp.maximum(self._norm(point.leaves), 1)
        along = reach / jnp.where(slope > 0, slope, 1)
        probe = self.at(
            [
                (x - along.astype(c) * g.astype(c)).astype(x.dtype)
                for x, g, c in zip(point.leaves, point.grads, self.dtypes, strict=True)
            ]
        )
        steepness = self._norm(_difference(probe.grads, point.grads)) / reach
        usable = jnp.isfinite(steepness) & (steepness > 0)
        steepness = jnp.where(usable, steepness, 1).astype(self.dtype)
        # The twins round the difference differently, but not a power of two.
        return 2 ** jnp.round(jnp.log2(steepness))

    def _norm(self, a: Leaves) -> jax.Array:
        return jnp.sqrt(self._dot(a, a))

    def _dot(self, a: Leaves, b: Leaves) -> jax.Array:
        return sum(
            (
                jnp.sum(x.astype(self.dtype) * y.astype(self.dtype))
                for x, y in zip(a, b, strict=True)
            ),
            jnp.zeros([], self.dtype),
        )


def _raised(bound: jax.Array, found: jax.Array) -> jax.Array:
    """Return the next curvature to try, at least the one found: in powers of a factor.

    What was found has been rounded differently in the twins.
    """
    times = jnp.ceil(jnp.log(found / bound) / math.log(_FACTOR))
    times = jnp.where(jnp.isfinite(times), jnp.maximum(times, 1), 4)
    return bound * _FACTOR**times


def _eps(dtype: Any) -> float:
    return float(jnp.finfo(dtype).eps)


def _difference(a: Leaves, b: Leaves) -> Leaves:
    return [
        x.astype(compute_dtype(x.dtype)) - y.astype(compute_dtype(y.dtype))
        for x, y in zip(a, b, strict=True)
    ]
