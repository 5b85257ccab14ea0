"""Sharded stores inside sharded stores: all operations work as for any other component."""

import json
import shutil

import dask
import pytest
from conformance import check_same_contents, check_values, contents_of
from sources import SOURCES, build, cube, store_of, to_folder, to_memory, to_zip

from shardedstore import ConfigError, ShardedStore
from shardedstore.stores.locations import Config, Directory, Mount, ViewOf, Zip
from shardedstore.transforms import CopyTo, Recompress, ToZip

CONTENTS = build(cube, "v3/")
BELOW = {"temperature": {"time": 4}, "simulation/*": "whole"}


@pytest.fixture(autouse=True)
def in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


def inside(path, contents=CONTENTS):
    return {f"{path}/{key}": data for key, data in contents.items()}


@pytest.fixture
def out(tmp_path):
    """A result of zips inside a store of files inside another store, all in one folder."""
    out = tmp_path / "out"
    ShardedStore.partition(to_folder(CONTENTS, tmp_path / "a.zarr"), BELOW).map_shards(ToZip(out / "zips"))
    to_folder(CONTENTS, out / "loose.zarr")
    to_folder({"zarr.json": CONTENTS["zarr.json"], "g/zarr.json": CONTENTS["zarr.json"]}, out / "top.zarr")
    middle = ShardedStore(out / "loose.zarr", {"zips": ShardedStore.load(out / "zips")})
    ShardedStore(out / "top.zarr", {"g/middle": middle}).save(out / "shardedstore.json")
    return out


def expected():
    top = {"zarr.json": CONTENTS["zarr.json"], "g/zarr.json": CONTENTS["zarr.json"]}
    return top | inside("g/middle") | inside("g/middle/zips")


def test_it_is_one_store(out):
    store = ShardedStore.load(out)
    assert contents_of(store) == expected()
    assert isinstance(store.config.shards["g/middle"].location, Config)
    assert ShardedStore.from_config(json.loads(json.dumps(store.get_config()))) == store


def test_all_its_urls_are_relative_to_one_folder(out, tmp_path):
    document = (out / "shardedstore.json").read_text()
    assert str(tmp_path) not in document
    assert '"url": "zips/temperature/{block}.zarr.zip"' in document
    shutil.move(out, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "a.zarr")
    assert contents_of(ShardedStore.load(tmp_path / "elsewhere")) == expected()


@pytest.mark.parametrize("place", ["base", "shard", "exception", "view", "consolidated"])
@pytest.mark.parametrize("url", ["/etc/passwd", "../a", "s3://other/a", "ftp://a/b"])
def test_what_is_inside_is_as_restricted(place, url):
    bad = {"kind": "zip", "url": url}
    blocks = {"chunk_grid": [2], "chunks": [1], "keys": {"name": "v2", "separator": "."}}
    block = {"location": {"kind": "zip", "url": "{block}"}, "blocks": blocks, "exceptions": {"0": bad}}
    inner = {
        "base": {"base": bad},
        "shard": {"base": {"kind": "group"}, "shards": {"a": {"location": bad}}},
        "exception": {"base": {"kind": "group"}, "shards": {"a": block}},
        "view": {"base": {"kind": "view", "source": bad, "path": "a"}},
        "consolidated": {"base": {"kind": "group"}, "consolidated": bad},
    }[place]
    document = {"format": "shardedstore", "version": 1, "base": {"kind": "sharded", **inner}}
    deeper = {
        **document,
        "base": {"kind": "view", "source": {"kind": "sharded", "base": document["base"]}, "path": "x"},
    }
    for nested in (document, deeper):
        with pytest.raises(ConfigError, match=r"outside its own folder|has a segment '\.\.'|unknown URL scheme"):
            ShardedStore.from_config(nested, root="/data/out", allow=())
    if url == "/etc/passwd":
        assert ShardedStore.from_config(document, root="/data/out", allow=["/etc"])


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ({"shards": {"a/../b": {"location": {"kind": "zip", "url": "a"}}}}, "has a segment"),
        ({"shards": {"": {"location": {"kind": "zip", "url": "a"}}}}, "would hide the base"),
        (
            {
                "shards": {
                    "a": {"location": {"kind": "zip", "url": "a"}},
                    "a/b": {"location": {"kind": "zip", "url": "b"}},
                }
            },
            "overlap",
        ),
        ({"format": "shardedstore"}, "unknown field `format`"),
        ({"base": 3}, r"Expected `object`, got `int` - at `\$\.base\.base`"),
    ],
)
def test_what_is_inside_is_as_checked(inner, message):
    nested = {"kind": "sharded", "base": {"kind": "zip", "url": "a"}, **inner}
    with pytest.raises(ValueError, match=message):
        ShardedStore.from_config({"format": "shardedstore", "version": 1, "base": nested}, root="/data/out")


def test_a_component_in_memory_is_named_through_all(tmp_path):
    to_folder(CONTENTS, tmp_path / "a")
    inner = ShardedStore(tmp_path / "a", {"simulation/fine": to_memory({})})
    middle = ShardedStore(tmp_path / "a", {"g/b": inner})
    with pytest.raises(ConfigError, match=r"shard 'x': shard 'g/b': shard 'simulation/fine' is a MemoryStore"):
        ShardedStore(tmp_path / "a", {"x": middle}).get_config()


@pytest.mark.few(3)
@pytest.mark.parametrize(
    "source", ["cube-v2.", "cube-v3/", "others-v3", "consolidated-v2", "sharding-codec", "root-array-v3"]
)
def test_a_sharded_store_is_divided(source, tmp_path):
    """A new division does not depend on its components: the shards are views."""
    contents = SOURCES[source].contents()
    first = ShardedStore.partition(to_folder(contents, tmp_path / "a.zarr"), SOURCES[source].shards)
    first.map_shards(ToZip(tmp_path / "zips"))
    zips = ShardedStore.load(tmp_path / "zips")
    contents = contents_of(zips)  # with rebuilt consolidated metadata
    again = ShardedStore.partition(zips, 100)
    for mount in again.config.shards.values():
        assert isinstance(mount.location, ViewOf)
        assert mount.location.source == zips.config
    assert again == ShardedStore.from_config(json.loads(json.dumps(again.get_config())))
    check_values(again, contents)
    result = again.map_shards(ToZip(tmp_path / "again"))
    check_values(result, contents)
    report = result.verify(again)
    assert report.ok, report


def test_a_store_with_one_inside_is_mapped(out, tmp_path):
    """The inner one is a shard like any other."""
    store = ShardedStore.load(out)
    assert [path for path, mount in store.config.shards.items() if mount.blocks is None] == ["g/middle"]
    result = store.map_shards(ToZip(tmp_path / "mapped"))
    assert result.summary.done == 2
    assert result.config.shards["g/middle"] == Mount(Zip(f"{tmp_path}/mapped/g/middle.zarr.zip"))
    assert contents_of(ShardedStore.load(tmp_path / "mapped")) == expected()
    again = store.map_shards(ToZip(tmp_path / "mapped"))
    assert (again.summary.done, again.summary.skipped) == (0, 2)
    report = result.verify(store)
    assert report.ok, report
    store.map_shards(Recompress("zstd"), CopyTo(tmp_path / "copy.zarr"))
    check_values(ShardedStore.partition(tmp_path / "copy.zarr", []), expected())


def test_what_changes_inside_is_seen(out, tmp_path):
    store = ShardedStore.load(out)
    store.map_shards(ToZip(tmp_path / "mapped"), changed="content")
    path = out / "loose.zarr" / "height" / "c" / "0"
    path.write_bytes(path.read_bytes()[::-1])
    again = ShardedStore.load(out).map_shards(ToZip(tmp_path / "mapped"), changed="content")
    assert (again.summary.done, again.summary.skipped) == (1, 1)
    assert contents_of(again)["g/middle/height/c/0"] == path.read_bytes()


def test_on_workers(out, tmp_path, workers):
    store = ShardedStore.partition(
        ShardedStore.load(out), {"g/middle/temperature": {"time": 2}, "g/middle/zips/*": "whole"}
    )
    result = store.map_shards(ToZip(tmp_path / "mapped"))
    assert result.verify(store).ok
    assert contents_of(result) == expected()


def test_a_nested_template(tmp_path):
    """Each block of an array may be a sharded store."""
    view = ShardedStore.partition(to_folder(CONTENTS, tmp_path / "a.zarr"), {"temperature": {"time": 4}})
    for i in range(2):
        to_zip(contents_of(view.component("temperature", (i,))), tmp_path / "t" / f"{i}.zip")
    template = Config(Zip(f"{tmp_path}/t/{{block}}.zip"))
    store = store_of(
        Config(
            Directory(f"{tmp_path}/a.zarr"), {"temperature": Mount(template, view.config.shards["temperature"].blocks)}
        )
    )
    again = ShardedStore.from_config(json.loads(json.dumps(store.get_config())))
    check_same_contents(again, CONTENTS)
    result = again.map_shards(ToZip(tmp_path / "mapped"))
    check_same_contents(result, CONTENTS)
