"""The parity report: it passes here, it can fail, and it needs one framework only."""

import dataclasses
import json

import numpy as np
import pytest

from parity_tests.__main__ import main
from parity_tests.frameworks.alone import run_without
from parity_tests.frameworks.twins import DTYPES, JAX, TORCH
from parity_tests.report import checks, operations, rendering, sides
from parity_tests.report.operations import ulps
from parity_tests.report.sides import STRIDE, Live, Stored

SOME = ["soft_threshold", "l1().value", "proximal_step"]


@pytest.fixture
def few(monkeypatch):
    """A report of a few operations and optimizers."""
    kept = {name: operations.OPERATIONS[name] for name in SOME}
    monkeypatch.setattr(checks, "OPERATIONS", kept)
    rows = {name: checks.ROWS[name] for name in ("sgd", "radam", "yogi")}
    monkeypatch.setattr(checks, "ROWS", rows)
    variants = {name: sides.VARIANTS[name] for name in ("sgd", "adam, window=9")}
    monkeypatch.setattr(checks, "VARIANTS", variants)
    monkeypatch.setattr(checks, "CASES", ("lasso", "elastic_net"))


def live(*twins):
    return tuple(Live(twin, "cpu", twin.device("cpu")) for twin in twins)


def test_ulps_count_the_numbers_in_between():
    for dtype in (np.float32, np.float64, np.float16):
        name = np.dtype(dtype).name
        wide = np.float32 if dtype is np.float16 else dtype
        x = np.array([1.0, -1.0, 3e-3, -777.0], dtype)
        steps = x
        for n in range(4):
            assert ulps(x.astype(wide), steps.astype(wide), name) == n
            steps = np.nextafter(steps, np.array([9, 9, -9, -999], dtype))
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    assert ulps(one, one * (1 + 2**-7), "bfloat16") == 1
    assert ulps(zero, -zero, "float32") == 1
    assert ulps(zero, one * np.float32(1e-40), "float32") == 0
    assert ulps(-one, one, "float16") == 2 * 0x3C00 + 1
    tiny = np.array([np.nan], np.float32)
    assert ulps(tiny, tiny, "float32") == 0
    assert ulps(tiny, one, "float32") == np.inf
    assert ulps(one, tiny, "float32") == np.inf


def test_inputs_hold_what_matters():
    x, grad = operations.inputs()
    assert (x == 0).sum() > 50
    assert (np.abs(grad) == np.abs(x)).sum() > 40
    # Exact, so that every machine has the very same numbers.
    assert x.flat[1] == (2 * (2654435761 / 2**32) - 1) * 2.0 ** (2654435761 % 13 - 8)


@pytest.mark.slow
def test_every_check_passes_and_says_what_it_found(few, capsys, tmp_path):
    assert main(["--device", "cpu", "--json", str(tmp_path / "report.json")]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["quick"] is False
    printed = capsys.readouterr().out
    assert "PASS: " in printed
    assert "FAIL" not in printed
    for name in (*SOME, "radam", "yogi", "adam, window=9", "elastic_net", "bf16"):
        assert name in printed


def test_narrow_terminals_lose_nothing(few, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["--quick"]) == 0
    assert len(capsys.readouterr().out.split("PASS")) > 7


def test_json_is_the_whole_report(few, capsys):
    assert main(["--quick", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert found["quick"] is True
    assert found["sides"]["jax"]["versions"]["jax"]
    assert found["sides"]["torch"] == {
        "device": "cpu",
        "stored": False,
        "versions": TORCH.versions(),
    }
    assert len(found["operations"]) == len(SOME) * (len(DTYPES) - 1)
    by_name = {check["optimizer"]: check for check in found["optimizers"]}
    assert set(by_name) == {"sgd", "radam", "yogi", "adam, window=9"}
    assert by_name["sgd"]["difference"] <= 1e-12
    assert by_name["radam"]["difference"] is None
    assert set(by_name["radam"]["gaps"]) == {"jax", "torch"}
    assert set(by_name["yogi"]["gaps"]) == {"jax"}


def test_a_wrong_operation_fails(few, monkeypatch, capsys):
    """One twin's threshold off by the last digit."""
    right = JAX.prox.soft_threshold

    def wrong(x, threshold):
        return right(x, threshold * (1 + 1e-7))

    monkeypatch.setattr(JAX.prox, "soft_threshold", wrong)
    assert main(["--quick"]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_wrong_step_fails(few, monkeypatch, capsys):
    """One twin's threshold half as large as it should be: another optimum."""
    right = TORCH.lib.l1()
    half = type(right).prox_
    monkeypatch.setattr(type(right), "prox_", lambda self, x, t: half(self, x, 0.5 * t))
    assert main(["--quick", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    sgd = next(c for c in found["optimizers"] if c["optimizer"] == "sgd")
    assert not sgd["passed"]
    assert sgd["difference"] > 1e-12
    assert abs(sgd["gaps"]["torch"]) > 1e-9
    assert abs(sgd["gaps"]["jax"]) <= 1e-9


def check(**changes):
    good = checks.OptimizerCheck(
        "adam", "lasso", "float64", 1e-13, 0.0, True, {"jax": 0.0}, {"jax": True}
    )
    return dataclasses.replace(good, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"difference": 2e-12},
        {"difference": float("nan")},
        {"support_differs": 1e-9},
        {"same_zeros_at_the_end": False},
        {"gaps": {"jax": 2e-9}},
        {"gaps": {"jax": -2e-9}},
        {"gaps": {"jax": float("nan")}},
        {"supports": {"jax": False}},
    ],
)
def test_every_limit_counts(changes):
    assert check().passed
    failed = check(**changes)
    assert not failed.passed
    whole = rendering.Report(
        True, live(JAX, TORCH), [], [check(), failed], "2000-01-01"
    )
    assert not whole.passed
    assert json.loads(rendering.to_json(whole))["passed"] is False


@pytest.mark.parametrize(
    "changes",
    [
        {"ulps": 1.0},
        {"ulps": float("inf")},
        {"zeros_coincide": False},
        {"same_dtype": False},
    ],
)
def test_every_limit_of_operations_counts(changes):
    good = checks.OperationCheck("prox", "float32", 0.0, 0.0, True, True)
    assert good.passed
    assert not dataclasses.replace(good, **changes).passed


def test_accelerators_have_limits_of_their_own():
    cpu, gpu = live(JAX)[0], Live(TORCH, "gpu", TORCH.device("cpu"))
    assert checks.check_operation((cpu, gpu), "soft_threshold", "float32").limit == 4
    tpu = Live(JAX, "tpu", JAX.device("cpu"))
    assert "float64" not in checks.precisions((tpu, gpu))
    names = [name for name, _ in checks.tasks((tpu, gpu), quick=True)]
    assert "adam, lasso, float32" in names
    assert not any("float64" in name for name in names)


def test_devices(capsys):
    assert [side.kind for side in rendering.choose_sides((JAX, TORCH), None)] == [
        "cpu"
    ] * 2
    gpu = dataclasses.replace(
        TORCH, device=lambda kind: {"cpu": "c", "gpu": "g"}.get(kind)
    )
    chosen = rendering.choose_sides((JAX, gpu), None)
    assert [(side.kind, side.device) for side in chosen] == [
        ("cpu", JAX.device("cpu")),
        ("gpu", "g"),
    ]
    assert [side.kind for side in rendering.choose_sides((JAX, gpu), "cpu")] == [
        "cpu"
    ] * 2
    nothing = dataclasses.replace(JAX, device=lambda kind: None)
    with pytest.raises(rendering.UnavailableError, match="none here for jax"):
        rendering.choose_sides((nothing,), None)
    with pytest.raises(rendering.UnavailableError, match="jax has no cpu device here"):
        rendering.choose_sides((nothing, TORCH), None)
    assert main(["--device", "tpu"]) == 2
    assert "none here for jax nor torch. Take one of: cpu" in capsys.readouterr().err
    with pytest.raises(
        rendering.UnavailableError, match="Neither framework is installed"
    ):
        rendering.choose_sides((), None)
    assert main(["--json", "/nonexistent/report.json"]) == 2
    assert "/nonexistent/report.json" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["--device", "npu"])
    assert stopped.value.code == 2


@pytest.mark.parametrize("stride", [29, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("twin", [JAX, TORCH], ids=["jax", "torch"])
def test_what_is_stored_is_what_is_computed(twin, stride):
    """Else run `python -m parity_tests.report.sides`."""
    here, stored = live(twin)[0], Stored(twin.name)
    assert set(stored.versions()) == set(here.versions())
    assert {f"{n}/{d}" for n in operations.OPERATIONS for d in DTYPES} <= set(
        stored._arrays
    )
    for name in list(operations.OPERATIONS)[::stride]:
        for dtype in DTYPES:
            (ours, made), (theirs, other) = (
                side.operation(name, dtype) for side in (here, stored)
            )
            assert made == other
            if name in operations.INEXACT:  # sums and decompositions: by processor
                distance, limit = operations.ulps_of_largest, operations.INEXACT[name]
            else:
                distance, limit = ulps, 16 if name in operations.SUMS else 0
            assert distance(ours, theirs, made) <= limit, (name, dtype)
    for variant in ("sgd", "adam", "rmsprop, window=9"):
        ours = here.trail(variant)[STRIDE - 1 :: STRIDE]
        np.testing.assert_allclose(ours, stored.trail(variant), rtol=0, atol=1e-12)
    assert set(sides.VARIANTS) <= set(stored._arrays)
    assert stored.trail("sgd", "float32") is None


ALONE = """
from parity_tests.report import checks, operations, sides
from parity_tests.__main__ import main
checks.OPERATIONS = dict(list(operations.OPERATIONS.items())[:2])
checks.ROWS = {k: v for k, v in checks.ROWS.items() if k in ("sgd", "yogi", "amsgrad")}
checks.VARIANTS = {"sgd": sides.VARIANTS["sgd"]}
sys.exit(main(["--json", "--quick"]))
"""


@pytest.mark.parametrize(
    ("here", "away", "blocked"),
    [
        ("jax", "torch", ("torch", "l1torch")),
        ("torch", "jax", ("jax", "jaxlib", "flax", "optax", "l1jax")),
    ],
)
def test_one_framework_alone_is_held_against_stored_results(here, away, blocked):
    done = run_without(blocked, ALONE)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["sides"][here]["stored"]
    assert found["sides"][away]["stored"]
    assert found["sides"][away]["versions"][away]
    by_name = {check["optimizer"]: check for check in found["optimizers"]}
    assert by_name["sgd"]["difference"] <= 1e-12
    assert set(by_name["sgd"]["gaps"]) == {here}
    assert ("yogi" in by_name) == (here == "jax")
    assert "amsgrad" in by_name


@pytest.mark.parametrize(
    ("blocked", "remedy"),
    [
        (("jax", "optax", "torch"), '".[jax,torch,parity]"'),
        (("sklearn",), '".[parity]"'),
        (("rich",), '".[parity]"'),
    ],
)
def test_it_says_what_to_install(blocked, remedy):
    code = "from parity_tests.__main__ import main; sys.exit(main([]))"
    done = run_without(blocked, code)
    assert done.returncode == 2
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr
