"""The penalties of groups: the group lasso and the sparse group lasso."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from l1torch.numerics.checks import check_flag, check_int, check_real
from l1torch.numerics.elementwise import Number, absolute, largest, sign
from l1torch.numerics.prox import apply_prox_formula, soft_threshold_unchecked
from l1torch.numerics.sharding import gathering
from l1torch.penalties.base import (
    Penalty,
    PenaltyRow,
    gradient_operand,
    operands,
    prox_in_stacks,
)
from l1torch.penalties.group_layouts import (
    Layouts,
    by_units,
    check_layouts,
    layout_of,
)
from l1torch.penalties.group_norms import (
    group_norm,
    shrink_by_norm,
    shrink_in_metric,
)
from l1torch.penalties.groups import (
    UNITS,
    Grouping,
    Members,
    along,
    check_axes,
    check_members,
    in_blocks,
    named,
)
from l1torch.penalties.penalty_formula import PenaltyFormula


def _needs_whole(penalty: "_GroupL1", x: Tensor) -> bool:
    return penalty._grouping(tuple(x.shape)).needs_whole(x)


@dataclasses.dataclass(frozen=True)
class _GroupL1(Penalty):
    l1_ratio: float
    axis: tuple[int, ...] | None
    block: int | None
    groups: str | Members | None
    layouts: Layouts | None
    scale_by_size: bool
    path: str | None = None
    convex = True
    takes_metric = True

    @property
    def least_slope(self) -> float:  # type: ignore[override]
        """The share of L1: the group's slope has the sign of the element's."""
        return self.l1_ratio

    def __repr__(self) -> str:
        groups = self.groups
        if groups is not None and not isinstance(groups, str):
            groups = f"{len(groups)} named"
        return (
            f"{type(self).__name__}(l1_ratio={self.l1_ratio}, axis={self.axis}, "
            f"block={self.block}, groups={groups!r}, path={self.path!r})"
        )

    def at(self, path: str, shape: tuple[int, ...]) -> Penalty:
        if not isinstance(self.groups, str):
            return self
        if (path, shape) not in self._bound:
            # The penalty of one array has no need of the others' layouts.
            layouts = ((path, layout_of(path, shape, self.layouts)),)
            bound = dataclasses.replace(self, layouts=layouts, path=path)
            self._bound[path, shape] = bound
        return self._bound[path, shape]

    @functools.cached_property
    def _bound(self) -> dict[tuple[str, tuple[int, ...]], "_GroupL1"]:
        # Not cached by its value, the hash of which goes through all layouts.
        return {}

    def require_fit(
        self, path: str, shape: tuple[int, ...], strength_shape: tuple[int, ...] = ()
    ) -> None:
        grouping = self._grouping(shape, path)
        grouping.require_constant(strength_shape, "strength", path)

    @gathering(_needs_whole)
    def value(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        x, strength = operands(x, strength)
        grouping = self._grouping(tuple(x.shape))
        strength = grouping.per_group(strength, "strength")
        x = grouping.view(x)
        value = torch.sum(
            strength * (self._weight(grouping, x) * group_norm(x, grouping))
        )
        if self.l1_ratio == 0:
            return value
        return value + self.l1_ratio * torch.sum(strength * absolute(x))

    @gathering(_needs_whole)
    def subgradient(self, x: Tensor, strength: Number = 1.0) -> Tensor:
        wide, strength = operands(x, strength)
        grouping = self._grouping(tuple(x.shape))
        strength = grouping.per_group(strength, "strength")
        x_view = grouping.view(wide)
        slope = strength * self._slope(x_view, grouping)
        return grouping.back(slope * sign(x_view)).to(x.dtype)

    @gathering(_needs_whole)
    def prox(self, x: Tensor, threshold: Number) -> Tensor:
        def formula(x: Tensor, t: Tensor) -> Tensor:
            grouping = self._grouping(tuple(x.shape))
            # These branches avoid the product of 0 and an infinite threshold.
            if self.l1_ratio > 0:
                x = soft_threshold_unchecked(x, t * self.l1_ratio)
            if self.l1_ratio == 1:
                return x
            constant = grouping.is_constant(t.shape)
            if constant:
                t = grouping.per_group(t, "threshold")
            else:
                t = grouping.view(t.expand(x.shape))
            x = grouping.view(x)
            weight = grouping.spread(self._weight(grouping, x))
            shrunk = shrink_by_norm if constant else shrink_in_metric
            return grouping.back(shrunk(x, torch.abs(weight * t), grouping))

        return apply_prox_formula(formula, x, threshold)

    def tree_prox(self, rows: Sequence[PenaltyRow]) -> list[Tensor]:
        """Solve arrays with their thresholds; small ones of one shape at once."""

        def kind(path: str, shape: tuple[int, ...]) -> str | None:
            by_unit = isinstance(self.groups, str)
            return self.at(path, shape).layouts[0][1] if by_unit else None

        return prox_in_stacks(self, rows, kind)

    @gathering(_needs_whole)
    def optimality_distance(
        self, x: Tensor, grad: Tensor, strength: Number = 1.0
    ) -> Tensor:
        x, grad, strength = operands(x, grad, strength)
        grouping = self._grouping(tuple(x.shape))
        strength = grouping.per_group(strength, "strength")
        x, grad = grouping.view(x), grouping.view(grad)
        l1 = torch.abs(strength * self.l1_ratio)
        at_zero = torch.clamp(torch.abs(grad) - l1, min=0)
        # A zero group is as far away as their norm exceeds the slope of the group. This
        # distance is divided among the elements.
        norm = group_norm(at_zero, grouping)
        weight = self._weight(grouping, x)
        excess = torch.clamp(norm - torch.abs(strength * weight), min=0)
        share = excess / torch.where(norm == 0, 1, norm)
        in_zero_group = at_zero * grouping.spread(share)
        slope = torch.abs(strength * self._slope(x, grouping))
        distance = torch.where(x == 0, at_zero, torch.abs(grad + slope * sign(x)))
        is_zero = grouping.spread(grouping.top(torch.abs(x)) == 0)
        return grouping.back(torch.where(is_zero, in_zero_group, distance))

    @gathering(_needs_whole)
    def lambda_max(self, grad: Tensor) -> Tensor:
        grad = gradient_operand(grad)
        grouping = self._grouping(tuple(grad.shape))
        grad = torch.abs(grouping.view(grad))
        weight = self._weight(grouping, grad)
        if self.l1_ratio == 1:
            return largest(grad)
        if self.l1_ratio == 0:
            return largest(group_norm(grad, grouping) / weight)

        # The root of |S(grad, s * l1_ratio)| = s * weight, by bisection.
        def halved(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
            middle = low + (high - low) / 2
            left = torch.clamp(grad - grouping.spread(middle * self.l1_ratio), min=0)
            beyond = group_norm(left, grouping) <= middle * weight
            return torch.where(beyond, low, middle), torch.where(beyond, middle, high)

        high = torch.minimum(
            group_norm(grad, grouping) / weight, grouping.top(grad) / self.l1_ratio
        )
        low = torch.zeros_like(high)
        for _ in range(-2 * int(math.log2(torch.finfo(grad.dtype).eps))):
            low, high = halved(low, high)
        return largest(high)

    def formula(self, shape: tuple[int, ...]) -> PenaltyFormula:
        owners = torch.tensor(self._grouping(tuple(shape)).owners)
        sizes = owners.flatten().bincount().double()
        weights = sizes.sqrt() if self.scale_by_size else torch.ones_like(sizes)
        return PenaltyFormula(
            slopes=self.l1_ratio,
            owners=owners,
            group_slopes=(1 - self.l1_ratio) * weights,
        )

    def _grouping(self, shape: tuple[int, ...], path: str = "x") -> Grouping:
        if isinstance(self.groups, str) and self.path is None:
            raise ValueError(
                f"penalty {self!r} must know which array it is for. Call "
                "penalty.at(path, shape) first, as the transforms do, and use what it "
                "gives."
            )
        return _grouping(self, shape, self.path or path)

    def _weight(self, grouping: Grouping, x: Tensor) -> Tensor:
        factor = np.sqrt(grouping.sizes) if self.scale_by_size else 1.0
        weight = (1 - self.l1_ratio) * factor
        return torch.as_tensor(weight, dtype=x.dtype, device=x.device)

    def _slope(self, x: Tensor, grouping: Grouping) -> Tensor:
        norm = group_norm(x, grouping)
        factor = self._weight(grouping, x) / torch.where(norm == 0, 1, norm)
        return self.l1_ratio + torch.abs(grouping.spread(factor) * x)


def group_l1(
    axis: int | Sequence[int] | None = None,
    *,
    block: int | None = None,
    groups: str | Mapping[str, Sequence[int]] | None = None,
    layouts: Mapping[str, str] | None = None,
    scale_by_size: bool = True,
) -> Penalty:
    r"""Return `sum_g sqrt(size_g) |x_g|_2`, the group lasso (Yuan and Lin, 2006).

    .. math::

       \mathrm{prox}_t(x)_g = x_g \max(1 - t w_g / |x_g|_2, 0),
       \quad w_g = \sqrt{\mathrm{size}_g}

    Whole groups become zero. The groups do not overlap and cover the array:

    - `group_l1(axis)`: they extend along an axis, or several, as the norms of numpy do,
      one for each index of the other axes. `None`: the whole array is one group.
      `group_l1(1, scale_by_size=False)` of coefficients of shape (features, tasks) is
      the penalty of scikit-learn's `MultiTaskLasso`.
    - `group_l1(axis, block=b)`: `b` consecutive elements along one axis each.
    - `group_l1(axis, groups={"age": [0, 3], ...})`: each holds the whole slices at
      its indices along an axis, the first by default.
    - `group_l1(groups="output")`, `"input"`, `"heads"`: each holds all weights of one
      output unit, of one input unit or of one attention head, in whatever order the
      layers keep their axes (see `penalties.group_layouts`). Gates and projections do
      not share a group, even if they are kept in one array: an input unit of an LSTM
      belongs to one gate, a head to one projection.

    With `w_g = sqrt(size_g)` the prox is `x_g max(1 - threshold w_g / |x_g|, 0)`: two
    passes over the array. A threshold for each element, a diagonal metric, takes a root
    for each group instead, exact to rounding in about 20 passes. Of a DTensor only
    sums over the groups are exchanged, but it is gathered for named groups, and where
    its shards cut through blocks or heads.

    Args:
      axis: an axis or several.
      block: the length of blocks along the axis, which it must divide.
      groups: names with their indices along the axis, each index in one group; or
        "output", "input", "heads". Named groups cost memory for `number of groups *
        size of the largest` indices.
      layouts: the layouts of arrays whose names do not tell, as `l1torch.layouts` gives
        them: mapping from a dotted path, or a glob of it, to a layout. The last one
        that matches holds.
      scale_by_size: whether the factor `sqrt(size_g)` is there, without which large
        groups are favoured.

    Raises:
      TypeError: an argument of another type than these.
      ValueError: arguments that contradict each other; groups that share an index or
        are empty. Later, when the array's shape is known, before anything has changed:
        groups that do not fit it, a layout that is not known, and a strength that
        differs within a group.

    Example:
      >>> x = torch.tensor([[3.0, 4.0], [0.3, -0.4]])
      >>> group_l1(axis=1, scale_by_size=False).prox(x, 2.5)
      tensor([[1.5000, 2.0000],
              [0.0000, 0.0000]])
    """
    return _checked(0.0, axis, block, groups, layouts, scale_by_size)


def sparse_group_l1(
    l1_ratio: float,
    axis: int | Sequence[int] | None = None,
    *,
    block: int | None = None,
    groups: str | Mapping[str, Sequence[int]] | None = None,
    layouts: Mapping[str, str] | None = None,
    scale_by_size: bool = True,
) -> Penalty:
    r"""Return `l1_ratio |x|_1 + (1 - l1_ratio) group_l1` (Simon et al., 2013).

    .. math:: r \sum_i |x_i| + (1 - r) \sum_g w_g |x_g|_2, \quad r = \mathrm{l1\_ratio}

    Whole groups become zero, and single elements of those that are left. Its prox is
    the soft threshold followed by the group's; `lambda_max` takes a bisection.

    Args:
      l1_ratio: the share of L1, a Python number in [0, 1]. 0 is `group_l1`, 1 the
        lasso.
      axis: this and all others are those of `group_l1`.
      block: see `group_l1`.
      groups: see `group_l1`.
      layouts: see `group_l1`.
      scale_by_size: see `group_l1`.

    Raises:
      TypeError: `l1_ratio` is not a number; else as `group_l1`.
      ValueError: it lies outside [0, 1]; else as `group_l1`.

    Example:
      >>> x = torch.tensor([[4.0, 5.0], [1.3, -1.4]])
      >>> sparse_group_l1(0.5, axis=1, scale_by_size=False).prox(x, 2.0)
      tensor([[2.4000, 3.2000],
              [0.0000, 0.0000]])
    """
    l1_ratio = check_real(
        "l1_ratio", l1_ratio, "[0, 1]", "1.0 for the lasso, 0.0 for groups"
    )
    return _checked(l1_ratio, axis, block, groups, layouts, scale_by_size)


def _checked(
    l1_ratio: float,
    axis: int | Sequence[int] | None,
    block: int | None,
    groups: str | Mapping[str, Sequence[int]] | None,
    layouts: Mapping[str, str] | None,
    scale: bool,
) -> Penalty:
    """Check the arguments of `group_l1` and make them hashable."""
    scale = check_flag("scale_by_size", scale)
    by_unit = isinstance(groups, str)
    if by_unit and groups not in UNITS:
        raise ValueError(
            f"groups must be one of {UNITS}, or a mapping from names to indices, got "
            f"{groups!r}. Pass one of these."
        )
    if by_unit and (axis is not None or block is not None):
        raise ValueError(
            f"groups={groups!r} chooses the axes itself, got axis={axis!r}, "
            f"block={block!r}. Leave these out."
        )
    if groups is not None and block is not None:
        raise ValueError(
            f"groups and block={block!r} cannot be given both. Choose one."
        )
    if layouts is not None and not by_unit:
        raise ValueError(
            f"layouts has no meaning without groups of units, got {layouts!r}. Pass "
            "groups='output', 'input' or 'heads' with it."
        )
    members = groups if by_unit or groups is None else check_members(groups)
    if members is not None and not by_unit and axis is None:
        axis = 0
    axes = None if axis is None else check_axes(axis)
    if block is not None:
        block = check_int("block", block, "a length such as 4")
    if (block is not None or not (by_unit or groups is None)) and (
        axes is None or len(axes) != 1
    ):
        raise ValueError(
            f"axis must be one axis for blocks and named groups, got {axis!r}. Pass an "
            "integer."
        )
    return _GroupL1(l1_ratio, axes, block, members, check_layouts(layouts), scale)


@functools.lru_cache(maxsize=4096)
def _grouping(penalty: _GroupL1, shape: tuple[int, ...], path: str) -> Grouping:
    if isinstance(penalty.groups, str):
        layout = layout_of(path, shape, penalty.layouts)
        return by_units(shape, layout, penalty.groups, path)
    if penalty.groups is not None:
        return named(shape, penalty.axis[0], penalty.groups, path)
    if penalty.block is not None:
        return in_blocks(shape, penalty.axis[0], penalty.block, path)
    return along(shape, penalty.axis, path)
