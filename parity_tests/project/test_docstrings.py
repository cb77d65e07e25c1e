"""Docstrings: sections in one order, and a line for every argument."""

import ast
import pathlib
import re

import pytest

import l1jax
import l1torch
from parity_tests import bridge

SECTIONS = ("Args", "Returns", "Raises", "Example")


def documented(package):
    """Yields where and what of every public docstring: class, function, method."""
    root = pathlib.Path(package.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if path.name.startswith("test_"):
            continue
        for node in _public(ast.parse(path.read_text())):
            text = ast.get_docstring(node)
            if text is not None:
                yield f"{path.relative_to(root)}:{node.lineno} {node.name}", node, text


def _public(node):
    for child in ast.iter_child_nodes(node):
        kind = isinstance(child, ast.ClassDef | ast.FunctionDef)
        if kind and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from _public(child)


def _arguments(node):
    """The names a caller passes: of a class, those of `__init__` or its fields."""
    if isinstance(node, ast.ClassDef):
        made = [x for x in node.body if getattr(x, "name", "") == "__init__"]
        if not made:
            return [x.target.id for x in node.body if isinstance(x, ast.AnnAssign)]
        node = made[0]
    given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    further = (node.args.vararg, node.args.kwarg)
    names = [argument.arg for argument in (*given, *further) if argument]
    return [name for name in names if name not in ("self", "cls")]


def _entries(text, section):
    """The names at the start of a section's lines, where they are not wrapped."""
    body = re.split(r"^\w+:$", text.split(f"\n{section}:\n", 1)[1], flags=re.M)[0]
    return re.findall(r"^  \*{0,2}(\w+)(?:, \*{0,2}(\w+))*: ", body, re.M)


PACKAGES = pytest.mark.parametrize("package", [l1jax, l1torch, bridge])


@PACKAGES
def test_sections_come_in_one_order(package):
    wrong = {}
    for where, _, text in documented(package):
        known = [x for x in re.findall(r"^(\w+):$", text, re.M) if x in SECTIONS]
        if known != [name for name in SECTIONS if name in known]:
            wrong[where] = known
    assert wrong == {}


@PACKAGES
def test_a_list_of_arguments_is_whole(package):
    wrong = {}
    for where, node, text in documented(package):
        if "\nArgs:\n" in text:
            told = [name for entry in _entries(text, "Args") for name in entry if name]
            if told != _arguments(node):
                wrong[where] = told, _arguments(node)
    assert wrong == {}


@PACKAGES
def test_sections_stand_alone_on_their_line(package):
    # So that the tools that read them know where one begins.
    names = "|".join(SECTIONS)
    wrong = [
        where
        for where, _, text in documented(package)
        if re.search(rf"^({names}): \S", text, re.M)
    ]
    assert wrong == []


@PACKAGES
def test_the_first_line_does_not_open_with_gives(package):
    wrong = [w for w, _, text in documented(package) if text.startswith("Gives")]
    assert wrong == []
