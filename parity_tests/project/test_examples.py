"""Every example runs, each in a process of its own; and is listed, with its picture."""

import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "examples"

# What keeps the longer ones short; accuracy_vs_sparsity checks accuracies only in full.
OPTIONS = {
    "big_gradients": "",
    "compare_training": "",
    "correlated_features": "--resamples 20",
    "diabetes_path": "",
    "feature_selection": "",
    "geometry": "",
    "map_estimation": "--half-width 300",
    "network_zeros": "--steps 100 --framework both",
    "penalty_in_the_loss": "",
    "quickstart": "",
    "scale_out_jax": "--steps 200",
    "scale_out_torch": "--steps 200",
    "shrinkage_curves": "",
    "sparse_network": "",
    "target_network": "--steps 50 --framework both",
    "thresholds": "--steps 300",
    "why_zeros": "",
    "benchmarks/accuracy_vs_sparsity": (
        "--steps 60 --seeds 1 --points 2 --framework both"
    ),
    "benchmarks/eager_steps": "--steps 20",
    "benchmarks/compile_time": "--leaves 2 --repeats 1",
    "benchmarks/prox_cost": "--size 100000 --repeats 3",
    "benchmarks/solvers": "--samples 100 --features 500 --repeats 3",
    "benchmarks/target_sparsity": "--size 100000 --repeats 3",
    "benchmarks/thresholds_without_sorting": "--size 10000 --repeats 3",
    "trainers/accelerate_loop": "--epochs 50",
    "trainers/equinox_filter": "--epochs 50",
    "trainers/lightning_module": "--epochs 50",
    "trainers/linen_train_state": "--epochs 50",
    "trainers/nnx_optimizer": "--epochs 50",
}
EXTRAS = {
    "trainers/accelerate_loop": "accelerate",
    "trainers/equinox_filter": "equinox",
    "trainers/lightning_module": "lightning",
}
# They bring packages whose own warnings are not ours to mend, or start processes.
NOISY = ("benchmarks/prox_cost", "benchmarks/solvers", "scale_out_torch", *EXTRAS)


@pytest.fixture
def command(monkeypatch):
    """`python -m examples`, imported."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("examples.__main__")


def test_all_are_run(command):
    assert set(command.examples()) == set(OPTIONS)


def test_they_are_listed_with_a_line_each(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["examples"])
    assert command.main() == 0
    lines = capsys.readouterr().out.splitlines()
    for name, path in command.examples().items():
        line = command.summary(path)
        assert len(line) <= 88
        assert sum(shown.split(maxsplit=1) == [name, line] for shown in lines) == 1


def test_a_wrong_name_is_refused(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["examples", "quickstar"])
    assert command.main() == 2
    said = capsys.readouterr().out
    assert said == "no example is called 'quickstar'; there is quickstart.\n"


def test_what_follows_the_name_goes_to_the_example():
    asked = [sys.executable, "-m", "examples", "geometry", "--framework", "numpy"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "geometry.py: error: argument --framework: invalid choice" in done.stderr


def test_the_readmes_of_the_examples_have_them_all(command):
    links = {
        (readme.parent / link).resolve()
        for readme in FOLDER.rglob("README.md")
        for link in re.findall(r"\]\(([^)#]+)\)", readme.read_text())
    }
    pictures, scripts = set(FOLDER.rglob("*.png")), set(command.examples().values())
    assert {*pictures, *scripts, FOLDER / "colab_tpu.ipynb"} <= links
    assert {picture.with_suffix(".py") for picture in pictures} <= scripts


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_it_runs(name, tmp_path):
    if name in EXTRAS:
        remedy = 'it comes with pip install ".[trainers]"'
        pytest.importorskip(EXTRAS[name], reason=f"{EXTRAS[name]} is missing; {remedy}")
    script, out = FOLDER / f"{name}.py", tmp_path / "figure.png"
    draws = script.with_suffix(".png").exists()
    options = [*OPTIONS[name].split(), *(["--out", str(out)] if draws else [])]
    warnings = [] if name in NOISY else ["-W", "error"]
    done = subprocess.run(
        [sys.executable, *warnings, script, *options],
        cwd=tmp_path,
        env=os.environ | {"TERM": "dumb", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.strip()
    assert out.exists() == draws
