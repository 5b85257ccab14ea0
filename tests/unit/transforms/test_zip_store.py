"""`to_zip_store`: the function of stores from shardedstore 0.3.1, in real jobs."""

import pickle
from pathlib import Path

import cloudpickle
import dask
import numpy as np
import obstore
import pytest
import zarr
from conformance import check_same_contents
from helpers_jobs import CUBE, CUBE_SHARDS, cube_at, division
from sources import SOURCES, to_folder
from zarr.storage import LocalStore, ObjectStore

from shardedstore import DestinationError, ShardedStore, ShardsFailed
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.fingerprint import fingerprint
from shardedstore.transforms import ToZip, to_zip_store, to_zip_store_with_prefix
from shardedstore.transforms.base.chain import parse_chain
from shardedstore.zips import ZipReadStore


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def zips_below(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*.zip")}


@pytest.mark.parametrize("name", ["cube-v2.", "cube-v3/", "others-v2", "others-v3", "root-array-v3", "sharding-codec"])
def test_the_result_holds_what_the_source_holds(tmp_path, name):
    source = to_folder(SOURCES[name].contents(), tmp_path / "source.zarr")
    store = ShardedStore.partition(source, SOURCES[name].shards)
    result = store.map_shards(to_zip_store_with_prefix(tmp_path / "zips" / "cube"))
    check_same_contents(result, SOURCES[name].contents())
    assert not list(tmp_path.rglob(FILE_NAME))
    store.map_shards(ToZip(tmp_path / "out"))
    made = sorted(path.read_bytes() for name, path in zips_below(tmp_path / "zips").items() if name != "cube.zarr.zip")
    others = zips_below(tmp_path / "out")
    del others["__base__.zarr.zip"]  # it has other names for the documents of divided arrays
    assert made == sorted(path.read_bytes() for path in others.values())


def test_a_shard_in_an_object_store(tmp_path):
    """Zarr's `ObjectStore` has an attribute `store` that is no zarr store."""
    shard = ObjectStore(obstore.store.MemoryStore())
    zarr.create_group(shard, attributes={"title": "demo"})
    opened = to_zip_store(tmp_path / "zips", shard, "cells", "0")
    assert opened.names() == ["zarr.json"]


@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_zip_inside_the_source_of_a_shard_is_refused(number, tmp_path):
    store = division(cube_at(tmp_path / "source.zarr"))
    shard = store.shards[number].open()
    with pytest.raises(DestinationError, match="would be, or be inside, the source"):
        to_zip_store(tmp_path / "source.zarr" / "zips", shard, "cells", "0")
    assert not list(tmp_path.rglob("*.zip"))


def test_zips_are_named_as_they_were(tmp_path):
    division(cube_at(tmp_path / "source.zarr")).map_shards(to_zip_store_with_prefix(str(tmp_path / "zips" / "cube")))
    names = zips_below(tmp_path / "zips").keys()
    assert len(names) == CUBE_SHARDS
    assert {"cube.zarr.zip", "cube/temperature/0/0.zarr.zip", "cube/height/1.zarr.zip"} <= names
    assert {name for name in names if name.startswith("cube/simulation/")} == {
        f"cube/{path}.zarr.zip" for path in CUBE.mounts if path.startswith("simulation/")
    }


def test_with_to_the_job_is_continued(tmp_path):
    store = division(cube_at(tmp_path / "source.zarr"))
    prefix = tmp_path / "out" / "cube"
    store.map_shards(to_zip_store_with_prefix(prefix), to=tmp_path / "out")
    check_same_contents(ShardedStore.load(tmp_path / "out"), CUBE.contents())
    zips = zips_below(tmp_path / "out")
    inodes = {name: path.stat().st_ino for name, path in zips.items()}
    zips["cube/height/1.zarr.zip"].unlink()
    again = store.map_shards(pickle.loads(pickle.dumps(to_zip_store_with_prefix(prefix))), to=tmp_path / "out")
    assert (again.summary.done, again.summary.skipped) == (1, CUBE_SHARDS - 1)
    check_same_contents(ShardedStore.load(tmp_path / "out"), CUBE.contents())
    left = {name: path.stat().st_ino for name, path in zips.items() if name != "cube/height/1.zarr.zip"}
    assert left == {name: inodes[name] for name in left}


def test_on_a_cluster(tmp_path, workers):
    store = division(cube_at(tmp_path / "source.zarr"))
    result = store.map_shards(to_zip_store_with_prefix(tmp_path / "zips"))
    lazy = store.map_shards(to_zip_store_with_prefix(tmp_path / "later"), compute=False)
    assert any(str(key).startswith("to_zip_store ") for key in lazy.__dask_graph__())
    later = lazy.compute()
    check_same_contents(result, CUBE.contents())
    check_same_contents(later, CUBE.contents())


def test_a_store_of_ones_own(tmp_path):
    """Any zarr store can be a component, and an existing zip is replaced."""
    folder = LocalStore(tmp_path / "a.zarr")
    for number in (1, 2):
        zarr.create_array(folder, data=np.full((4, 4), number), chunks=(2, 2), overwrite=True)
        made = to_zip_store(tmp_path / "zips", folder, "a/b", "0/2")
        assert made == ZipReadStore(tmp_path / "zips" / "a" / "b" / "0" / "2.zarr.zip")
        np.testing.assert_array_equal(zarr.open_array(made, mode="r")[...], np.full((4, 4), number))
    names = {str(path.relative_to(tmp_path)) for path in (tmp_path / "zips").rglob("*") if path.is_file()}
    assert names == {"zips/a/b/0/2.zarr.zip"}
    assert to_zip_store(tmp_path / "zips", folder, "", None).url == str(tmp_path / "zips.zarr.zip")


def test_a_source_is_not_written_to(tmp_path):
    source = cube_at(tmp_path / "source.zarr")
    before = sorted(source.rglob("*"))
    with pytest.raises(ShardsFailed) as failed:
        division(source).map_shards(to_zip_store_with_prefix(source / "zips"))
    assert len(failed.value.exceptions) == CUBE_SHARDS
    assert {error.cause.partition(" would be, or be inside, the source ")[2] for error in failed.value.exceptions} == {
        f"{str(source)!r}: choose another prefix"
    }
    assert sorted(source.rglob("*")) == before


def test_zips_are_not_written_over_themselves(tmp_path):
    first = division(cube_at(tmp_path / "source.zarr")).map_shards(to_zip_store_with_prefix(tmp_path / "zips"))
    inodes = {name: path.stat().st_ino for name, path in zips_below(tmp_path).items()}
    (tmp_path / "link").symlink_to(tmp_path)
    for prefix in (tmp_path / "zips", tmp_path / "link" / "zips"):
        with pytest.raises(ShardsFailed, match=f"{CUBE_SHARDS} of {CUBE_SHARDS} shards failed"):
            first.map_shards(to_zip_store_with_prefix(prefix))
    assert {name: path.stat().st_ino for name, path in zips_below(tmp_path).items()} == inodes
    check_same_contents(first, CUBE.contents())


def test_it_is_a_value(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = to_zip_store_with_prefix("zips")
    assert repr(one) == f"to_zip_store_with_prefix({str(tmp_path / 'zips')!r})"
    assert one == to_zip_store_with_prefix(tmp_path / "zips") != to_zip_store_with_prefix("others")
    for copy in (pickle.loads(pickle.dumps(one)), cloudpickle.loads(cloudpickle.dumps(one))):
        assert copy == one
        assert fingerprint(parse_chain([copy])) == fingerprint(parse_chain([one])) is not None
    assert fingerprint(parse_chain([one])) != fingerprint(parse_chain([to_zip_store_with_prefix("others")]))
    assert parse_chain([one]).name == "to_zip_store"


def test_to_a_bucket(bucket, tmp_path):
    store = division(cube_at(tmp_path / "source.zarr"))
    result = store.map_shards(to_zip_store_with_prefix(f"{bucket.url}/zips"))
    check_same_contents(result, CUBE.contents())
    names = {found["path"] for batch in obstore.list(bucket.client) for found in batch}
    assert {"zips.zarr.zip", "zips/temperature/0/0.zarr.zip"} < names
    assert len(names) == CUBE_SHARDS
