"""What the examples share: their command line, the two libraries and their figures."""

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import torch
from matplotlib.figure import Figure
from PIL import Image

import l1jax
import l1torch

DPI = 110  # of every figure


class Framework(NamedTuple):
    """One of the two libraries."""

    name: str
    """As it is printed: "JAX" or "torch"."""
    lib: ModuleType
    array: Callable[[Any], Any]
    """From NumPy's arrays to the framework's."""


FRAMEWORKS = {
    "jax": Framework("JAX", l1jax, jnp.asarray),
    "torch": Framework("torch", l1torch, torch.tensor),
}


def command_line(
    doc: str, script: str, *, frameworks: bool = True, figure: bool = True
) -> argparse.ArgumentParser:
    """Make a parser with `--framework` and `--out`, to which a script adds its own.

    Args:
      doc: the script's docstring, whose first line becomes its description.
      script: the script's `__file__`; the figure is named after it unless `--out` is.
      frameworks: whether `--framework jax|torch|both` applies, both by default.
      figure: whether there is a figure.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    if frameworks:
        choices = (*FRAMEWORKS, "both")
        parser.add_argument("--framework", choices=choices, default="both")
    if figure:
        png = Path(script).with_suffix(".png")
        parser.add_argument("--out", type=Path, default=png, help="the figure's path")
    return parser


def chosen(framework: str) -> list[str]:
    """Return the keys of `FRAMEWORKS` that `--framework` stands for."""
    return list(FRAMEWORKS) if framework == "both" else [framework]


def save(figure: Figure, path: Path) -> None:
    """Write a figure and say where it is; a PNG in 256 colours, a third as large."""
    path = path if path.suffix else path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    if path.suffix.lower() == ".png":
        with Image.open(path) as image:
            image.convert("RGB").quantize(256).save(path, optimize=True)
    print(f"figure: {path}")
