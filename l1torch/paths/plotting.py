"""Drawing a regularisation path."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from l1torch.numerics.checks import check_int, check_real, described
from l1torch.parameters.masks import selected, weights_only
from l1torch.parameters.trees import describe, named_leaves
from l1torch.paths.regularisation import RegularisationPath, require_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = ("-", "--", "-.", ":")


def plot_path(
    path: RegularisationPath,
    *,
    strength: float | None = None,
    labels: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    params: str | None = None,
    named: int = 8,
    axes: "Sequence[Axes] | None" = None,
) -> "Figure":
    """Draw a path: how many weights are not zero, and below it every weight.

    Both are drawn against the strength, which falls to the right on a logarithmic
    axis. The `named` largest weights at the end are labelled beside their lines. The
    colours differ in lightness, too, so that the figure may be printed in grey.

    Args:
      path: of `regularisation_path` or `linear_path`.
      strength: one that has been chosen, in units of the loss, marked by a vertical
        line; it need not be one of the path's.
      labels: a name for each element of the weights drawn, in their flat order; of an
        array of two axes, such as a multinomial path's, also one for each feature, to
        which its class is added. By default their indices.
      classes: a name for each class, of an array of two axes; by default "class 0" and
        so on.
      params: the key of the array to draw, where the parameters are a mapping; by
        default the weights, see `weights_only`, one array after the other.
      named: how many weights to label.
      axes: two matplotlib axes to draw into, for the number and for the weights; by
        default those of a new figure.

    Returns:
      The matplotlib `Figure`; write it with `savefig`.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: labels, classes, params or axes that do not fit the path; a strength
        that is not positive.

    Example:
      >>> import torch
      >>> from l1torch import regularisation_path
      >>> loss = lambda w: ((w - torch.tensor([1.0, 0.4])) ** 2).sum() / 2
      >>> path = regularisation_path(loss, torch.zeros(2), [0.9, 0.5, 0.1])
      >>> figure = plot_path(path, strength=0.5, labels=["age", "size"])
      >>> figure.savefig("path.png")  # doctest: +SKIP
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plot_path needs matplotlib, which is not installed. Install it, or "
            "l1twins with its extra [examples]."
        ) from error
    require_path(path)
    check_int("named", named, "how many weights to name, such as 8", least=0)
    for argument, names in (("labels", labels), ("classes", classes)):
        if isinstance(names, str) or not isinstance(names, Sequence | None):
            raise TypeError(
                f"{argument} must be a sequence of names, got {described(names)}. Pass "
                "a list of strings, or None."
            )
    arrays = _weights(path, params)
    labels = _labels([x.shape[1:] for x in arrays], labels, classes)
    weights = np.concatenate([x.reshape(len(path), -1) for x in arrays], axis=1)
    if strength is not None:
        strength = check_real(
            "strength", strength, "(0, inf)", "the one that was chosen, or None"
        )
    if axes is None:
        figure = Figure(figsize=(7, 5.5), layout="constrained")
        axes = figure.subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": [1, 3]}
        ).tolist()
    if isinstance(axes, Sequence | np.ndarray) and np.shape(axes)[:1] != (2,):
        raise ValueError(
            f"axes must be two, for the number and for the weights, got "
            f"shape {np.shape(axes)}. Pass two, or None."
        )
    drawable = isinstance(axes, Sequence | np.ndarray) and np.ndim(axes) == 1
    drawable = drawable and all(hasattr(one, "axvline") for one in axes)
    if not drawable:
        raise TypeError(
            f"axes must be two of matplotlib's, got {described(axes)}. Pass those of "
            "figure.subplots(2, 1), or None."
        )
    above, below = axes
    _draw_counts(above, path)
    _draw_weights(below, path, weights, labels, named)
    for one in axes:
        one.set_xscale("log")
        one.set_xlim(*_limits(path.strengths, strength))
        if strength is not None:
            one.axvline(strength, color="0", linewidth=1, linestyle=(0, (6, 3)))
    if strength is not None:
        above.annotate(
            text=f"chosen: {strength:.3g}",
            xy=(strength, 1.0),
            xytext=(0, 2),
            xycoords=above.get_xaxis_transform(),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
        )
    return below.figure


def _weights(path: RegularisationPath, key: str | None) -> list[np.ndarray]:
    """Return the arrays to draw, with a leading axis of strengths."""
    if key is not None and not (
        isinstance(key, str) and isinstance(path.params, Mapping) and key in path.params
    ):
        raise ValueError(
            f"params must be a key of the path's parameters, got {key!r}. Pass one of "
            f"{describe(named_leaves(path.params))}, or None."
        )
    if key is not None:
        chosen = [path.params[key]]
    else:
        leaves = [x for _, x in named_leaves(path.params)]
        try:
            flags = selected(weights_only, path.at(0))
        except ValueError:  # by their names none are weights
            flags = [True] * len(leaves)
        chosen = [x for x, flag in zip(leaves, flags, strict=True) if flag]
    return [x.double().numpy(force=True) for x in chosen]


def _labels(
    shapes: Sequence[tuple[int, ...]],
    labels: Sequence[str] | None,
    classes: Sequence[str] | None,
) -> list[str]:
    """Name each element: of one array of two axes by feature and class."""
    count = sum(math.prod(shape) for shape in shapes)
    rows, k = shapes[0] if len(shapes) == 1 and len(shapes[0]) == 2 else (count, 1)
    if classes is not None and (k == 1 or len(classes) != k):
        wanted = f"{k} names, one for each class" if k > 1 else "None without classes"
        raise ValueError(
            f"classes must be {wanted}, got {len(classes)}. Pass classes=None."
        )
    labels = [str(i) for i in range(rows)] if labels is None else list(labels)
    if k > 1 and len(labels) == rows:
        classes = [f"class {i}" for i in range(k)] if classes is None else classes
        labels = [f"{label}, {one}" for label in labels for one in classes]
    if len(labels) != count:
        features = f", or {rows}, one for each feature" if k > 1 else ""
        raise ValueError(
            f"labels must be {count} names, one for each weight{features}, got "
            f"{len(labels)}. Pass one for each, or None."
        )
    return labels


def _draw_counts(axes: Any, path: RegularisationPath) -> None:
    axes.step(path.strengths, path.nnz, color="0", where="mid", linewidth=1.2)
    axes.set_ylabel(f"not zero,\nof {path.size}")
    axes.set_ylim(0, None)
    missed = ~path.converged
    if missed.any():
        axes.plot(
            path.strengths[missed],
            path.nnz[missed],
            "x",
            color="0",
            markersize=5,
            label="not converged",
        )
        axes.legend(frameon=False, fontsize=8)


def _draw_weights(
    axes: Any,
    path: RegularisationPath,
    weights: np.ndarray,
    labels: Sequence[str],
    named: int,
) -> None:
    from matplotlib import colormaps

    axes.axhline(0, color="0.6", linewidth=0.8)
    # The weights that come in first are drawn darkest.
    first = np.where((weights != 0).any(0), (weights != 0).argmax(0), len(path))
    drawn = [i for i in np.argsort(first, kind="stable") if first[i] < len(path)]
    shades = colormaps["viridis"](np.linspace(0, 0.85, max(len(drawn), 1)))
    for place, i in enumerate(drawn):
        since = slice(max(first[i] - 1, 0), None)
        axes.plot(
            path.strengths[since],
            weights[since, i],
            _STYLES[place % len(_STYLES)],
            color=shades[place],
            linewidth=1.2,
        )
    axes.set_xlabel("strength (units of the loss)")
    axes.set_ylabel("weight (per unit of its input)")
    largest = np.argsort(-np.abs(weights[-1]), kind="stable")[: max(named, 0)]
    for i, height in _spread(weights[-1], largest, axes.get_ylim()):
        axes.annotate(
            labels[i],
            (path.strengths[-1], weights[-1, i]),
            (1.01, height),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            annotation_clip=False,
        )


def _spread(
    ends: np.ndarray, chosen: np.ndarray, limits: tuple[float, float]
) -> list[tuple[int, float]]:
    """Move labels up until none covers another."""
    room = (limits[1] - limits[0]) * 0.04
    placed, floor = [], -np.inf
    for i in sorted(chosen[ends[chosen] != 0], key=lambda i: ends[i]):
        height = max(ends[i], floor)
        placed.append((int(i), float(height)))
        floor = height + room
    return placed


def _limits(strengths: np.ndarray, strength: float | None) -> tuple[float, float]:
    """The largest strength on the left; a single one in the middle."""
    shown = strengths if strength is None else np.append(strengths, strength)
    largest, smallest = shown.max(), shown.min()
    if largest == smallest:
        return largest * 2, smallest / 2
    return largest, smallest
