"""Each kind of store with each level of change detection: read, partition, map, verify and show, or a refusal by name in the plan."""

from contextlib import ExitStack

import dask
import pytest
import zarr
from servers import web
from sources import SOURCES, to_folder
from zarr.storage import MemoryStore

from shardedstore import ShardedStore, UsageError
from shardedstore.stores.locations import KINDS
from shardedstore.stores.reader import reader_of
from shardedstore.transforms import ToZip

CUBE = SOURCES["consolidated-v3"]
LEVELS = ("metadata", "listing", "content")


@pytest.fixture(autouse=True)
def one_process():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def folder(tmp_path):
    return to_folder(CUBE.contents(), tmp_path / "source")


def partitioned(source):
    return ShardedStore.partition(source, CUBE.shards)


# By the kinds that a source is made of, each with a function that makes it.
def of_folder(tmp_path, stack):
    return partitioned(folder(tmp_path))


def of_web(tmp_path, stack):
    folder(tmp_path)
    return partitioned(stack.enter_context(web(tmp_path / "source")))


def of_zips(tmp_path, stack):
    return partitioned(folder(tmp_path)).map_shards(ToZip(tmp_path / "zips"))


def of_kerchunk(tmp_path, stack):
    of_zips(tmp_path, stack).to_kerchunk(tmp_path / "refs.json")
    return partitioned(tmp_path / "refs.json")


def of_icechunk(tmp_path, stack):
    pytest.importorskip("icechunk")
    from shardedstore.export.icechunk import create_repository

    zips = of_zips(tmp_path, stack)
    zips.to_icechunk(create_repository(str(tmp_path / "repo"), zips))
    return partitioned(f"{tmp_path}/repo|icechunk:")


def of_part(tmp_path, stack):
    return ShardedStore.partition(folder(tmp_path), CUBE.shards, exclude=["crs"])


def of_group(tmp_path, stack):
    for name in ("a", "b"):
        to_folder(CUBE.contents(), tmp_path / f"in/{name}.zarr")
    return ShardedStore.collect(str(tmp_path / "in/*.zarr"))


def of_stores(tmp_path, stack):
    whole = of_zips(tmp_path, stack)
    zarr.create_group(tmp_path / "base")
    return ShardedStore(tmp_path / "base", {"nested": whole})


MAKERS = {
    "folder": of_folder,
    "web": of_web,
    "zips": of_zips,
    "kerchunk": of_kerchunk,
    "part": of_part,
    "group": of_group,
    "stores": of_stores,
}
REFUSED = {
    ("web", "listing"): "the base, 'http",
    ("icechunk", "listing"): "the base, '/",
    ("stores", "listing"): "shard 'nested', the sharded store on ",
}


@pytest.mark.parametrize("changed", LEVELS)
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.few(12)
def test_kind(kind, changed, tmp_path, stack):
    store = MAKERS[kind](tmp_path, stack)
    assert repr(store)
    assert [repr(shard) for shard in store.shards]
    if (kind, changed) in REFUSED:
        with pytest.raises(UsageError, match=f"{REFUSED[kind, changed]}.* lists none: say changed='metadata'"):
            store.plan(ToZip(tmp_path / "out"), changed=changed)
        assert not (tmp_path / "out").exists()
        return
    made = store.map_shards(ToZip(tmp_path / "out"), changed=changed)
    assert made.verify(store).ok
    again = store.map_shards(ToZip(tmp_path / "out"), changed=changed)
    assert again.summary.skipped == len(again.shards)


def test_an_open_store_can_be_read_and_shown_and_not_mapped(tmp_path):
    memory = MemoryStore()
    zarr.create_array(memory, name="x", shape=4, chunks=2, dtype="u1")[:] = 7
    store = ShardedStore.partition(memory)
    assert (zarr.open_group(store, mode="r")["x"][:] == 7).all()
    assert "MemoryStore" in repr(store)
    with pytest.raises(UsageError, match="MemoryStore, which has no location"):
        store.plan(ToZip(tmp_path / "out"))


def test_every_kind_has_a_name_and_a_description():
    for kind in KINDS:
        assert kind.__struct_config__.tag
        assert kind.__doc__


def test_a_reader_of_a_store_of_another_package_reads_by_the_store_alone():
    reader = reader_of(MemoryStore())
    assert not reader.has_tags
    with pytest.raises(NotImplementedError, match="can't be listed with sizes and tags"):
        next(iter(reader.tags(["a"])))
