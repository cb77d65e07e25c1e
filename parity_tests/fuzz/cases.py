"""The calls of the fuzz: a valid one of every public callable, in both twins."""

import importlib

from parity_tests.frameworks.twin import Twin
from parity_tests.fuzz import fit_cases as fuzz_fits
from parity_tests.fuzz import penalty_cases as fuzz_penalties
from parity_tests.fuzz import training_cases as fuzz_training
from parity_tests.fuzz.rules import Case


def cases(twin: Twin) -> dict[str, Case]:
    """Gives the calls by name."""
    own = importlib.import_module(f"parity_tests.fuzz.{twin.name}_cases")
    return (
        fuzz_penalties.penalties(twin)
        | fuzz_penalties.methods(twin)
        | fuzz_training.transforms(twin)
        | fuzz_training.measures(twin)
        | fuzz_fits.full_batch(twin)
        | fuzz_fits.linear(twin)
        | own.optimizers(twin)
    )
