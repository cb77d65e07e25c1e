"""What a call of the fuzz is, and rules for what its arguments must be.

What a number, a flag or a choice must be is said a second time here, as a rule: it
gives True for a value that must be taken, False for one that must be refused, and None
where it does not say.
"""

import dataclasses
import numbers
import re
from collections.abc import Callable
from typing import Any

import numpy as np

Rule = Callable[[Any], bool | None]

ALIASES = {
    "grads": ("updates",),
    "coef": ("coefficients",),
    "factory": ("optimizer", "factory_kwargs"),
    "x": ("weights",),
    "pilot": ("weights",),
    "l1": ("strength",),
    "params": ("parameters",),
    "X": ("folds",),
    "intercept": ("coef and intercept",),
    "closure": ("argument", "arguments"),
    "grad": ("'x'",),
}
"""What else an argument may be called in messages."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A valid call, and what may stand in the place of each argument."""

    call: Callable[..., Any]
    arguments: Callable[[], dict[str, Any]]
    """Makes the arguments anew."""
    kinds: dict[str, Rule | None]
    positive: bool = False
    """Whether a zero in an array makes NaN, as a negative number does elsewhere."""
    below: float = np.inf
    """Numbers in arrays that are not below this make NaN."""
    infinite: bool = False
    """Whether a result may be infinite."""
    every: int = 1
    """Of the odd values each so many-th is taken, where cases share their checks."""
    foreign: str = "a^"
    """A pattern of errors that are the base optimizer's own."""

    def allowed(self, argument: str, value: Any) -> bool | None:
        """Say what the argument's rule says of a value."""
        rule = self.kinds[argument]
        return None if rule is None else rule(value)

    def names(self, argument: str, message: str) -> bool:
        """Tell whether a message names the argument."""
        names = "|".join(map(re.escape, (argument, *ALIASES.get(argument, ()))))
        return re.search(rf"(?<![A-Za-z_])({names})(?![A-Za-z_])", message) is not None


def number_of(value: Any, kind: type) -> bool:
    """Tell a Python or numpy number from all else."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    odd = isinstance(value, bool | np.bool_ | np.timedelta64)
    return isinstance(value, kind) and not odd


def real(low: float, high: float, open_: str = "", none: bool = False) -> Rule:
    """A real number between two; `open_` names the ends that are left out."""

    def rule(value: Any) -> bool:
        if value is None:
            return none
        if not number_of(value, numbers.Real):
            return False
        try:
            value = float(value)
        except OverflowError:
            value = np.inf
        above = low < value if "low" in open_ else low <= value
        return bool(above and (value < high if "high" in open_ else value <= high))

    return rule


def integer(
    low: int | None = None, high: int | None = None, none: bool = False
) -> Rule:
    """An integer between two."""

    def rule(value: Any) -> bool:
        if value is None:
            return none
        if not number_of(value, numbers.Integral):
            return False
        return (low is None or value >= low) and (high is None or value <= high)

    return rule


def flag(value: Any) -> bool:
    """True or False."""
    return isinstance(value, bool | np.bool_)


def choice(value: Any) -> bool:
    """No odd value is a name."""
    return False


def nothing(value: Any) -> bool | None:
    """None must not be taken; of the rest this says nothing."""
    return False if value is None else None


def optional(value: Any) -> bool:
    """None, or what no odd value is."""
    return value is None


STEPS = 2**31 - 1
POSITIVE = real(0, np.inf, "low high")
SHARE = real(0, 1)
TOL = {"tol": real(0, 1, "high"), "max_iterations": integer(1, STEPS)}
COUNTED = {"count": integer(1, 10**6), "ratio": real(0, 1, "low high")}


def finite_strength(value: Any) -> bool | None:
    """Python numbers must be finite and >= 0; of the rest this says nothing."""
    if isinstance(value, int | float | np.float32) and not isinstance(value, bool):
        return real(0, np.inf, "high")(value)
    return False if isinstance(value, bool | np.bool_ | str | bytes | complex) else None
