"""What README and chapters say is what the library does, and no link is broken."""

import doctest
import inspect
import itertools
import pathlib
import re

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

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"
REPOSITORY = (
    "https://github.com/l1twins/l1twins/blob/main/",
    "https://raw.githubusercontent.com/l1twins/l1twins/main/",
    "https://colab.research.google.com/github/l1twins/l1twins/blob/main/",
)
FOLDERS = ("l1jax", "l1torch", "parity_tests", "examples")
CHAPTERS = [README, *(p for f in FOLDERS for p in sorted((ROOT / f).rglob("*.md")))]


def short(path):
    return path.relative_to(ROOT).as_posix()


def rows_below(path, heading):
    text = path.read_text().split(f"\n{heading}\n", 1)[1]
    lines = re.findall(r"(?:^\|.*\n)+", text, re.M)[0].splitlines()
    cells = (re.split(r"(?<!\\)\|", line.strip("|")) for line in lines[2:])
    return [[cell.strip() for cell in row] for row in cells]


def names(framework):
    """What a reader is taken to have, by the names that the texts use for it."""
    X = np.random.default_rng(0).normal(size=(30, 4))
    y = X @ np.array([2.0, 0.0, -1.0, 0.0])
    module, torch_model = nn.Dense(2), torch.nn.Linear(3, 2)
    model = torch.nn.Linear(4, 1)

    def cost(weights, bias, X, y):
        return ((X @ weights.reshape(4) + bias.reshape(()) - y) ** 2).mean()

    def torch_cost(at):
        at = at if isinstance(at, dict) else dict(at.named_parameters())
        return cost(at["weight"], at["bias"], torch.tensor(X), torch.tensor(y))

    class Own(torch.optim.SGD):
        def step(self, closure=None):
            raise AssertionError

    common = {
        "jax": jax,
        "l1jax": l1jax,
        "optax": optax,
        "torch": torch,
        "l1torch": l1torch,
        **{name: getattr(torch.optim, name) for name in ("SGD", "Adam", "RMSprop")},
        "lr": 0.01,
        "strength": 0.1,
        "n": len(y),
        # Of the bridge.
        "module": module,
        "torch_model": torch_model,
        "variables": module.init(jax.random.key(0), jnp.zeros((1, 3), jnp.float32)),
        "batches": itertools.repeat((X[:8, :3], np.arange(8) % 2)),
        # Of the lines for optimizers without a known step.
        "optimizer": torch.optim.Rprop(model.named_parameters()),
        "cls": Own,
        "factory": lambda learning_rate: optax.sgd(learning_rate),
        "step_size": lambda state, group: None,
    }
    if framework == "torch":
        named = dict(model.double().named_parameters())
        return common | {
            "model": model,
            "params": {name: p.detach() for name, p in named.items()},
            "updates": {name: torch.zeros_like(p) for name, p in named.items()},
            "loss": torch_cost,
        }
    params = {"kernel": jnp.zeros(4), "bias": jnp.zeros(())}
    return common | {
        "params": params,
        "grads": params,
        "X": X,
        "y": y,
        "loss": lambda at: cost(at["kernel"], at["bias"], X, y),
        "score": lambda at: -cost(at["kernel"], at["bias"], X, y),
    }


BLOCKS = [
    pytest.param(code, id=f"{short(path)}-{number}")
    for path in CHAPTERS
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", path.read_text(), re.S)
    )
]


@pytest.mark.parametrize("code", BLOCKS)
def test_the_programs_run(code):
    both = "l1jax" in code and "l1torch" in code
    given = names("torch" if "l1torch" in code and not both else "jax")
    if ">>>" in code:
        example = doctest.DocTestParser().get_doctest(code, given, "chapter", None, 0)
        assert doctest.DocTestRunner().run(example).failed == 0
        return
    exec(code, given)
    if "comparison" in given:
        assert given["comparison"].agree
        assert len(given["comparison"].steps) == 100


def test_there_are_programs_for_both():
    text = README.read_text()
    programs = re.findall(r"```python\n(.*?)```", text, re.S)
    assert ["l1jax" in code for code in programs] == [True, False]
    assert len(text.splitlines()) <= 200


CODE = [
    code
    for heading in ("## Which line to write", "## Choosing a strength")
    for row in rows_below(README, heading)
    for cell in row[1:]
    for code in re.findall("`([^`]*)`", cell)
    if "(" in code and "l1" in code and "=elastic" not in code
]


def test_there_are_lines_for_both():
    assert sum("l1jax" in code for code in CODE) >= 6
    assert sum("l1torch" in code for code in CODE) >= 6


@pytest.mark.parametrize("code", CODE)
def test_the_lines_run(code):
    given = names("torch" if "l1torch" in code else "jax")
    if "l1torch" in code:
        given["params"] = list(given["model"].named_parameters())
    given |= {
        "steps": 10,
        "path": l1jax.linear_path(names("jax")["X"], names("jax")["y"]),
    }
    code = code.replace("X, y, 20", "X, y, 2")
    exec(code, given)


def test_the_table_of_optimizers_is_the_command_s():
    chapter = ROOT / "l1jax/thresholds/README.md"
    rows = rows_below(chapter, "## Equal settings")
    assert [tuple(row[:2]) for row in rows] == table.settings()
    for row, made in zip(rows, table.ROWS.values(), strict=True):
        assert row[2].startswith("to") == made.equal
        for gap in filter(None, row[3:]):
            assert float(gap) <= 1e-9


def anchors(path):
    """The headings of a text as GitHub's links name them."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
    }


def links(path):
    """Yields file and anchor of all links that stay inside of the repository."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for link in re.findall(r"\]\(\s*([^)\s]+)\s*\)", text):
        root = next(filter(link.startswith, REPOSITORY), None)
        if root is None and "://" in link:
            continue
        file, _, anchor = link.removeprefix(root or "").partition("#")
        folder = ROOT if root else path.parent
        yield link, folder / file if file else path, anchor


@pytest.mark.parametrize("path", CHAPTERS, ids=short)
def test_no_link_is_broken(path):
    for link, file, anchor in links(path):
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


def test_the_readme_s_links_work_on_an_index():
    # A package index shows the README without the repository around it.
    assert all("://" in link for link, *_ in links(README) if not link.startswith("#"))
    assert len(list(links(README))) >= 20


def test_every_room_has_its_chapter_and_its_row():
    listed = {cell[0] for cell in rows_below(README, "## Rooms")}
    for lib in FOLDERS[:2]:
        for room in (ROOT / lib).glob("*/__init__.py"):
            name = room.parent.name
            assert any(f"`{name}`" in row for row in listed), name
            assert room.with_name("README.md").exists()
    for path in CHAPTERS[1:]:
        if path.name == "README.md" and short(path).split("/")[0] != "l1torch":
            assert re.search(r"After this chapter,? you", path.read_text()), path


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


def penalties(cell):
    """Yields the names in a table's first cell, and the penalties they make."""
    for name in re.findall(r"(\w+)\(", re.sub("[`,]", "", cell)):
        for lib in (l1jax, l1torch):
            yield name, MADE.get(name, lambda lib, n=name: getattr(lib, n)())(lib)


def test_the_tables_of_penalties_are_true_and_complete():
    formulas, costs = set(), set()
    for cell, formula in rows_below(README, "## Penalties"):
        for name, penalty in penalties(cell):
            formulas.add(name)
            assert penalty.constraint == formula.startswith("constraint"), name
    chapter = ROOT / "l1jax/penalties/README.md"
    for cell, _, convex, metric, module in rows_below(chapter, "## Costs"):
        for name, penalty in penalties(cell):
            costs.add(name)
            assert penalty.convex == (convex == "yes"), name
            assert penalty.takes_metric == (metric == "yes"), name
            home = inspect.getmodule(getattr(l1jax, name)).__name__.split(".")[-1]
            assert module == f"[{home}]({home}.py)", name
    makers = {
        name
        for name in l1jax.__all__
        if inspect.isfunction(getattr(l1jax, name))
        and inspect.get_annotations(getattr(l1jax, name))["return"] is l1jax.Penalty
    }
    assert formulas == costs == makers
    assert len(makers) > 20
