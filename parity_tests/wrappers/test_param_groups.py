"""What torch's parameter groups keep by name: free of what wrappers add to names."""

import copy
import itertools

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import l1torch
from l1torch.wrappers.param_groups import plain_name
from parity_tests.wrappers.wrapped import assert_same, model_and_data, train

ADDED = {
    "bare": lambda model: model,
    "DDP": torch.nn.parallel.DistributedDataParallel,
    "compile": lambda model: torch.compile(model, backend="eager"),
}
PAIRS = [*itertools.permutations(ADDED, 2)]
WAYS = {
    "mapping": lambda names: {name: (i + 1) / 50 for i, name in enumerate(names)},
    "target": lambda names: l1torch.target_sparsity(0.5, 9, scope="array"),
}


@pytest.fixture(scope="module")
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def made(added, way):
    model, x = model_and_data()
    model = ADDED[added](model)
    names = [name for name, _ in model.named_parameters()]
    base = torch.optim.Adam(model.named_parameters(), lr=0.1)
    return model, l1torch.Proximal(base, WAYS[way](names)), x


@pytest.mark.filterwarnings("ignore")  # torch's own, of its checkpoints
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("saved", "loaded"), PAIRS)
def test_a_distributed_checkpoint_fits_other_wrappers(
    one_process, saved, loaded, way, tmp_path
):
    model, optimizer, x = made(saved, way)
    train(model, optimizer, x, 4)
    state = dict(
        zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True)
    )
    dcp.save(state, checkpoint_id=tmp_path)
    other, restored, _ = made(loaded, way)
    state = dict(
        zip(("model", "optimizer"), get_state_dict(other, restored), strict=True)
    )
    dcp.load(state, checkpoint_id=tmp_path)
    set_state_dict(
        other,
        restored,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    groups = [each.param_groups[0] for each in (optimizer, restored)]
    assert groups[0]["l1"] == groups[1]["l1"]
    assert set(groups[1]["l1"]) == {
        n for n, _ in model_and_data()[0].named_parameters()
    }
    assert_same(train(model, optimizer, x, 5), train(other, restored, x, 5))
    assert (next(other.parameters()) == 0).any()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("saved", "loaded"), PAIRS)
def test_a_state_dict_fits_other_wrappers(one_process, saved, loaded, way):
    model, optimizer, x = made(saved, way)
    train(model, optimizer, x, 4)
    other, restored, _ = made(loaded, way)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
        ours.data.copy_(theirs.data)
    assert_same(train(model, optimizer, x, 5), train(other, restored, x, 5))


@pytest.mark.parametrize("given", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("present", ["", "module.", "_fsdp_wrapped_module."])
def test_strengths_are_given_by_either_name(given, present):
    weights = torch.nn.Parameter(torch.ones(2, 2))
    base = torch.optim.SGD([(f"{present}0.weight", weights)], lr=1.0)
    optimizer = l1torch.Proximal(base, {f"{given}0.weight": 0.25})
    assert optimizer.param_groups[0]["l1"] == {"0.weight": 0.25}
    weights.grad = torch.zeros(2, 2)
    optimizer.step()
    assert (weights == 0.75).all()
    optimizer.param_groups[0]["l1"] = {f"{given}0.weight": 0.5}
    optimizer.step()
    assert (weights == 0.25).all()


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("0.weight", "0.weight"),
        ("module.0.weight", "0.weight"),
        ("module._orig_mod.module.0.weight", "0.weight"),
        ("_fsdp_wrapped_module.0._fsdp_wrapped_module.weight", "0.weight"),
        ("0._checkpoint_wrapped_module.weight", "0.weight"),
        ("encoder.module.weight", "encoder.module.weight"),
        ("module", "module"),
    ],
)
def test_plain_names(name, plain):
    assert plain_name(name) == plain


@pytest.mark.parametrize("way", WAYS)
def test_names_that_would_be_one_are_refused(way):
    names = ["w", "module.w"]
    named = [(name, torch.nn.Parameter(torch.ones(2, 2))) for name in names]
    base = torch.optim.SGD([{"params": [pair]} for pair in named], lr=1.0)
    with pytest.raises(ValueError, match="differ in more than what wrappers add"):
        l1torch.Proximal(base, WAYS[way](names))
    l1torch.Proximal(base, 0.1)
