"""Many small parameters step together: as each would alone, and hardly dearer."""

import pytest
import torch

import l1torch
from parity_tests.wrappers.wrapped import (
    BASES,
    LR,
    STRENGTH,
)

UNITS = {"penalty": l1torch.group_l1(groups="output", layouts={"*": "oi"})}
JOINED = {
    "metric": {},
    "decoupled": {"step_size": "learning_rate"},
    "tensor": {"metric": "tensor"},
    "window": {"window": 3},
    "elastic net": {"penalty": l1torch.elastic_net(0.4)},
    "mcp": {"penalty": l1torch.mcp(3.0), "metric": "none"},
    "groups": {"penalty": l1torch.group_l1(0)},
    "units": UNITS,
    "ball": {"penalty": l1torch.l1_ball(0.5)},
}


@pytest.mark.parametrize("case", JOINED)
@pytest.mark.parametrize("base", ["momentum", "adam"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_small_parameters_step_together_as_each_would_alone(case, base, dtype):
    torch.manual_seed(0)
    shapes = [(3, 4), (2, 4), (3, 4), (3, 4), (130, 130), (1, 1), (3, 4), (5, 3)]
    starts = [torch.randn(shape, dtype=dtype) for shape in shapes]
    starts[3] = starts[3].T  # not contiguous
    slopes = [torch.randn_like(start) for start in starts]
    strengths = {f"w{i}": 2.0 if i == 6 else 1.0 for i in range(len(shapes))}
    results = []
    for together in (True, False):
        named = [(f"w{i}", torch.nn.Parameter(x.clone())) for i, x in enumerate(starts)]
        optimizers = [
            l1torch.Proximal(
                BASES[base](some), {n: strengths[n] for n, _ in some}, **JOINED[case]
            )
            for some in ([named] if together else [[each] for each in named])
        ]
        for i in range(4):
            for j, ((_, param), slope) in enumerate(zip(named, slopes, strict=True)):
                # One misses a step, and with it the others' count.
                param.grad = None if (i, j) == (2, 1) else slope / (1 + i)
            for optimizer in optimizers:
                optimizer.step()
        results.append([param.detach() for _, param in named])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a == 0, b == 0)
        if case in ("groups", "units"):  # sums over several arrays round otherwise
            tolerance = 1e-12 if dtype == torch.float64 else 1e-2
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        else:
            assert torch.equal(a, b)
    assert any((x == 0).any() for x in results[0])


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0,)])
@pytest.mark.parametrize("kwargs", [{}, {"window": 3}, {"metric": "none"}], ids=str)
def test_parameters_without_elements_take_a_step(shape, kwargs):
    params = [torch.nn.Parameter(torch.zeros(shape)) for _ in range(2)]
    for param in params:
        param.grad = torch.zeros_like(param)
    base = torch.optim.Adam(params, lr=LR)
    l1torch.Proximal(base, STRENGTH, mask=None, **kwargs).step()


@pytest.mark.parametrize(
    "strength",
    [
        STRENGTH,
        l1torch.target_sparsity(0.5, steps=2, begin=0.0),
        {"penalty": l1torch.l1_ball(3.0, scope="tree")},
        {"penalty": l1torch.top_k(30, scope="tree")},
        {"penalty": l1torch.elastic_net(0.5)},
        {"window": 3},
        UNITS,
    ],
    ids=["l1", "target", "ball", "top_k", "elastic net", "window", "units"],
)
def test_the_work_hardly_grows_with_the_number_of_small_parameters(strength):
    """Counted in torch's operations, of which each parameter had thirty to eighty."""
    kwargs = strength if isinstance(strength, dict) else {}
    strength = STRENGTH if kwargs else strength

    def operations(count, wrap):
        torch.manual_seed(0)
        named = [
            (f"{i}.w", torch.nn.Parameter(torch.randn(4, 4))) for i in range(count)
        ]
        optimizer = wrap(torch.optim.Adam(named, lr=LR))
        for _ in range(2):
            for _, param in named:
                param.grad = torch.ones_like(param)
            with torch.autograd.profiler.profile(use_kineto=False) as profile:
                optimizer.step()
        return len(profile.function_events)

    alone, wrapped = (
        operations(60, wrap) - operations(20, wrap)
        for wrap in (
            lambda base: base,
            lambda base: l1torch.Proximal(base, strength, **kwargs),
        )
    )
    assert wrapped - alone <= 10 * 40
