"""Notices of a job: logged once at its start, kept in the summary, and printed by the command line."""

import logging
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import dask
import pytest
import zarr

from shardedstore import Notice, ShardedStore, Step
from shardedstore.transforms import ToZip


@dataclass(frozen=True)
class Doubtful(Step):
    """A step that warns of every array of its source, and changes nothing."""

    def notices(self, nodes: Mapping[str, object]) -> Iterable[Notice]:
        return [Notice("doubtful", (path,)) for path in nodes if path]

    def __call__(self, entries, shard):
        return entries


@pytest.fixture
def source(tmp_path):
    group = zarr.create_group(tmp_path / "in.zarr", attributes={"multiscales": []}, zarr_format=2)
    for name in "abcde":
        group.create_array(name, shape=(4,), chunks=(2,), dtype="i4")[...] = 1
    return tmp_path / "in.zarr"


@pytest.mark.parametrize("compute", [True, False])
def test_notices_of_all_steps_are_logged_once_and_kept(source, tmp_path, caplog, told, compute):
    store = ShardedStore.partition(source)
    with caplog.at_level(logging.WARNING, "shardedstore"), dask.config.set(scheduler="synchronous"):
        result = store.map_shards(Doubtful(), Doubtful(), ToZip(tmp_path / "out"), compute=compute)
        (result,) = dask.compute(result) if not compute else (result,)
    assert result.summary.notices == (Notice("doubtful", tuple("abcde")),)
    assert told() == ["doubtful: 'a', 'b', 'c' and 2 more"]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "dry",
    [["--dry-run"], pytest.param(["--workers", "1"], marks=pytest.mark.cluster)],
    ids=["dry-run", "run"],
)
def test_the_command_line_prints_each_as_one_line(source, tmp_path, dry):
    command = [sys.executable, "-m", "shardedstore", "convert", source, tmp_path / "out", "--to", "zarr", "--v3", *dry]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    notes = [line for line in done.stderr.splitlines() if "OME-Zarr" in line]
    assert len(notes) == 1
    assert notes[0].startswith("note: the attributes of OME-Zarr 0.4")
    assert notes[0].endswith(": the root")
