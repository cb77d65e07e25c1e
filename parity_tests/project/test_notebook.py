"""The Colab notebook runs from top to bottom, here on the CPU."""

import base64
import json
import pathlib
import re
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "colab_tpu.ipynb"


def test_badge_notebook_and_package_name_one_repository():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    repository = project["urls"]["Repository"]
    readme, notebook = (ROOT / "README.md").read_text(), NOTEBOOK.read_text()
    opened = repository.replace("github.com", "colab.research.google.com/github")
    assert f"({opened}/blob/main/examples/colab_tpu.ipynb)" in readme
    assert f'SOURCE = \\"{repository}\\"' in notebook
    owners = set(re.findall(r"github(?:\.com)?/([\w-]+/[\w-]+)", readme + notebook))
    assert owners == {repository.removeprefix("https://github.com/")}


def test_it_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    for cell in code:
        assert not cell["outputs"]
        assert cell["execution_count"] is None


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's, not ours
def test_it_runs():
    remedy = 'install it by: pip install ".[notebook]"'
    nbclient = pytest.importorskip("nbclient", reason=f"nbclient is missing; {remedy}")
    pytest.importorskip("ipykernel", reason=f"ipykernel is missing; {remedy}")
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources=place
    ).execute()  # raises what a cell raises
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    assert re.search(r"PASS: (\d+) of \1 checks pass", text)
    assert "running on cpu" in text
    rows = re.findall(r"([\d.]+)% +([\d,]+) +([\d.]+)%", text)
    assert len(rows) == 8
    zeros, accuracy = ([float(row[i]) for row in rows] for i in (0, 2))
    assert zeros == sorted(zeros)
    assert zeros[-1] > 90
    assert min(accuracy) > 90
    pictures = [o["data"]["image/png"] for o in outputs if "image/png" in str(o)]
    assert len(pictures) == 1
    assert base64.b64decode(pictures[0]).startswith(b"\x89PNG")
