"""Accelerated proximal gradient steps with backtracking and restarts (FISTA)."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l1torch.numerics.checks import described
from l1torch.numerics.elementwise import compute_dtype, nonnegative
from l1torch.penalties.base import Penalty
from l1torch.solvers.optimality import OptimalityResidual, residual_of

Leaves = list[Tensor]

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
    loss: Tensor
    grads: Leaves


class State(NamedTuple):
    """Where the iteration stands."""

    point: Point
    """The parameters reached."""
    ahead: Leaves
    """The extrapolated point, y in Beck and Teboulle."""
    inertia: Tensor
    """Their t."""
    curvature: Tensor
    """Their L, an upper bound of the loss's curvature along the last step."""
    residual: OptimalityResidual
    """How far `point` is from a solution."""
    iterations: int
    """The steps taken."""
    smallest: Tensor
    """The smallest of the residuals so far."""
    lowest: Tensor
    """The lowest of the objectives so far."""
    since: int
    """Steps since one of these fell, or a decrease was large enough to see."""


class _Trial(NamedTuple):
    point: Point
    curvature: Tensor
    accepted: bool
    reliable: bool
    tries: int


class Problem:
    """A loss of a list of leaves and its penalty, with the steps that minimise them."""

    def __init__(
        self,
        loss: Callable[[Any], Tensor],
        params: Mapping[str, Tensor],
        rows: Sequence[tuple[str, Any, Any]],
        penalty: Penalty,
    ) -> None:
        self.loss, self.params, self.penalty = loss, params, penalty
        self.names = [name for name, _, _ in rows]
        self.leaves = [x.detach().clone() for _, x, _ in rows]
        self.eps = max(torch.finfo(x.dtype).eps for x in self.leaves)
        self.dtypes = [compute_dtype(x.dtype) for x in self.leaves]
        self.dtype = functools.reduce(torch.promote_types, self.dtypes, torch.float32)
        self.strengths = [
            None
            if s is None
            else nonnegative(1.0 if penalty.constraint else s, dtype, x.device)
            for (_, x, s), dtype in zip(rows, self.dtypes, strict=True)
        ]

    def rebuilt(self, leaves: Leaves) -> Any:
        """Return the leaves the form of the parameters."""
        if isinstance(self.params, Tensor):
            return leaves[0]
        return {**self.params, **dict(zip(self.names, leaves, strict=True))}

    def at(self, leaves: Leaves) -> Point:
        """Evaluate the loss and its gradients."""
        leaves = [x.detach().requires_grad_() for x in leaves]
        with torch.enable_grad():
            loss = value_of(self.loss, self.rebuilt(leaves))
            require_scalar(loss)
            grads = torch.autograd.grad(
                loss, leaves, allow_unused=True, materialize_grads=True
            )
        return Point([x.detach() for x in leaves], loss.detach(), list(grads))

    def residual(self, point: Point) -> OptimalityResidual:
        """Measure how far a point is from a solution."""
        rows = zip(self.names, point.leaves, self.strengths, strict=True)
        return residual_of(self.penalty, list(rows), point.grads)

    def objective(self, point: Point) -> Tensor:
        """Add the penalty to the loss."""
        rows = zip(self.names, point.leaves, self.strengths, strict=True)
        rows = [row for row in rows if row[2] is not None]
        return point.loss + self.penalty.tree_value(rows)

    def start(self) -> State:
        """Return the state before the first step."""
        point = self.at(self.leaves)
        residual = self.residual(point)
        return State(
            point=point,
            ahead=point.leaves,
            inertia=torch.ones((), dtype=self.dtype, device=point.loss.device),
            curvature=self._first_curvature(point),
            residual=residual,
            iterations=0,
            smallest=residual.largest,
            lowest=self.objective(point),
            since=0,
        )

    def run(self, state: State, tol: float, max_iterations: int) -> State:
        """Steps until the residual is at most `tol`, or nothing is to be gained."""
        # The comparison with a NaN residual is false, so that NaN ends the loop.
        while (
            state.residual.largest > tol
            and state.point.loss.isfinite()
            and state.iterations < max_iterations
            and state.since < max(_PATIENCE, state.iterations // 2)
        ):
            state = self._step(state)
        return state

    def _step(self, state: State) -> State:
        old, ahead = state.point, self.at(state.ahead)
        trial = self._backtracked(old, ahead, state.curvature * _GROWTH)
        new = trial.point
        moved = _difference(new.leaves, old.leaves)
        # Restart the momentum when it points against the step just taken.
        uphill = self._dot(_difference(ahead.leaves, new.leaves), moved) > 0
        inertia = torch.where(uphill, 1, state.inertia)
        following = (1 + (1 + 4 * inertia**2).sqrt()) / 2
        weight = (inertia - 1) / following
        residual = self.residual(new)
        smaller = bool(residual.largest < state.smallest)
        # Where the loss is flat, one step changes too little; many steps may do.
        objective = self.objective(new)
        rounding = 4 * torch.finfo(objective.dtype).eps * objective.abs()
        lower = bool(objective < state.lowest - rounding)
        return State(
            point=new,
            ahead=[
                (x + weight.to(c) * m).to(x.dtype)
                for x, m, c in zip(new.leaves, moved, self.dtypes, strict=True)
            ],
            inertia=following,
            curvature=trial.curvature,
            residual=residual,
            iterations=state.iterations + 1,
            smallest=residual.largest if smaller else state.smallest,
            lowest=objective if lower else state.lowest,
            since=0 if smaller or lower or trial.reliable else state.since + 1,
        )

    def _backtracked(self, old: Point, ahead: Point, curvature: Tensor) -> _Trial:
        """Take a proximal step from `ahead`, short enough for the loss's curvature."""
        hidden = _RELIABLE * torch.finfo(old.loss.dtype).eps * ahead.loss.abs()

        def attempt(trial: _Trial) -> _Trial:
            bound = trial.curvature
            new = self.at(self._proximal_step(ahead, bound))
            step = _difference(new.leaves, ahead.leaves)
            squares = self._dot(step, step)
            some = squares > 0
            safe = torch.where(some, squares, 1)
            excess = new.loss - ahead.loss - self._dot(ahead.grads, step)
            reliable = bound * squares > hidden
            turn = self._dot(_difference(new.grads, ahead.grads), step)
            # Where rounding hides the decrease of the loss, the change of its gradient
            # still shows the curvature.
            found = torch.where(reliable, 2 * excess, turn) / safe
            accepted = ~some | (found <= bound)  # a NaN is not
            return _Trial(
                point=new,
                curvature=torch.where(accepted, bound, _raised(bound, found)),
                accepted=bool(accepted),
                reliable=bool(reliable),
                tries=trial.tries + 1,
            )

        # Where the loss is not finite at the point ahead, go on from the old one.
        trial = _Trial(old, curvature, False, False, 0)
        while not trial.accepted and trial.tries < _TRIES and ahead.loss.isfinite():
            trial = attempt(trial)
        return trial

    def _proximal_step(self, point: Point, curvature: Tensor) -> Leaves:
        new, moved = [], []
        step = 1 / curvature
        for x, grad, dtype in zip(point.leaves, point.grads, self.dtypes, strict=True):
            new.append(x.to(dtype) - step.to(dtype) * grad.to(dtype))
        for name, x, s, dtype in zip(
            self.names, new, self.strengths, self.dtypes, strict=True
        ):
            if s is not None:
                moved.append((name, x, step.to(dtype) * s))
        shrunk = iter(self.penalty.tree_prox(moved))
        return [
            (x if s is None else next(shrunk)).to(old.dtype)
            for x, s, old in zip(new, self.strengths, point.leaves, strict=True)
        ]

    def _first_curvature(self, point: Point) -> Tensor:
        """Measure the curvature along the gradient, by a difference of gradients."""
        slope = self._norm(point.grads)
        reach = self.eps**0.5 * self._norm(point.leaves).clamp(min=1)
        along = reach / torch.where(slope > 0, slope, 1)
        probe = self.at(
            [
                (x - along.to(c) * g.to(c)).to(x.dtype)
                for x, g, c in zip(point.leaves, point.grads, self.dtypes, strict=True)
            ]
        )
        steepness = self._norm(_difference(probe.grads, point.grads)) / reach
        usable = steepness.isfinite() & (steepness > 0)
        steepness = torch.where(usable, steepness, 1)
        # The twins round the difference differently, but not a power of two.
        return 2 ** steepness.log2().round()

    def _norm(self, a: Leaves) -> Tensor:
        return self._dot(a, a).sqrt()

    def _dot(self, a: Leaves, b: Leaves) -> Tensor:
        return sum(
            (x.to(self.dtype) * y.to(self.dtype)).sum()
            for x, y in zip(a, b, strict=True)
        )


def _raised(bound: Tensor, found: Tensor) -> Tensor:
    """Return the next curvature to try, at least the one found: in powers of a factor.

    What was found has been rounded differently in the twins.
    """
    times = ((found / bound).log() / math.log(_FACTOR)).ceil()
    times = torch.where(times.isfinite(), times.clamp(min=1), 4)
    return bound * _FACTOR**times


def _difference(a: Leaves, b: Leaves) -> Leaves:
    return [
        x.to(compute_dtype(x.dtype)) - y.to(compute_dtype(y.dtype))
        for x, y in zip(a, b, strict=True)
    ]


def value_of(loss: Callable[[Any], Any], params: Any) -> Any:
    """Calls the loss; a TypeError says that it is the loss's."""
    if not callable(loss):
        raise TypeError(
            f"loss must be a function of the parameters, got {described(loss)}. Pass "
            "one that returns the mean loss."
        )
    try:
        return loss(params)
    except TypeError as error:
        raise TypeError(f"loss could not be called with params: {error}") from error


def require_scalar(loss: Any) -> None:
    """Raise TypeError for a loss that is not one real number to differentiate."""
    scalar = isinstance(loss, Tensor) and loss.shape == ()
    if not (scalar and loss.dtype.is_floating_point):
        got = (
            f"shape {tuple(loss.shape)} and {loss.dtype}"
            if isinstance(loss, Tensor)
            else repr(loss)
        )
        raise TypeError(
            f"loss must return a real floating scalar, got {got}. Return the mean loss "
            "alone: a loss for each sample, or with further results, has no gradient."
        )
    if not loss.requires_grad:
        raise TypeError(
            "loss must depend on the parameters it is called with, got a scalar "
            "without gradient. Call the model by torch.func.functional_call, and "
            "detach nothing."
        )
