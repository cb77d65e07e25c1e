"""What each process of the distributed tests runs: two of them, over gloo."""

import functools
import gc
import pathlib
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor

import l1torch

WRAPPERS = {
    "proximal": l1torch.Proximal,
    "metric": functools.partial(l1torch.Proximal, window=3),
    "tensor_metric": functools.partial(l1torch.Proximal, metric="tensor"),
    "scheduled_metric": functools.partial(l1torch.Proximal, window=3),
    "subgradient": l1torch.Subgradient,
}
KINDS = ("ddp", "fsdp2")
STEPS = 3


def make_model() -> torch.nn.Module:
    """The same weights in every process; sizes that two do not divide evenly."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 3)
    ).double()


def make_data() -> Tensor:
    """A batch for one process, or half of it for each of two."""
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(1)).double()


def warm_up(step: int) -> float:
    """A strength that grows, so that a lost count of steps would be seen."""
    return 0.005 * (1 + step)


def make_optimizer(model: torch.nn.Module, wrapper: str) -> torch.optim.Optimizer:
    """Plain SGD, or Adam where there is a metric, in one of our wrappers."""
    if "metric" in wrapper:
        base = torch.optim.Adam(model.named_parameters(), lr=0.05)
        strength = warm_up if wrapper == "scheduled_metric" else 0.02
        return WRAPPERS[wrapper](base, strength)
    base = torch.optim.SGD(model.named_parameters(), lr=0.1)
    return WRAPPERS[wrapper](base, 0.2)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    """A few full-batch steps."""
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def halve(optimizer: torch.optim.Optimizer) -> None:
    """Change the strength by hand in the midst of a run, where no schedule does."""
    for group in optimizer.param_groups:
        if "l1_count" not in group:
            group["l1"] /= 2


def single(wrapper: str) -> dict[str, dict[str, Tensor]]:
    """The weights that one process has in the middle, and at the end."""
    model, x = make_model(), make_data()
    optimizer = make_optimizer(model, wrapper)
    train(model, optimizer, x)
    middle = whole_weights(model)
    halve(optimizer)
    train(model, optimizer, x)
    return {"middle": middle, "end": whole_weights(model)}


def from_checkpoint(wrapper: str, folder: pathlib.Path) -> dict[str, Tensor]:
    """The weights at the end if one process goes on where two have stopped."""
    model = make_model()
    optimizer = make_optimizer(model, wrapper)
    restore(model, optimizer, folder)
    train(model, optimizer, make_data())
    return whole_weights(model)


def worker(rank: int, kind: str, folder: str) -> None:
    """Train in one of two processes; rank 0 leaves what it found in `folder`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    for wrapper in WRAPPERS:
        found = distributed(rank, kind, wrapper, pathlib.Path(folder, wrapper))
        if rank == 0:
            torch.save(found, pathlib.Path(folder, f"{wrapper}.pt"))
    # A process that leaves while the other still holds a model of the group hangs it.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def distributed(
    rank: int, kind: str, wrapper: str, folder: pathlib.Path
) -> dict[str, Any]:
    """What `single` gives, from two processes, and the end of an interrupted run."""
    x = make_data().chunk(2)[rank]
    model = place(kind)
    optimizer = make_optimizer(model, wrapper)
    if kind == "fsdp2":
        by_element(model, wrapper)
    train(model, optimizer, x)
    middle = whole_weights(model)
    halve(optimizer)
    save(model, optimizer, folder)
    train(model, optimizer, x)

    resumed = place(kind)
    second = make_optimizer(resumed, wrapper)
    for parameter in resumed.parameters():
        torch.nn.init.ones_(parameter)
    restore(resumed, second, folder)
    group = {k: v for k, v in second.param_groups[0].items() if k.startswith("l1")}
    train(resumed, second, x)
    return {
        "middle": middle,
        "end": whole_weights(model),
        "resumed": whole_weights(resumed),
        "group": group,
    }


def place(kind: str) -> torch.nn.Module:
    """The model in both processes: whole in each under DDP, sharded under FSDP2."""
    model = make_model()
    if kind == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    return model


def save(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, folder: pathlib.Path
) -> None:
    """Save a checkpoint, as it is done in training."""
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder)


def restore(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, folder: pathlib.Path
) -> None:
    """Load a checkpoint into model and optimizer, however it was sharded."""
    weights, state = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)


def whole_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """Gather copies of the weights under their plain names."""
    return {
        name.removeprefix("module."): (
            value.full_tensor() if hasattr(value, "full_tensor") else value.clone()
        )
        for name, value in model.state_dict().items()
    }


def by_element(model: torch.nn.Module, wrapper: str) -> None:
    """Try strengths by element, and a report, on sharded parameters."""
    name, weight = next(model.named_parameters())
    copied = torch.nn.Parameter(weight.detach().clone())
    copied.grad = torch.zeros_like(copied)
    base = torch.optim.SGD([(name, copied)], lr=1.0)
    plain = torch.zeros(weight.shape, dtype=weight.dtype)
    plain[::2] = 100.0
    with pytest.raises(ValueError, match="must be sharded"):
        WRAPPERS[wrapper](base, plain)
    sharded = distribute_tensor(plain, copied.device_mesh, copied.placements)
    WRAPPERS[wrapper](base, sharded).step()
    whole = copied.detach().full_tensor()
    report = l1torch.sparsity_report({name: copied.detach()}).arrays[0]
    assert report.size == whole.numel()
    assert report.nnz == int(whole.count_nonzero())
    if wrapper != "subgradient":
        assert (whole[::2] == 0).all()
        assert (whole[1::2] != 0).all()
        assert report.zero_rows == (len(whole) + 1) // 2
