"""The notebooks of examples/notebooks, run from the start and compared with their saved outputs."""

import json
import re
import runpy

import nbformat
import pytest
from paths import ROOT

FOLDER = ROOT / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SCRIPT = runpy.run_path(str(FOLDER / "run.py"))

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def kinds(cell):
    """The kinds of a cell's outputs, and the formats of each."""
    return [(output.output_type, sorted(output.get("data", ()))) for output in cell.get("outputs", ())]


def texts(cell):
    """The texts that are equal in each run."""
    return [output.get("text") or output.get("data", {}).get("text/plain") for output in cell.get("outputs", ())]


@pytest.mark.few(1)
@each
@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(400)
def test_a_notebook_runs_and_shows_what_it_has_saved(path, tmp_path):
    saved, made = nbformat.read(path, as_version=4), SCRIPT["run"](path, tmp_path)
    assert [kinds(cell) for cell in made.cells] == [kinds(cell) for cell in saved.cells]
    same = [i for i, cell in enumerate(saved.cells) if "same" in cell.metadata.get("tags", ())]
    assert len(same) >= 3
    assert [texts(made.cells[i]) for i in same] == [texts(saved.cells[i]) for i in same]


@each
def test_the_saved_outputs_are_small_complete_and_of_no_machine(path):
    text = path.read_text()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(text) < SCRIPT["MOST_BYTES"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for output in (output for cell in cells for output in cell.outputs):
        assert output.get("name") != "stderr", output
        shown = {name: data for name, data in output.get("data", {}).items() if not name.startswith("image/")}
        assert not re.search(r"/(tmp|home|dev|root|Users)/", json.dumps(shown) + output.get("text", ""))
