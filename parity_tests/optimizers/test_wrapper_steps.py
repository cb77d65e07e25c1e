"""The steps that the torch wrappers take."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

import l1torch
from parity_tests.frameworks.twins import TORCH, assert_bitwise
from parity_tests.wrappers.wrapped import (
    BASES,
    LR,
    STRENGTH,
    assert_same,
    fresh,
    model_and_data,
    proximal,
    train,
)


@pytest.mark.parametrize("base", BASES)
def test_proximal_is_the_base_step_then_the_prox(base):
    model, optimizer, x = fresh(base)
    twin, _ = model_and_data()
    plain = BASES[base](twin.parameters())
    for _ in range(5):
        train(model, optimizer, x, 1)
        train(twin, plain, x, 1)
        with torch.no_grad():
            for name, p in twin.named_parameters():
                if name in ("0.weight", "2.weight"):
                    threshold = np.float32(LR) * np.float32(STRENGTH)
                    p.copy_(l1torch.soft_threshold(p, float(threshold)))
        assert_same(model.parameters(), twin.parameters())
    # RMSprop's first steps are ten times the others': nothing comes near zero.
    assert (model[0].weight == 0).any() == (base != "rmsprop")
    assert (model[0].bias != 0).all()


@pytest.mark.parametrize("base", BASES)
def test_subgradient_is_autograd_of_the_penalised_loss(base):
    model, optimizer, x = fresh(base, l1torch.Subgradient, strength=STRENGTH)
    twin, _ = model_and_data()
    plain = BASES[base](twin.parameters())
    for _ in range(5):
        train(model, optimizer, x, 1)
        plain.zero_grad()
        weights = (twin[0].weight, twin[2].weight)
        penalty = STRENGTH * sum(w.abs().sum() for w in weights)
        (twin(x).square().mean() + penalty).backward()
        plain.step()
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("penalty", [l1torch.l1(), l1torch.elastic_net(0.4)])
def test_wrappers_equal_the_functional_form(dtype, penalty):
    model, x = model_and_data(dtype)
    optimizer = l1torch.Proximal(
        torch.optim.SGD(model.named_parameters(), lr=LR), STRENGTH, penalty=penalty
    )
    params = {n: p.detach().clone() for n, p in model.named_parameters()}
    tx = l1torch.proximal_step(STRENGTH, LR, penalty=penalty)
    state = tx.init(params)
    for _ in range(4):
        train(model, optimizer, x, 1)
        grads = {n: p.grad for n, p in model.named_parameters()}
        plain = {n: p.detach().clone().requires_grad_() for n, p in params.items()}
        base = torch.optim.SGD(plain.values(), lr=LR)
        for name, p in plain.items():
            p.grad = grads[name]
        base.step()
        updates = {n: (plain[n].detach() - params[n]) for n in params}
        updates, state = tx.update(updates, state, params)
        params = l1torch.apply_updates(params, updates)
        for name, p in model.named_parameters():
            tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
            torch.testing.assert_close(
                p.detach(), params[name], rtol=tolerance, atol=tolerance
            )
            assert torch.equal(p == 0, params[name] == 0)
    assert (model[0].weight == 0).any()


def test_prox_is_in_place_and_allocates_nothing_of_full_size():
    p = torch.nn.Parameter(torch.randn(2_000_000))
    p.grad = torch.zeros_like(p)
    optimizer = l1torch.Proximal(torch.optim.SGD([p], lr=LR), STRENGTH, mask=None)
    optimizer.step()
    address = p.data_ptr()
    with torch.profiler.profile(profile_memory=True) as profile:
        optimizer.step()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert p.data_ptr() == address
    assert largest < p.numel()  # bytes: a quarter of one temporary


def test_strength_schedule(wrap):
    seen = []
    model, optimizer, x = fresh(
        wrap=wrap, strength=lambda t: seen.append(t) or 0.1 * (t + 1)
    )
    train(model, optimizer, x, 3)
    assert seen[-1] == 2
    assert optimizer.param_groups[0]["l1"] == pytest.approx(0.3)
    saved = optimizer.state_dict()
    model, resumed, x = fresh(wrap=wrap, strength=lambda t: 0.1 * (t + 1))
    resumed.load_state_dict(saved)
    train(model, resumed, x, 1)
    assert resumed.param_groups[0]["l1"] == pytest.approx(0.4)


def test_strength_by_group_and_by_name(wrap):
    model, x = model_and_data()
    groups = [
        {"params": [("0.weight", model[0].weight)], "l1": 1e6},
        {"params": [("2.weight", model[2].weight)]},
    ]
    optimizer = wrap(torch.optim.SGD(groups, lr=LR), 0.0)
    assert [g["l1"] for g in optimizer.param_groups] == [1e6, 0.0]
    names = dict(model.named_parameters())
    by_name = dict.fromkeys(names, 0.0) | {"0.weight": torch.full((8, 6), 1e6)}
    named = wrap(torch.optim.SGD(model.named_parameters(), lr=LR), by_name)
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, x, 1)
    after = copy.deepcopy(model.state_dict())
    assert not torch.equal(before["0.weight"], after["0.weight"])
    for frozen in ("0.bias", "1.weight", "1.bias", "2.bias"):
        assert torch.equal(before[frozen], after[frozen])
    model.load_state_dict(before)
    train(model, named, x, 1)
    assert torch.equal(model[0].weight, after["0.weight"])
    torch.testing.assert_close(model[2].weight, after["2.weight"])


def test_closures(wrap):
    model, optimizer, x = fresh(wrap=wrap)
    other, twin, _ = fresh(wrap=wrap)
    for _ in range(3):

        def closure():
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        expected = other(x).square().mean().detach()
        assert optimizer.step(closure).detach() == expected
        train(other, twin, x, 1)
    assert_same(model.parameters(), other.parameters())


def test_a_closure_gives_the_base_the_penalised_loss():
    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            self.seen = closure()

    w = torch.nn.Parameter(torch.tensor([[2.0, -3.0]]))
    for maximize, objective in ((False, 5.0 + 0.5 * 5), (True, 5.0 - 0.5 * 5)):
        base = Recorder([w], lr=LR, maximize=maximize)
        loss = l1torch.Subgradient(base, 0.5).step(lambda: torch.tensor(5.0))
        assert loss == 5.0
        assert base.seen == objective


def test_a_closure_on_a_large_tensor_leaves_plain_gradients(wrap):
    w = torch.nn.Parameter(torch.full((2**18 + 1,), 2.0))
    for make in (torch.optim.SGD, torch.optim.LBFGS):
        optimizer = wrap(make([w], lr=0.0), mask=None)

        def closure(optimizer=optimizer):
            optimizer.zero_grad()
            loss = w.sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        assert not w.grad.requires_grad
        expected = 1 + STRENGTH * isinstance(optimizer, l1torch.Subgradient)
        torch.testing.assert_close(w.grad[:3], torch.full((3,), expected))


def test_lbfgs_minimises_the_penalised_loss_with_its_line_search():
    # Far from zero |w| is smooth, and LBFGS finds the minimum to rounding.
    torch.manual_seed(0)
    X, y = torch.randn(50, 4, dtype=torch.float64), torch.full((50,), 3.0).double()
    X = X + 3
    w = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
    base = torch.optim.LBFGS(
        [w],
        line_search_fn="strong_wolfe",
        max_iter=200,
        tolerance_grad=1e-12,
        tolerance_change=0,
    )
    optimizer = l1torch.Subgradient(base, 1e-3, mask=None)

    def closure():
        optimizer.zero_grad()
        loss = (X @ w - y).square().mean()
        loss.backward()
        return loss

    start = (X @ w - y).square().mean().detach()
    assert optimizer.step(closure).detach() == start
    optimizer.step(closure)
    slope = 2 * X.T @ (X @ w - y) / 50 + 1e-3 * w.sign()
    assert (w != 0).all()
    assert slope.abs().max() < 1e-6
    proximal(torch.optim.LBFGS([w]), strength=1e3, mask=None).step(closure)
    assert (w == 0).all()


def test_gradient_accumulation_and_missing_gradients(wrap):
    model, optimizer, x = fresh(wrap=wrap)
    other, twin, _ = fresh(wrap=wrap)
    for part in x.split(4):
        (model(part).square().mean() / 4).backward()
    optimizer.step()
    train(other, twin, x, 1)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    optimizer.zero_grad()
    model[2](torch.zeros(1, 8)).sum().backward()
    before = model[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal(model[0].weight, before)


def test_maximize_climbs_the_loss_less_the_penalty():
    for wrap in (l1torch.Proximal, l1torch.Subgradient):
        w = torch.nn.Parameter(torch.tensor([[2.0, 0.5]], dtype=torch.float64))
        base = torch.optim.SGD([w], lr=LR, maximize=True)
        optimizer = wrap(base, 1.0)
        for _ in range(2):
            optimizer.zero_grad()
            (-w.square().sum()).backward()
            optimizer.step()
        # For both, w <- w - lr (2 w + sign w) while w > 0.
        expected = [2.0, 0.5]
        for _ in range(2):
            expected = [v - LR * (2 * v + 1) for v in expected]
        np.testing.assert_allclose(w.detach().numpy()[0], expected, rtol=1e-14)


def test_tensor_learning_rate_and_strength(wrap):
    model, x = model_and_data()
    base = torch.optim.Adam(
        model.named_parameters(), lr=torch.tensor(LR), capturable=False, foreach=False
    )
    optimizer = wrap(base, torch.tensor(STRENGTH))
    other, twin, _ = fresh("adam", wrap)
    for a, b in zip(train(model, optimizer, x), train(other, twin, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_parameters_without_names_fall_back_to_their_dimensions(wrap):
    model, x = model_and_data()
    optimizer = wrap(torch.optim.SGD(model.parameters(), lr=LR), 1e3)
    before = model[0].bias.detach().clone()
    other, named, _ = fresh(wrap=wrap, strength=1e3)
    assert_same(train(model, optimizer, x, 1), train(other, named, x, 1))
    assert not torch.equal(model[0].bias, before)


def test_one_instance_of_softshrink_serves_long_tensors_bitwise():
    values = np.random.default_rng(0).normal(size=(300, 1001))
    for dtype in ("float32", "float64", "bfloat16"):
        x = TORCH.array(values, dtype)
        y = x.clone()
        l1torch.l1().prox_(y, 0.3)
        # In place the sign of a zero is not promised: take it out of both.
        assert_bitwise(TORCH.numpy(y) + 0, TORCH.numpy(l1torch.soft_threshold(x, 0.3)))


def test_nan_stays_visible(wrap):
    w = torch.nn.Parameter(torch.tensor([[float("nan"), 1.0]]))
    w.grad = torch.zeros_like(w)
    optimizer = wrap(torch.optim.SGD([w], lr=LR))
    optimizer.step()
    assert w.isnan().tolist() == [[True, False]]


def test_nonnegative_penalty_holds_its_constraint():
    model, x = model_and_data()
    base = torch.optim.SGD(model.named_parameters(), lr=LR)
    with pytest.raises(ValueError, match="holds a constraint"):
        l1torch.Subgradient(base, STRENGTH, penalty=l1torch.nonnegative_l1())
    optimizer = l1torch.Proximal(base, STRENGTH, penalty=l1torch.nonnegative_l1())
    train(model, optimizer, x, 3)
    assert (model[0].weight >= 0).all()
    assert (model[0].weight > 0).any()


@dataclasses.dataclass(frozen=True)
class Norm(l1torch.Penalty):
    """|x|_2: not a sum over the elements."""

    def value(self, x, strength=1.0):
        return strength * x.norm()

    def subgradient(self, x, strength=1.0):
        return strength * x / x.norm()

    def prox(self, x, threshold):
        return x * (1 - threshold / x.norm()).clamp(min=0)

    def optimality_distance(self, x, grad, strength=1.0):
        return (grad + strength * x / x.norm()).abs()


def test_a_penalty_of_ones_own_is_not_cut_up(wrap):
    w = torch.nn.Parameter(torch.ones(2**19, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    start = w.detach().clone()
    base = torch.optim.SGD([w], lr=1.0)
    wrap(base, 3.0, penalty=Norm(), mask=None).step()
    assert (w.detach() - start).norm().item() == pytest.approx(3.0)


def test_a_schedule_is_called_once_a_step_and_for_later_groups_too(wrap):
    calls = []
    model, x = model_and_data()
    groups = [{"params": list(model[i].named_parameters(str(i)))} for i in (0, 2)]
    base = torch.optim.SGD(groups, lr=LR)
    optimizer = wrap(base, lambda t: calls.append(t) or 0.1 * t)
    calls.clear()
    train(model, optimizer, x, 2)
    assert calls == [0, 1]
    late = ("late.weight", torch.nn.Parameter(torch.ones(2, 2)))
    optimizer.add_param_group({"params": [late]})
    calls.clear()
    train(model, optimizer, x, 1)
    assert calls == [2]
