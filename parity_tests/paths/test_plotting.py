"""The figure of a path."""

import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from parity_tests.paths.diabetes_paths import weights


def test_the_figure(twin, paths, tmp_path):
    plot_path, path = twin.lib.plot_path, paths[twin.name]
    names = [f"feature {i}" for i in range(10)]
    figure = plot_path(path, strength=0.05, labels=names, named=3)
    assert isinstance(figure, Figure)
    above, below = figure.axes
    assert below.get_xscale() == "log"
    assert below.get_xlim() == (path.strengths[0], path.strengths[-1])
    assert "strength" in below.get_xlabel()
    np.testing.assert_array_equal(above.lines[0].get_ydata(), path.nnz)
    drawn = {tuple(line.get_ydata()[-2:]) for line in below.lines}
    assert {tuple(column) for column in weights(twin, path)[-2:].T} <= drawn
    for axes in (above, below):
        assert any(set(line.get_xdata()) == {0.05} for line in axes.lines)
    largest = np.argsort(-np.abs(weights(twin, path)[-1]))[:3]
    assert {text.get_text() for text in below.texts} == {names[i] for i in largest}
    assert [text.get_text() for text in above.texts] == ["chosen: 0.05"]
    figure.savefig(tmp_path / "path.png")
    again = plot_path(path, axes=figure.subplots(1, 2), params="w")
    assert again is figure


def test_the_figure_of_several_classes(twin):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = np.argmax(X[:, :3] + (np.arange(3) == 1), axis=1)  # unequal intercepts
    arrays = twin.array(X), twin.array(y, "int64")
    path = twin.lib.linear_path(*arrays, count=5, ratio=0.05, loss="multinomial")
    coef, intercept = (twin.numpy(path.params[k]) for k in ("coef", "intercept"))
    assert (intercept[-1] != 0).all()
    features, classes = ["age", "size", "dose", "noise"], ["low", "mid", "high"]
    for names, named in (
        ({}, (range(4), [f"class {i}" for i in range(3)])),
        ({"labels": features, "classes": classes}, (features, classes)),
        ({"labels": [*"abcdefghijkl"]}, None),
    ):
        below = twin.lib.plot_path(path, named=12, **names).axes[1]
        ends = {line.get_ydata()[-1] for line in below.lines} - {0}
        assert ends <= set(coef[-1].ravel())
        texts = {text.get_text(): text.xy[1] for text in below.texts}
        for (i, j), end in np.ndenumerate(coef[-1]):
            if end != 0:
                label = (
                    f"{named[0][i]}, {named[1][j]}"
                    if named
                    else "abcdefghijkl"[3 * i + j]
                )
                assert texts[label] == end
    with pytest.raises(
        ValueError, match="12 names, .* or 4, one for each feature, got"
    ):
        twin.lib.plot_path(path, labels=["a"])
    with pytest.raises(ValueError, match="classes must be 3 names, .* got 1"):
        twin.lib.plot_path(path, classes=["a"])


def test_bad_input_to_the_figure(twin, paths, monkeypatch):
    plot_path, path = twin.lib.plot_path, paths[twin.name]
    with pytest.raises(ValueError, match="labels must be 10 names"):
        plot_path(path, labels=["a"])
    with pytest.raises(ValueError, match="params must be a key"):
        plot_path(path, params="v")
    with pytest.raises(ValueError, match="strength must be a Python"):
        plot_path(path, strength=0.0)
    with pytest.raises(ValueError, match="axes must be two"):
        plot_path(path, axes=[None])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="plot_path needs matplotlib"):
        plot_path(path)
