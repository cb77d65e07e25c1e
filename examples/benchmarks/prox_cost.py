"""What exact zeros cost: the step with L1 over the step without, in one run.

    python examples/benchmarks/prox_cost.py

A time ratio is the median, over turns, of a step's time over that of the first row just
before it, so that a noisy machine hits both alike. Peak memory is what a step allocates
beyond parameters, gradients and optimizer state, in units of the parameters' size. For
JAX the compiled program is read, not timed: bytes accessed, and temporary memory in the
same units.
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

STRENGTH, LR = 1e-4, 1e-3
DECOUPLED = "+ Proximal, lr * strength"
METRIC = "+ Proximal, Adam's metric"
FUSED = "+ Proximal, metric, fused=True"
SMALL = 64  # elements of each of many tensors
TARGET = "+ Proximal, target_sparsity"
GROUPS = "+ Proximal, group_l1(1)"
LIMITS = {DECOUPLED: "1.40", FUSED: "1.90"}
LIMITS_OF_MANY = {METRIC: "2.00", TARGET: "2.00", GROUPS: "5.00"}


def parameters(size: int, tensors: int) -> list[torch.nn.Parameter]:
    """Make `size` float32 numbers with gradients, spread over some tensors."""
    made = []
    for _ in range(tensors):
        p = torch.nn.Parameter(torch.randn(size // tensors))
        p.grad = torch.randn_like(p)
        made.append(p)
    return made


def torch_steps(size: int, tensors: int) -> dict[str, Callable[[], object]]:
    """The steps to compare, by what the table calls them; the baseline first."""

    def fused() -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
        params = parameters(size, tensors)
        return params, torch.optim.AdamW(params, lr=LR, fused=True)

    _, alone = fused()
    decoupled, metric, compiled = (
        l1torch.Proximal(fused()[1], STRENGTH, mask=None, **kwargs)
        for kwargs in ({"step_size": "learning_rate"}, {}, {"fused": True})
    )
    penalised, penalised_base = fused()
    shrunk, shrunk_base = fused()

    def loss_penalty() -> None:
        (STRENGTH * sum(p.abs().sum() for p in penalised)).backward()
        penalised_base.step()

    @torch.no_grad()
    def sign_relu() -> None:
        shrunk_base.step()
        for p in shrunk:
            p.copy_(p.sign() * torch.relu(p.abs() - LR * STRENGTH))

    return {
        "fused AdamW alone": alone.step,
        DECOUPLED: decoupled.step,
        METRIC: metric.step,
        FUSED: compiled.step,
        "+ sign * relu prox": sign_relu,
        "+ penalty in the loss": loss_penalty,
    }


def steps_of_many(tensors: int) -> dict[str, Callable[[], object]]:
    """The steps of many small tensors, where calls cost more than the arithmetic."""

    def adam() -> torch.optim.Optimizer:
        params = [p.data.view(4, -1) for p in parameters(SMALL * tensors, tensors)]
        for p in params:
            p.grad = torch.randn_like(p)
        return torch.optim.Adam(params, lr=LR)

    target = l1torch.target_sparsity(0.9, steps=10, begin=0.0, end=0.1)
    ball = l1torch.l1_ball(0.1 * SMALL * tensors, scope="tree")
    steps = {
        "Adam alone": adam(),
        DECOUPLED: l1torch.Proximal(adam(), STRENGTH, step_size="learning_rate"),
        METRIC: l1torch.Proximal(adam(), STRENGTH),
        TARGET: l1torch.Proximal(adam(), target),
        "+ Proximal, l1_ball for all": l1torch.Proximal(adam(), 1.0, penalty=ball),
        GROUPS: l1torch.Proximal(adam(), STRENGTH, penalty=l1torch.group_l1(1)),
    }
    return {name: optimizer.step for name, optimizer in steps.items()}


def peak_memory(step: Callable[[], object]) -> int:
    """Return the bytes that a step holds at most beyond what was there before it."""
    with torch.autograd.profiler.profile(
        use_kineto=False, profile_memory=True
    ) as profile:
        step()
    held = peak = 0
    for event in sorted(profile.function_events, key=lambda e: e.time_range.start):
        held += event.self_cpu_memory_usage
        peak = max(peak, held)
    return peak


def time_ratio(
    baseline: Callable[[], object], step: Callable[[], object], repeats: int
) -> float:
    """Return the median, over turns, of a step's time over the baseline's beside it."""
    ratios = []
    for turn in range(repeats + 2):
        seconds = []
        for run in (baseline, step):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        if turn >= 2:  # the first turns make states and warm up
            ratios.append(seconds[1] / seconds[0])
    return statistics.median(ratios)


def torch_table(
    steps: dict[str, Callable[[], object]],
    limits: dict[str, str],
    size: int,
    tensors: int,
    repeats: int,
) -> Table:
    """Time every step against the first."""
    baseline = next(iter(steps.values()))
    table = Table(
        "torch step",
        "time ratio",
        "limit",
        "peak memory",
        title=f"{size:,} float32 in {tensors:,} tensor(s), median of {repeats}",
    )
    for name, step in steps.items():
        limit = limits.get(name, "")
        ratio = 1.0 if step is baseline else time_ratio(baseline, step, repeats)
        # The profiler takes minutes over the operations of thousands of tensors.
        few = tensors <= 1000
        memory = f"{peak_memory(step) / (4 * size):.2f}" if few else "-"
        table.add_row(name, f"{ratio:.2f}", limit, memory)
    return table


def jax_table(size: int, tensors: int) -> Table:
    """Read the cost of the compiled update, parameters and state donated."""
    params = [jax.ShapeDtypeStruct((size // tensors,), jnp.float32)] * tensors
    table = Table(
        "JAX update",
        "bytes accessed ratio",
        "limit",
        "temporaries",
        title=f"{size:,} float32 in {tensors} array(s), compiled for "
        f"{jax.default_backend()}",
    )
    baseline = None
    rows = {
        "adam alone": optax.adam(LR),
        "+ proximal_step": optax.chain(
            optax.adam(LR), l1jax.proximal_step(STRENGTH, LR, mask=None)
        ),
        "proximal(adam)": l1jax.proximal(optax.adam, LR, STRENGTH, mask=None),
        "+ add_subgradient": optax.chain(
            l1jax.add_subgradient(STRENGTH, mask=None), optax.adam(LR)
        ),
    }
    for name, tx in rows.items():

        def update(params, state, grads, tx=tx):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        state = jax.eval_shape(tx.init, params)
        compiled = (
            jax.jit(update, donate_argnums=(0, 1))
            .lower(params, state, params)
            .compile()
        )
        moved = compiled.cost_analysis()["bytes accessed"]
        baseline = baseline or moved
        memory = compiled.memory_analysis().temp_size_in_bytes / (4 * size)
        limit = "1.001" if "prox" in name else ""
        table.add_row(name, f"{moved / baseline:.5f}", limit, f"{memory:.5f}")
    return table


def main() -> None:
    """Print tables for one large array, for 200, and for thousands of small ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=25_000_000)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--many", type=int, default=10_000)
    arguments = parser.parse_args()
    console = Console()
    console.print(f"torch {torch.__version__}, jax {jax.__version__}, CPU")
    for tensors in (1, 200):
        steps = torch_steps(arguments.size, tensors)
        shape = arguments.size, tensors, arguments.repeats
        console.print(torch_table(steps, LIMITS, *shape))
        console.print(jax_table(arguments.size, tensors))
    many = arguments.many
    # Long steps, of which a few are enough.
    shape = SMALL * many, many, min(arguments.repeats, 5)
    console.print(torch_table(steps_of_many(many), LIMITS_OF_MANY, *shape))


if __name__ == "__main__":
    main()
