"""The penalty of a linear model, written out for each coefficient, on the host."""

import dataclasses
import math

import torch
from torch import Tensor

from l1torch.numerics.checks import check_number, require_broadcast
from l1torch.numerics.elementwise import Number
from l1torch.penalties.base import Penalty, require_penalty


@dataclasses.dataclass(frozen=True)
class Groups:
    """Groups of coefficients that do not overlap, with a multiple of each one's norm.

    Owners, and tensors given, have the shape of the coefficients.
    """

    owners: Tensor
    """The number of each coefficient's group."""
    slopes: Tensor
    """The factor of each group's norm, >= 0, of shape (groups,)."""

    def total(self, x: Tensor) -> Tensor:
        """Sum over each group."""
        return torch.zeros_like(self.slopes).index_add_(
            0, self.owners.flatten(), x.flatten()
        )

    def norms(self, x: Tensor) -> Tensor:
        """Return the Euclidean norm of each group."""
        return self.total(x**2).sqrt()

    def largest(self, x: Tensor) -> Tensor:
        """Return each coefficient the largest number of its group, at least 0."""
        found = torch.zeros_like(self.slopes)
        found = found.scatter_reduce(0, self.owners, x, "amax")
        return found[self.owners]

    def over_norms(self, x: Tensor) -> Tensor:
        """Return each coefficient its group's slope over its group's norm of x."""
        norms = self.norms(x)
        return (self.slopes / torch.where(norms == 0, 1, norms))[self.owners]


@dataclasses.dataclass(frozen=True)
class PenaltyTerms:
    """`sum slopes |w| + ridge/2 w^2` over `w >= floor`, and the norms of groups.

    All tensors have one shape: (p, k) for all coefficients, (m,) for some of them.
    """

    slopes: Tensor
    ridge: Tensor
    floor: Tensor
    groups: Groups | None = None
    """Of penalties with groups alone, which have neither ridge nor floor."""

    def value(self, w: Tensor) -> float:
        """Return `strength * penalty(w)`."""
        value = float(torch.sum(self._each(w)))
        if self.groups is not None:
            value += float(self.groups.slopes @ self.groups.norms(w))
        return value

    def _each(self, w: Tensor) -> Tensor:
        """Return what each coefficient costs by itself."""
        slopes = torch.where(w != 0, self.slopes, 0)  # no 0 * inf
        costs = slopes * w.abs() + self.ridge / 2 * w**2
        return torch.where(w < self.floor, math.inf, costs)

    def shifted(self, w: Tensor) -> Tensor:
        """Subtract from each row one of its numbers, or 0, so that it costs the least.

        Without a ridge the best number to subtract is a weighted median. With groups
        nothing is changed.
        """
        if self.groups is not None:
            return w
        rows = torch.nonzero(w.any(1)).flatten()
        terms = PenaltyTerms(self.slopes[rows], self.ridge[rows], self.floor[rows])
        best = start = w[rows]
        for number in start.T:
            moved = start - number[:, None]
            better = terms._each(moved).sum(1) < terms._each(best).sum(1)
            best = torch.where(better[:, None], moved, best)
        return w.index_copy(0, rows, best)

    def rise(self, w: Tensor, moves: Tensor) -> float:
        """Return `value(w + moves) - value(w)`, exact even where moves are tiny."""
        at = w + moves
        lengths = torch.where(at * w > 0, torch.sign(w) * moves, at.abs() - w.abs())
        value = float(self.slopes @ lengths + self.ridge @ (moves * (w + moves / 2)))
        if self.groups is not None:
            sums = self.groups.norms(at) + self.groups.norms(w)
            squares = self.groups.total(moves * (at + w))
            value += float(
                self.groups.slopes @ (squares / torch.where(sums == 0, 1, sums))
            )
        return value

    def feasible(self, w: Tensor) -> Tensor:
        """Return the nearest coefficients at which the penalty is finite."""
        return torch.where(self.slopes.isinf(), 0, torch.maximum(w, self.floor))

    def prox(self, z: Tensor, metric: Tensor) -> Tensor:
        """Minimise `value(w) + 1/2 sum metric (w - z)^2`, exact zeros kept.

        Args:
          z: the point.
          metric: > 0, and the same within a group.
        """
        t = self.slopes / metric
        w = torch.maximum(z - torch.clamp(z, -t, t), self.floor)
        if self.groups is not None:
            w = w * (1 - self.groups.over_norms(w) / metric).clamp(min=0)
        return w / (1 + self.ridge / metric)

    def hessian(self, w: Tensor, support: Tensor) -> Tensor:
        """Return the second derivative by the coefficients that are not zero.

        Args:
          w: of shape (m,).
          support: where it is not zero.
        """
        curvature = torch.diag(self.ridge[support])
        if self.groups is None:
            return curvature
        owners = self.groups.owners[support]
        steepness = self.groups.over_norms(w)[support]
        unit = w[support] / self.groups.norms(w)[owners]
        along = torch.where(
            owners[:, None] == owners, torch.outer(steepness * unit, unit), 0
        )
        return curvature + torch.diag(steepness) - along

    def violation(self, w: Tensor, grad: Tensor) -> Tensor:
        """Return the distance of `-grad` to the subdifferential, element by element."""
        at_zero = (self.steepest(grad) - self.slopes).clamp(min=0)
        slopes = torch.where(w == 0, 0, self.slopes)  # no 0 * inf
        away = grad + slopes * torch.sign(w) + self.ridge * w
        if self.groups is not None:
            away = away + self.groups.over_norms(w) * w
            # A group of zeros violates by how far its norm exceeds the group's slope;
            # its elements share that in proportion.
            share = (1 - self.groups.over_norms(at_zero)).clamp(min=0)
            zero = (self.groups.norms(w) == 0)[self.groups.owners]
            at_zero = torch.where(zero, share * at_zero, at_zero)
        return torch.where(w == 0, at_zero, away.abs())

    def steepest(self, grad: Tensor) -> Tensor:
        """Return how strongly the loss pulls each element off zero, if it may leave."""
        return torch.where(self.floor < 0, grad.abs(), -grad)

    def largest(self, grad: Tensor) -> float:
        """Return the least multiple of the strength that keeps all at zero.

        Args:
          grad: the gradient of the loss at zero.
        """
        steepest = self.steepest(grad)
        if self.groups is not None:
            return self._largest_of_groups(steepest, self.groups)
        pulled = (steepest > 0) & ((self.slopes > 0) | (self.ridge > 0))
        # A ridge alone holds nothing at zero: infinity.
        ratios = steepest[pulled] / self.slopes[pulled]
        return float(ratios.max()) if len(ratios) else 0.0

    def _largest_of_groups(self, steepest: Tensor, groups: Groups) -> float:
        """The root of `|max(steepest - s slopes, 0)| = s groups.slopes`, the largest.

        Newton's method: the difference is convex and falls, so that s rises to it.
        """
        s = torch.zeros_like(groups.slopes)
        for _ in range(100):
            left = (steepest - s[groups.owners] * self.slopes).clamp(min=0)
            norms = groups.norms(left)
            falls = groups.total(self.slopes * left) / torch.where(norms == 0, 1, norms)
            following = s + (norms - s * groups.slopes) / (groups.slopes + falls)
            if (following <= s).all():
                break
            s = torch.maximum(s, following)
        return float(s.max())

    def at(self, chosen: Tensor, free: int = 0) -> "PenaltyTerms":
        """Return the terms of some coefficients, by their flat indices.

        Args:
          chosen: the indices, of shape (m,).
          free: how many more coefficients follow, without a penalty.
        """
        flat = [a.reshape(-1)[chosen] for a in (self.slopes, self.ridge, self.floor)]
        zero, groups = torch.zeros(free, dtype=torch.float64), None
        if self.groups is not None:
            found = self.groups.owners.reshape(-1)[chosen]
            found, owners = found.unique(return_inverse=True)
            owners = torch.cat([owners, len(found) + torch.arange(free)])
            groups = Groups(owners, torch.cat([self.groups.slopes[found], zero]))
        ends = zero, zero, zero - math.inf
        flat = [torch.cat(pair) for pair in zip(flat, ends, strict=True)]
        return PenaltyTerms(*flat, groups)

    def whole(self, chosen: Tensor) -> Tensor:
        """Add to flat indices those of the same groups."""
        if self.groups is None:
            return chosen
        owners = self.groups.owners.reshape(-1)
        picked = torch.zeros(len(self.groups.slopes), dtype=torch.bool)
        picked[owners[chosen]] = True
        return torch.nonzero(picked[owners])[:, 0]

    @property
    def least(self) -> float:
        """The least positive, finite cost of an element of size 1; 1 if there is none.

        The penalty is at least `least * sum |w|` over what has such a cost.
        """
        strengths = torch.where(self.slopes > 0, self.slopes, self.ridge)
        if self.groups is not None:
            sizes = self.groups.total(torch.ones_like(self.slopes))
            shares = self.groups.slopes / sizes.sqrt()
            strengths = self.slopes + shares[self.groups.owners]
        strengths = strengths[(strengths > 0) & strengths.isfinite()]
        return float(strengths.min()) if len(strengths) else 1.0

    @property
    def free(self) -> Tensor:
        """The flat indices of what is not penalised at all."""
        if self.groups is not None:
            return torch.zeros(0, dtype=torch.long)
        return torch.nonzero(((self.slopes == 0) & (self.ridge == 0)).flatten())[:, 0]


def penalty_terms(
    penalty: Penalty, strength: Number, shape: tuple[int, ...]
) -> PenaltyTerms:
    """Check penalty and strength, and write them out for each coefficient."""
    require_penalty(penalty)
    check_number("strength", strength)
    shape = torch.Size(shape)
    require_broadcast("strength", strength, "coef", shape)
    strength = torch.as_tensor(strength, dtype=torch.float64).detach().cpu()
    penalty = penalty.at("coef", shape)
    penalty.require_fit("coef", shape, strength.shape)
    for s in strength.flatten().tolist():
        check_number("strength", s)
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
    held = unit.slopes.isinf()  # at every strength, 0 included
    return PenaltyTerms(
        slopes=torch.where(held, math.inf, s * torch.where(held, 1, unit.slopes)),
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
    if not ((slopes >= 0).all() and (ridge >= 0).all() and ridge.isfinite().all()):
        wrong.append("slopes and ridge must be >= 0, and ridge finite")
    if (bounded & (slopes == 0)).any():
        wrong.append("slopes must be > 0 where elements are nonnegative")
    if formula.owners is not None:
        owners = torch.as_tensor(formula.owners, dtype=torch.long).cpu()
        factors = torch.as_tensor(formula.group_slopes, dtype=torch.float64).cpu()
        positive = (factors > 0).all() and factors.isfinite().all()
        if tuple(owners.shape) != tuple(shape):
            wrong.append("owners must have the shape of the coefficients")
        elif not ((owners >= 0) & (owners < len(factors))).all():
            wrong.append("owners must be numbers of groups that have group_slopes")
        if not (positive or (factors == 0).all()):
            wrong.append("group_slopes must be finite, and all > 0 or all 0")
        if bounded.any() or ridge.any() or slopes.isinf().any():
            wrong.append("groups cannot go with ridge, nonnegative or infinite slopes")
    if wrong:
        raise ValueError(
            f"penalty {penalty!r} has a formula that linear models cannot use: "
            f"{'; '.join(wrong)}; got {formula!r}. See PenaltyFormula."
        )
    floor = torch.zeros_like(slopes).masked_fill(~bounded, -math.inf)
    if formula.owners is None:
        return PenaltyTerms(slopes, ridge, floor)
    groups = Groups(owners.reshape(slopes.shape), factors)
    return PenaltyTerms(slopes, ridge, floor, groups)


def _spread(values: Number, shape: tuple[int, ...]) -> Tensor:
    """Return numbers for each coefficient, of shape (p, k), in double precision."""
    values = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    return values.expand(shape).reshape(shape[0], shape[1] if len(shape) > 1 else 1)
