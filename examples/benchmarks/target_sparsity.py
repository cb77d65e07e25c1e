"""What a target sparsity costs: the step with it over the step of fixed strength.

    python examples/benchmarks/target_sparsity.py

Adam on weights that are pulled towards random places with a noisy gradient, 90 % of
them zero. `l1jax.proximal` and `l1torch.Proximal` take the same steps with the target
and with a number as the strength. A ratio is the median, over turns, of the time of one
over that of the other just before it, so that a noisy machine hits both alike. JAX
compiles the whole step, parameters and state donated, or not.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
import torch
from rich.console import Console
from rich.table import Table

import l1jax
import l1torch

STRENGTH, LR, TARGET, WARM_UP = 1e-1, 1e-3, 0.9, 5
Step = Callable[[], object]


def torch_step(
    strength: object, size: int, tensors: int, **adam: object
) -> tuple[Step, Callable[[], float]]:
    """Make a step that draws no numbers, and what tells the fraction of zeros."""
    params = [torch.nn.Parameter(torch.randn(size // tensors)) for _ in range(tensors)]
    turns = [[torch.randn_like(p) for p in params] for _ in range(2)]
    base = torch.optim.Adam(params, lr=LR, **adam)
    optimizer = l1torch.Proximal(base, strength, mask=None)
    count = 0

    def step() -> None:
        nonlocal count
        for param, grad in zip(params, turns[count % 2], strict=True):
            param.grad = grad
        count += 1
        optimizer.step()

    def zeros() -> float:
        return sum(int((p == 0).sum()) for p in params) / size

    return step, zeros


def jax_step(
    strength: object, size: int, arrays: int, donated: bool
) -> tuple[Step, Callable[[], float]]:
    """The same in JAX."""
    keys = jax.random.split(jax.random.key(0), 3 * arrays)
    draws = [jax.random.normal(key, (size // arrays,)) for key in keys]
    params, *turns = (draws[i::3] for i in range(3))
    tx = l1jax.proximal(optax.adam, LR, strength, mask=None)
    state = jax.jit(tx.init)(params)

    def update(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    update = jax.jit(update, donate_argnums=(0, 1) if donated else ())
    count = 0

    def step() -> None:
        nonlocal params, state, count
        params, state = update(params, state, turns[count % 2])
        count += 1
        jax.block_until_ready(params)

    def zeros() -> float:
        return sum(int(jnp.sum(p == 0)) for p in params) / size

    return step, zeros


def compare(baseline: Step, step: Step, repeats: int) -> tuple[float, float, float]:
    """Return the median seconds of both, and the median of their ratios."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + WARM_UP):
        for kept, run in zip(seconds, (baseline, step), strict=True):
            start = time.perf_counter()
            run()
            if turn >= WARM_UP:  # the first turns compile and make the zeros
                kept.append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(*seconds, strict=True)]
    return *map(statistics.median, seconds), statistics.median(ratios)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=25_000_000)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--tensors", type=int, default=4)
    arguments = parser.parse_args()
    size, tensors = arguments.size, arguments.tensors
    # Over at once, so that every step looks for the whole target.
    options = {"target": TARGET, "steps": 1, "begin": 0.0, "end": 0.5}
    table = Table(
        "step",
        "fixed strength [ms]",
        "target [ms]",
        "time ratio",
        "zeros",
        title=f"{size:,} float32 in {tensors} array(s), median of {arguments.repeats}",
    )
    rows = {
        f"torch Adam{name}": (torch_step, l1torch.target_sparsity, settings)
        for name, settings in (("", {}), (", fused=True", {"fused": True}))
    } | {
        f"JAX adam, {name}": (jax_step, l1jax.target_sparsity, {"donated": donated})
        for name, donated in (("donated", True), ("not donated", False))
    }
    for name, (make, target, settings) in rows.items():
        baseline, _ = make(STRENGTH, size, tensors, **settings)
        step, zeros = make(target(**options), size, tensors, **settings)
        fixed, followed, ratio = compare(baseline, step, arguments.repeats)
        table.add_row(
            name,
            f"{1e3 * fixed:.1f}",
            f"{1e3 * followed:.1f}",
            f"{ratio:.2f}",
            f"{zeros():.6%}",
        )
    console = Console()
    console.print(f"torch {torch.__version__}, jax {jax.__version__}, CPU")
    console.print(table)


if __name__ == "__main__":
    main()
