"""The calls of the fuzz: a valid one of every public callable, in both twins."""

import importlib

from parity_tests import fuzz_fits, fuzz_penalties, fuzz_training
from parity_tests.fuzz_rules import Case
from parity_tests.twin import Twin


def cases(twin: Twin) -> dict[str, Case]:
    """Gives the calls by name."""
    own = importlib.import_module(f"parity_tests.fuzz_{twin.name}")
    return (
        fuzz_penalties.penalties(twin)
        | fuzz_penalties.methods(twin)
        | fuzz_training.transforms(twin)
        | fuzz_training.measures(twin)
        | fuzz_fits.full_batch(twin)
        | fuzz_fits.linear(twin)
        | own.optimizers(twin)
    )
