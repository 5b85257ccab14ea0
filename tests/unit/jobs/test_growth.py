"""The summary and the report of a job warn of arrays that became larger."""

from html import escape

import dask
import numpy as np
import pytest
import zarr

from shardedstore import ShardedStore
from shardedstore.transforms import CopyTo, MapChunks, Recompress, ToZip

SHARDS = {"none": [], "whole": ["smooth", "noise"], "blocks": {"*": "1 MiB"}}


def mixed(chunk, *_):
    return np.random.default_rng(1).random(chunk.shape)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """One array that compresses well, and one that does not compress at all."""
    folder = tmp_path_factory.mktemp("in") / "in.zarr"
    group = zarr.create_group(folder)
    for name, data in {"smooth": np.zeros(2**18), "noise": np.random.default_rng(1).random(2**18)}.items():
        group.create_array(name, data=data, chunks=(2**14,), config={"write_empty_chunks": True})
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    with dask.config.set(scheduler="sync"):
        yield


@pytest.mark.parametrize("sink", [ToZip, CopyTo])
@pytest.mark.parametrize("shards", SHARDS)
def test_larger_arrays_are_named(source, shards, sink, tmp_path, caplog):
    new = ShardedStore.partition(source, SHARDS[shards]).map_shards(Recompress(None), sink(tmp_path / "out"))
    told = [str(notice) for notice in new.summary.notices if "larger than before" in str(notice)]
    says = (
        "the arrays in the base are larger"
        if shards == "none"
        else "leave them out with arrays=('*', '!smooth'): 'smooth'"
    )
    assert len(told) == 1
    assert says in told[0]
    assert told[0] in caplog.text
    assert told[0] in new.report().notices
    assert escape(told[0]) in new.report().to_html()


@pytest.mark.parametrize(
    "chain",
    [(), (Recompress("gzip"),), (MapChunks(mixed, name="mixed", arrays="smooth"),)],
    ids=["copied", "smaller", "changed values"],
)
def test_other_jobs_do_not_warn(source, chain, tmp_path):
    new = ShardedStore.partition(source, SHARDS["blocks"]).map_shards(*chain, ToZip(tmp_path / "out"))
    assert not [notice for notice in new.summary.notices if "larger" in str(notice)]
