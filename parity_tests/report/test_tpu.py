"""Compiles for TPUs, on any machine, where `libtpu` is installed: see tpu.py."""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import pytest

from parity_tests.report import tpu_report as tpu

ROOT = pathlib.Path(__file__).parents[2]
QUICK_TOPOLOGY = "v5e"
# XLA's compiler for CPUs cuts some steps into more kernels: how many arrays of the
# parameters' size these move more, and how many of them are temporaries.
ON_CPU = {
    "rmsprop, momentum": (3, 1),
    "rmsprop, nesterov": (1, 0),
    "adadelta": (2, 0),
    "log sum": (18, 4),
    "add_subgradient": (2, 0),
    "adam, bfloat16": (6, 2),
    "metric tensor": (3, 1),
    "sgd, window": (18, 2),
    "adam, window": (25, 4),
}


def slow_unless(quick):
    return () if quick else pytest.mark.slow


def lines():
    """The quick cases for one topology are tested always, the others if asked for."""
    for topology in tpu.TOPOLOGIES:
        for name in tpu.cases():
            quick = topology == QUICK_TOPOLOGY and name in tpu.QUICK
            for program in tpu.programs(topology, name):
                yield pytest.param(
                    topology,
                    name,
                    program,
                    quick,
                    marks=slow_unless(quick),
                    id=f"{topology}-{name}-{program}",
                )


@functools.cache
def comparisons(*options):
    # A process of its own: the compiler reads its environment once, locks itself
    # against others, and writes to stderr.
    command = [
        sys.executable,
        "-m",
        "parity_tests.report.tpu_report",
        "--json",
        *options,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        fields = json.loads(line)
        for side in ("ours", "base"):
            fields[side] = tpu.Figures(**fields[side])
        found[fields["case"], fields["program"]] = tpu.Comparison(**fields)
    return found


def compared(topology, name, program, quick):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip(tpu.REMEDY)
    options = ("--topology", topology, *(["--quick"] if quick else []))
    return comparisons(*options)[name, program]


def check(found, case):
    if case.arrays == 0:
        assert found.ratio <= 1.001
    assert found.arrays <= case.arrays + 0.01
    assert found.temporaries <= case.temporaries + 0.01
    assert found.custom_calls == 0


@pytest.mark.parametrize(("topology", "name", "program", "quick"), [*lines()])
def test_the_prox_costs_nothing_on_tpus(topology, name, program, quick):
    found = compared(topology, name, program, quick)
    case = tpu.cases()[name]
    check(found, case)
    sums = case.all_reduces if program == "sharded" else 0
    assert found.collectives == ({"all-reduce": sums} if sums else {})
    if program == "training":
        assert found.base.collectives  # there were some to be counted
    else:
        assert found.ours.custom_calls == 0
        assert not found.base.collectives


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=slow_unless(n in tpu.QUICK)) for n in tpu.cases()]
)
def test_the_prox_costs_little_on_cpus(name):
    arrays, temporaries = ON_CPU.get(name, (0, 0))
    case = dataclasses.replace(
        tpu.cases()[name], arrays=arrays, temporaries=temporaries
    )
    check(tpu.compare(name, "one chip", tuple(jax.devices()[:1]), "cpu"), case)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["one chip", "sharded"])
@pytest.mark.parametrize("name", tpu.structured())
def test_structured_penalties_compile_for_tpus(name, program):
    found = compared(QUICK_TOPOLOGY, name, program, quick=False)
    case = tpu.structured()[name]
    if case.gathers:
        return
    assert found.arrays <= case.arrays + 0.1
    assert found.temporaries <= case.temporaries + 0.01
    # Sums and counts alone: no array is gathered.
    sums = case.all_reduces if program == "sharded" else 0
    assert found.collectives == ({"all-reduce": sums} if sums else {})


def test_a_program_for_cpus_is_not_taken_for_one_for_tpus():
    compiled = jax.jit(lambda x: x @ x).lower(jax.numpy.ones((256, 256))).compile()
    with pytest.raises(RuntimeError, match="not for a TPU"):
        tpu.require_tpu(compiled)


def test_without_the_compiler_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        tpu.tpu_devices("v5e")
    with pytest.raises(pytest.skip.Exception, match="pip install"):
        compared("v5e", "adam", "one chip", quick=True)
