"""The torch wrappers: the same steps as the functional forms, and good citizens."""

import copy
import dataclasses
import io
import pickle
import warnings

import numpy as np
import pytest
import torch

import l1torch
from parity_tests.twins import TORCH, assert_bitwise

LR, STRENGTH = 0.1, 0.3

BASES = {
    "sgd": lambda params: torch.optim.SGD(params, lr=LR),
    "sgd_foreach": lambda params: torch.optim.SGD(params, lr=LR, foreach=True),
    "sgd_fused": lambda params: torch.optim.SGD(params, lr=LR, fused=True),
    "momentum": lambda params: torch.optim.SGD(params, lr=LR, momentum=0.9),
    "adam": lambda params: torch.optim.Adam(params, lr=LR),
    "adamw_fused": lambda params: torch.optim.AdamW(params, lr=LR, fused=True),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=LR),
    "lion_like": lambda params: torch.optim.Rprop(params, lr=LR),
}


def model_and_data(dtype=torch.float32):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2)
    ).to(dtype)
    return model, torch.randn(16, 6, dtype=dtype)


def proximal(base, strength=STRENGTH, **kwargs):
    kwargs.setdefault("step_size", "learning_rate")
    return l1torch.Proximal(base, strength, **kwargs)


WRAPPERS = {"proximal": proximal, "subgradient": l1torch.Subgradient}


@pytest.fixture(params=WRAPPERS)
def wrap(request):
    return lambda base, strength=STRENGTH, **kw: WRAPPERS[request.param](
        base, strength, **kw
    )


def train(model, optimizer, x, n=3):
    for _ in range(n):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def fresh(base="sgd", wrap=proximal, **kwargs):
    model, x = model_and_data()
    return model, wrap(BASES[base](model.named_parameters()), **kwargs), x


def assert_same(left, right):
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a, b)


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


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 4),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, 0.1, total_steps=6, cycle_momentum=False
        ),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [
                torch.optim.lr_scheduler.LinearLR(o),
                torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
            ],
            [2],
        ),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    ],
)
def test_threshold_follows_every_scheduler(make):
    p = torch.nn.Parameter(torch.full((1, 1), 10.0, dtype=torch.float64))
    p.grad = torch.zeros_like(p)
    optimizer = l1torch.Proximal(torch.optim.SGD([p], lr=LR), STRENGTH)
    scheduler = make(optimizer)
    expected = 10.0
    for _ in range(4):
        expected -= optimizer.param_groups[0]["lr"] * STRENGTH
        optimizer.step()
        scheduler.step()
        assert p.item() == pytest.approx(expected, rel=1e-14)


def test_plateau_scheduler_and_scheduler_of_the_strength():
    model, optimizer, x = fresh()
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for _ in range(3):
        train(model, optimizer, x, 1)
        plateau.step(1.0)
    assert optimizer.param_groups[0]["lr"] < LR
    optimizer.param_groups[0]["l1"] = 1e6
    train(model, optimizer, x, 1)
    assert (model[0].weight == 0).all()


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


def test_add_param_group(wrap):
    model, x = model_and_data()
    optimizer = wrap(torch.optim.SGD(model[0].named_parameters("0"), lr=LR), 1e3)
    with pytest.raises(TypeError, match="complex"):
        optimizer.add_param_group(
            {"params": [("z", torch.zeros(2, 2, dtype=torch.complex64))]}
        )
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": list(model[2].named_parameters("2")), "l1": 0})
    assert [g["l1"] for g in optimizer.param_groups] == [1e3, 0]
    train(model, optimizer, x, 1)
    if isinstance(optimizer, l1torch.Proximal):
        assert (model[0].weight == 0).all()
        assert (model[2].weight != 0).all()


def test_state_dict_round_trip_continues_bitwise(wrap):
    model, optimizer, x = fresh("adam", wrap)
    train(model, optimizer, x, 3)
    saved = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], saved)
    straight = train(model, optimizer, x, 3)
    saved.seek(0)
    other, resumed, x = fresh("adam", wrap, strength=0.9)
    weights, state = torch.load(saved)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert resumed.param_groups[0]["l1"] == STRENGTH
    assert_same(train(other, resumed, x, 3), straight)


def test_checkpoint_without_strength_gets_the_constructors(wrap):
    model, x = model_and_data()
    plain = BASES["adam"](model.named_parameters())
    train(model, plain, x, 2)
    other, optimizer, x = fresh("adam", wrap, strength=0.7)
    optimizer.param_groups[0]["l1"] = 5.0
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.param_groups[0]["l1"] == 0.7
    assert optimizer.state[other[0].weight]["step"] == 2
    train(other, optimizer, x, 1)


@pytest.mark.parametrize(
    "clone",
    [
        copy.deepcopy,
        lambda pair: pickle.loads(pickle.dumps(pair)),
        lambda pair: _saved_and_loaded(pair),
    ],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_continue_bitwise(wrap, clone):
    model, optimizer, x = fresh("adam", wrap)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    train(model, optimizer, x, 2)
    optimizer.register_step_post_hook(lambda *_: None)
    other, copied = clone((model, optimizer))
    assert type(copied) is type(optimizer)
    assert copied.optimizer is not optimizer.optimizer
    assert copied.param_groups[0]["params"][0] is other[0].weight
    assert_same(train(other, copied, x, 3), train(model, optimizer, x, 3))
    copied.register_step_pre_hook(lambda *_: None)
    scheduler.step()


def _saved_and_loaded(pair):
    buffer = io.BytesIO()
    torch.save(pair, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def test_hooks_are_called_once(wrap):
    model, optimizer, x = fresh(wrap=wrap)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.register_state_dict_pre_hook(lambda *_: calls.append("state"))
    optimizer.register_state_dict_post_hook(lambda *_: calls.append("dict"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("load"))
    optimizer.register_load_state_dict_post_hook(lambda *_: calls.append("loaded"))
    train(model, optimizer, x, 2)
    optimizer.load_state_dict(optimizer.state_dict())
    expected = ["pre", "post"] * 2 + ["state", "dict", "load", "loaded"]
    assert calls == expected


def test_is_an_optimizer_and_hands_on_what_it_has(wrap):
    model, optimizer, x = fresh("adam", wrap)
    base = optimizer.optimizer
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups is base.param_groups
    assert optimizer.state is base.state
    assert optimizer.defaults is base.defaults
    assert not hasattr(optimizer, "_step_supports_amp_scaling")
    assert type(optimizer).__name__ in repr(optimizer)
    assert "l1: 0.3" in repr(optimizer)
    train(model, optimizer, x, 1)
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


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


@pytest.mark.parametrize("base", ["adamw_fused", "adam", "sgd"])
def test_grad_scaler_unscales_before_and_skips_overflows(wrap, base):
    model, optimizer, x = fresh(base, wrap)
    other, twin, _ = fresh(base, wrap)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(model(x).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        train(other, twin, x, 1)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    scaler.scale(model(x).square().mean() * float("inf")).backward()
    scaler.step(optimizer)
    assert_same(before, model.parameters())


def test_tensor_learning_rate_and_strength(wrap):
    model, x = model_and_data()
    base = torch.optim.Adam(
        model.named_parameters(), lr=torch.tensor(LR), capturable=False, foreach=False
    )
    optimizer = wrap(base, torch.tensor(STRENGTH))
    other, twin, _ = fresh("adam", wrap)
    for a, b in zip(train(model, optimizer, x), train(other, twin, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("base", ["sgd", "adam"])
def test_torch_compile(wrap, base):
    model, optimizer, x = fresh(base, wrap)
    other, twin, _ = fresh(base, wrap)
    train(model, optimizer, x, 1)  # the base makes its state
    train(other, twin, x, 1)
    torch.compiler.reset()
    compiled = torch.compile(optimizer.step, backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its graph breaks
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            compiled()
            train(other, twin, x, 1)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        # A compiled Adam rounds otherwise than an eager one.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        assert torch.equal(a == 0, b == 0)


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
    with pytest.raises(TypeError, match="got Adam, whose.*step_size='learning_rate'"):
        l1torch.Proximal(BASES["adam"](model.named_parameters()), STRENGTH)
    with pytest.raises(ValueError, match="momentum=0, got 0.9.*step_size='learning"):
        l1torch.Proximal(BASES["momentum"](model.named_parameters()), STRENGTH)
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
    optimizer.param_groups[0]["momentum"] = 0.5
    untouched(model, optimizer, optimizer.step, ValueError, "momentum=0, got 0.5")


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


def test_wrapping_a_base_again_takes_the_new_strength(wrap):
    model, _ = model_and_data()
    groups = [
        {"params": list(model[0].named_parameters("0")), "l1": 7.0},
        {"params": list(model[2].named_parameters("2"))},
    ]
    base = torch.optim.SGD(groups, lr=LR)
    wrap(base, lambda t: 0.1)
    again = wrap(copy.deepcopy(base), 0.5)
    assert [g["l1"] for g in again.param_groups] == [7.0, 0.5]
    assert "l1_count" not in again.param_groups[1]


def test_numbers_of_numpy_load_from_a_checkpoint(wrap):
    _, optimizer, _ = fresh(wrap=wrap, strength=np.logspace(-3, 0, 3)[1])
    _, scheduled, _ = fresh(wrap=wrap, strength=lambda t: np.float32(0.5))
    for opt in (optimizer, scheduled):
        saved = io.BytesIO()
        torch.save(opt.state_dict(), saved)
        saved.seek(0)
        opt.load_state_dict(torch.load(saved, weights_only=True))
        assert type(opt.param_groups[0]["l1"]) is float


def test_the_constructors_strength_is_protected(wrap):
    model, _ = model_and_data()
    given = {name: torch.full_like(p, 0.1) for name, p in model.named_parameters()}
    plain = torch.optim.SGD(model.named_parameters(), lr=LR)
    old = copy.deepcopy(plain.state_dict())
    optimizer = wrap(plain, given)
    optimizer.param_groups[0]["l1"]["0.weight"].fill_(9.0)
    assert (given["0.weight"] == 0.1).all()
    optimizer.load_state_dict(old)
    assert (optimizer.param_groups[0]["l1"]["0.weight"] == 0.1).all()


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
        with pytest.raises(ValueError, match="momentum=0, got 1"):
            optimizer.add_param_group(heavy)
        assert len(optimizer.param_groups) == 1
