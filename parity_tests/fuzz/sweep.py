"""A fuzz of the public surface: odd values in the place of every argument.

    python -m parity_tests.fuzz.sweep [part of a callable's name ...]

prints what is left to mend. Each call of `parity_tests.fuzz.cases` is made with one
argument replaced by each value of `parity_tests.fuzz.values`. It must give a sensible
result, or raise ValueError or TypeError with a message that names the argument; and the
twins must agree.
"""

import collections
import contextlib
import dataclasses
import numbers
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from parity_tests.frameworks.twin import Twin
from parity_tests.frameworks.twins import JAX, TORCH
from parity_tests.fuzz.cases import cases
from parity_tests.fuzz.rules import Case
from parity_tests.fuzz.values import values

SECONDS = 20
"""How long a call may take, in seconds of the processor."""

REFUSALS = (ValueError, TypeError, IndexError)
"""IndexError is Python's own for an index, see `RegularisationPath.at`."""


class Outcome(collections.namedtuple("Outcome", "kind error text")):
    """What came of a call.

    `kind` is "accepted" or "refused", or what is wrong: "unclear", "silent", "slow".
    """

    @property
    def verdict(self) -> str:
        """What the twins must agree on."""
        return f"{self.kind} {self.error}".strip()


class TooSlow(BaseException):
    """A call went on for too long; no library catches this."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TooSlow after some seconds."""

    def stop(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def outcome(twin: Twin, case: Case, argument: str, value: Any) -> Outcome:
    """Makes a call with one argument replaced, and judges it."""
    arguments = case.arguments() | {argument: value}
    wild = not is_tame(twin, value, case)
    allowed = case.allowed(argument, value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with limited(SECONDS):
                result = case.call(**arguments)
                flaw = None if wild else odd(twin, case, result, value)
        except TooSlow:
            return Outcome("slow", "", "")
        except REFUSALS as error:
            name = type(error).__name__
            if not case.names(argument, str(error)):
                return Outcome("unclear", name, str(error))
            if allowed is True:
                return Outcome("wrongly refused", name, str(error))
            return Outcome("refused", name, str(error))
        except Exception as error:  # the judge must see all of them
            if re.search(case.foreign, str(error)):
                return Outcome("refused", type(error).__name__, str(error))
            return Outcome("unclear", type(error).__name__, str(error))
    if allowed is False:
        return Outcome("silent", "", "accepted")
    if flaw == "not converged" and caught:
        flaw = None
    return Outcome("silent" if flaw else "accepted", "", flaw or "")


def leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Gives the numbers and arrays of a result with the names of their fields."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        tree = vars(tree)
    elif hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, dict):
        for name, value in tree.items():
            for inner, leaf in leaves(value):
                yield inner or str(name), leaf
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from leaves(value)
    elif isinstance(tree, numbers.Number) or hasattr(tree, "dtype"):
        yield "", tree


def is_tame(twin: Twin, value: Any, case: Case) -> bool:
    """Tells whether all numbers are finite, neither huge nor tiny nor, in arrays, < 0.

    A number out of range in an array makes NaN, as documented.
    """
    for _, leaf in leaves(value):
        with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
            array = np.asarray(twin.numpy(leaf), complex)
            size = np.abs(array)
            if not np.isfinite(size).all():
                return False
            within = array.real > 0 if case.positive else array.real >= 0
            within &= array.real < case.below
            if hasattr(leaf, "dtype") and not within.all():
                return False
            if ((size > 1e30) | ((size > 0) & (size < 1e-30))).any():
                return False
    return True


def is_complex(twin: Twin, value: Any) -> bool:
    """Tells whether a value holds complex numbers, as its result may then."""
    found = [np.asarray(twin.numpy(leaf)).dtype.kind for _, leaf in leaves(value)]
    return "c" in found


def odd(twin: Twin, case: Case, result: Any, value: Any) -> str | None:
    """Says what is wrong with a result, if something is."""
    kinds = "biufVc" if is_complex(twin, value) else "biufV"
    for name, leaf in leaves(result):
        array = np.asarray(twin.numpy(leaf))
        if name == "converged" and not array.all():
            return "not converged"
        if array.dtype.kind not in kinds:
            return f"{name} of dtype {array.dtype}"
        flawed = np.isnan if case.infinite else lambda array: ~np.isfinite(array)
        if array.dtype.kind == "f" and flawed(array).any():
            return f"{name} {array}"
    return None


def sweep(
    only: tuple[str, ...] = (), every: int = 1
) -> dict[tuple[str, str, str], tuple[Outcome | None, Outcome | None]]:
    """Makes the calls of both twins; of all calls, each `every`-th."""
    found: dict[tuple[str, str, str], list[Outcome | None]] = {}
    for side, (twin, other) in enumerate(((JAX, TORCH), (TORCH, JAX))):
        odd_ones = values(twin, other)
        for name, case in cases(twin).items():
            if only and not any(part in name for part in only):
                continue
            for argument in case.kinds:
                for label, make in odd_ones.items():
                    key = name, argument, label
                    if sum(map(ord, "".join(key))) % (every * case.every) == 0:
                        found.setdefault(key, [None, None])[side] = outcome(
                            twin, case, argument, make()
                        )
    return {key: tuple(pair) for key, pair in found.items()}


# Where the twins may differ: what JAX says, what torch says, of which values, in which
# arguments, and why.
EXCEPTIONS = (
    (
        "accepted|refused (Type|Value)Error",
        "refused TypeError",
        r"-?[\d.e*-]+|nan|-?inf|bfloat16|np.*|{'w': np}|True|False|complex|1j",
        ".*",
        "numbers and numpy's arrays are arrays in JAX, tensors alone are in torch",
    ),
    (
        "accepted|refused ValueError",
        "refused TypeError",
        r"\[.*\]|\(.*\)|None|{}|{'w': (0.1|list|True)}|{'a': 1}|{1: 2}",
        ".*",
        "any tree is one of parameters in JAX, a mapping to tensors is in torch",
    ),
    (
        "accepted",
        "refused TypeError",
        "own 0-d .*",
        ".*max_ratio",
        "an array in the place of a number may be traced in JAX: inject_hyperparams",
    ),
    (
        "refused TypeError",
        "accepted",
        "int",
        ".*(strength|learning_rate)",
        "an int cannot be made of a traced count",
    ),
    (
        "accepted",
        "refused ValueError",
        "own 0-d (-1|nan|inf)",
        "proximal.strength",
        "an array may be traced in JAX, and is not looked into; in torch it is a float",
    ),
    (
        "accepted",
        "refused TypeError",
        "own.*",
        r"clip_by_global_l1_norm\.update\.updates",
        "a single array is a tree in JAX, a mapping from names is asked for in torch",
    ),
    (
        "accepted",
        "refused TypeError",
        "own.*|{'w': (own.*|None})",
        "layouts.params",
        "a tree of arrays has names that tell in JAX, the classes of modules in torch",
    ),
    (
        "refused TypeError",
        "accepted|refused ValueError",
        "own 0-d int64",
        "(weights_only|by_path.__call__).params",
        "optax.inject_hyperparams takes a mask for a schedule, and calls it so",
    ),
    (
        "accepted",
        "refused ValueError",
        "(np.)?True_?",
        "regularisation_path.vectorised",
        "torch.func.vmap does not show solve the values that it decides by",
    ),
    (
        "accepted",
        "refused TypeError",
        "own.*",
        "(strength_schedule\\(\\).count|TargetSparsity.*)",
        "a step count is traced in JAX, an int in torch",
    ),
)


def excused(key: tuple[str, str, str], pair: tuple[Outcome, Outcome]) -> bool:
    """Tells whether the twins may differ so."""
    name, argument, label = key
    texts = (*(one.verdict for one in pair), label, f"{name}.{argument}")
    return any(all(map(re.fullmatch, patterns, texts)) for *patterns, _ in EXCEPTIONS)


def left(
    found: dict[tuple[str, str, str], tuple[Outcome | None, Outcome | None]],
) -> list[str]:
    """Gives a line for each call that came out wrong."""
    lines = []
    for key, pair in sorted(found.items()):
        name, argument, label = key
        for twin, result in zip((JAX, TORCH), pair, strict=True):
            if result and result.kind not in ("accepted", "refused"):
                text = re.sub(r"\s+", " ", result.text)[:110]
                lines.append(
                    f"{twin.name}: {name}({argument}={label}): {result.verdict}: {text}"
                )
        clear = all(one and one.kind in ("accepted", "refused") for one in pair)
        if clear and len({one.verdict for one in pair}) > 1 and not excused(key, pair):
            verdicts = " but ".join(one.verdict for one in pair)
            lines.append(f"twins: {name}({argument}={label}): {verdicts}")
    return lines


def main() -> None:
    """Prints what is left, and how many calls were made."""
    for twin in (JAX, TORCH):
        twin.set_up()
    found = sweep(tuple(sys.argv[1:]))
    lines = left(found)
    print("\n".join(lines))
    calls = sum(result is not None for pair in found.values() for result in pair)
    print(f"{len(lines)} of {calls} calls left")


if __name__ == "__main__":
    main()
