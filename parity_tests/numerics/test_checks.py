"""The checks of single numbers, choices and flags, and the errors of bad arguments."""

import fractions
import math
import re

import numpy as np
import pytest


def checks(twin):
    return twin.module("numerics.checks")


@pytest.mark.parametrize(
    "value", [0, 0.5, -0.0, np.float32(0.5), np.int8(0), np.array(0.5), 1e-320]
)
def test_real_numbers(twin, value):
    found = checks(twin).check_real("a", value, "[0, 1)", "0.5")
    assert type(found) is float
    assert found == value
    assert checks(twin).check_real("a", fractions.Fraction(1, 2), "(0, 1)", "1") == 0.5
    assert checks(twin).check_real("a", math.inf, "(1, inf]", "1") == math.inf


@pytest.mark.parametrize("interval", ["[0, 1)", "(0, 1)", "(-1, inf)"])
@pytest.mark.parametrize(
    "value", [True, np.True_, np.array(True), None, "0.5", 0.5j, [0.5], np.ones(1)]
)
def test_what_is_no_real_number(twin, value, interval):
    with pytest.raises(TypeError, match=r"^a must be a Python number in .*, got .*0.5"):
        checks(twin).check_real("a", value, interval, "0.5")
    for array in (twin.array(0.5), np.timedelta64(0)):
        with pytest.raises(TypeError, match=f"of type {type(array).__name__}"):
            checks(twin).check_real("a", array, interval, "0.5")


@pytest.mark.parametrize(
    ("value", "interval"),
    [
        (1, "[0, 1)"),
        (0.0, "(0, 1]"),
        (math.nan, "[0, inf)"),
        (math.inf, "[0, inf)"),
        pytest.param(10**400, "[0, inf)", id="large"),
        pytest.param(-(10**400), "[0, inf]", id="low"),
        (np.float64("nan"), "[0, inf]"),
        (np.array(-1), "[0, inf]"),
    ],
)
def test_numbers_out_of_range(twin, value, interval):
    with pytest.raises(ValueError, match=re.escape(f"number in {interval}, got ")):
        checks(twin).check_real("a", value, interval, "0.5")


def test_integers(twin):
    check_int = checks(twin).check_int
    for value in (3, np.int64(3), np.uint8(3), np.array(3)):
        assert type(check_int("a", value, "3")) is int
    assert check_int("a", -(10**30), "3", least=None) == -(10**30)
    for value in (True, 3.0, np.float64(3), "3", None, np.array([3]), np.array(3.0)):
        with pytest.raises(
            TypeError, match=r"^a must be a Python int >= 1, got .*ss 3"
        ):
            check_int("a", value, "3")
    for value in (0, 10**30, np.array(-1)):
        with pytest.raises(
            ValueError, match="a must be a Python int >= 1 and <= 7, got"
        ):
            check_int("a", value, "3", most=7)


def test_choices_and_flags(twin):
    module = checks(twin)
    assert module.check_choice("a", "x", ("y", "x")) == "x"
    with pytest.raises(ValueError, match="a must be one of 'y', 'x', got 'z' .*'y' if"):
        module.check_choice("a", "z", ("y", "x"))
    for value in (None, ["x"], {}, 1, b"x", np.ones(2)):
        with pytest.raises(TypeError, match="a must be one of 'y', 'x', got"):
            module.check_choice("a", value, ("y", "x"))
    assert module.check_flag("a", np.False_) is False
    for value in (0, 1, None, "no", np.array(True), [True]):
        with pytest.raises(
            TypeError, match="a must be True or False, got .*Pass a bool"
        ):
            module.check_flag("a", value)


def test_messages_stay_short(twin):
    for value in ("x" * 10**5, np.ones((300, 300)), [1.0] * 10**5, list(range(10**5))):
        with pytest.raises(TypeError) as caught:
            checks(twin).check_flag("a", value)
        assert len(str(caught.value)) < 400
