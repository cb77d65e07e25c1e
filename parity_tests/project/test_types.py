"""Types: the twins' public signatures are complete, and a user's program is clean."""

import ast
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import sysconfig

import pytest

import l1jax
import l1torch

ROOT = pathlib.Path(__file__).parents[2]
ROOMS = ("numerics", "parameters", "strengths", "penalties")
USAGE = pathlib.Path(__file__).with_name("typed_usage.py")


def pyright(*arguments):
    pytest.importorskip("pyright", reason="comes with the test extra")
    # --verifytypes looks for packages where PYTHONPATH says.
    places = [str(ROOT), sysconfig.get_path("purelib"), *sys.path]
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("lib", ["l1jax", "l1torch"])
def test_the_types_of_public_names_are_known(lib):
    found = pyright("--verifytypes", lib, "--ignoreexternal")["typeCompleteness"]
    public = set(importlib.import_module(lib).__all__)
    missing = [
        (symbol["name"], [d["message"] for d in symbol["diagnostics"]])
        for symbol in found["symbols"]
        if not public.isdisjoint(symbol["name"].split("."))
        and (not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"])
    ]
    assert found["exportedSymbolCounts"]["withKnownType"] > 500
    assert missing == []


@pytest.mark.slow
def test_a_program_that_uses_both_twins_is_clean_under_strict():
    found = pyright("--pythonpath", sys.executable, str(USAGE))
    assert found["summary"]["filesAnalyzed"] == 1
    errors = found["generalDiagnostics"]
    assert [(e["range"]["start"]["line"] + 1, e["message"]) for e in errors] == []


def annotations(node):
    """Yields the annotations of a function's arguments and result, of a class's all."""
    if isinstance(node, ast.FunctionDef):
        given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        yield from (each.annotation for each in given if each.annotation)
        yield from [node.returns] if node.returns else []
    elif isinstance(node, ast.ClassDef):
        yield from (x.annotation for x in node.body if isinstance(x, ast.AnnAssign))
        for method in node.body:
            if not getattr(method, "name", "_").startswith("_"):
                yield from annotations(method)


@pytest.mark.parametrize("lib", [l1jax, l1torch])
def test_public_signatures_say_what_they_take(lib):
    # A mapping by name may hold anything: a group of parameters, the keywords of an
    # optimizer. Trees and the like have a name of their own, with a docstring.
    root = pathlib.Path(lib.__file__).parent
    vague = [
        (str(path.relative_to(root)), node.name, ast.unparse(annotation))
        for path in sorted(root.rglob("*.py"))
        for node in ast.parse(path.read_text()).body
        if not getattr(node, "name", "_").startswith("_") and path.parent.name in ROOMS
        for annotation in annotations(node)
        if re.search(r"\bAny\b", ast.unparse(annotation).replace("[str, Any]", ""))
    ]
    assert vague == []
