"""Distributed training in torch: DDP or FSDP2, with a checkpoint in the middle.

    python examples/scale_out_torch.py
    python examples/scale_out_torch.py --strategy ddp

Starts two processes, over NCCL if there are two GPUs, and else over gloo on the CPU. A
network of 64, 256 and 10 units learns scikit-learn's digits; every process takes its
part of every minibatch. In the middle they save a checkpoint, forget everything, and go
on from it. The zeros are those of one process that was never interrupted.

Nothing in the optimizer knows of it: under FSDP2 the prox treats the part of each
parameter that its process holds.
"""

import argparse
import gc
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import l1torch

STRENGTH = 2e-4  # lambda, per unit of the mean loss
LEARNING_RATE, BATCH, HIDDEN, PROCESSES = 2e-3, 128, 256, 2


class Trainer(NamedTuple):
    """What a checkpoint holds."""

    model: nn.Module
    optimizer: l1torch.Proximal
    schedule: torch.optim.lr_scheduler.LRScheduler


def load() -> list[np.ndarray]:
    """Split the digits 75 to 25: pixels, test pixels, labels, test labels."""
    X, y = load_digits(return_X_y=True)
    return train_test_split(X / 16, y, test_size=0.25, random_state=0, stratify=y)


def minibatches(steps: range) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffle the samples in every epoch; the same for all processes."""
    X, _, y, _ = (torch.from_numpy(x) for x in load())
    rng = np.random.default_rng(1)
    order = np.zeros(0, int)
    for step in range(steps.stop):
        if len(order) < BATCH:
            order = rng.permutation(len(y))
        chosen, order = order[:BATCH], order[BATCH:]
        if step in steps:
            yield X[chosen], y[chosen]


def make_model(device: str) -> nn.Module:
    """Make the same network in every process."""
    torch.manual_seed(0)
    # In double precision the order in which processes add up does not reach the zeros;
    # in single precision a few of them may differ.
    layers = nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)
    model = nn.Sequential(*layers).to(device, torch.float64)
    nn.init.kaiming_normal_(model[0].weight, nonlinearity="relu")
    nn.init.kaiming_normal_(model[2].weight, nonlinearity="relu")
    return model


def distribute(model: nn.Module, strategy: str, device: str) -> nn.Module:
    """Copy or shard the model over the processes."""
    if strategy == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    mesh = init_device_mesh(torch.device(device).type, (PROCESSES,))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def make_trainer(model: nn.Module, steps: int) -> Trainer:
    """Wrap Adam; the strength warms up and the learning rate decays."""

    def warm_up(step: int) -> float:
        return STRENGTH * min(1, step / max(1, steps // 10))

    base = torch.optim.Adam(model.named_parameters(), LEARNING_RATE)
    optimizer = l1torch.Proximal(base, warm_up)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return Trainer(model, optimizer, schedule)


def train(trainer: Trainer, steps: range, device: str, part: int, parts: int) -> None:
    """Take the steps, on this process's part of every minibatch."""
    model, optimizer, schedule = trainer
    for batch, labels in minibatches(steps):
        X, y = (x.chunk(parts)[part].to(device) for x in (batch, labels))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), y).backward()
        optimizer.step()
        schedule.step()


def save(trainer: Trainer, folder: pathlib.Path) -> None:
    """Save a checkpoint, each process what it holds."""
    model, optimizer = get_state_dict(trainer.model, trainer.optimizer)
    schedule = trainer.schedule.state_dict()
    state = {"model": model, "optimizer": optimizer, "schedule": schedule}
    dcp.save(state, checkpoint_id=folder)


def restore(trainer: Trainer, folder: pathlib.Path) -> None:
    """Load a checkpoint; it may have been saved by another number of processes."""
    model, optimizer = get_state_dict(trainer.model, trainer.optimizer)
    schedule = trainer.schedule.state_dict()
    state = {"model": model, "optimizer": optimizer, "schedule": schedule}
    dcp.load(state, checkpoint_id=folder)
    set_state_dict(
        trainer.model,
        trainer.optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    trainer.schedule.load_state_dict(state["schedule"])


def describe(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Gather the whole parameters, and tell what this process holds of them."""
    found = {}
    for name, parameter in model.named_parameters():
        x = parameter.detach()
        sharded = hasattr(x, "full_tensor")
        found[name.removeprefix("module.")] = {
            "whole": (x.full_tensor() if sharded else x).cpu(),
            "here": tuple((x.to_local() if sharded else x).shape),
            "placement": str(x.placements[0]) if sharded else "copied",
        }
    return found


def device_of(rank: int) -> str:
    """Give each process a GPU, if there are enough of them."""
    return f"cuda:{rank}" if torch.cuda.device_count() >= PROCESSES else "cpu"


def worker(rank: int, strategy: str, steps: int, folder: str) -> None:
    """Train in one of the processes; the first one leaves the parameters behind."""
    torch.set_num_threads(1)
    device = device_of(rank)
    if device != "cpu":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "gloo" if device == "cpu" else "nccl",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=PROCESSES,
    )
    middle = steps // 2
    for part in (range(middle), range(middle, steps)):
        model = distribute(make_model(device), strategy, device)
        trainer = make_trainer(model, steps)
        checkpoint = pathlib.Path(folder, "checkpoint")
        if part.start:
            restore(trainer, checkpoint)
        train(trainer, part, device, rank, PROCESSES)
        if part.stop < steps:
            save(trainer, checkpoint)
    found = describe(trainer.model)
    if rank == 0:
        torch.save(found, pathlib.Path(folder, "found.pt"))
    # A process that leaves while the other still holds a model of the group hangs it.
    del model, trainer
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Train in two processes, and in one without a break, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strategy", choices=("ddp", "fsdp2"), default="fsdp2")
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(
            worker, (args.strategy, args.steps, folder), nprocs=PROCESSES
        )
        found = torch.load(pathlib.Path(folder, "found.pt"))

    device = device_of(0)
    alone = make_trainer(make_model(device), args.steps)
    train(alone, range(args.steps), device, 0, 1)
    expected = {k: x.detach().cpu() for k, x in alone.model.named_parameters()}
    table = Table(title=f"Parameters of {PROCESSES} processes under {args.strategy}")
    for column in ("parameter", "shape", "in the first process", "placement"):
        table.add_column(column)
    table.add_column("zeros", justify="right")
    for name, row in found.items():
        whole = row["whole"]
        zeros = f"{float((whole == 0).double().mean()):.1%}"
        cells = str(tuple(whole.shape)), str(row["here"]), row["placement"]
        table.add_row(name, *cells, zeros)
    console = Console()
    console.print(table)

    whole = {name: row["whole"] for name, row in found.items()}
    weights = l1torch.sparsity_report(whole, l1torch.weights_only)
    model = make_model("cpu")
    model.load_state_dict(whole)
    _, X_test, _, y_test = (torch.from_numpy(x) for x in load())
    with torch.no_grad():
        accuracy = (model(X_test).argmax(1) == y_test).double().mean().item()
    console.print(f"{weights.sparsity:.1%} zeros, test accuracy {accuracy:.1%}")
    differing = sum(int(((whole[k] == 0) != (expected[k] == 0)).sum()) for k in whole)
    largest = max(float((whole[k] - expected[k]).abs().max()) for k in whole)
    console.print(
        f"Against one process, uninterrupted: {differing} zeros differ, weights by "
        f"{largest:.0e}."
    )


if __name__ == "__main__":
    main()
