"""Draws what each penalty of single weights does to a weight: prox(x) against x.

    python examples/shrinkage_curves.py

writes shrinkage_curves.png beside this file: lines by JAX, markers by torch, for two
thresholds. It ends with an error if the two differ in a single bit (of powers other
than 1/2, in more than the last digits).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import l1jax
import l1torch
from common import command_line, save

THRESHOLDS = (1.0, 3.0)
X = np.linspace(-4.5, 4.5, 2001, dtype=np.float32)

# By what a user writes.
PENALTIES: dict[str, Callable[[Any], Any]] = {
    "l1()": lambda lib: lib.l1(),
    "elastic_net(0.5)": lambda lib: lib.elastic_net(0.5),
    "nonnegative_l1()": lambda lib: lib.nonnegative_l1(),
    "weighted_l1(0.5)": lambda lib: lib.weighted_l1(0.5),
    "mcp(1.0, gamma=2.0)": lambda lib: lib.mcp(1.0, gamma=2.0),
    "scad(1.0, a=3.7)": lambda lib: lib.scad(1.0, a=3.7),
    "capped_l1(1.5)": lambda lib: lib.capped_l1(1.5),
    "log_sum(0.5)": lambda lib: lib.log_sum(0.5),
    "lp(2 / 3)": lambda lib: lib.lp(2 / 3),
    "lp(1 / 2)": lambda lib: lib.lp(1 / 2),
    "l0()": lambda lib: lib.l0(),
}


def curves(text: str, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return prox(X) by JAX, compiled, and by torch."""
    in_jax, in_torch = PENALTIES[text](l1jax), PENALTIES[text](l1torch)
    ours = jax.jit(lambda x: in_jax.prox(x, threshold))(jnp.asarray(X))
    theirs = in_torch.prox(torch.tensor(X), threshold)
    return np.asarray(ours), theirs.numpy()


def draw(axes: Axes, text: str) -> None:
    """Draw one penalty's curves, broken where they jump."""
    convex = "convex" if PENALTIES[text](l1jax).convex else "not convex"
    axes.set_title(f"{text}\n{convex}", fontsize=9)
    axes.plot(X, X, color="0.8", linewidth=1)
    for threshold, line, marker in zip(
        THRESHOLDS, ("-", "--"), ("o", "s"), strict=True
    ):
        ours, theirs = curves(text, threshold)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6 if "/ 3" in text else 0)
        shown = ours.copy()
        shown[1:][np.abs(np.diff(ours)) > 0.1] = np.nan
        label = f"threshold {threshold:g}, "
        axes.plot(X, shown, line, color="0", linewidth=1.2, label=label + "JAX")
        axes.plot(
            X[50::190],
            theirs[50::190],
            marker,
            color="0",
            markersize=4,
            fillstyle="none",
            label=label + "torch",
        )
    ticks = (-4, -2, 0, 2, 4)
    axes.set(xlim=X[[0, -1]], ylim=X[[0, -1]], xticks=ticks, yticks=ticks)
    axes.set_aspect("equal")


def main() -> None:
    """Draw all penalties into one figure."""
    out = command_line(__doc__, __file__, frameworks=False).parse_args().out
    figure = Figure(figsize=(10, 8.2), layout="constrained")
    figure.suptitle("What a weight x becomes: prox(x) against x (grey: x unchanged)")
    grid = figure.subplots(3, 4, sharex=True, sharey=True)
    for axes, text in zip(grid.flat, PENALTIES, strict=False):
        draw(axes, text)
    *_, last = grid.flat
    last.set_axis_off()
    last.legend(handles=grid.flat[0].lines[1:], loc="center", frameon=False)
    grid.flat[7].tick_params(labelbottom=True)
    figure.supxlabel("weight before the step, x (any unit)")
    figure.supylabel("weight after it, prox(x) (the same unit)")
    print(f"{len(PENALTIES)} penalties, equal in JAX and torch")
    save(figure, out)


if __name__ == "__main__":
    main()
