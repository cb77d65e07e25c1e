"""A small model for the torch wrappers to train, and how they are made."""

import copy

import pytest
import torch

import l1torch

LR, STRENGTH = 0.1, 0.3

BASES = {
    "sgd": lambda params: torch.optim.SGD(params, lr=LR),
    "sgd_foreach": lambda params: torch.optim.SGD(params, lr=LR, foreach=True),
    "sgd_fused": lambda params: torch.optim.SGD(params, lr=LR, fused=True),
    "momentum": lambda params: torch.optim.SGD(params, lr=LR, momentum=0.9),
    "adam": lambda params: torch.optim.Adam(params, lr=LR),
    "adamw_fused": lambda params: torch.optim.AdamW(params, lr=LR, fused=True),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=LR),
    "rprop": lambda params: torch.optim.Rprop(params, lr=LR),
}


def model_and_data(dtype=torch.float32):
    """The same model and batch at each call."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2)
    ).to(dtype)
    return model, torch.randn(16, 6, dtype=dtype)


def proximal(base, strength=STRENGTH, **kwargs):
    """`Proximal` over any base: decoupled unless told otherwise."""
    kwargs.setdefault("step_size", "learning_rate")
    return l1torch.Proximal(base, strength, **kwargs)


def metric(base, strength=STRENGTH, **kwargs):
    """`Proximal` in the base's metric, with budgets in its state, where it knows it."""
    if isinstance(base, torch.optim.Rprop | torch.optim.LBFGS):
        pytest.skip("its effective step is not known")
    penalty = kwargs.get("penalty", l1torch.l1())
    kwargs.setdefault("window", 5 if penalty == l1torch.l1() else 1)
    if not getattr(penalty, "separable", True):
        kwargs.setdefault("metric", "tensor")
    return l1torch.Proximal(base, strength, **kwargs)


WRAPPERS = {
    "proximal": proximal,
    "metric": metric,
    "subgradient": l1torch.Subgradient,
}


def train(model, optimizer, x, n=3):
    """Take n steps and return copies of the parameters."""
    for _ in range(n):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def fresh(base="sgd", wrap=proximal, **kwargs):
    """The model, a wrapper around the named base, and the batch."""
    model, x = model_and_data()
    return model, wrap(BASES[base](model.named_parameters()), **kwargs), x


def assert_same(left, right):
    """Bitwise, tensor by tensor."""
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a, b)


def untouched(model, optimizer, call, error, match):
    """The call raises and leaves weights, gradients and state as they were."""
    before = copy.deepcopy([*model.parameters()])
    grads = copy.deepcopy([p.grad for p in model.parameters()])
    with pytest.raises(error, match=match):
        call()
    assert_same(before, model.parameters())
    for old, p in zip(grads, model.parameters(), strict=True):
        assert old is None or torch.equal(old, p.grad)
    assert all(state.get("step", 0) == 0 for state in optimizer.state.values())
