"""The API reference has every public name, and its formulas can be set."""

import importlib
import inspect
import pkgutil
import re

import pytest
from matplotlib.mathtext import MathTextParser

import l1jax
import l1torch

LIBS = (l1jax, l1torch)
FORMULAS = [
    (lib, name, " ".join(formula.split()))
    for lib in LIBS
    for name in lib.__all__
    for formula in re.findall(
        r"^\.\. math::(.+?)(?:\n\n(?! )|\Z)",
        inspect.getdoc(getattr(lib, name)) or "",
        re.M | re.S,
    )
]


@pytest.mark.parametrize("lib", LIBS)
def test_every_public_name_has_one_room(lib):
    rooms = [
        importlib.import_module(f"{lib.__name__}.{room.name}")
        for room in pkgutil.iter_modules(lib.__path__)
    ]
    listed = [name for room in rooms for name in getattr(room, "__all__", [])]
    assert sorted([*listed, "__version__"]) == lib.__all__


@pytest.mark.parametrize(
    "formula", [pytest.param(f, id=f"{lib.__name__}.{n}") for lib, n, f in FORMULAS]
)
def test_formulas_can_be_set(formula):
    MathTextParser("path").parse(f"${formula}$")


def test_penalties_and_thresholds_have_the_same_formulas_in_both():
    ours, theirs = (
        {name: f for lib, name, f in FORMULAS if lib is twin} for twin in LIBS
    )
    assert ours == theirs
    # `top_k` and `n_of_m` choose elements, which words say better.
    without = {"top_k", "n_of_m"}
    makers = {
        name
        for name, function in inspect.getmembers(l1jax, inspect.isfunction)
        if inspect.get_annotations(function)["return"] is l1jax.Penalty
    }
    assert {"soft_threshold", "EffectiveStep", *(makers - without)} <= set(ours)
