"""What each of two processes of the sharding tests runs: every penalty on DTensors."""

import gc
import pathlib

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import l1torch
from parity_tests.report.operations import PENALTIES, inputs

REFUSED = ("n_of_m(2, 4, 0)",)
"""What shards would tear blocks of."""
IN_ADAM = {
    "n_of_m": lambda: l1torch.n_of_m(2, 5),
    "l1_ball, tree": lambda: l1torch.l1_ball(9.0, scope="tree"),
    "top_k, tree": lambda: l1torch.top_k(40, scope="tree"),
    "group_l1, output": lambda: l1torch.group_l1(
        groups="output", layouts={"*weight": "oi"}
    ),
}
STEPS = 4


def cases() -> list[tuple[str, str]]:
    """Penalties by themselves, by threshold, and in an optimizer; and clipping."""
    alone = [
        (name, kind)
        for name, reported in PENALTIES.items()
        for kind in ("scalar", "array")
        if kind == "scalar" or reported.metric
    ]
    in_adam = ((name, "adam") for name in IN_ADAM)
    return [*alone, *in_adam, ("clip_by_global_l1_norm", "gradients")]


def arrays(mesh: DeviceMesh | None) -> tuple[Tensor, Tensor]:
    """Values and thresholds: ten rows a process, so that blocks of four are torn."""
    x, grad = (torch.tensor(a[:20]) for a in inputs())
    t = grad.abs()
    if mesh is None:
        return x, t
    return tuple(distribute_tensor(a, mesh, [Shard(0)]) for a in (x, t))


def result(case: tuple[str, str], mesh: DeviceMesh | None) -> Tensor:
    """The prox, or the weights that a few steps end at."""
    name, kind = case
    x, t = arrays(mesh)
    if kind == "gradients":
        clip = l1torch.clip_by_global_l1_norm(1.0)
        return clip.update({"a": x, "b": t}, clip.init({}))[0]["b"]
    if kind != "adam":
        penalty = PENALTIES[name].make(l1torch)
        return penalty.prox(x, t if kind == "array" else 0.7)
    params = {"a.weight": x, "b.weight": 2 * t}
    params = {k: torch.nn.Parameter(v.clone()) for k, v in params.items()}
    base = torch.optim.Adam(params.items(), lr=0.5)
    optimizer = l1torch.Proximal(base, 0.1, penalty=IN_ADAM[name]())
    for _ in range(STEPS):
        for param in params.values():
            param.grad = 0.1 * param.detach() + 0.01
        optimizer.step()
    weights = [param.detach() for param in params.values()]
    return (
        torch.stack(weights)
        if mesh is None
        else torch.stack([weight.full_tensor() for weight in weights])
    )


def single(case: tuple[str, str]) -> Tensor:
    """What one process finds."""
    return result(case, None)


def worker(rank: int, folder: str) -> None:
    """Leave in `folder` what two processes find, or the errors that refuse it."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    mesh, found = init_device_mesh("cpu", (2,)), {}
    for case in cases():
        try:
            tensor = result(case, mesh)
        except ValueError as error:
            found[case] = str(error)
        else:
            whole = getattr(tensor, "full_tensor", tensor.clone)
            found[case] = whole()
    if rank == 0:
        torch.save(found, pathlib.Path(folder, "found.pt"))
    # A process that leaves while the other still holds a model of the group hangs it.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()
