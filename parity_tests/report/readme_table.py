"""Print the table of optimizers of l1jax/thresholds: which settings make steps equal.

    python -m parity_tests.report.readme_table [--only ROW ...]

Trained on the Lasso on diabetes in float64: the largest difference between the twins'
weights at any of 600 steps, and the relative distance of each to scikit-learn's
objective after 2000.
"""

import argparse
import itertools

import numpy as np

from parity_tests.frameworks.twins import TRAIN, TWINS
from parity_tests.oracles.convergence_matrix import ROWS, STEPS, Named, Row, case

HEADER = ("optax", "torch.optim", "equal steps", "gap in JAX", "gap in torch")


def call(made: Named | None) -> str:
    """Write an optimizer's settings as in code."""
    if made is None:
        return ""
    arguments = ", ".join(f"{k}={v}" for k, v in made.settings.items())
    return f"`{made.name}({arguments})`"


def settings() -> list[tuple[str, str]]:
    """Return the rows' settings in both frameworks."""
    return [(call(row.optax), call(row.torch_optim)) for row in ROWS.values()]


def figures(row: Row) -> list[str]:
    """Train a row in both frameworks, and return what is to be shown."""
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
    """Print the table in Markdown, line by line as they are found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=ROWS, metavar="ROW", help="such as adam; all"
    )
    only = parser.parse_args().only or ROWS
    for twin in TWINS:
        twin.set_up()
    made = (
        [*shown, *figures(row)]
        for shown, (name, row) in zip(settings(), ROWS.items(), strict=True)
        if name in only
    )
    for line in itertools.chain([HEADER, ["---"] * len(HEADER)], made):
        print("| " + " | ".join(line) + " |", flush=True)


if __name__ == "__main__":
    main()
