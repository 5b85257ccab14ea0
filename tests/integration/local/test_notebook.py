"""The progress of jobs in a real kernel of Jupyter, run by nbclient."""

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from paths import ROOT, TESTS

START = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(TESTS)!r}]
import dask; dask.config.set(scheduler="threads")
from helpers_jobs import Fail, Slow, blocks_at
from pathlib import Path
from shardedstore import ShardsFailed
from shardedstore.transforms import ToZip
updates = []
def note(message):
    updates.extend(["update"] * (message["header"]["msg_type"] == "update_display_data"))
    return message
get_ipython().display_pub.register_hook(note)
store = blocks_at(Path("source.zarr"), 40)
"""
DONE = 'store.map_shards(Slow(0.01), ToZip("zips"));'
FAILED = """
try:
    store.map_shards(Fail("a[3]"), ToZip("failed"))
except ShardsFailed:
    pass
"""
ON_PROCESSES = """
from distributed import Client, LocalCluster
with LocalCluster(1, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
    try:
        store.map_shards(Fail("a[3]"), ToZip("cluster"))
    except ShardsFailed:
        pass
"""
RAISED = 'store.map_shards(Fail("a[3]"), ToZip("raised"), progress=False)'
SILENT = 'store.map_shards(ToZip("silent"), progress=False);'
COUNT = "len(updates)"
IN_BATCH = "from shardedstore.callbacks.notebook import in_batch; in_batch()"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The outputs of the cells."""
    cells = [new_code_cell(source) for source in (START, DONE, FAILED, ON_PROCESSES, SILENT, COUNT, IN_BATCH, RAISED)]
    cells[-1].metadata.tags = ["raises-exception"]
    folder = tmp_path_factory.mktemp("notebook")
    notebook = new_notebook(cells=cells)
    NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(folder)}}).execute()
    nbformat.validate(notebook)
    return [cell.outputs for cell in cells]


def shown(outputs):
    """The outputs of a cell, without the log of Dask."""
    written = [output.text for output in outputs if output.output_type == "stream" and "distributed" not in output.text]
    assert written == []
    return [output for output in outputs if output.output_type != "stream"]


def test_a_notebook_keeps_one_output_of_the_last_state(outputs):
    [done] = shown(outputs[1])
    assert done.data["text/plain"].startswith("done, 100%, 41 of 41 shards")
    assert "41 of 41" in done.data["text/html"]
    assert "Slow, ToZip to " in done.data["text/html"]


@pytest.mark.parametrize("cell", [2, 3], ids=["threads", "processes"])
def test_failures_and_warnings_are_in_the_view_and_not_red(outputs, cell):
    [failed] = shown(outputs[cell])
    assert failed.data["text/plain"].startswith("failed, 100%, 41 of 41 shards")
    assert "not to the step&#x27;s taste" in failed.data["text/html"]


def test_nothing_is_shown_where_it_is_not_wanted(outputs):
    assert outputs[4] == []


def test_updates_are_a_few_a_second(outputs):
    assert 2 <= int(outputs[5][0].data["text/plain"]) <= 20


def test_a_notebook_that_nobody_watches_is_told_apart(outputs):
    assert outputs[6][0].data["text/plain"] == "True"


def test_an_exception_is_a_table_without_frames_of_the_package(outputs):
    error = outputs[7][-1]  # after the warning in the log, which no view shows
    lines = "\n".join(error.traceback)
    assert (error.output_type, error.ename) == ("error", "ShardsFailed")
    assert "1 of 41 shards failed" in lines
    assert "job_plan.py" not in lines
