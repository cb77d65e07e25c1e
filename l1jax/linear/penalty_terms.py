"""The penalty of a linear model, written out for each coefficient, on the host."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from l1jax.linear.design import Array
from l1jax.numerics.checks import as_numbers, check_number, require_broadcast
from l1jax.numerics.elementwise import as_float
from l1jax.penalties.base import Penalty, require_penalty


@dataclasses.dataclass(frozen=True)
class Groups:
    """Groups of coefficients that do not overlap, with a multiple of each one's norm.

    Owners, and arrays given, have the shape of the coefficients.
    """

    owners: Array
    """The number of each coefficient's group."""
    slopes: Array
    """The factor of each group's norm, >= 0, of shape (groups,)."""

    def total(self, x: Array) -> Array:
        """Sum over each group."""
        return np.bincount(self.owners.reshape(-1), x.reshape(-1), len(self.slopes))

    def norms(self, x: Array) -> Array:
        """Return the Euclidean norm of each group."""
        return np.sqrt(self.total(x**2))

    def largest(self, x: Array) -> Array:
        """Return each coefficient the largest number of its group, at least 0."""
        found = np.zeros(len(self.slopes))
        np.maximum.at(found, self.owners, x)
        return found[self.owners]

    def over_norms(self, x: Array) -> Array:
        """Return each coefficient its group's slope over its group's norm of x."""
        norms = self.norms(x)
        return (self.slopes / np.where(norms == 0, 1, norms))[self.owners]


@dataclasses.dataclass(frozen=True)
class PenaltyTerms:
    """`sum slopes |w| + ridge/2 w^2` over `w >= floor`, and the norms of groups.

    All arrays have one shape: (p, k) for all coefficients, (m,) for some of them.
    """

    slopes: Array
    ridge: Array
    floor: Array
    groups: Groups | None = None
    """Of penalties with groups alone, which have neither ridge nor floor."""

    def value(self, w: Array) -> float:
        """Return `strength * penalty(w)`."""
        value = float(np.sum(self._each(w)))
        if self.groups is not None:
            value += float(self.groups.slopes @ self.groups.norms(w))
        return value

    def _each(self, w: Array) -> Array:
        """Return what each coefficient costs by itself."""
        slopes = np.where(w != 0, self.slopes, 0)  # no 0 * inf
        costs = slopes * np.abs(w) + self.ridge / 2 * w**2
        return np.where(w < self.floor, math.inf, costs)

    def shifted(self, w: Array) -> Array:
        """Subtract from each row one of its numbers, or 0, so that it costs the least.

        Without a ridge the best number to subtract is a weighted median. With groups
        nothing is changed.
        """
        if self.groups is not None:
            return w
        rows = np.flatnonzero(w.any(1))
        terms = PenaltyTerms(self.slopes[rows], self.ridge[rows], self.floor[rows])
        best = start = w[rows]
        for number in start.T:
            moved = start - number[:, None]
            better = terms._each(moved).sum(1) < terms._each(best).sum(1)
            best = np.where(better[:, None], moved, best)
        w = w.copy()
        w[rows] = best
        return w

    def rise(self, w: Array, moves: Array) -> float:
        """Return `value(w + moves) - value(w)`, exact even where moves are tiny."""
        at = w + moves
        lengths = np.where(at * w > 0, np.sign(w) * moves, np.abs(at) - np.abs(w))
        value = float(self.slopes @ lengths + self.ridge @ (moves * (w + moves / 2)))
        if self.groups is not None:
            sums = self.groups.norms(at) + self.groups.norms(w)
            squares = self.groups.total(moves * (at + w))
            value += float(
                self.groups.slopes @ (squares / np.where(sums == 0, 1, sums))
            )
        return value

    def feasible(self, w: Array) -> Array:
        """Return the nearest coefficients at which the penalty is finite."""
        return np.where(np.isinf(self.slopes), 0, np.maximum(w, self.floor))

    def prox(self, z: Array, metric: Array) -> Array:
        """Minimise `value(w) + 1/2 sum metric (w - z)^2`, exact zeros kept.

        Args:
          z: the point.
          metric: > 0, and the same within a group.
        """
        t = self.slopes / metric
        w = np.maximum(z - np.clip(z, -t, t), self.floor)
        if self.groups is not None:
            w = w * np.maximum(1 - self.groups.over_norms(w) / metric, 0)
        return w / (1 + self.ridge / metric)

    def hessian(self, w: Array, support: Array) -> Array:
        """Return the second derivative by the coefficients that are not zero.

        Args:
          w: of shape (m,).
          support: where it is not zero.
        """
        curvature = np.diag(self.ridge[support])
        if self.groups is None:
            return curvature
        owners = self.groups.owners[support]
        steepness = self.groups.over_norms(w)[support]
        unit = w[support] / self.groups.norms(w)[owners]
        along = np.where(owners[:, None] == owners, np.outer(steepness * unit, unit), 0)
        return curvature + np.diag(steepness) - along

    def violation(self, w: Array, grad: Array) -> Array:
        """Return the distance of `-grad` to the subdifferential, element by element."""
        at_zero = np.maximum(self.steepest(grad) - self.slopes, 0)
        slopes = np.where(w == 0, 0, self.slopes)  # no 0 * inf
        away = grad + slopes * np.sign(w) + self.ridge * w
        if self.groups is not None:
            away = away + self.groups.over_norms(w) * w
            # A group of zeros violates by how far its norm exceeds the group's slope;
            # its elements share that in proportion.
            share = np.maximum(1 - self.groups.over_norms(at_zero), 0)
            zero = (self.groups.norms(w) == 0)[self.groups.owners]
            at_zero = np.where(zero, share * at_zero, at_zero)
        return np.where(w == 0, at_zero, np.abs(away))

    def steepest(self, grad: Array) -> Array:
        """Return how strongly the loss pulls each element off zero, if it may leave."""
        return np.where(self.floor < 0, np.abs(grad), -grad)

    def largest(self, grad: Array) -> float:
        """Return the least multiple of the strength that keeps all at zero.

        Args:
          grad: the gradient of the loss at zero.
        """
        steepest = self.steepest(grad)
        if self.groups is not None:
            return self._largest_of_groups(steepest, self.groups)
        pulled = (steepest > 0) & ((self.slopes > 0) | (self.ridge > 0))
        with np.errstate(divide="ignore"):  # a ridge alone holds nothing at zero
            return float(np.max(steepest[pulled] / self.slopes[pulled], initial=0.0))

    def _largest_of_groups(self, steepest: Array, groups: Groups) -> float:
        """The root of `|max(steepest - s slopes, 0)| = s groups.slopes`, the largest.

        Newton's method: the difference is convex and falls, so that s rises to it.
        """
        s = np.zeros(len(groups.slopes))
        for _ in range(100):
            left = np.maximum(steepest - s[groups.owners] * self.slopes, 0)
            norms = groups.norms(left)
            falls = groups.total(self.slopes * left) / np.where(norms == 0, 1, norms)
            following = s + (norms - s * groups.slopes) / (groups.slopes + falls)
            if (following <= s).all():
                break
            s = np.maximum(s, following)
        return float(s.max())

    def at(self, chosen: Array, free: int = 0) -> "PenaltyTerms":
        """Return the terms of some coefficients, by their flat indices.

        Args:
          chosen: the indices, of shape (m,).
          free: how many more coefficients follow, without a penalty.
        """
        flat = [a.reshape(-1)[chosen] for a in (self.slopes, self.ridge, self.floor)]
        zero, groups = np.zeros(free), None
        if self.groups is not None:
            found = self.groups.owners.reshape(-1)[chosen]
            found, owners = np.unique(found, return_inverse=True)
            owners = np.concatenate([owners, len(found) + np.arange(free)])
            groups = Groups(owners, np.concatenate([self.groups.slopes[found], zero]))
        ends = zero, zero, zero - math.inf
        flat = [np.concatenate(pair) for pair in zip(flat, ends, strict=True)]
        return PenaltyTerms(*flat, groups)

    def whole(self, chosen: Array) -> Array:
        """Add to flat indices those of the same groups."""
        if self.groups is None:
            return chosen
        owners = self.groups.owners.reshape(-1)
        picked = np.zeros(len(self.groups.slopes), bool)
        picked[owners[chosen]] = True
        return np.flatnonzero(picked[owners])

    @property
    def least(self) -> float:
        """The least positive, finite cost of an element of size 1; 1 if there is none.

        The penalty is at least `least * sum |w|` over what has such a cost.
        """
        strengths = np.where(self.slopes > 0, self.slopes, self.ridge)
        if self.groups is not None:
            sizes = self.groups.total(np.ones_like(self.slopes))
            shares = self.groups.slopes / np.sqrt(sizes)
            strengths = self.slopes + shares[self.groups.owners]
        strengths = strengths[(strengths > 0) & np.isfinite(strengths)]
        return float(strengths.min()) if len(strengths) else 1.0

    @property
    def free(self) -> Array:
        """The flat indices of what is not penalised at all."""
        if self.groups is not None:
            return np.zeros(0, np.int64)
        return np.flatnonzero((self.slopes == 0) & (self.ridge == 0))


def penalty_terms(
    penalty: Penalty, strength: ArrayLike, shape: tuple[int, ...]
) -> PenaltyTerms:
    """Check penalty and strength, and write them out for each coefficient."""
    require_penalty(penalty)
    check_number("strength", strength)
    require_broadcast("strength", strength, "coef", shape)
    penalty = penalty.at("coef", shape)
    penalty.require_fit("coef", shape, jnp.shape(strength))
    strength = np.asarray(as_numbers("strength", as_float(strength)), np.float64)
    check_number("strength", strength)
    unit = _at_unit_strength(penalty, shape)
    s = _spread(strength, shape)
    if ((unit.floor == 0) & (s == 0)).any():
        raise ValueError(
            "strength must be > 0 where coefficients must not be negative, as under "
            "nonnegative_l1(): the dual point cannot be scaled otherwise, got "
            f"{strength!r}. Pass a small one."
        )
    groups = unit.groups
    if groups is not None:
        if not (strength.ndim == 0 and strength > 0):
            raise ValueError(
                f"strength must be one number > 0 for groups, got {strength!r}. Put "
                "the groups' weights into the penalty."
            )
        # Slopes that are all 0 mean that there are no groups.
        slopes = strength * groups.slopes
        groups = Groups(groups.owners, slopes) if slopes.any() else None
    held = np.isinf(unit.slopes)  # at every strength, 0 included
    return PenaltyTerms(
        slopes=np.where(held, math.inf, s * np.where(held, 1, unit.slopes)),
        ridge=s * unit.ridge,
        floor=unit.floor,
        groups=groups,
    )


def _at_unit_strength(penalty: Penalty, shape: tuple[int, ...]) -> PenaltyTerms:
    """Read the formula of a penalty, and check that it keeps what is asked of it."""
    formula = penalty.formula(shape)
    if formula is None:
        why = "its dual is not known" if penalty.convex else "it is not convex"
        raise ValueError(
            f"penalty {penalty!r} has no duality gap: {why}. Use optimality_residual "
            "as the certificate, and solve as the solver."
        )
    for field in ("slopes", "ridge", "nonnegative"):
        require_broadcast(field, getattr(formula, field), "coef", shape)
    slopes, ridge = _spread(formula.slopes, shape), _spread(formula.ridge, shape)
    bounded = _spread(formula.nonnegative, shape) > 0
    wrong = []
    if not ((slopes >= 0).all() and (ridge >= 0).all() and np.isfinite(ridge).all()):
        wrong.append("slopes and ridge must be >= 0, and ridge finite")
    if (bounded & (slopes == 0)).any():
        wrong.append("slopes must be > 0 where elements are nonnegative")
    if formula.owners is not None:
        owners = np.asarray(formula.owners)
        factors = np.asarray(formula.group_slopes, np.float64)
        positive = (factors > 0).all() and np.isfinite(factors).all()
        if tuple(owners.shape) != tuple(shape):
            wrong.append("owners must have the shape of the coefficients")
        elif not ((owners >= 0) & (owners < len(factors))).all():
            wrong.append("owners must be numbers of groups that have group_slopes")
        if not (positive or (factors == 0).all()):
            wrong.append("group_slopes must be finite, and all > 0 or all 0")
        if bounded.any() or ridge.any() or np.isinf(slopes).any():
            wrong.append("groups cannot go with ridge, nonnegative or infinite slopes")
    if wrong:
        raise ValueError(
            f"penalty {penalty!r} has a formula that linear models cannot use: "
            f"{'; '.join(wrong)}; got {formula!r}. See PenaltyFormula."
        )
    floor = np.where(bounded, 0.0, -math.inf)
    if formula.owners is None:
        return PenaltyTerms(slopes, ridge, floor)
    groups = Groups(owners.reshape(slopes.shape), factors)
    return PenaltyTerms(slopes, ridge, floor, groups)


def _spread(values: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return numbers for each coefficient, of shape (p, k), in double precision."""
    values = np.broadcast_to(np.asarray(values, np.float64), shape)
    return values.reshape(shape[0], shape[1] if len(shape) > 1 else 1)
