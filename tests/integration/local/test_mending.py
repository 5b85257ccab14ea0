"""The same call repairs results with missing or damaged objects, in every state and for every sink."""

import re

import dask
import numpy as np
import pytest
import zarr
from helpers_jobs import Fail, files_of, ledger_at

from shardedstore import CorruptError, ShardedStore, ShardsFailed, UsageError
from shardedstore.storage.urls import BESIDE
from shardedstore.transforms import CopyTo, ToShardingCodec, ToZip

SINKS = {
    "ToZip": ToZip,
    "CopyTo": CopyTo,
    "CopyTo-shards": lambda out: CopyTo(out, layout="shards"),
    "ToShardingCodec": lambda out: ToShardingCodec(out, object_size="1 KiB"),
}
GROWING = [name for name in SINKS if name != "ToShardingCodec"]  # the sink that can't continue with a grown source


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def source(tmp_path):
    root = zarr.create_group(tmp_path / "source.zarr")
    rng = np.random.default_rng(0)
    root.create_array("t", data=rng.random((10, 6)), chunks=(2, 3), dimension_names=("time", "x"))
    root.create_group("fixed").create_array("a", data=rng.random(8), chunks=(2,))
    root.create_array("small", data=np.arange(3))
    return tmp_path / "source.zarr"


class Case:
    """A job that can fail for one shard, and its result."""

    def __init__(self, name, source, tmp_path):
        self.name, self.source, self.out, self.mended = name, source, tmp_path / "out", tmp_path / "mended"
        self.mended.touch()

    def run(self):
        store = ShardedStore.partition(self.source, {"t": {"time": 4}, "fixed": "whole"})
        return store.map_shards(Fail("t[2]", str(self.mended)), SINKS[self.name](self.out), retries=0)

    def fail(self):
        with pytest.raises(ShardsFailed, match=r"1 of \d shards failed"):
            self.run()

    def load(self):
        return ShardedStore.load(f"{self.out}{BESIDE}" if self.name in ("CopyTo", "ToShardingCodec") else self.out)

    def values(self):
        return values(self.load())

    def victim(self):
        """The path of an object of the first block."""
        found = {
            "ToZip": "t/0.zarr.zip",
            "CopyTo": "t/c/1/1",
            "CopyTo-shards": "t/0.zarr/c/1/1",
            "ToShardingCodec": "t/c/0/0",
        }
        return self.out / found[self.name]

    def grow(self):
        t = zarr.open_group(self.source)["t"]
        t.resize((13, 6))
        t[10:] = 7


@pytest.fixture(params=SINKS)
def case(request, source, tmp_path):
    return Case(request.param, source, tmp_path)


@pytest.fixture(params=GROWING)
def growing(request, source, tmp_path):
    return Case(request.param, source, tmp_path)


def values(store):
    return {
        path: array[:].tolist()
        for path, array in zarr.open_group(store, mode="r").members(None)
        if hasattr(array, "shape")
    }


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def remove(case):
    case.victim().unlink()


def cut(case):
    case.victim().write_bytes(case.victim().read_bytes()[:-1])


def damage_and_mark(case):
    flip(case.victim())
    assert case.load().verify(mark=True).marked == ("t[0]",)


HARMS = {"lost": remove, "cut": cut, "marked": damage_and_mark}


@pytest.mark.few(4)
@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_finished_result(case, harm):
    result = case.run()
    expected, before = values(result), files_of(case.out)
    harm(case)
    summary = case.run().summary
    assert (summary.done, summary.missing) == (1, harm is not damage_and_mark)
    assert files_of(case.out) == before
    assert values(result) == case.values() == expected  # a reader that was open, and a new one
    assert case.load().verify().ok
    assert case.run().summary.done == 0


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
@pytest.mark.parametrize("is_begun", [True, False], ids=["unfinishable", "before"])
@pytest.mark.few(6)
def test_a_result_whose_successor_can_not_end(growing, harm, is_begun):
    """Served objects are repaired at once, although no new config is written; then the new job ends."""
    result = growing.run()
    expected, before = values(result), growing.victim().read_bytes()
    growing.mended.unlink()
    growing.grow()
    if is_begun:
        growing.fail()
    harm(growing)
    growing.fail()
    assert growing.victim().read_bytes() == before
    assert values(result) == growing.values() == expected
    assert growing.load().verify().ok
    ledger = ledger_at(f"{growing.out}{BESIDE}" if growing.name == "CopyTo" else growing.out, 2)
    assert not ledger.is_compacted()  # this would mean that it has ended
    growing.mended.touch()
    assert growing.run().summary.done == 1
    assert growing.values() == values(zarr.storage.LocalStore(growing.source, read_only=True))
    assert growing.load().verify().ok


@pytest.mark.parametrize("name", ["CopyTo", "ToShardingCodec"])
@pytest.mark.parametrize("document", ["t/zarr.json", "zarr.json", "fixed/a/zarr.json"])
def test_documents_are_put_back(name, document, source, tmp_path):
    case = Case(name, source, tmp_path)
    expected = values(case.run())
    before = files_of(case.out)
    (case.out / document).unlink()
    assert case.run().summary.done == 0
    assert files_of(case.out) == before
    assert case.values() == expected


@pytest.mark.parametrize("document", ["t/zarr.json", "zarr.json"])
def test_documents_are_put_back_where_a_later_job_can_not_end(document, source, tmp_path):
    case = Case("CopyTo", source, tmp_path)
    expected = values(case.run())
    case.mended.unlink()
    case.grow()
    case.fail()
    (case.out / document).unlink()
    case.fail()
    assert case.values() == expected


@pytest.mark.parametrize("name", ["CopyTo", "ToShardingCodec"])
@pytest.mark.parametrize("waiting", ["documents/base.zip", "documents/shards/fixed.zip", "published.zip"])
def test_documents_that_wait_are_made_again(name, waiting, source, tmp_path):
    case = Case(name, source, tmp_path)
    case.run()
    before, path = files_of(tmp_path), tmp_path / f"out{BESIDE}" / waiting
    path.unlink()
    assert case.run().summary.done == (waiting != "published.zip")
    path.write_bytes(b"no zip")
    assert case.load().verify(level="exists").ok
    if waiting != "published.zip":
        with pytest.raises(CorruptError, match=r"the metadata of shard '.*' that waits .* can't be read"):
            case.run()
    case.run()
    assert {n: d for n, d in files_of(tmp_path).items() if not re.search("ledger|lock|report", n)} == {
        n: d for n, d in before.items() if not re.search("ledger|lock|report", n)
    }


def test_what_a_later_job_of_another_chain_would_make_is_not_marked(source, tmp_path):
    case = Case("ToZip", source, tmp_path)
    result = case.run()
    store = ShardedStore.partition(source, {"t": {"time": 2}})
    with pytest.raises(ShardsFailed):
        store.map_shards(Fail("t[1]"), ToZip(case.out), retries=0, overwrite=True)
    flip(case.victim())
    with pytest.raises(UsageError, match="another source or chain"):
        result.verify(mark=True)
