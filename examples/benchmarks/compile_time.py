"""What JAX needs to compile a step of many arrays, beside a fixed strength's.

    python examples/benchmarks/compile_time.py

`l1jax.proximal(optax.adam)` on the small arrays of a network in five shapes. A ratio is
the median, over turns, of the processor time that tracing, lowering and compiling takes
over that of the fixed strength's step, compiled just before it.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.table import Table

import l1jax

LR = 1e-3
SHAPES = ((16, 16), (16, 64), (64, 16), (16, 48), (16, 2))
LIMIT = "2"


def strengths() -> dict[str, tuple[object, l1jax.Penalty]]:
    """Return strength and penalty of every row, the baseline first."""
    end = {"begin": 0.0, "end": 0.5}
    target = l1jax.target_sparsity
    return {
        "fixed strength": (1e-3, l1jax.l1()),
        "target": (target(0.9, steps=10, **end), l1jax.l1()),
        "target, snap": (target(0.9, steps=10, snap=0.75, **end), l1jax.l1()),
        'target, scope="array"': (
            target(0.9, steps=10, scope="array", **end),
            l1jax.l1(),
        ),
        'l1_ball, scope="tree"': (1.0, l1jax.l1_ball(10.0, scope="tree")),
        'top_k, scope="tree"': (1.0, l1jax.top_k(1000, scope="tree")),
    }


def compile_seconds(strength: object, penalty: l1jax.Penalty, leaves: int) -> float:
    """Return the processor time from nothing to a compiled step."""
    jax.clear_caches()
    shapes = [SHAPES[i % len(SHAPES)] for i in range(leaves)]
    params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    tx = l1jax.proximal(optax.adam, LR, strength, penalty=penalty, mask=None)
    state = jax.eval_shape(tx.init, params)
    start = time.process_time()
    jax.jit(tx.update).lower(params, state, params).compile()
    return time.process_time() - start


def main() -> None:
    """Print a table for each number of arrays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leaves", type=int, nargs="+", default=[200, 500])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    console = Console()
    console.print(f"jax {jax.__version__}, {jax.default_backend()}")
    for leaves in arguments.leaves:
        table = Table(
            "step",
            "compile [s]",
            "time ratio",
            "limit",
            title=f"{leaves} arrays, median of {arguments.repeats}",
        )
        rows = strengths()
        baseline, *others = rows
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(arguments.repeats):
            for name, (strength, penalty) in rows.items():
                seconds[name].append(compile_seconds(strength, penalty, leaves))
        for name, found in seconds.items():
            ratios = [b / a for a, b in zip(seconds[baseline], found, strict=True)]
            table.add_row(
                name,
                f"{statistics.median(found):.1f}",
                f"{statistics.median(ratios):.2f}",
                LIMIT if name in others else "",
            )
        console.print(table)


if __name__ == "__main__":
    main()
