"""Which elements form a group: by axis, block and name, and in units of layers."""

import numpy as np
import pytest

from parity_tests.frameworks.twins import JAX, TORCH
from parity_tests.oracles.formulas.groups import group_value
from parity_tests.penalties.partitions import (
    bound,
    by_rows,
    formed,
    index,
    labels_of,
    same_partition,
)

SHAPE = (4, 3, 2)
KINDS = [
    ({}, np.zeros(SHAPE)),
    ({"axis": 1}, by_rows(SHAPE, 0, 2)),
    ({"axis": (0, -1)}, by_rows(SHAPE, 1)),
    ({"axis": [2]}, by_rows(SHAPE, 0, 1)),
    ({"axis": 0, "block": 2}, by_rows(SHAPE, 1, 2) * 2 + index(SHAPE, 0) // 2),
    ({"axis": 1, "block": 3}, by_rows(SHAPE, 0, 2)),
    ({"groups": {"a": [2, 0], "b": [3, 1]}}, index(SHAPE, 0) % 2),
    ({"groups": {"a": range(2), "b": [2]}, "axis": -2}, index(SHAPE, 1) // 2),
]


@pytest.mark.slow_in_jax
@pytest.mark.parametrize(("kwargs", "labels"), KINDS, ids=range(len(KINDS)))
def test_groups_by_axis_block_and_name(twin, kwargs, labels):
    penalty = twin.lib.group_l1(**kwargs)
    penalty.require_fit("x", SHAPE)
    assert same_partition(labels_of(twin, penalty, SHAPE), labels)
    x = np.random.default_rng(0).normal(size=SHAPE)
    for scale in (True, False):
        value = twin.lib.group_l1(**kwargs, scale_by_size=scale).value(twin.array(x))
        expected = group_value(labels, scale_by_size=scale)(x)
        np.testing.assert_allclose(twin.numpy(value), expected, rtol=1e-14)


OUT, IN, K, H, D = 3, 2, 2, 2, 2  # units, kernel positions, heads, units of a head
# Of each layout a shape, and the labels of outputs, inputs and heads.
LAYOUTS = {
    "io": ((IN, OUT), (1,), (0,), None),
    "oi": ((OUT, IN), (0,), (1,), None),
    "kio": ((K, IN, OUT), (2,), (1,), None),
    "oikk": ((OUT, IN, K, K), (0,), (1,), None),
    "iok": ((IN, OUT, K), (1,), (0,), None),
    "iho": ((IN, H, D), (1, 2), (0,), (1,)),
    "hio": ((H, D, OUT), (2,), (0, 1), (0,)),
    "ioo": ((IN, OUT, D), (1, 2), (0,), None),
}


@pytest.mark.slow_in_jax
@pytest.mark.parametrize("layout", LAYOUTS)
def test_groups_of_units(twin, layout):
    shape, *axes = LAYOUTS[layout]
    for groups, wanted in zip(("output", "input", "heads"), axes, strict=True):
        if wanted is None:
            with pytest.raises(ValueError, match="groups='heads': there are none"):
                bound(twin, groups, layout, shape).require_fit("w", shape)
            continue
        found = labels_of(twin, bound(twin, groups, layout, shape), shape)
        assert same_partition(found, by_rows(shape, *wanted)), groups


@pytest.mark.slow_in_jax
def test_fused_heads(twin):
    # Three projections of two heads with two units each, by two inputs.
    shape = (3 * H * D, IN)
    heads = labels_of(twin, bound(twin, "heads", "6oi", shape), shape)
    assert same_partition(heads, index(shape, 0) // D)
    output = labels_of(twin, bound(twin, "output", "6oi", shape), shape)
    assert same_partition(output, index(shape, 0))
    shape = (OUT, H * D)
    heads = labels_of(twin, bound(twin, "heads", "o2i", shape), shape)
    assert same_partition(heads, index(shape, 1) // D)


def test_twins_form_the_same_groups():
    for kwargs, _ in KINDS:
        ours, theirs = (
            formed(twin, twin.lib.group_l1(**kwargs), SHAPE) for twin in (JAX, TORCH)
        )
        assert ours == theirs
    for layout, (shape, *axes) in LAYOUTS.items():
        for groups in ("output", "input", "heads")[: 3 if axes[2] else 2]:
            ours, theirs = (
                formed(twin, bound(twin, groups, layout, shape), shape)
                for twin in (JAX, TORCH)
            )
            assert ours == theirs
    shape = (12, 2)
    ours, theirs = (
        formed(twin, bound(twin, "heads", "6oi", shape), shape) for twin in (JAX, TORCH)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"axis": 1.0}, TypeError, "axis must be a Python int, got 1.0"),
        ({"axis": True}, TypeError, "axis must be a Python int, got True"),
        ({"axis": "0"}, TypeError, "axis must be a Python int, got '0'"),
        ({"axis": ()}, ValueError, "axis must name an axis"),
        ({"block": 2}, ValueError, "axis must be one axis"),
        ({"axis": (0, 1), "block": 2}, ValueError, "axis must be one axis"),
        ({"axis": 0, "block": 0}, ValueError, "block must be a Python int >= 1, got 0"),
        (
            {"axis": 0, "block": 2.0},
            TypeError,
            "block must be a Python int >= 1, got 2.0",
        ),
        ({"axis": (0, 1), "groups": {"a": [0]}}, ValueError, "axis must be one axis"),
        ({"block": 1, "groups": {"a": [0]}}, ValueError, "cannot be given both"),
        ({"groups": "units"}, ValueError, "groups must be one of .* got 'units'"),
        ({"groups": [[0], [1]]}, TypeError, "groups must be one of"),
        ({"groups": {}}, ValueError, "groups must not be empty"),
        ({"groups": {"a": [0], "b": []}}, ValueError, r"groups\['b'\] must hold"),
        (
            {"groups": {"a": [-1]}},
            ValueError,
            r"groups\['a'\] must be a Python int >= 0",
        ),
        ({"groups": {"a": [0.5]}}, TypeError, r"groups\['a'\] must be a Python int"),
        (
            {"groups": {"a": [0, 1], "b": [1]}},
            ValueError,
            "'a' and 'b' both hold the index 1",
        ),
        ({"groups": "output", "axis": 0}, ValueError, "chooses the axes itself"),
        ({"groups": "output", "block": 2}, ValueError, "chooses the axes itself"),
        ({"layouts": {"w": "io"}}, ValueError, "layouts has no meaning without"),
        ({"groups": "output", "layouts": "io"}, TypeError, "layouts must be a mapping"),
        *(
            (
                {"groups": "output", "layouts": {"w": layout}},
                ValueError,
                f"layouts must hold strings .* got {layout!r}",
            )
            for layout in ("", "ix", "IO", "h", "oh", "8k", "0oi", "h8o", 3)
        ),
        ({"scale_by_size": 1}, TypeError, "scale_by_size must be True or False, got 1"),
    ],
    ids=str,
)
def test_bad_arguments(twin, kwargs, error, match):
    with pytest.raises(error, match=match):
        twin.lib.group_l1(**kwargs)
    with pytest.raises(error, match=match):
        twin.lib.sparse_group_l1(0.5, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"axis": 2}, "axis 2 does not exist in 'net.w' of shape"),
        ({"axis": (0, -2)}, "names an axis of 'net.w' of shape .* twice"),
        ({"axis": 1, "block": 4}, "block=4 does not divide axis 1 of 'net.w'"),
        ({"groups": {"a": [0, 2]}}, "once: no group holds 1, 3. Give"),
        ({"groups": {"a": range(5)}}, "once: there are no indices 4. Give"),
        ({"groups": {"a": [19]}, "axis": 1}, r"holds 0, 1, 2, 3, 4, 5. there are no"),
    ],
    ids=str,
)
def test_groups_that_do_not_fit_the_array(twin, kwargs, match):
    penalty = twin.lib.group_l1(**kwargs)
    with pytest.raises(ValueError, match=match):
        penalty.at("net.w", (4, 6)).require_fit("net.w", (4, 6))
    params = {"net.w": twin.array(np.ones((4, 6)))}
    with pytest.raises(ValueError, match=match):
        twin.lib.proximal_step(0.1, 1.0, penalty=penalty).init(params)
    x = params["net.w"]
    for call in (
        lambda: penalty.prox(x, 0.1),
        lambda: penalty.value(x),
        lambda: penalty.subgradient(x),
        lambda: penalty.optimality_distance(x, x),
        lambda: penalty.lambda_max(x),
    ):
        with pytest.raises(ValueError, match=match.replace("net.w", "x")):
            call()
