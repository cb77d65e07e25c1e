"""What a parity report checks, and the limits it holds the figures to."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from parity_tests.frameworks.twin import DTYPES
from parity_tests.oracles.convergence_matrix import CASES, ROWS, STEPS, case
from parity_tests.report.operations import (
    INEXACT,
    OPERATIONS,
    SUMS,
    ulps,
    ulps_of_largest,
)
from parity_tests.report.sides import STRIDE, VARIANTS, Live, Side

ULPS = {"cpu": 0.0, "accelerator": 4.0}
"""How far results may lie apart, in units in the last place."""
ULPS_OF_SUMS = 16.0
"""The same for sums, which the frameworks form in different orders."""
TRAJECTORY = {"float64": 1e-12, "float32": 5e-6}
"""How far weights may lie apart at any step."""
SUPPORT = {"float64": 0.0, "float32": 1e-4}
"""The fraction of zeros that may differ in between; at the end none may."""
GAP = {"float64": 1e-9, "float32": 1e-7}
"""How far from the oracle's objective, relative to it, a converged run may end."""


@dataclasses.dataclass(frozen=True)
class OperationCheck:
    """One operation in one precision, the two sides compared."""

    operation: str
    dtype: str
    ulps: float
    limit: float
    zeros_coincide: bool
    same_dtype: bool

    @property
    def passed(self) -> bool:
        """Whether the figures keep to the limits."""
        return self.ulps <= self.limit and self.zeros_coincide and self.same_dtype


@dataclasses.dataclass(frozen=True)
class OptimizerCheck:
    """One optimizer on one problem: the sides compared, and each with the oracle."""

    optimizer: str
    problem: str
    dtype: str
    difference: float | None = None
    """Between the sides' weights at any step; None where their steps are not alike."""
    support_differs: float | None = None
    """The fraction of zeros, over all steps, that only one side has."""
    same_zeros_at_the_end: bool | None = None
    gaps: dict[str, float] = dataclasses.field(default_factory=dict)
    """By framework, the relative distance to the oracle's objective."""
    supports: dict[str, bool] = dataclasses.field(default_factory=dict)
    """By framework, whether its zeros are the oracle's."""

    @property
    def passed(self) -> bool:
        """Whether the figures keep to the limits. NaN does not."""
        together = self.difference is None or (
            self.difference <= TRAJECTORY[self.dtype]
            and self.support_differs <= SUPPORT[self.dtype]
            and self.same_zeros_at_the_end
        )
        optimal = all(abs(gap) <= GAP[self.dtype] for gap in self.gaps.values())
        return bool(together and optimal and all(self.supports.values()))


Check = OperationCheck | OptimizerCheck
Task = Callable[[], Check | None]
"""None where there is nothing to compare with."""


def precisions(sides: Sequence[Side]) -> tuple[str, ...]:
    """The precisions to check: a TPU has no float64 of IEEE's precision."""
    tpu = any(side.kind == "tpu" for side in sides)
    return tuple(dtype for dtype in DTYPES if not (tpu and dtype == "float64"))


def tasks(sides: Sequence[Side], quick: bool) -> Iterator[tuple[str, Task]]:
    """Return all checks by name, to be run one by one.

    `quick` leaves out float16, all problems but the Lasso, and optimizers in single
    precision where there is double; without it these have the Lasso alone.
    """
    dtypes = precisions(sides)
    for name in OPERATIONS:
        for dtype in dtypes:
            if quick and dtype == "float16":
                continue
            yield (
                f"{name}, {dtype}",
                lambda name=name, dtype=dtype: check_operation(sides, name, dtype),
            )
    wide = [dtype for dtype in ("float64", "float32") if dtype in dtypes]
    for dtype in wide[:1] if quick else wide:
        for problem in CASES[:1] if quick or dtype != wide[0] else CASES:
            for name in dict.fromkeys([*ROWS, *VARIANTS]):
                if problem == "lasso" or name in ROWS:
                    arguments = (sides, name, problem, dtype)
                    yield (
                        f"{name}, {problem}, {dtype}",
                        lambda arguments=arguments: check_optimizer(*arguments),
                    )


def check_operation(sides: Sequence[Side], name: str, dtype: str) -> OperationCheck:
    """Compare the sides' results of one operation."""
    (ours, made), (theirs, other) = (side.operation(name, dtype) for side in sides)
    on_cpu = all(side.kind == "cpu" for side in sides)
    limit = ULPS["cpu" if on_cpu else "accelerator"]
    measure = ulps
    if name in INEXACT:
        measure, limit = ulps_of_largest, INEXACT[name]
    elif name in SUMS:
        limit = ULPS_OF_SUMS
    return OperationCheck(
        operation=name,
        dtype=dtype,
        ulps=measure(ours, theirs, made) if made == other else np.inf,
        limit=limit,
        zeros_coincide=np.array_equal(ours == 0, theirs == 0),
        same_dtype=made == other,
    )


def check_optimizer(
    sides: Sequence[Side], name: str, problem: str, dtype: str
) -> OptimizerCheck | None:
    """Compare the sides' weights step by step, and where they end with the oracle."""
    figures: dict[str, Any] = {}
    if name in VARIANTS and problem == "lasso":
        figures |= compare_trails(*(side.trail(name, dtype) for side in sides))
    gaps, supports = {}, {}
    for side in sides:
        if not isinstance(side, Live) or name not in ROWS:
            continue
        if getattr(ROWS[name], side.name):
            params = side.optimum(problem, name, STEPS[problem], dtype)
            wide = {key: value.astype(np.float64) for key, value in params.items()}
            gaps[side.name] = case(problem).gap(wide)
            supports[side.name] = case(problem).same_support(wide)
    if not (figures or gaps):
        return None
    return OptimizerCheck(name, problem, dtype, gaps=gaps, supports=supports, **figures)


def compare_trails(ours: Any, theirs: Any) -> dict[str, Any]:
    """Return the figures of two runs' weights by step; none where one is not stored."""
    if ours is None or theirs is None:
        return {}
    if len(ours) != len(theirs):  # one is stored, and that every few steps
        ours, theirs = (
            x[STRIDE - 1 :: STRIDE] if len(x) == max(len(ours), len(theirs)) else x
            for x in (ours, theirs)
        )
    differ = (ours != 0) != (theirs != 0)
    return {
        "difference": float(np.abs(ours - theirs).max()),
        "support_differs": float(differ.mean()),
        "same_zeros_at_the_end": not differ[-1].any(),
    }
