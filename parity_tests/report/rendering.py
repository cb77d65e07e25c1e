"""Runs the parity checks, and shows their outcome as tables or as JSON."""

import dataclasses
import datetime
import json
import math
import platform
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from parity_tests.frameworks.twin import DTYPES, Twin
from parity_tests.report import checks
from parity_tests.report.checks import Check, OperationCheck, OptimizerCheck
from parity_tests.report.operations import INEXACT
from parity_tests.report.sides import STRIDE, Live, Side, Stored

KINDS = ("tpu", "gpu", "cpu")


class UnavailableError(Exception):
    """No framework, or no device of the kind asked for."""


@dataclasses.dataclass(frozen=True)
class Report:
    """All checks, and where they were run."""

    quick: bool
    sides: tuple[Side, ...]
    operations: list[OperationCheck]
    optimizers: list[OptimizerCheck]
    date: str
    """The day, as YYYY-MM-DD."""

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(check.passed for check in (*self.operations, *self.optimizers))


def choose_sides(twins: Sequence[Twin], kind: str | None) -> tuple[Side, ...]:
    """Give each framework its device, and stored results where one is missing.

    Args:
      twins: the installed ones, JAX first.
      kind: "cpu", "gpu" or "tpu"; by default the last of these that any of them has. A
        framework without such a device runs on the CPU.

    Raises:
      UnavailableError: no framework, or none with such a device.
    """
    if not twins:
        raise UnavailableError(
            "Neither framework is installed. Install one or both by: "
            'pip install ".[jax,torch,parity]"'
        )
    found = {k: [t for t in twins if t.device(k) is not None] for k in KINDS}
    kind = kind or next((k for k in KINDS if found[k]), "cpu")
    if not found[kind]:
        names = " nor ".join(twin.name for twin in twins)
        have = ", ".join(k for k in KINDS if found[k]) or "none"
        raise UnavailableError(
            f"--device is {kind!r}, and there is none here for {names}. "
            f"Take one of: {have}."
        )
    sides: list[Side] = []
    for name in ("jax", "torch"):
        twin = next((twin for twin in twins if twin.name == name), None)
        if twin is None:
            sides.append(Stored(name))
        else:
            twin.set_up()
            used = kind if twin in found[kind] else "cpu"
            device = twin.device(used)
            if device is None:
                raise UnavailableError(
                    f"{name} has no {used} device here. Let it have one, for JAX by "
                    "JAX_PLATFORMS."
                )
            sides.append(Live(twin, used, device))
    return tuple(sides)


def run(sides: tuple[Side, ...], quick: bool) -> Report:
    """Run all checks, with a progress bar on the terminal's error stream."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
    )
    todo = list(checks.tasks(sides, quick))
    done: list[Check] = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=len(todo))
        for name, task in todo:
            progress.update(bar, description=name)
            check = task()
            if check is not None:
                done.append(check)
            progress.advance(bar)
    return Report(
        quick=quick,
        sides=sides,
        operations=[check for check in done if isinstance(check, OperationCheck)],
        optimizers=[check for check in done if isinstance(check, OptimizerCheck)],
        date=datetime.date.today().isoformat(),
    )


def to_json(report: Report) -> str:
    """Return the report as a JSON object."""

    def plain(check: Check) -> dict[str, Any]:
        return dataclasses.asdict(check) | {"passed": check.passed}

    whole = {
        "passed": report.passed,
        "quick": report.quick,
        "date": report.date,
        "python": platform.python_version(),
        "machine": platform.platform(),
        "sides": {
            side.name: {
                "device": describe(side),
                "stored": side.stored,
                "versions": side.versions(),
            }
            for side in report.sides
        },
        "operations": [plain(check) for check in report.operations],
        "optimizers": [plain(check) for check in report.optimizers],
    }
    return json.dumps(_finite(whole), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: they become strings."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def describe(side: Side) -> str:
    """Name a side's device."""
    if side.stored:
        return "stored results, made on a CPU"
    kind = getattr(side.device, "device_kind", "")
    if side.name == "torch" and side.kind == "gpu":
        import torch

        kind = torch.cuda.get_device_name(side.device)
    return f"{side.kind} ({kind})" if kind not in ("", side.kind) else side.kind


def show(report: Report, console: Console | None = None) -> None:
    """Print the report."""
    console = console or Console()
    # Narrower, the tables would lose their figures.
    console.width = max(80, console.width)
    for side in report.sides:
        versions = ", ".join(f"{k} {v}" for k, v in side.versions().items())
        console.print(f"[bold]{side.name}[/bold] on {describe(side)}: {versions}")
    console.print(f"{report.date}, Python {platform.python_version()}, ", end="")
    console.print(platform.platform(), highlight=False)
    if "float64" not in checks.precisions(report.sides):
        console.print("float64 is left out: a TPU has none of IEEE's precision.")
    console.print(operations_table(report))
    for part in dict.fromkeys((c.problem, c.dtype) for c in report.optimizers):
        console.print(optimizers_table(report, *part))
    failed = sum(not check.passed for check in (*report.operations, *report.optimizers))
    total = len(report.operations) + len(report.optimizers)
    verdict = "[bold]PASS[/bold]" if report.passed else "[bold]FAIL[/bold]"
    console.print(f"{verdict}: {total - failed} of {total} checks pass")


def operations_table(report: Report) -> Table:
    """One line an operation, one column a precision."""
    limits = sorted({check.limit for check in report.operations})
    table = Table(
        title="Operations: largest difference in units in the last place\n"
        f"(limit {limits[0]:g}; {checks.ULPS_OF_SUMS:g} for sums; "
        f"{min(INEXACT.values()):g}, of the largest number,\n"
        "for what takes sums or powers on the way, "
        f"{max(INEXACT.values()):g} for what takes an SVD)",
        box=box.SIMPLE,
    )
    dtypes = [d for d in DTYPES if any(c.dtype == d for c in report.operations)]
    table.add_column("operation", no_wrap=True)
    for dtype in dtypes:
        table.add_column(_short(dtype), justify="right")
    table.add_column("zeros")
    table.add_column("")
    rows: dict[str, list[OperationCheck]] = {}
    for check in report.operations:
        rows.setdefault(check.operation, []).append(check)
    for name, row in rows.items():
        same = all(check.zeros_coincide for check in row)
        table.add_row(
            name,
            *(_places(check.ulps) for check in row),
            "same" if same else "differ",
            _verdict(all(check.passed for check in row)),
        )
    return table


def optimizers_table(report: Report, problem: str, dtype: str) -> Table:
    """One line an optimizer."""
    stored = any(side.stored for side in report.sides)
    when = f"every {STRIDE}th step" if stored else "any step"
    table = Table(
        title=f"Optimizers on {problem} in {dtype}\nweights apart at {when}, zeros "
        "that differ, gaps to the oracle at the end\n(limits "
        f"{checks.TRAJECTORY[dtype]:g}, {checks.SUPPORT[dtype]:g}, "
        f"{checks.GAP[dtype]:g})",
        box=box.SIMPLE,
    )
    table.add_column("optimizer", no_wrap=True)
    for header in ("weights", "zeros", *(f"gap {s.name}" for s in report.sides)):
        table.add_column(header, justify="right")
    table.add_column("")
    for check in report.optimizers:
        if (check.problem, check.dtype) == (problem, dtype):
            table.add_row(
                check.optimizer,
                _figure(check.difference),
                _figure(check.support_differs, "g"),
                *(_end(check, side.name) for side in report.sides),
                _verdict(check.passed),
            )
    return table


def _places(ulps: float) -> str:
    return f"{ulps:.1f}" if ulps % 1 else f"{ulps:g}"


def _end(check: OptimizerCheck, name: str) -> str:
    wrong = "" if check.supports.get(name, True) else ", wrong zeros"
    return _figure(check.gaps.get(name)) + wrong


def _short(dtype: str) -> str:
    return dtype.replace("bfloat", "bf").replace("float", "f")


def _figure(value: float | None, form: str = ".0e") -> str:
    return "" if value is None else f"{value:{form}}"


def _verdict(passed: bool) -> str:
    return "[green]PASS[/green]" if passed else "[bold red]FAIL[/bold red]"
