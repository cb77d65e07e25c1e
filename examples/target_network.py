"""Say "90 % zeros": how a network of 64, 256, 256 and 10 units fares at five targets.

    python examples/target_network.py
    python examples/target_network.py --framework both --seeds 3

It learns scikit-learn's digits under Adam with a cosine learning rate. Four ways to the
same number of zeros, for targets of 50 to 98 %:

- `target_sparsity(s, steps)`, with the strength found at every step;
- the same with `snap=0.75`: the last quarter refits what is not zero;
- the same under `metric="tensor"`;
- gradual magnitude pruning (Zhu and Gupta, 2017), the baseline: no penalty; the mask of
  the smallest weights grows along the same ramp, and then stays.

The table has the zeros that were reached, and the accuracy on the 540 digits that were
held back, on average over the seeds; with so few digits, differences below half a
point are noise.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

import l1jax
import l1torch
from common import FRAMEWORKS, chosen, command_line, save
from data import Split, digits, minibatches
from networks import BATCH, UNITS, forward, initial, kernels, measure, pruning_ramp

TARGETS = (0.5, 0.8, 0.9, 0.95, 0.98)
LEARNING_RATE = 3e-3
BEGIN, END = 0.05, 0.6
WAYS: dict[str, dict[str, Any] | None] = {
    "target": {},
    "snap=0.75": {"snap": 0.75},
    "tensor metric": {"metric": "tensor"},
    "magnitude pruning": None,
}
LOOKS = {"o-": "0", "s--": "tab:red", "^:": "tab:blue", "D-.": "0.5"}
Weights = dict[str, np.ndarray]


def pruned_sizes(target: float, steps: int) -> np.ndarray:
    """How many weights magnitude pruning makes zero at each step: the same ramp."""
    share = target * pruning_ramp(np.arange(1, steps + 1) / steps, BEGIN, END)
    total = sum(m * n for m, n in itertools.pairwise(UNITS))
    return np.round(share * total).astype(np.int32)


def train_jax(
    target: float, way: str, data: Split, steps: int, seeds: int
) -> list[Weights]:
    """Train one network for each seed, all at once."""
    options = WAYS[way]
    rate = optax.cosine_decay_schedule(LEARNING_RATE, steps)
    if options is None:
        tx = optax.adam(rate)
    else:
        kept = {k: v for k, v in options.items() if k == "metric"}
        snap = options.get("snap")
        goal = l1jax.target_sparsity(target, steps, begin=BEGIN, end=END, snap=snap)
        tx = l1jax.proximal(optax.adam, rate, goal, **kept)
    X, y = jnp.asarray(data.X), jnp.asarray(data.y)

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        scores = forward(params, X[batch])
        return optax.softmax_cross_entropy_with_integer_labels(scores, y[batch]).mean()

    def prune(new: Any, old: Any, zeros: jax.Array) -> Any:
        pruned = {
            k: jnp.where(old[k] == 0, 0, v)  # what is pruned stays so
            for k, v in new.items()
            if k.startswith("kernel")
        }
        sizes = jnp.sort(jnp.concatenate([abs(v).ravel() for v in pruned.values()]))
        cut = jnp.where(zeros > 0, sizes[zeros - 1], -1)
        return new | {k: jnp.where(abs(v) > cut, v, 0) for k, v in pruned.items()}

    @jax.jit
    def run(params: Any, batches: jax.Array, sizes: jax.Array) -> Any:
        def body(carry: Any, x: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            params, state = carry
            grads = jax.grad(loss)(params, x[0])
            updates, state = tx.update(grads, state, params)
            new = optax.apply_updates(params, updates)
            if options is None:
                new = prune(new, params, x[1])
            return (new, state), None

        return jax.lax.scan(body, (params, tx.init(params)), (batches, sizes))[0][0]

    sizes = jnp.asarray(pruned_sizes(target, steps))
    found = []
    for seed in range(seeds):
        batches = jnp.asarray(minibatches(len(y), BATCH, steps, seed))
        params = jax.tree.map(jnp.asarray, initial(seed))
        found.append(jax.tree.map(np.asarray, run(params, batches, sizes)))
    return found


def train_torch(
    target: float, way: str, data: Split, steps: int, seeds: int
) -> list[Weights]:
    """The same in torch."""
    options, found = WAYS[way], []
    X, y = torch.tensor(data.X), torch.tensor(data.y)
    sizes = pruned_sizes(target, steps).tolist()
    for seed in range(seeds):
        params = {
            k: torch.nn.Parameter(torch.tensor(v)) for k, v in initial(seed).items()
        }
        optimizer = torch.optim.Adam(params.items(), lr=LEARNING_RATE)
        scheduled = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        if options is not None:
            kept = {k: v for k, v in options.items() if k == "metric"}
            snap = options.get("snap")
            goal = l1torch.target_sparsity(
                target, steps, begin=BEGIN, end=END, snap=snap
            )
            optimizer = l1torch.Proximal(optimizer, goal, **kept)
        prunable, batches = kernels(params), minibatches(len(y), BATCH, steps, seed)
        for batch, zeros in zip(batches, sizes, strict=True):
            gone_before = [p.detach() == 0 for p in prunable]
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                forward(params, X[batch]), y[batch]
            )
            loss.backward()
            optimizer.step()
            scheduled.step()
            if options is None and zeros:
                with torch.no_grad():
                    for p, gone in zip(prunable, gone_before, strict=True):
                        p.masked_fill_(gone, 0)
                    each = torch.cat([p.abs().ravel() for p in prunable])
                    cut = each.kthvalue(zeros).values
                    for p in prunable:
                        p.masked_fill_(p.abs() <= cut, 0)
        found.append({k: p.detach().numpy() for k, p in params.items()})
    return found


def draw(found: dict[str, np.ndarray], seeds: int) -> Figure:
    """Draw accuracy by target, of each way; `found` has (targets, ways) per panel."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    figure.suptitle(
        "Accuracy by the zeros that were asked for: a target, with and without a\n"
        f"refit, beside magnitude pruning (digits, mean of {seeds} seed(s))"
    )
    grid = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    places = range(len(TARGETS))
    for axes, (framework, accuracy) in zip(grid, found.items(), strict=True):
        for way, values, look in zip(WAYS, accuracy.T, LOOKS, strict=True):
            axes.plot(places, values, look, label=way, color=LOOKS[look], mfc="none")
        axes.set_xticks(places, [f"{100 * target:g}" for target in TARGETS])
        axes.set(title=framework, xlabel="exact zeros [%]")
        axes.grid(color="0.9")
    grid[0].set_ylabel("accuracy on held-out digits [%]")
    grid[0].legend(frameon=False)
    return figure


def main() -> None:
    """Print a table for each framework, and draw."""
    parser = command_line(__doc__, __file__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.set_defaults(framework="jax")
    arguments = parser.parse_args()
    # Tensors as small as these gain nothing from threads.
    torch.set_num_threads(1)
    data, console, found = digits(), Console(width=100), {}
    trainers = {"jax": train_jax, "torch": train_torch}
    for key in chosen(arguments.framework):
        name, accuracies = FRAMEWORKS[key].name, []
        table = Table(
            "target [%]",
            *WAYS,
            title=f"{name}: zeros, test accuracy [%] after {arguments.steps} steps, "
            f"mean of {arguments.seeds} seed(s)",
        )
        for target in track(TARGETS, name, transient=True):
            cells = []
            for way in WAYS:
                runs = trainers[key](
                    target, way, data, arguments.steps, arguments.seeds
                )
                zeros, _, accuracy = np.mean([measure(run, data) for run in runs], 0)
                if abs(zeros - 100 * target) > 0.01:
                    raise AssertionError(f"{way}: {zeros} % zeros, not {100 * target}")
                cells.append(f"{zeros:.2f}, {accuracy:.1f}")
                accuracies.append(accuracy)
            table.add_row(f"{100 * target:g}", *cells)
        found[name] = np.reshape(accuracies, (len(TARGETS), len(WAYS)))
        console.print(table)
    save(draw(found, arguments.seeds), arguments.out)


if __name__ == "__main__":
    main()
