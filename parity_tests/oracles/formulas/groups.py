"""The penalties of groups: each group is a set of equal labels."""

from collections.abc import Callable

import numpy as np

from parity_tests.oracles.formulas.entry import Entry


def group_value(
    labels: np.ndarray, l1_ratio: float = 0.0, scale_by_size: bool = True
) -> Callable[[np.ndarray], float]:
    """The sparse group lasso, `labels` of the array's shape telling the groups."""

    def value(x: np.ndarray) -> float:
        total = 0.0
        for label in np.unique(labels):
            group = x[labels == label]
            weight = np.sqrt(group.size) if scale_by_size else 1.0
            total += weight * np.sqrt((group**2).sum())
        return float(l1_ratio * np.abs(x).sum() + (1 - l1_ratio) * total)

    return value


PENALTIES: dict[str, Entry] = {
    "group_l1()": Entry(
        lambda lib: lib.group_l1(),
        group_value(np.zeros(6)),
        (6,),
    ),
    "group_l1(0, block=2)": Entry(
        lambda lib: lib.group_l1(0, block=2),
        group_value(np.array([0, 0, 1, 1, 2, 2])),
        (6,),
    ),
    "group_l1(groups={'a': [0, 3], ...})": Entry(
        lambda lib: lib.group_l1(groups={"a": [0, 3], "b": [1], "c": [5, 2, 4]}),
        group_value(np.array([0, 1, 2, 0, 2, 2])),
        (6,),
    ),
    "group_l1(1, scale_by_size=False)": Entry(
        lambda lib: lib.group_l1(1, scale_by_size=False),
        group_value(np.array([[0, 0], [1, 1], [2, 2]]), scale_by_size=False),
        (3, 2),
    ),
    "group_l1(groups='output')": Entry(
        lambda lib: lib.group_l1(groups="output").at("kernel", (3, 2)),
        group_value(np.array([[0, 1], [0, 1], [0, 1]])),
        (3, 2),
    ),
    "sparse_group_l1(0.3, groups={'a': [0, 3], ...})": Entry(
        lambda lib: lib.sparse_group_l1(
            0.3, groups={"a": [0, 3], "b": [1], "c": [5, 2, 4]}
        ),
        group_value(np.array([0, 1, 2, 0, 2, 2]), 0.3),
        (6,),
    ),
    "sparse_group_l1(0.6, 1)": Entry(
        lambda lib: lib.sparse_group_l1(0.6, 1),
        group_value(np.array([[0, 0], [1, 1], [2, 2]]), 0.6),
        (3, 2),
    ),
}
