"""Bad input to the torch wrappers: refused before anything moves."""

import pytest
import torch

import l1torch
from parity_tests.wrappers.wrapped import (
    BASES,
    LR,
    STRENGTH,
    fresh,
    model_and_data,
    proximal,
    train,
    untouched,
)


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), "1", True, None])
def test_bad_numbers_are_refused_before_anything_moves(wrap, bad):
    error = ValueError if isinstance(bad, float) else TypeError
    with pytest.raises(error, match="strength must be a finite real number"):
        fresh(wrap=wrap, strength=bad)
    model, optimizer, x = fresh("adam", wrap)
    model(x).sum().backward()
    optimizer.param_groups[0]["l1"] = bad
    untouched(model, optimizer, optimizer.step, error, "'l1'")
    if isinstance(optimizer, l1torch.Proximal) and bad is not None:
        model, optimizer, x = fresh("adam", wrap)
        model(x).sum().backward()
        optimizer.param_groups[0]["lr"] = bad
        untouched(model, optimizer, optimizer.step, error, "lr must be a finite")


def test_sparse_gradients_are_refused_before_anything_moves(wrap):
    model = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = wrap(torch.optim.SGD(model.named_parameters(), lr=LR))

    def closure():
        loss = model(torch.tensor([1])).sum()
        loss.backward()
        return loss

    match = "the gradient of 'weight' has layout torch.sparse_coo"
    before = model.weight.detach().clone()
    with pytest.raises(TypeError, match=match):
        optimizer.step(closure)
    with pytest.raises(TypeError, match=match):
        optimizer.step()
    assert torch.equal(model.weight, before)


def test_bad_parameters(wrap):
    w = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    with pytest.raises(TypeError, match="params.'w'. has dtype torch.complex64"):
        wrap(torch.optim.SGD([("w", w)], lr=LR))
    base = torch.optim.SGD([("bias", torch.nn.Parameter(torch.ones(2)))], lr=LR)
    with pytest.raises(ValueError, match="selects nothing"):
        wrap(base)
    assert "l1" not in base.param_groups[0]
    twice = [("w", torch.nn.Parameter(torch.ones(2, 2))) for _ in range(2)]
    with pytest.raises(ValueError, match=r"distinct parameter names, got \['w'\]"):
        wrap(torch.optim.SGD(twice, lr=LR))
    with pytest.raises(ValueError, match="need parameter names"):
        wrap(torch.optim.SGD([twice[0][1]], lr=LR), mask=l1torch.by_path("*"))


def test_bad_strengths_by_name(wrap):
    model, _ = model_and_data()

    def base():
        return torch.optim.SGD(model.named_parameters(), lr=LR)

    with pytest.raises(ValueError, match=r"strength names \['typo'\].*'0.weight'"):
        wrap(base(), {"typo": 0.1})
    with pytest.raises(ValueError, match="strength has no entry for '0.bias'"):
        wrap(base(), {"0.weight": 0.1})
    with pytest.raises(TypeError, match="strength must map .* numbers, got .* 1 of"):
        wrap(base(), {1: 0.1})
    with pytest.raises(TypeError, match="strength must map names to numbers"):
        wrap(base(), {n: lambda t: 0.1 for n, _ in model.named_parameters()})
    with pytest.raises(ValueError, match=r"strength of shape \(3,\) does not broad"):
        wrap(base(), torch.ones(3))


def test_bad_optimizers(wrap):
    model, _ = model_and_data()
    base = torch.optim.SGD(model.named_parameters(), lr=LR)
    with pytest.raises(TypeError, match="optimizer must be a torch.optim.Optimizer"):
        wrap(model)
    with pytest.raises(TypeError, match="already, got a second wrapper"):
        wrap(wrap(base))
    with pytest.raises(TypeError, match="penalty must be a Penalty"):
        wrap(base, penalty=l1torch.l1)


def test_step_sizes_that_are_not_known():
    model, x = model_and_data()
    with pytest.raises(TypeError) as error:
        l1torch.Proximal(BASES["rprop"](model.named_parameters()), STRENGTH)
    for part in ("Rprop", "register_step_size", "proximal_step", "'learning_rate'"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="step_size must be .* got 'lr'"):
        proximal(BASES["sgd"](model.named_parameters()), step_size="lr")

    class Heavier(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    class Same(torch.optim.SGD):
        pass

    with pytest.raises(TypeError, match="got Heavier"):
        l1torch.Proximal(Heavier(model.named_parameters(), lr=LR), STRENGTH)
    optimizer = l1torch.Proximal(Same(model.named_parameters(), lr=LR), STRENGTH)
    model(x).sum().backward()
    for name in ("momentum", "dampening"):
        optimizer.param_groups[0][name] = 1.0
        untouched(
            model,
            optimizer,
            optimizer.step,
            ValueError,
            rf"{name} must be .* in \[0, 1",
        )
        optimizer.param_groups[0][name] = 0.0
    optimizer.param_groups[0]["lr"] = -0.1
    untouched(model, optimizer, optimizer.step, ValueError, "lr must be .* got -0.1")


def test_a_schedule_that_turns_negative_changes_nothing(wrap):
    model, optimizer, x = fresh(wrap=wrap, strength=lambda t: 0.1 - t)
    train(model, optimizer, x, 1)
    model(x).sum().backward()
    untouched(model, optimizer, optimizer.step, ValueError, "got -0.9")
    assert optimizer.param_groups[0]["l1"] == 0.1


def test_changes_behind_the_wrappers_back_are_told(wrap):
    model, optimizer, _ = fresh(wrap=wrap)
    late = ("late.weight", torch.nn.Parameter(torch.ones(2, 2)))
    optimizer.optimizer.add_param_group({"params": [late]})
    with pytest.raises(ValueError, match="through the wrapper's add_param_group"):
        optimizer.step()
    model, optimizer, _ = fresh(wrap=wrap)
    plain = torch.optim.SGD(model.named_parameters(), lr=LR)
    optimizer.optimizer.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match="state dicts through the wrapper"):
        optimizer.step()


def test_more_bad_input(wrap):
    model, _ = model_and_data()

    def base(**kwargs):
        return torch.optim.SGD(model.named_parameters(), lr=LR, **kwargs)

    whole = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.int32), requires_grad=False)
    with pytest.raises(TypeError, match="params.'w'. has dtype torch.int32"):
        wrap(torch.optim.SGD([("w", whole)], lr=LR))
    with pytest.raises(ValueError, match="mask does not fit the parameters"):
        wrap(base(), mask={"0.weight": True})
    with pytest.raises(ValueError, match="'3.weight' matches no parameter"):
        wrap(base(), mask=l1torch.by_path("3.weight"))
    with pytest.raises(ValueError, match=r"strength of shape \(3,\) does not broad"):
        wrap(base(), lambda t: torch.ones(3))
    groups = [{"params": [torch.nn.Parameter(torch.ones(2, 2))]} for _ in range(2)]
    with pytest.raises(ValueError, match="got parameters without"):
        wrap(torch.optim.SGD(groups, lr=LR), {"0": 0.1, "1": 0.5})
    if wrap(base()).__class__ is l1torch.Proximal:
        odd = torch.optim.SGD([("w", torch.nn.Parameter(torch.ones(2, 2)))], lr=LR)
        odd.param_groups[0]["lr"] = float("nan")
        with pytest.raises(ValueError, match="lr must be a finite real number"):
            wrap(odd)
        optimizer = l1torch.Proximal(base(), STRENGTH)
        heavy = {"params": [("w", torch.nn.Parameter(torch.ones(2, 2)))], "momentum": 1}
        with pytest.raises(ValueError, match="momentum must be .* got 1"):
            optimizer.add_param_group(heavy)
        assert len(optimizer.param_groups) == 1
