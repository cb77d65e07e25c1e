"""Print the table of optimizers of l1jax/thresholds: which settings make steps equal.

    python -m parity_tests.report.readme_table

Trained on the Lasso on diabetes in float64: the largest difference between the twins'
weights at any of 600 steps, and the relative distance of each to scikit-learn's
objective after 2000.
"""

import jax
import numpy as np

from parity_tests.frameworks.twins import TRAIN
from parity_tests.oracles.convergence_matrix import ROWS, STEPS, Named, Row, case

HEADER = ("optax", "torch.optim", "equal steps", "gap in JAX", "gap in torch")


def call(made: Named | None) -> str:
    """Writes an optimizer's settings as one writes them in code."""
    if made is None:
        return ""
    name, settings = made
    arguments = ", ".join(f"{k}={v}" for k, v in settings.items())
    return f"`{name}({arguments})`"


def settings() -> list[tuple[str, str]]:
    """The rows' settings in both frameworks."""
    return [(call(row.optax), call(row.torch_optim)) for row in ROWS.values()]


def figures(row: Row) -> list[str]:
    """Trains and measures."""
    if not (row.optax and row.torch_optim):
        equal = ""
    else:
        ours, theirs = (
            train("lasso", row, 600, trail=True)["w"] for train in TRAIN.values()
        )
        same = "to" if row.equal else "no,"
        equal = f"{same} {np.abs(ours - theirs).max():.0e}"
    gaps = [
        f"{abs(case('lasso').gap(train('lasso', row, STEPS['lasso']))):.0e}"
        if getattr(row, framework)
        else ""
        for framework, train in TRAIN.items()
    ]
    return [equal, *gaps]


def main() -> None:
    """Prints the table in Markdown."""
    jax.config.update("jax_enable_x64", True)
    lines = [HEADER, ["---"] * len(HEADER)]
    lines += [
        [*made, *figures(row)]
        for made, row in zip(settings(), ROWS.values(), strict=True)
    ]
    for line in lines:
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
