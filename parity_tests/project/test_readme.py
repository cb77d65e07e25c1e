"""What the README says is what the library does."""

import itertools
import pathlib
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import l1jax
import l1torch
from parity_tests.report import readme_table as table

README = pathlib.Path(__file__).parents[2] / "README.md"


def rows_below(heading):
    text = README.read_text().split(f"\n{heading}\n", 1)[1]
    lines = re.findall(r"(?:^\|.*\n)+", text, re.M)[0].splitlines()
    cells = (re.split(r"(?<!\\)\|", line.strip("|")) for line in lines[2:])
    return [[cell.strip() for cell in row] for row in cells]


CODE = [
    code
    for row in rows_below("## Which line to write")
    for cell in row[1:]
    for code in re.findall("`([^`]*)`", cell)
    if "(" in code and "l1" in code and "=elastic" not in code
]


def test_there_are_lines_for_both():
    assert sum("l1jax" in code for code in CODE) >= 6
    assert sum("l1torch" in code for code in CODE) >= 6


@pytest.mark.parametrize("code", CODE)
def test_the_lines_run(code):
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            raise AssertionError

    model = torch.nn.Linear(3, 2)
    names = {
        "l1jax": l1jax,
        "l1torch": l1torch,
        "optax": optax,
        "lr": 0.1,
        "strength": 0.01,
        "params": list(model.named_parameters()),
        "optimizer": torch.optim.Rprop(model.named_parameters()),
        "cls": Own,
        "factory": lambda learning_rate: optax.sgd(learning_rate),
        "step_size": lambda state, group: None,
        **{name: getattr(torch.optim, name) for name in ("SGD", "Adam", "RMSprop")},
    }
    eval(code, names)


def test_the_table_of_optimizers_is_the_command_s():
    rows = rows_below("## Equal settings")
    assert [tuple(row[:2]) for row in rows] == table.settings()
    for row, made in zip(rows, table.ROWS.values(), strict=True):
        assert row[2].startswith("to") == made.equal
        for gap in filter(None, row[3:]):
            assert float(gap) <= 1e-9


def test_the_bridge_s_code_runs():
    text = README.read_text().split("\n## Your own model", 1)[1]
    code = re.search(r"```python\n(.*?)```", text, re.S)[1]
    module, torch_model = nn.Dense(2), torch.nn.Linear(3, 2)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 3), jnp.float32))
    rng = np.random.default_rng(0)
    names = {
        "torch_model": torch_model,
        "module": module,
        "variables": variables,
        "batches": itertools.repeat((rng.normal(size=(8, 3)), np.arange(8) % 2)),
        "l1jax": l1jax,
        "optax": optax,
        "l1torch": l1torch,
        "Adam": torch.optim.Adam,
        "lr": 0.01,
        "strength": 0.1,
    }
    exec(code, names)
    assert names["comparison"].agree
    assert len(names["comparison"].steps) == 100
    chex.assert_trees_all_equal(names["variables"], variables)


def test_linked_files_exist():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())
    assert len(links) >= 8
    for link in links:
        assert (README.parent / link).is_file(), link


MADE = {
    "adaptive_l1": lambda lib: lib.adaptive_l1([1.0, 2.0]),
    "capped_l1": lambda lib: lib.capped_l1(1.0),
    "elastic_net": lambda lib: lib.elastic_net(0.5),
    "fused_lasso": lambda lib: lib.fused_lasso(0.5),
    "l1_ball": lambda lib: lib.l1_ball(1.0),
    "log_sum": lambda lib: lib.log_sum(1.0),
    "lp": lambda lib: lib.lp(0.5),
    "mcp": lambda lib: lib.mcp(1.0),
    "owl": lambda lib: lib.owl([2.0, 1.0]),
    "scad": lambda lib: lib.scad(1.0),
    "slope": lambda lib: lib.slope(0.1),
    "sparse_group_l1": lambda lib: lib.sparse_group_l1(0.5),
    "top_k": lambda lib: lib.top_k(1),
    "weighted_l1": lambda lib: lib.weighted_l1([1.0, 2.0]),
}


def test_the_table_of_penalties_is_true_and_complete():
    listed = set()
    for names, formula, _, convex, metric in rows_below("## Penalties"):
        for name in re.findall(r"(\w+)\(", re.sub("[`,]", "", names)):
            listed.add(name)
            for lib in (l1jax, l1torch):
                penalty = MADE.get(name, lambda lib, n=name: getattr(lib, n)())(lib)
                assert penalty.convex == (convex == "yes"), name
                assert penalty.takes_metric == (metric == "yes"), name
                assert penalty.constraint == formula.startswith("constraint"), name
    makers = set()
    for name in l1jax.__all__:
        returns = getattr(getattr(l1jax, name), "__annotations__", {}).get("return")
        if returns is l1jax.Penalty:
            makers.add(name)
    assert listed == makers
    assert len(listed) > 20
