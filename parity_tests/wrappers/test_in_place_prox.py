"""The quick ways from an optimizer's state to the prox, held to the plain one."""

import dataclasses

import pytest
import torch

import l1torch
from l1torch.numerics.blocks import BLOCK
from l1torch.numerics.second_moments import SecondMomentRoot
from l1torch.thresholds.effective_steps import effective_step, is_lazy, known_class

SHAPES = {"row": (3, 5), "same": (4, 5), "alone": (130, 150), "cut": (3, BLOCK // 2)}
MAKERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.5}),
    "adam": (torch.optim.Adam, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "nadam": (torch.optim.NAdam, {}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "rmsprop, centered": (torch.optim.RMSprop, {"centered": True}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "adamax": (torch.optim.Adamax, {}),
    "radam": (torch.optim.RAdam, {}),
}


@dataclasses.dataclass(frozen=True)
class Plain(type(l1torch.l1())):
    """The same penalty, that does not say so: its prox is called with tensors."""

    prox_is_soft_threshold = False

    def prox_(self, x, threshold):
        super(type(l1torch.l1()), self).prox_(x, threshold)


def trained(maker, penalty, dtype, strength, **kwargs):
    make, settings = MAKERS[maker]
    generator = torch.Generator().manual_seed(0)
    params = {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        for name, shape in SHAPES.items()
    }
    base = make(params.items(), lr=0.05, **settings)
    optimizer = l1torch.Proximal(base, strength, penalty=penalty, **kwargs)
    for _ in range(3):
        for param in params.values():
            param.grad = torch.randn(param.shape, generator=generator).to(dtype)
        optimizer.step()
    return params


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("metric", ["coordinate", "none"])
@pytest.mark.parametrize("maker", ["sgd", "adam", "rmsprop, centered"])
def test_the_quick_ways_lead_to_the_same_weights(maker, metric, dtype):
    quick, plain = (
        trained(maker, penalty, dtype, 0.3, metric=metric)
        for penalty in (l1torch.l1(), Plain())
    )
    for name, x in quick.items():
        torch.testing.assert_close(x, plain[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(x == 0, plain[name] == 0)
    zeros = torch.cat([(x == 0).flatten() for x in quick.values()]).float().mean()
    assert 0 < zeros < 1


@pytest.mark.parametrize("penalty", [l1torch.l1(), l1torch.mcp(1.0)], ids=repr)
def test_a_strength_for_each_weight_is_cut_with_it(penalty):
    one, each = (
        trained("adam", penalty, torch.float32, strength)
        for strength in (0.3, {n: torch.full(s, 0.3) for n, s in SHAPES.items()})
    )
    for name, x in one.items():
        torch.testing.assert_close(x, each[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(x == 0, each[name] == 0)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_lazy_step_works_out_nothing(maker):
    """What the registry declares of a step holds, at the first step and later on."""
    make, settings = MAKERS[maker]
    w = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = make([w], lr=0.05, **settings)
    known, group = known_class(optimizer), optimizer.param_groups[0]
    lazy = []
    for _ in range(8):
        w.grad = torch.ones(3, 2)
        optimizer.step()
        state = optimizer.state[w]
        lazy.append(is_lazy(known, state, group))
        step = effective_step(known, state, group)
        denominator = step.denominator
        if isinstance(denominator, SecondMomentRoot):
            assert any(denominator.second is kept for kept in state.values())
            denominator = 1.0
        numbers = isinstance(denominator, float) and isinstance(step.reach, float)
        assert numbers == lazy[-1]
    assert lazy[-1] == (maker not in ("rmsprop, centered", "adadelta", "adamax"))
    assert lazy[0] == (lazy[-1] and maker != "radam")


@pytest.mark.parametrize("penalty", [l1torch.l1(), l1torch.mcp(1.0)], ids=repr)
@pytest.mark.parametrize("strength", [0.3, torch.full((5, 1), 0.3)], ids=["one", "row"])
def test_no_temporary_is_as_large_as_the_parameter(penalty, strength):
    p = torch.nn.Parameter(torch.randn(5, 400_000))
    p.grad = torch.randn_like(p)
    base = torch.optim.Adam([("p", p)], lr=0.01, fused=True)
    optimizer = l1torch.Proximal(base, strength, penalty=penalty)
    optimizer.step()
    with torch.profiler.profile(profile_memory=True) as profile:
        optimizer.step()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < 4 * p.numel()
