"""The twins' public faces: the same names, arguments and defaults, and independence."""

import importlib.metadata
import inspect
import pickle

import pytest

import l1jax
import l1torch
from parity_tests.frameworks.alone import run_without

# Where the idioms differ: the name, who has it alone, and why.
ALONE = {
    "GradientTransformation": ("l1torch", "optax brings its own"),
    "apply_updates": ("l1torch", "optax brings its own"),
    "FrozenZeros": ("l1torch", "in optax freeze_zeros gives a transformation"),
    "Proximal": ("l1torch", "torch optimizers own their parameters: a wrapper steps"),
    "Subgradient": ("l1torch", "as Proximal; in optax a chain does it"),
    "ProximalState": ("l1jax", "in torch the base optimizer keeps the state"),
    "proximal": ("l1jax", "in torch a wrapper, Proximal"),
}


def test_the_same_names():
    ours, theirs = set(l1jax.__all__), set(l1torch.__all__)
    assert {name for name, (who, _) in ALONE.items() if who == "l1jax"} == ours - theirs
    assert {name for name, (who, _) in ALONE.items() if who == "l1torch"} == (
        theirs - ours
    )


@pytest.mark.parametrize("lib", [l1jax, l1torch])
def test_all_is_complete_and_sorted(lib):
    assert lib.__all__ == sorted(lib.__all__)
    assert len(set(lib.__all__)) == len(lib.__all__)
    public = {
        name
        for name, value in vars(lib).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public | {"__version__"} == set(lib.__all__)
    assert all(inspect.getdoc(getattr(lib, name)) for name in lib.__all__)


@pytest.mark.parametrize("lib", [l1jax, l1torch])
def test_pickles_name_the_package_and_not_its_rooms(lib):
    classes = [x for x in vars(lib).values() if isinstance(x, type)]
    assert {x.__module__ for x in classes} == {lib.__name__}
    given = lib.Control(0.1, 0.5, 0.9)
    kept = pickle.dumps(given)
    assert f"{lib.__name__}.".encode() not in kept
    assert pickle.loads(kept) == given


def signature(function):
    return [
        (p.name, p.kind, repr(p.default).split(" at 0x")[0])
        for p in inspect.signature(function).parameters.values()
    ]


@pytest.mark.parametrize("name", sorted(set(l1jax.__all__) - {"__version__", *ALONE}))
def test_the_same_signatures(name):
    ours, theirs = getattr(l1jax, name), getattr(l1torch, name)
    assert signature(ours) == signature(theirs)
    for method in ("value", "subgradient", "prox", "optimality_distance", "to_dict"):
        if hasattr(ours, method):
            assert signature(getattr(ours, method)) == signature(
                getattr(theirs, method)
            )


def test_one_version():
    assert l1jax.__version__ == l1torch.__version__
    assert l1jax.__version__ == importlib.metadata.version("l1twins")


@pytest.mark.parametrize("lib", [l1jax, l1torch])
def test_a_checkout_that_is_not_installed_knows_its_version(lib):
    code = f"""
import importlib.metadata
def not_installed(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = importlib.metadata.distribution = not_installed
import {lib.__name__}
print({lib.__name__}.__version__)
"""
    done = run_without([], code)
    assert done.stdout.strip() == lib.__version__, done.stderr


@pytest.mark.parametrize(
    ("lib", "missing"),
    [(l1jax, "jax"), (l1jax, "optax"), (l1torch, "torch"), (l1torch, "numpy")],
)
def test_a_missing_framework_is_named_with_the_remedy(lib, missing):
    extra = lib.__name__.removeprefix("l1")
    done = run_without([missing], f"import {lib.__name__}")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: ")
    assert f"No module named '{missing}'" in last
    assert f"pip install 'l1twins[{extra}]'" in last


USE_JAX = """
import jax.numpy as jnp, l1jax
params = {"w": jnp.ones(3)}
tx = l1jax.proximal_step(0.1, 1.0)
print(tx.update(params, tx.init(params), params), l1jax.sparsity_report(params))
"""
USE_TORCH = """
import torch, l1torch
w = torch.nn.Parameter(torch.ones(3))
w.grad = torch.ones(3)
l1torch.Proximal(torch.optim.SGD([("w", w)], lr=0.1), 0.1).step()
print(l1torch.sparsity_report({"w": w}))
"""


@pytest.mark.parametrize(
    ("code", "blocked"),
    [
        (USE_JAX, ("torch", "l1torch")),
        (USE_TORCH, ("jax", "jaxlib", "flax", "optax", "l1jax")),
    ],
)
def test_each_twin_works_without_the_other_framework(code, blocked):
    unused = f"assert not set(sys.modules) & set({blocked})"
    done = run_without(blocked, f"{code}\n{unused}")
    assert done.returncode == 0, done.stderr
    # The block itself blocks: a test that cannot fail proves nothing.
    done = run_without(blocked, f"import {blocked[0]}")
    assert f"No module named '{blocked[0]}'" in done.stderr
