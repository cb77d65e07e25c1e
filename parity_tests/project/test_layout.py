"""The house: rooms on floors, the same in both twins, and stairs that only go down."""

import ast
import pathlib

import pytest

import l1jax
import l1torch

# Bottom first. A module may import from its own floor and from those before it.
FLOORS = (
    "numerics",
    "parameters",
    "strengths",
    "penalties",
    "thresholds",
    "wrappers",
    "optimizers",
    "solvers",
    "paths",
    "linear",
)
# What l1torch has alone beside `wrappers`, and why.
ALONE = {
    "numerics/second_moments.py": "in JAX the compiler fuses what is quick here",
    "optimizers/transformations.py": "optax brings its own",
}
LONGEST = 400
TESTS = pathlib.Path(__file__).parents[1]


def folder(lib):
    return pathlib.Path(lib.__file__).parent


def files(lib):
    return {str(p.relative_to(folder(lib))) for p in folder(lib).rglob("*.py")}


def imports(lib):
    """Yield file, imported module and name of all imports from the same library."""
    for path in sorted(folder(lib).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            modules = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                modules = [f"{node.module}.{name}" for name in modules]
            for module in modules:
                if module.split(".")[0] == lib.__name__:
                    yield path.relative_to(folder(lib)), module.split(".")[1:]


@pytest.mark.parametrize("lib", [l1jax, l1torch])
def test_imports_go_downwards(lib):
    rooms = {path.parts[0] for path, _ in imports(lib) if len(path.parts) > 1}
    assert rooms <= set(FLOORS)
    upwards = [
        (str(path), ".".join(module))
        for path, module in imports(lib)
        if len(path.parts) > 1
        and (
            module[0] not in FLOORS
            or FLOORS.index(module[0]) > FLOORS.index(path.parts[0])
        )
    ]
    assert upwards == []


@pytest.mark.parametrize("lib", [l1jax, l1torch])
def test_what_is_private_to_a_module_stays_there(lib):
    private = [
        (str(path), ".".join(module))
        for path, module in imports(lib)
        if any(part.startswith("_") for part in module)
    ]
    assert private == []


def test_the_twins_have_the_same_files():
    ours, theirs = files(l1jax), files(l1torch)
    alone = {path for path in theirs - ours if not path.startswith("wrappers/")}
    assert alone == set(ALONE)
    assert ours <= theirs
    assert all((folder(lib) / "py.typed").exists() for lib in (l1jax, l1torch))


@pytest.mark.parametrize("lib", [l1jax, l1torch])
def test_no_module_hides_what_is_exported(lib):
    names = {pathlib.Path(path).stem for path in files(lib)} - {"__init__"}
    assert names & set(lib.__all__) == set()


def test_rooms_say_what_they_hold():
    for lib in (l1jax, l1torch):
        for path in folder(lib).glob("*/__init__.py"):
            assert "Start with `" in ast.get_docstring(ast.parse(path.read_text()))


def test_tests_stand_in_rooms_and_no_file_is_long():
    rooms = {*FLOORS, "bridge", "report", "fuzz", "project"}
    assert {path.parent.name for path in TESTS.rglob("test_*.py")} <= rooms
    long = [
        str(path)
        for root in (folder(l1jax), folder(l1torch), TESTS)
        for path in root.rglob("*.py")
        if len(path.read_text().splitlines()) > LONGEST
    ]
    assert long == []


def test_no_test_is_imported():
    """What two test files need stands in a helper module or a conftest.py."""
    imported = [
        (str(path.relative_to(TESTS)), node.module)
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").rpartition(".")[2].startswith("test_")
    ]
    assert imported == []
