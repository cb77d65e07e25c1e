"""The torch wrappers as good citizens: schedulers, checkpoints, copies, hooks."""

import copy
import io
import itertools
import pickle
import shutil
import warnings

import numpy as np
import pytest
import torch

import l1torch
from parity_tests.wrappers.wrapped import (
    BASES,
    LR,
    STRENGTH,
    assert_same,
    fresh,
    model_and_data,
    train,
)


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


COPIES = {
    "itself": lambda optimizer: optimizer,
    "deepcopy": copy.deepcopy,
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
}


def frozen(base, strength):
    return l1torch.freeze_zeros(base)


@pytest.mark.parametrize("clone", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize(
    "wrapper", [l1torch.Proximal, l1torch.Subgradient, frozen], ids=lambda w: w.__name__
)
def test_a_step_of_the_base_alone_is_warned_of_once(wrapper, clone):
    model, x = model_and_data()
    first = wrapper(BASES["adam"](model.named_parameters()), STRENGTH)
    train(model, first, x, 1)
    optimizer = clone(first)
    name = type(optimizer).__name__
    for param in optimizer.param_groups[0]["params"]:
        param.grad = torch.ones_like(param)
    with pytest.warns(
        UserWarning, match=rf"got Adam.step\(\) .* inside of a {name}"
    ) as w:
        optimizer.optimizer.step()
    assert w[0].filename == __file__
    optimizer.optimizer.step()  # once
    optimizer.step()


def test_a_base_without_its_wrapper_steps_in_silence(wrap):
    model, optimizer, x = fresh("adam", wrap)
    base = optimizer.optimizer
    assert not isinstance(optimizer, torch.optim.SGD)
    train(model, copy.deepcopy(base), x, 1)  # its copy has no wrapper
    earlier, optimizer = optimizer, wrap(base)
    train(model, earlier, x, 1)  # two wrappers around one base: both may step
    train(model, optimizer, x, 1)
    del earlier, optimizer
    train(model, base, x, 1)


def test_wrappers_around_wrappers_and_errors_set_off_no_warning():
    model, optimizer, x = fresh("adam")
    outer = l1torch.freeze_zeros(optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(outer.optimizer.optimizer, 1)
    train(model, outer, x, 2)
    scheduler.step()

    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        outer.step(fails)
    train(model, outer, x, 1)
    with pytest.warns(
        UserWarning, match="Proximal.step.. of the Proximal inside of a Fr"
    ):
        train(model, optimizer, x, 1)
    with pytest.warns(
        UserWarning, match="Adam.step.. of the Adam inside of a Proximal"
    ):
        train(model, optimizer.optimizer, x, 1)


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


COMPILED_BASES = {
    "sgd": lambda params: torch.optim.SGD(params, lr=LR, momentum=0.9),
    "adam": lambda params: torch.optim.Adam(params, lr=LR),
    "adamw": lambda params: torch.optim.AdamW(params, lr=LR),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=LR),
    "adagrad": lambda params: torch.optim.Adagrad(params, lr=LR),
}
COMPILED = {
    "metric": lambda base: l1torch.Proximal(base, STRENGTH, mask=None),
    "fused": lambda base: l1torch.Proximal(base, STRENGTH, mask=None, fused=True),
    "subgradient": lambda base: l1torch.Subgradient(base, STRENGTH, mask=None),
    "target": lambda base: l1torch.Proximal(
        base, l1torch.target_sparsity(0.5, steps=4, begin=0.0), mask=None
    ),
    "groups": lambda base: l1torch.Proximal(
        base, STRENGTH, penalty=l1torch.group_l1(0), mask=None
    ),
    "ball": lambda base: l1torch.Proximal(
        base, 1.0, penalty=l1torch.l1_ball(3.0, scope="tree"), mask=None
    ),
    "frozen": lambda base: l1torch.freeze_zeros(
        l1torch.Proximal(base, STRENGTH, mask=None), mask=None
    ),
}
LARGE, SMALL = [(600, 700)], [(3, 4), (5,), (2, 3)]


QUICK = [("metric", "adam", "large"), ("subgradient", "sgd", "large")]
SLOW = [
    case
    for case in (
        *itertools.product(COMPILED, ["adam"], ["large", "small"]),
        *itertools.product(["metric"], COMPILED_BASES, ["large"]),
    )
    if case not in QUICK
]


@pytest.fixture
def double_precision():
    """Make float64 the default, in which a compiled optimizer counts its steps."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.skipif(not shutil.which("c++"), reason="Inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # torch's own, about its graph breaks and jit
@pytest.mark.parametrize(
    ("wrapper", "base", "size"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
@pytest.mark.usefixtures("double_precision")
def test_inductor_compiles_a_step_to_the_eager_numbers(wrapper, base, size):
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        torch.compiler.reset()
        shapes = LARGE if size == "large" else SMALL
        named = [
            (f"w{i}", torch.nn.Parameter(torch.randn(s))) for i, s in enumerate(shapes)
        ]
        slopes = [torch.randn(param.shape) for _, param in named]
        optimizer = COMPILED[wrapper](COMPILED_BASES[base](named))
        step = torch.compile(optimizer.step) if compiled else optimizer.step
        found = []
        for i in range(5):
            for (_, param), slope in zip(named, slopes, strict=True):
                param.grad = slope / (1 + i) + 0.1 * param.detach()
            step()
            found += [param.detach().clone() for _, param in named]
        results.append(found)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        assert torch.equal(a == 0, b == 0)


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
