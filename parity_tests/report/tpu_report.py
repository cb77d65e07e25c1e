"""What the prox costs on TPUs, as XLA's compiler for TPUs tells it without one.

    pip install ".[tpu]"
    python -m parity_tests.report.tpu_report

Compiles a step of every optimizer for the chips of three TPUs, with our part and
without, and compares the two programs: the bytes they move, the temporaries they need,
the calls that leave XLA, and the communication between chips. Nothing is run.
"""

import argparse
import collections
import dataclasses
import functools
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from parity_tests.report.tpu_cases import QUICK, TRAINING, Case, cases, structured

TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v6e": "v6e:2x2"}
BATCH = 1024
REMEDY = 'the compiler for TPUs is not installed; it comes with pip install ".[tpu]"'
SPECS = {2: PartitionSpec("x", "y"), 1: PartitionSpec("y"), 0: PartitionSpec()}
COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
    r"(?:-start)?\("
)


@dataclasses.dataclass(frozen=True)
class Figures:
    """What the compiler tells of one program on one chip."""

    bytes: float
    """Read and written."""
    temporary: int
    """Bytes of temporaries."""
    custom_calls: int
    """To code outside XLA, or to the compiler's own."""
    collectives: dict[str, int]
    """How many of each kind."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The two programs of a case."""

    topology: str
    program: str
    case: str
    ours: Figures
    base: Figures
    array: int
    """Bytes that the parameters take on one chip."""

    @property
    def ratio(self) -> float:
        """Bytes moved with our part, over those without."""
        return self.ours.bytes / self.base.bytes

    @property
    def arrays(self) -> float:
        """Bytes that our part moves more, in units of the parameters."""
        return (self.ours.bytes - self.base.bytes) / self.array

    @property
    def temporaries(self) -> float:
        """Temporaries of our part, in units of the parameters."""
        return (self.ours.temporary - self.base.temporary) / self.array

    @property
    def custom_calls(self) -> int:
        """Custom calls that our part adds."""
        return self.ours.custom_calls - self.base.custom_calls

    @property
    def collectives(self) -> dict[str, int]:
        """Communication that our part adds or takes away."""
        found = collections.Counter(self.ours.collectives)
        found.subtract(self.base.collectives)
        return {name: count for name, count in found.items() if count}


def every_case() -> dict[str, Case]:
    """Those that may cost nothing, and those that take passes of their own."""
    return cases() | structured()


def programs(topology: str, name: str) -> tuple[str, ...]:
    """Which programs to compile for a case.

    The update of given gradients, with all arrays sharded over the chips, and on one
    chip of a v5e; and for some cases a whole training step of a sharded layer.
    """
    one = ("one chip",) if topology == "v5e" else ()
    whole = ("training",) if name in TRAINING else ()
    return (*one, "sharded", *whole)


def update(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """The update and its application, as a function of the gradients."""

    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def training(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """A training step of one layer, as a function of a batch."""

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.square(jnp.tanh(x @ params["kernel"] + params["bias"])).mean()

    def step(params: Any, state: Any, x: jax.Array) -> tuple[Any, Any]:
        return update(tx)(params, state, jax.grad(loss)(params, x))

    return step


def shapes(case: Case) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters of a case, without sharding."""
    kernel, bias = (case.side, case.side), (case.side,)
    sizes = {"kernel": kernel, "bias": bias}
    return {k: jax.ShapeDtypeStruct(v, case.dtype) for k, v in sizes.items()}


def compile_step(
    tx: optax.GradientTransformation, case: Case, program: str, devices: Any
) -> tuple[jax.stages.Compiled, int]:
    """Compile one program for the devices; return also the bytes of its parameters."""
    grid = np.array(devices[:1] if program == "one chip" else devices)
    mesh = Mesh(grid.reshape(-1, 1 if grid.size == 1 else 2), ("x", "y"))

    def placed(x: Any, spec: PartitionSpec | None = None) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, spec or SPECS[len(x.shape)])
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    params = shapes(case)
    params, state = jax.tree.map(placed, (params, jax.eval_shape(tx.init, params)))
    step, arguments = update(tx), params
    if program == "training":
        batch = jax.ShapeDtypeStruct((BATCH, case.side), case.dtype)
        step, arguments = training(tx), placed(batch, PartitionSpec("x", None))
    traced = jax.jit(step, donate_argnums=(0, 1)).trace(params, state, arguments)
    platform = devices[0].platform
    compiled = traced.lower(lowering_platforms=(platform,)).compile()
    if platform == "tpu":
        require_tpu(compiled)
    array = sum(
        int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize
        for x in params.values()
    )
    return compiled, array


def require_tpu(compiled: jax.stages.Compiled) -> None:
    """Raise unless the program is one for TPUs, whose arrays lie in tiles."""
    if not re.search(r"\{1,0:T\(\d+,128\)", compiled.as_text()):
        raise RuntimeError(
            "the program was compiled, but not for a TPU. Place the abstract arguments "
            "on the devices of a topology."
        )


def figures(compiled: jax.stages.Compiled) -> Figures:
    """Read what the compiler tells of a program."""
    text = compiled.as_text()
    return Figures(
        bytes=compiled.cost_analysis()["bytes accessed"],
        temporary=compiled.memory_analysis().temp_size_in_bytes,
        custom_calls=text.count(" custom-call("),
        collectives=dict(collections.Counter(COLLECTIVE.findall(text))),
    )


def compare(name: str, program: str, devices: Any, topology: str) -> Comparison:
    """Compile the two programs of a case."""
    case = every_case()[name]
    # Many cases have the same base.
    base, array = _base(case.base, case.dtype, case.side, program, devices)
    ours, _ = compile_step(case.ours, case, program, devices)
    return Comparison(topology, program, name, figures(ours), base, array)


@functools.lru_cache(maxsize=64)
def _base(
    tx: optax.GradientTransformation, dtype: str, side: int, program: str, devices: Any
) -> tuple[Figures, int]:
    case = Case(tx, tx, dtype=dtype, side=side)
    compiled, array = compile_step(tx, case, program, devices)
    return figures(compiled), array


def tpu_devices(topology: str) -> tuple[Any, ...]:
    """The chips of a TPU that need not be there.

    Raises:
      ModuleNotFoundError: without the compiler, `libtpu`.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError(REMEDY)
    # JAX must not look for a TPU here, nor the compiler for one in the network.
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # No chip is used, so that another process may have the library loaded too.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    found = topologies.get_topology_desc(
        platform="tpu", topology_name=TOPOLOGIES[topology]
    )
    return tuple(found.devices)


def compare_all(chosen: list[str], quick: bool) -> Iterator[Comparison]:
    """Compare, for the chosen topologies, all cases or the quick ones."""
    for topology in chosen:
        devices = tpu_devices(topology)
        # What takes long to compile is compiled for one of them.
        every = every_case() if topology == "v5e" else cases()
        for name in QUICK if quick else every:
            for program in programs(topology, name):
                yield compare(name, program, devices, topology)


def print_table(rows: list[Comparison]) -> None:
    """Print a line for each case and program, the topologies beside each other."""
    title = "Bytes moved with our part, over those without; and what else it adds"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    for column in ("case", "program"):
        table.add_column(column, no_wrap=True)
    names = list(dict.fromkeys(row.topology for row in rows))
    for column in (*names, "arrays", "temp.", "calls", "sums"):
        table.add_column(column, justify="right", no_wrap=True)
    by_line = collections.defaultdict(dict)
    for row in rows:
        by_line[row.case, row.program][row.topology] = row
    for line in sorted(by_line, key=lambda line: list(every_case()).index(line[0])):
        found = by_line[line]
        most = max(found.values(), key=lambda row: row.arrays)
        table.add_row(
            *line,
            *(f"{found[n].ratio:.5f}" if n in found else "" for n in names),
            f"{most.arrays:.2f}",
            f"{most.temporaries:.2f}",
            str(max(row.custom_calls for row in found.values())),
            str(max(sum(row.collectives.values()) for row in found.values())),
        )
    Console().print(table)
    print(
        "arrays: moved more, in units of the parameters; temp.: temporaries, of these"
    )
    print("calls: custom calls; sums: all-reduces and any other communication")


def main() -> None:
    """Compile, and print a table, or JSON for the tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", choices=TOPOLOGIES, nargs="+", help="default all")
    parser.add_argument("--quick", action="store_true", help="the usual optimizers")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    args = parser.parse_args()
    try:
        found = []
        for row in compare_all(args.topology or list(TOPOLOGIES), args.quick):
            found.append(row)
            if args.json:
                print(json.dumps(dataclasses.asdict(row)), flush=True)
    except ModuleNotFoundError as error:
        sys.exit(str(error))
    if not args.json:
        print_table(found)


if __name__ == "__main__":
    main()
