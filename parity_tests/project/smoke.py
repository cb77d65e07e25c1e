"""What an installed wheel must hold and do, with one framework in the environment.

    python -I -m parity_tests.project.smoke l1jax
    python -I -m parity_tests.project.smoke l1torch

`-I` keeps a checkout in the current folder from being imported in the wheel's place.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
import sysconfig
from pathlib import Path

FRAMEWORKS = {"l1jax": "jax", "l1torch": "torch"}


def train_l1jax() -> list[float]:
    """Take a proximal step of `1/2 |w - (3, 0.5)|^2` at strength 1, from 0."""
    import jax.numpy as jnp
    import optax

    import l1jax

    params = {"w": jnp.zeros(2)}
    tx = l1jax.proximal(optax.sgd, 1.0, 1.0)
    grads = {"w": params["w"] - jnp.array([3.0, 0.5])}
    updates, _ = tx.update(grads, tx.init(params), params)
    return optax.apply_updates(params, updates)["w"].tolist()


def train_l1torch() -> list[float]:
    """Take the same step in torch."""
    import torch

    import l1torch

    w = torch.nn.Parameter(torch.zeros(2))
    optimizer = l1torch.Proximal(torch.optim.SGD([("w", w)], lr=1.0), 1.0)
    (0.5 * (w - torch.tensor([3.0, 0.5])).square().sum()).backward()
    optimizer.step()
    return w.tolist()


TRAIN = {"l1jax": train_l1jax, "l1torch": train_l1torch}


def main(lib: str) -> None:
    """Check the package `lib`; raise AssertionError where it falls short."""
    others = set(FRAMEWORKS.values()) - {FRAMEWORKS[lib]}
    found = {name for name in others if importlib.util.find_spec(name)}
    assert not found, f"{lib} is to be tried alone, but {found} is installed, too"
    package = importlib.import_module(lib)
    folder = Path(package.__file__).parent
    assert folder.parent == Path(sysconfig.get_path("purelib")), folder
    assert package.__version__ == importlib.metadata.version("l1twins")
    needed = importlib.metadata.requires("l1twins")
    assert all("extra ==" in line for line in needed), "a bare install must add nothing"
    assert all(getattr(package, name) is not None for name in package.__all__)
    assert (folder / "py.typed").is_file()
    assert TRAIN[lib]() == [2.0, 0.0]
    print(f"{lib} {package.__version__} works from {folder}")


if __name__ == "__main__":
    main(sys.argv[1])
