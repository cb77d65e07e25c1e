"""The two sides of a parity report: a framework at hand, or its stored results.

    python -m parity_tests.report.sides [--folder FOLDER]

stores the results of the frameworks at hand, with their versions, for machines that
have only one of them.
"""

import argparse
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from parity_tests.frameworks.twin import DTYPES, Twin, installed
from parity_tests.oracles.convergence_matrix import ROWS, Params
from parity_tests.report.operations import OPERATIONS, compute

FOLDER = pathlib.Path(__file__).parent / "stored"
STEPS = 600
STRIDE = 20
"""Every how many steps the stored weights are kept."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name, row in ROWS.items() if row.equal},
    **{
        f"{name}, {key}={value}": (name, {key: value})
        for name in ("sgd, momentum", "adam", "rmsprop", "adadelta")
        for key, value in (("metric", "tensor"), ("metric", "none"), ("window", 9))
        # Decoupled, RMSprop does not settle, and amplifies the last digit's rounding.
        if (name, value) != ("rmsprop", "none")
    },
}
"""What must agree at every step: a row, and arguments of `proximal`."""


@dataclasses.dataclass(frozen=True)
class Live:
    """A framework on one of its devices."""

    twin: Twin
    kind: str
    """"cpu", "gpu" or "tpu"."""
    device: Any
    stored = False

    @property
    def name(self) -> str:
        """ "jax" or "torch"."""
        return self.twin.name

    def versions(self) -> dict[str, str]:
        """The versions of the framework's packages."""
        return self.twin.versions()

    def operation(self, name: str, dtype: str) -> tuple[np.ndarray, str]:
        """Run one of `OPERATIONS`; return the values and their dtype."""
        return compute(self.twin, self.device, name, dtype)

    def trail(self, variant: str, dtype: str = "float64") -> np.ndarray:
        """Train one of `VARIANTS` on the Lasso; return the weights of every step."""
        name, kwargs = VARIANTS[variant]
        with self.twin.on(self.device):
            return self.twin.train(
                "lasso", ROWS[name], STEPS, trail=True, dtype=dtype, **kwargs
            )["w"]

    def optimum(self, problem: str, name: str, steps: int, dtype: str) -> Params:
        """Train a row on a problem; return the last parameters."""
        with self.twin.on(self.device):
            return self.twin.train(problem, ROWS[name], steps, dtype=dtype)


class Stored:
    """Results of a framework that is not installed, from another machine's CPU."""

    kind, device, stored = "cpu", None, True

    def __init__(self, name: str) -> None:
        self.name = name
        with np.load(FOLDER / f"{name}.npz") as arrays:
            self._arrays = dict(arrays)

    def versions(self) -> dict[str, str]:
        """The versions with which the results were made."""
        return json.loads(str(self._arrays["versions"]))

    def operation(self, name: str, dtype: str) -> tuple[np.ndarray, str]:
        """What `Live.operation` gave."""
        key = f"{name}/{dtype}"
        return self._arrays[key], str(self._arrays[f"{key}/dtype"])

    def trail(self, variant: str, dtype: str = "float64") -> np.ndarray | None:
        """The weights of every `STRIDE`-th step; None unless in double precision."""
        return self._arrays[variant] if dtype == "float64" else None


Side = Live | Stored


def store(twin: Twin, folder: pathlib.Path = FOLDER) -> pathlib.Path:
    """Write what `Stored` reads, and return the file's path."""
    side = Live(twin, "cpu", twin.device("cpu"))
    arrays: dict[str, Any] = {"versions": json.dumps(side.versions())}
    for name in OPERATIONS:
        for dtype in DTYPES:
            values, made = side.operation(name, dtype)
            arrays |= {f"{name}/{dtype}": values, f"{name}/{dtype}/dtype": made}
    for variant in VARIANTS:
        arrays[variant] = side.trail(variant)[STRIDE - 1 :: STRIDE]
    folder.mkdir(exist_ok=True)
    path = folder / f"{twin.name}.npz"
    np.savez_compressed(path, **arrays)
    return path


def main() -> None:
    """Store the results of every framework at hand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder",
        type=pathlib.Path,
        default=FOLDER,
        help="where to; by default that of the package, which reports read",
    )
    folder = parser.parse_args().folder
    for twin in installed():
        twin.set_up()
        print(store(twin, folder))


if __name__ == "__main__":
    main()
