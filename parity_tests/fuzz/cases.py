"""The calls of the fuzz: a valid one of every public callable, in both twins."""

import functools
import importlib

from parity_tests.frameworks.twin import Twin
from parity_tests.fuzz import fit_cases, penalty_cases, training_cases
from parity_tests.fuzz.rules import Case


@functools.cache
def cases(twin: Twin) -> dict[str, Case]:
    """Return the calls by name."""
    own = importlib.import_module(f"parity_tests.fuzz.{twin.name}_cases")
    return (
        penalty_cases.penalties(twin)
        | penalty_cases.methods(twin)
        | training_cases.transforms(twin)
        | training_cases.measures(twin)
        | fit_cases.full_batch(twin)
        | fit_cases.linear(twin)
        | own.optimizers(twin)
    )
