"""A fuzz of the public surface: odd values in the place of every argument.

    python -m parity_tests.fuzz.sweep [CALLABLE ...]

prints what is left to mend; `CALLABLE` is a part of a name, such as `l1_ball`. Each
call of `parity_tests.fuzz.cases` is made with one argument replaced by each value of
`parity_tests.fuzz.values`. It must give a sensible result, or raise ValueError or
TypeError with a message that names the argument; and the twins must agree.
"""

import argparse
import contextlib
import dataclasses
import numbers
import re
import signal
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

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


class Outcome(NamedTuple):
    """What came of a call."""

    kind: str
    """"accepted" or "refused", or what is wrong: "unclear", "silent", "slow"."""
    error: str
    """The error's class; empty without one."""
    text: str

    @property
    def verdict(self) -> str:
        """What the twins must agree on."""
        return f"{self.kind} {self.error}".strip()


class TooSlow(BaseException):
    """A call went on for too long; no library catches this."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TooSlow after some seconds of the processor.

    SIGPROF is left alone: the profiler of the compiler for TPUs has it.
    """

    def stop(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def outcome(twin: Twin, case: Case, argument: str, value: Any) -> Outcome:
    """Make a call with one argument replaced, and judge it."""
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
    """Return the numbers and arrays of a result with the names of their fields."""
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
    """Tell whether all numbers are finite, neither huge nor tiny nor, in arrays, < 0.

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
    """Tell whether a value holds complex numbers, as its result may then."""
    found = [np.asarray(twin.numpy(leaf)).dtype.kind for _, leaf in leaves(value)]
    return "c" in found


def odd(twin: Twin, case: Case, result: Any, value: Any) -> str | None:
    """Say what is wrong with a result, if something is."""
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


class Call(NamedTuple):
    """A call with one argument replaced."""

    name: str
    """The callable's."""
    argument: str
    value: str
    """The name of the odd value."""


class Pair(NamedTuple):
    """What came of a call in each twin; None where a twin has no such call."""

    jax: Outcome | None = None
    torch: Outcome | None = None


def sweep(only: Collection[str] = (), every: int = 1) -> dict[Call, Pair]:
    """Make the calls of both twins; of all calls, each `every`-th."""
    found: dict[Call, Pair] = {}
    for twin, other in ((JAX, TORCH), (TORCH, JAX)):
        odd_ones = values(twin, other)
        for name, case in cases(twin).items():
            if only and not any(part in name for part in only):
                continue
            for argument in case.kinds:
                for label, make in odd_ones.items():
                    call = Call(name, argument, label)
                    if sum(map(ord, "".join(call))) % (every * case.every) == 0:
                        result = outcome(twin, case, argument, make())
                        pair = found.get(call, Pair())
                        found[call] = pair._replace(**{twin.name: result})
    return found


class Exemption(NamedTuple):
    """Where the twins may differ, as patterns, and why."""

    jax: str
    """What JAX says."""
    torch: str
    value: str
    argument: str
    """With the callable's name before it."""
    reason: str


EXEMPTIONS = (
    Exemption(
        "accepted|refused (Type|Value)Error",
        "refused TypeError",
        r"-?[\d.e*-]+|nan|-?inf|bfloat16|np.*|{'w': np}|True|False|complex|1j",
        ".*",
        "numbers and numpy's arrays are arrays in JAX, tensors alone are in torch",
    ),
    Exemption(
        "accepted|refused ValueError",
        "refused TypeError",
        r"\[.*\]|\(.*\)|None|{}|{'w': (0.1|list|True)}|{'a': 1}|{1: 2}",
        ".*",
        "any tree is one of parameters in JAX, a mapping to tensors is in torch",
    ),
    Exemption(
        "accepted",
        "refused TypeError",
        "own 0-d .*",
        ".*max_ratio",
        "an array in the place of a number may be traced in JAX: inject_hyperparams",
    ),
    Exemption(
        "refused TypeError",
        "accepted",
        "int",
        ".*(strength|learning_rate)",
        "an int cannot be made of a traced count",
    ),
    Exemption(
        "accepted",
        "refused ValueError",
        "own 0-d (-1|nan|inf)",
        "proximal.strength",
        "an array may be traced in JAX, and is not looked into; in torch it is a float",
    ),
    Exemption(
        "accepted",
        "refused TypeError",
        "own.*",
        r"clip_by_global_l1_norm\.update\.updates",
        "a single array is a tree in JAX, a mapping from names is asked for in torch",
    ),
    Exemption(
        "accepted",
        "refused TypeError",
        "own.*|{'w': (own.*|None})",
        "layouts.params",
        "a tree of arrays has names that tell in JAX, the classes of modules in torch",
    ),
    Exemption(
        "refused TypeError",
        "accepted|refused ValueError",
        "own 0-d int64",
        "(weights_only|by_path.__call__).params",
        "optax.inject_hyperparams takes a mask for a schedule, and calls it so",
    ),
    Exemption(
        "accepted",
        "refused ValueError",
        "(np.)?True_?",
        "regularisation_path.vectorised",
        "torch.func.vmap does not show solve the values that it decides by",
    ),
    Exemption(
        "accepted",
        "refused TypeError",
        "own.*",
        "(strength_schedule\\(\\).count|TargetSparsity.*)",
        "a step count is traced in JAX, an int in torch",
    ),
)


def exempt(call: Call, pair: Pair) -> bool:
    """Tell whether the twins may differ so."""
    texts = (
        pair.jax.verdict,
        pair.torch.verdict,
        call.value,
        f"{call.name}.{call.argument}",
    )
    return any(all(map(re.fullmatch, patterns, texts)) for *patterns, _ in EXEMPTIONS)


def left(found: Mapping[Call, Pair]) -> list[str]:
    """Return a line for each call that came out wrong."""
    lines = []
    for call, pair in sorted(found.items()):
        shown = f"{call.name}({call.argument}={call.value})"
        for twin, result in pair._asdict().items():
            if result and result.kind not in ("accepted", "refused"):
                text = re.sub(r"\s+", " ", result.text)[:110]
                lines.append(f"{twin}: {shown}: {result.verdict}: {text}")
        clear = all(one and one.kind in ("accepted", "refused") for one in pair)
        if clear and len({one.verdict for one in pair}) > 1 and not exempt(call, pair):
            verdicts = " but ".join(one.verdict for one in pair)
            lines.append(f"twins: {shown}: {verdicts}")
    return lines


def main() -> None:
    """Print what is left, and how many calls were made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "callables",
        nargs="*",
        help="parts of names of callables, such as l1_ball; default all",
    )
    arguments = parser.parse_args()
    for twin in (JAX, TORCH):
        twin.set_up()
    found = sweep(arguments.callables)
    lines = left(found)
    for line in lines:
        print(line)
    calls = sum(result is not None for pair in found.values() for result in pair)
    print(f"{len(lines)} of {calls} calls left")


if __name__ == "__main__":
    main()
