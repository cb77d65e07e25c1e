"""What a threshold costs without a sort: counting and Newton beside the usual ways.

    python examples/benchmarks/thresholds_without_sorting.py

A ratio is the median, over turns, of the other way's time over ours just after it, so
that a noisy machine hits both alike. Compilation is not counted. The answers of both
ways are compared first.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from rich.console import Console
from rich.table import Table

import l1jax
import l1torch
from l1jax.numerics.order_statistics import k_largest
from l1torch.numerics.order_statistics import kth_largest

Row = tuple[str, str, Callable[[], Any], Callable[[], Any]]
"""What is found, the other way's name, the other way, and ours."""


def jax_rows(x: np.ndarray, metric: np.ndarray, radius: float, k: int) -> list[Row]:
    """The L1 ball and the k largest in JAX."""
    x, metric = jnp.asarray(x), jnp.asarray(metric)
    other = jax.jit(lambda x: optax.projections.projection_l1_ball(x, radius))
    ball = jax.jit(l1jax.l1_ball(radius).prox)
    top = jax.jit(l1jax.top_k(k).prox)
    marks = jax.jit(lambda x: k_largest([jnp.abs(x)], k)[0])
    by_sort = jax.jit(lambda x: jnp.sort(jnp.abs(x))[-k])
    marked = jax.jit(lambda x: jnp.abs(x) >= by_sort(x))

    def kept(x: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(x) >= by_sort(x), x, 0)

    kept = jax.jit(kept)
    name = "optax projection_l1_ball"
    return [
        ("L1 ball", name, lambda: other(x), lambda: ball(x, 1.0)),
        ("L1 ball, metric", name, lambda: other(x), lambda: ball(x, metric)),
        ("k largest marked", "jnp.sort", lambda: marked(x), lambda: marks(x)),
        ("k largest kept", "jnp.sort", lambda: kept(x), lambda: top(x, 1.0)),
    ]


def torch_rows(x: np.ndarray, metric: np.ndarray, radius: float, k: int) -> list[Row]:
    """The L1 ball and the k-th largest in torch."""
    x, metric = torch.tensor(x), torch.tensor(metric)
    size = x.numel()

    def sorted_ball() -> torch.Tensor:
        ordered = x.abs().sort(descending=True).values
        taus = (ordered.cumsum(0) - radius) / torch.arange(1, size + 1)
        tau = taus[torch.count_nonzero(ordered > taus) - 1]
        return x - x.clamp(-tau, tau)

    ball, top = l1torch.l1_ball(radius), l1torch.top_k(k)

    def kth() -> torch.Tensor:
        return kth_largest([x.abs()], k)

    def kept() -> torch.Tensor:
        return torch.where(x.abs() >= x.abs().kthvalue(size - k + 1).values, x, 0)

    return [
        ("L1 ball", "sort", sorted_ball, lambda: ball.prox(x, 1.0)),
        ("L1 ball, metric", "sort", sorted_ball, lambda: ball.prox(x, metric)),
        ("k-th largest", "sort", lambda: x.abs().sort().values[size - k], kth),
        ("k-th largest", "topk", lambda: x.abs().topk(k).values[-1], kth),
        (
            "k-th largest",
            "kthvalue",
            lambda: x.abs().kthvalue(size - k + 1).values,
            kth,
        ),
        ("k largest kept", "kthvalue", kept, lambda: top.prox(x, 1.0)),
    ]


def seconds(run: Callable[[], Any]) -> float:
    """Time one run, until its result is there."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def time_ratio(
    other: Callable[[], Any], ours: Callable[[], Any], repeats: int
) -> float:
    """Return the median, over turns, of the other way's time over ours."""
    turns = [(seconds(other), seconds(ours)) for _ in range(repeats + 1)]
    return statistics.median(a / b for a, b in turns[1:])


def main() -> None:
    """Print how many times faster it is than the other ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.normal(size=arguments.size).astype(np.float32)
    metric = 10 ** rng.uniform(-2, 2, arguments.size).astype(np.float32)
    radius, k = 0.05 * float(np.abs(x).sum()), arguments.size // 10
    console = Console()
    console.print(f"jax {jax.__version__}, torch {torch.__version__}, CPU, float32")
    for framework, rows in (
        ("JAX", jax_rows(x, metric, radius, k)),
        ("torch", torch_rows(x, metric, radius, k)),
    ):
        table = Table(
            "what",
            "other way",
            "times faster",
            title=f"{framework}, {arguments.size:,} numbers, a tenth of them kept; "
            f"median of {arguments.repeats}",
        )
        for what, name, other, ours in rows:
            if "metric" not in what:
                a, b = np.asarray(other()), np.asarray(ours())
                np.testing.assert_allclose(a, b, atol=1e-4)
            ratio = time_ratio(other, ours, arguments.repeats)
            table.add_row(what, name, f"{ratio:.1f}")
        console.print(table)


if __name__ == "__main__":
    main()
