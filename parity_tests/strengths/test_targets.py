"""Target sparsities as values, and bad ones."""

import math
import pickle

import pytest


def test_a_target_is_a_value(twin):
    target = twin.lib.target_sparsity(0.9, 100, snap=0.75)
    assert pickle.loads(pickle.dumps(target)) == target
    assert hash(target) == hash(twin.lib.target_sparsity(0.9, 100, snap=0.75))
    assert target.snap_step == 75
    assert float(target.fraction(0)) == 0
    assert float(target.fraction(100)) == 0.9
    with pytest.raises(AttributeError):
        target.steps = 5


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"target": 1.0}, ValueError, r"target must be .* in \[0, 1\), got 1.0"),
        ({"target": -0.1}, ValueError, "target must be"),
        ({"target": math.nan}, ValueError, "target must be"),
        ({"target": "0.9"}, TypeError, "target must be"),
        ({"steps": 0}, ValueError, "steps must be .* >= 1 .* got 0"),
        ({"steps": 10.0}, TypeError, "steps must be a Python int"),
        ({"begin": 0.6, "end": 0.6}, ValueError, "begin must be less than end"),
        ({"begin": -0.1}, ValueError, "begin must be"),
        ({"end": 1.1}, ValueError, "end must be"),
        ({"scope": "layer"}, ValueError, "scope must be one of"),
        ({"snap": 0.5}, ValueError, r"snap must be .* in \[0.6, 1\]"),
        ({"snap": 1.5}, ValueError, "snap must be"),
    ],
)
def test_bad_targets_are_refused(twin, kwargs, error, match):
    with pytest.raises(error, match=match):
        twin.lib.target_sparsity(**({"target": 0.9, "steps": 10} | kwargs))
