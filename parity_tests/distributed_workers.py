"""What each process of the distributed tests runs: two of them, over gloo."""

import functools
import gc
import pathlib

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor

import l1torch

WRAPPERS = {
    "proximal": l1torch.Proximal,
    "metric": functools.partial(l1torch.Proximal, window=3),
    "tensor_metric": functools.partial(l1torch.Proximal, metric="tensor"),
    "subgradient": l1torch.Subgradient,
}
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


def make_optimizer(model: torch.nn.Module, wrapper: str) -> torch.optim.Optimizer:
    """Plain SGD, or Adam where there is a metric, in one of our wrappers."""
    if "metric" in wrapper:
        base = torch.optim.Adam(model.named_parameters(), lr=0.05)
        return WRAPPERS[wrapper](base, 0.02)
    base = torch.optim.SGD(model.named_parameters(), lr=0.1)
    return WRAPPERS[wrapper](base, 0.2)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    """A few full-batch steps."""
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def single(wrapper: str) -> dict[str, Tensor]:
    """The weights that one process arrives at."""
    model = make_model()
    train(model, make_optimizer(model, wrapper), make_data())
    return model.state_dict()


def worker(rank: int, kind: str, folder: str) -> None:
    """Trains in one of two processes; rank 0 leaves the weights in `folder`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    for wrapper in WRAPPERS:
        weights = distributed(rank, kind, wrapper)
        if rank == 0:
            torch.save(weights, pathlib.Path(folder, f"{wrapper}.pt"))
    # A process that leaves while the other still holds a model of the group hangs it.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def distributed(rank: int, kind: str, wrapper: str) -> dict[str, Tensor]:
    """The whole weights that this process and the other arrive at."""
    model = make_model()
    if kind == "ddp":
        model = torch.nn.parallel.DistributedDataParallel(model)
    else:
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    optimizer = make_optimizer(model, wrapper)
    if kind == "fsdp2":
        by_element(model, wrapper)
    train(model, optimizer, make_data().chunk(2)[rank])
    return {
        name.removeprefix("module."): (
            value.full_tensor() if hasattr(value, "full_tensor") else value
        )
        for name, value in model.state_dict().items()
    }


def by_element(model: torch.nn.Module, wrapper: str) -> None:
    """Tries strengths by element, and a report, on sharded parameters."""
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
