"""What a JAX step costs that is not compiled: its time over optax's, and its memory.

    python examples/benchmarks/eager_steps.py

Steps of a small network outside of `jax.jit`, as one takes them in a notebook, where
the price is that of calls, not of arithmetic. A time ratio is the median, over turns,
of the time of a step over that of `optax.adam` just before it, so that a noisy machine
hits both alike. The memory is that of the whole process, after a warm-up, on Linux:
what is compiled or kept anew at every step shows there.
"""

import argparse
import os
import pathlib
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.table import Table

import l1jax

STRENGTH, LR, WARM_UP = 1e-3, 1e-3, 10
SHAPES = {"kernel": (64, 32), "bias": (32,)}, {"kernel": (32, 10), "bias": (10,)}
LIMIT = "10"


def transforms(steps: int) -> dict[str, optax.GradientTransformation]:
    """The optimizers to compare, by what the table calls them; the base first."""

    def proximal(strength: object = STRENGTH, **settings: object) -> object:
        return l1jax.proximal(optax.adam, LR, strength, **settings)

    def before(first: optax.GradientTransformation) -> object:
        return optax.chain(first, optax.adam(LR))

    def ball(scope: str) -> object:
        return proximal(penalty=l1jax.l1_ball(10.0, scope=scope))

    return {
        "adam": optax.adam(LR),
        "proximal": proximal(),
        "target_sparsity": proximal(l1jax.target_sparsity(0.9, steps)),
        "target_sparsity(snap=0.75)": proximal(
            l1jax.target_sparsity(0.9, steps, snap=0.75)
        ),
        "window=10": proximal(window=10),
        "group_l1(1)": proximal(penalty=l1jax.group_l1(1)),
        "l1_ball": ball("array"),
        'l1_ball, scope="tree"': ball("tree"),
        "top_k": proximal(penalty=l1jax.top_k(50)),
        "proximal_step": optax.chain(optax.adam(LR), l1jax.proximal_step(STRENGTH, LR)),
        "add_subgradient": before(l1jax.add_subgradient(STRENGTH)),
        "freeze_zeros": l1jax.freeze_zeros(optax.adam(LR)),
        "clip_by_global_l1_norm": before(l1jax.clip_by_global_l1_norm(1.0)),
    }


def stepper(tx: optax.GradientTransformation) -> Callable[[], None]:
    """Make a step that waits for its result."""
    keys = iter(jax.random.split(jax.random.key(0), 8))
    params = [
        {name: jax.random.normal(next(keys), shape) for name, shape in layer.items()}
        for layer in SHAPES
    ]
    grads = jax.tree.map(jnp.sin, params)
    state = tx.init(params)

    def step() -> None:
        nonlocal params, state
        updates, state = tx.update(grads, state, params)
        params = jax.block_until_ready(optax.apply_updates(params, updates))

    return step


def resident_memory() -> int:
    """Return the bytes of memory that this process has, as Linux counts them."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def measure(
    base: Callable[[], None], step: Callable[[], None], steps: int
) -> tuple[float, float]:
    """Return a step's time over the base's, and the kB that a turn of both keeps."""
    ratios = []
    for turn in range(WARM_UP + steps):
        if turn == WARM_UP:
            before = resident_memory()
        seconds = []
        for run in (base, step):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[1] / seconds[0])
    growth = (resident_memory() - before) / steps / 1024
    return statistics.median(ratios[WARM_UP:]), growth


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    table = Table(
        "transformation",
        "time ratio",
        "limit",
        "kB kept a turn",
        title=f"jax {jax.__version__}, not compiled, {steps} steps",
    )
    made = transforms(steps)
    base = stepper(made["adam"])
    for name, tx in made.items():
        ratio, growth = measure(base, stepper(tx), steps)
        limit = "" if name == "adam" else LIMIT
        table.add_row(name, f"{ratio:.1f}", limit, f"{growth:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
