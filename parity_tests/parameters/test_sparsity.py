import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import l1jax
import l1torch

ARRAYS = {
    "conv.kernel": np.where(np.arange(24).reshape(4, 3, 2) % 3 == 0, 1.0, 0.0),
    "w": np.array([[0.0, -0.0, 0.0], [1.0, np.nan, 0.0], [0.0, 0.0, 0.0]]),
    "bias": np.array([0.0, 2.0]),
    "scale": np.array(0.0),
    "empty": np.zeros((0, 3)),
    "steps": np.array([0, 3]),
}


def tree(twin):
    return {
        name: twin.array(x, "int32" if name == "steps" else "float32")
        for name, x in ARRAYS.items()
    }


def test_counts(twin):
    report = twin.lib.sparsity_report(tree(twin))
    rows = {row.path: row for row in report.arrays}
    assert set(rows) == set(ARRAYS)
    for name, x in ARRAYS.items():
        assert rows[name].shape == x.shape
        assert rows[name].size == x.size
        assert rows[name].nnz == np.count_nonzero(x)
    assert rows["w"].sparsity == pytest.approx(7 / 9)
    assert (rows["w"].zero_rows, rows["w"].zero_columns) == (2, 1)
    assert (rows["bias"].zero_rows, rows["bias"].zero_columns) == (None, None)
    kernel = ARRAYS["conv.kernel"]
    assert rows["conv.kernel"].zero_rows == sum(not k.any() for k in kernel)
    assert rows["conv.kernel"].zero_columns == sum(
        not kernel[..., i].any() for i in range(2)
    )
    assert (rows["empty"].sparsity, rows["empty"].zero_rows) == (0.0, 0)
    assert report.size == sum(x.size for x in ARRAYS.values())
    assert report.nnz == sum(np.count_nonzero(x) for x in ARRAYS.values())
    assert report.sparsity == pytest.approx(1 - report.nnz / report.size)


def test_the_twins_say_the_same():
    trees = {"a": ARRAYS["w"], "b": ARRAYS["bias"]}
    ours = l1jax.sparsity_report({k: jnp.asarray(v) for k, v in trees.items()})
    theirs = l1torch.sparsity_report({k: torch.tensor(v) for k, v in trees.items()})
    assert ours.to_dict() == theirs.to_dict()
    assert str(ours) == str(theirs)


def test_to_dict_is_plain(twin):
    report = twin.lib.sparsity_report(tree(twin)).to_dict()
    assert json.loads(json.dumps(report)) == report | {
        "arrays": [row | {"shape": list(row["shape"])} for row in report["arrays"]]
    }


def test_table_is_aligned(twin):
    lines = str(twin.lib.sparsity_report(tree(twin))).splitlines()
    assert len(lines) == len(ARRAYS) + 2
    assert lines[0].split() == [
        "path",
        "shape",
        "size",
        "nnz",
        "sparsity",
        "zero",
        "rows",
        "zero",
        "cols",
    ]
    assert lines[-1].split() == ["total", "38", "12", "68.42%"]
    end = lines[0].index("sparsity") + len("sparsity")
    assert all(line[:end].endswith("%") for line in lines[1:])


def test_subnormal_numbers_are_no_zeros(twin):
    for dtype, tiny in (("float32", 1e-40), ("float64", 1e-310), ("float16", 6e-8)):
        x = twin.array(np.array([tiny, -tiny, 0.0, -0.0, 1.0]), dtype)
        assert twin.lib.sparsity_report({"w": x}).nnz == 3
    assert l1jax.sparsity_report(np.array([1e-60, 0.0])).nnz == 1


def test_layers_that_are_all_zero_are_named(twin):
    dead = {"0.kernel": np.zeros((3, 2)), "coef": np.zeros(2)}
    rest = {
        "0.bias": np.zeros(2),
        "norm.scale": np.zeros(2),
        "bn.weight": np.zeros(2),
        "empty": np.zeros((0, 3)),
        "1.kernel": np.array([[0.0, 1.0]]),
        "nan": np.array([[np.nan, 0.0]]),
    }
    report = twin.lib.sparsity_report(twin.tree(dead | rest))
    assert set(report.dead) == set(dead)
    assert report.to_dict()["dead"] == list(report.dead)
    last = str(report).splitlines()[-1]
    assert last == f"All weights are zero in: {', '.join(report.dead)}"
    assert twin.lib.sparsity_report(twin.tree(rest)).dead == ()
    masked = twin.lib.sparsity_report(
        twin.tree(dead | rest), mask=twin.lib.by_path("0.*")
    )
    assert masked.dead == ("0.kernel",)


def test_bare_and_unnamed_arrays_that_are_all_zero():
    assert "All weights are zero in: (array)" in str(
        l1jax.sparsity_report(jnp.zeros((2, 2)))
    )
    assert l1torch.sparsity_report(torch.zeros(2, 2)).dead == ("",)
    unnamed = [torch.zeros(2, 2), torch.zeros(2), torch.ones(2, 2)]
    assert l1torch.sparsity_report(unnamed).dead == ("0",)


def test_nothing_to_report(twin):
    for params in ({}, {"epoch": None}):
        with pytest.raises(ValueError, match="params hold no"):
            twin.lib.sparsity_report(params)


def test_nested_mappings(twin):
    inner = twin.tree({"w": [0.0, 1.0]})
    report = twin.lib.sparsity_report({"model": {"a": inner}, "epoch": None})
    assert [(row.path, row.nnz) for row in report.arrays] == [("model.a.w", 1)]


def test_mask(twin):
    report = twin.lib.sparsity_report(tree(twin), mask=twin.lib.weights_only)
    assert {row.path for row in report.arrays} == {
        "conv.kernel",
        "w",
        "empty",
        "steps",
    }
    with pytest.raises(ValueError, match="selects nothing"):
        twin.lib.sparsity_report({"bias": tree(twin)["bias"]}, twin.lib.weights_only)


def test_any_pytree():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    report = l1jax.sparsity_report(nnx.state(model, nnx.Param))
    assert {row.path: row.nnz for row in report.arrays} == {"kernel": 6, "bias": 0}
    mixed = [jnp.ones(2), (None, len, "text"), {"key": jax.random.key(0)}, np.eye(2)]
    report = l1jax.sparsity_report(mixed)
    assert [row.path for row in report.arrays] == ["0", "3"]
    assert l1jax.sparsity_report(jnp.zeros(4)).sparsity == 1


def test_modules_and_state_dicts():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    with torch.no_grad():
        model[0].weight[0] = 0
    report = l1torch.sparsity_report(model)
    assert [row.path for row in report.arrays] == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    ]
    assert (report.arrays[0].zero_rows, report.arrays[0].nnz) == (1, 3)
    paths = [r.path for r in l1torch.sparsity_report(model.state_dict()).arrays]
    assert "1.num_batches_tracked" in paths
    assert l1torch.sparsity_report(list(model.parameters())).size == report.size
    assert l1torch.sparsity_report(list(model.named_parameters())) == report
    assert l1torch.sparsity_report(torch.zeros(3)).sparsity == 1
    with pytest.raises(TypeError, match="params must be a module, a mapping"):
        l1torch.sparsity_report(3)
