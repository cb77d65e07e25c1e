"""Partitions of arrays into groups: as labels of the elements, and as the library's."""

import dataclasses

import numpy as np


def labels_of(twin, penalty, shape):
    """Label the elements by groups: slopes change where one of a group does."""
    labels = np.full(shape, -1)
    grad = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    slope = twin.jit(lambda x: penalty.subgradient(x))
    for position in np.ndindex(shape):
        if labels[position] < 0:
            x = grad.copy()
            x[position] *= 2
            changed = twin.numpy(slope(twin.array(x))) != twin.numpy(
                slope(twin.array(grad))
            )
            changed[position] = True
            labels[changed] = labels.max() + 1
    return labels


def same_partition(a, b):
    """Tell whether two arrays of labels mean the same groups."""
    pairs = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    return len(pairs) == len(np.unique(a)) == len(np.unique(b))


def index(shape, axis):
    """Return for each element its index along an axis."""
    return np.indices(shape)[axis]


def by_rows(shape, *axes):
    """Return one label for each tuple of indices along the axes."""
    label = np.zeros(shape, int)
    for axis in axes:
        label = label * shape[axis] + index(shape, axis)
    return label


def bound(twin, groups, layout, shape):
    """Return a group penalty that knows the array's layout."""
    penalty = twin.lib.group_l1(groups=groups, layouts={"w": layout})
    return penalty.at("w", shape)


def formed(twin, penalty, shape):
    """Return the groups as the library describes them, in both twins alike."""
    return dataclasses.astuple(penalty._grouping(shape))
