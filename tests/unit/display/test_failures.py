"""The failures of a job as a table: in the message of the exception, as data, in IPython and as HTML."""

import json
import pickle
import re

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from IPython.core.interactiveshell import InteractiveShell
from pages import Page

from shardedstore import Failures, ShardedStore, ShardError, ShardsFailed, UsageError, step
from shardedstore.transforms import ToZip

HOSTILE = "<script>alert('1')</script>&\n\x1b[31m"
SCREEN = 40  # lines
MOST_BYTES = 100_000  # of HTML


@step
def divided_by_zero(data, shard):
    return helper(data)


def helper(data):
    return 1 / 0 * data


def failures(number, causes):
    return Failures(
        ShardError(
            f"t[{i}]",
            f"ValueError: cause {i % causes} {HOSTILE}",
            path="t",
            block=(i,),
            key=f"t/c/{i}",
            chunk=(i, 0),
            url="/in.zarr",
            attempts=3,
            worker="node1:4711",
            traceback="Traceback ...",
        )
        for i in range(number)
    )


@pytest.mark.parametrize(("number", "causes"), [(1, 1), (10, 2), (10_000, 1), (10_000, 40), (1000, 1000)])
def test_a_table_fits_a_screen_and_is_bounded(number, causes):
    found = failures(number, causes)
    lines = str(ShardsFailed(f"{number} shards failed", list(found))).splitlines()
    assert len(lines) < SCREEN
    page = found._repr_html_()
    assert len(page) < MOST_BYTES
    assert "script" not in Page(page).tags
    assert f"{number:,}" in page or causes > 1
    assert len(found.by_cause()) == causes
    assert len(found.by_cause()[0]) == number // causes


def test_data():
    found = failures(4, 2)
    table = found.to_dataframe()
    assert isinstance(table, pd.DataFrame)
    assert table.loc["t[2]", ["key", "worker", "attempts"]].tolist() == ["t/c/2", "node1:4711", 3]
    assert json.loads(json.dumps(found.to_dicts()))[3]["chunk"] == [3, 0]
    assert [error.shard for error in found[1:3]] == ["t[1]", "t[2]"]
    assert vars(pickle.loads(pickle.dumps(ShardsFailed("x", list(found)))).failures[0]) == vars(found[0])


def test_a_function_of_a_user(tmp_path):
    source = zarr.create_group(tmp_path / "in.zarr")
    source.create_array("t", data=np.arange(8), chunks=(2,))
    store = ShardedStore.partition(tmp_path / "in.zarr", {"t": (4,)})
    with dask.config.set(scheduler="sync"), pytest.raises(ShardsFailed, match="3 of 3 shards failed") as caught:
        store.map_shards(divided_by_zero, ToZip(tmp_path / "out"), retries=0)
    error = caught.value
    failed = error.failures[-1]
    assert str(failed) == "shard 't[1]' failed: ZeroDivisionError: division by zero"
    assert "return helper(data)" in failed.traceback
    assert "return 1 / 0 * data" in failed.traceback
    assert "frames of shardedstore]" in failed.traceback
    assert "worker.py" not in failed.traceback
    assert failed.worker
    assert "`failures[0].traceback` is the traceback in the worker" in str(error)

    rendered = "\n".join(error._render_traceback_())
    assert "store.map_shards(divided_by_zero" in rendered
    assert "run.py" not in rendered
    assert "job_plan.py" not in rendered
    assert "sys.last_value.failures[0].traceback" in rendered
    assert len(rendered.splitlines()) < SCREEN
    frames = [frame.name for frame in caught.traceback]
    assert frames[-2:] == ["map_shards", "run"]


def no_source(folder):
    ShardedStore.partition(folder / "none.zarr")


def no_array(folder):
    ShardedStore.partition(folder / "in.zarr", {"nothing": (4,)})


def no_shard(folder):
    ShardedStore.partition(folder / "in.zarr").plan(ToZip(folder / "out")).try_shard("t[9]")


def no_config(folder):
    xr.open_dataset(folder / "none", engine="shardedstore")


@pytest.mark.parametrize("mistake", [no_source, no_array, no_shard, no_config], ids=lambda call: call.__name__)
def test_ipython_shows_the_line_of_the_caller_and_the_message(mistake, tmp_path):
    zarr.create_group(tmp_path / "in.zarr").create_array("t", data=np.arange(8), chunks=(2,))
    with pytest.raises(UsageError) as caught:
        mistake(tmp_path)
    lines = caught.value._render_traceback_()
    assert lines[-1] == f"{type(caught.value).__name__}: {caught.value}"
    assert any(f"in {mistake.__name__}" in line for line in lines)
    assert {line.split('"')[1] for line in lines if line.startswith("  File")} == {__file__}


def test_ipython_names_the_cell(capsys):
    shell = InteractiveShell.instance()
    try:
        shell.run_cell(
            "from shardedstore import ShardedStore\nShardedStore.partition('/none.zarr')", store_history=True
        )
    finally:
        InteractiveShell.clear_instance()
    head, place, line, *_, error = capsys.readouterr().out.splitlines()
    assert (head, line) == ("Traceback (most recent call last):", "    ShardedStore.partition('/none.zarr')")
    assert re.fullmatch(r"  Cell In ?\[\d+\], line 2, in <module>", place)
    assert error.startswith("PartitionError: '/none.zarr' can't be read")
