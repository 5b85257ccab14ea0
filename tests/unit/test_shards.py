"""``store.shards``: numbers as in jobs, lookup by all names, and opening of single shards."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr
from conformance import contents_of
from sources import SOURCES, add_array, numbers, to_folder, to_memory
from zarr.storage import LocalStore, MemoryStore

from shardedstore import CorruptError, ShardedStore, UsageError, array_shard_directory_store
from shardedstore.display import shards
from shardedstore.display.shards import Shards
from shardedstore.errors import NoShardError
from shardedstore.jobs.shards import shard_runs
from shardedstore.stores.locations import BlockOf, Config, Directory, Group, Mount, Own, ViewOf, Zip
from shardedstore.stores.members import Members
from shardedstore.transforms import ToZip
from shardedstore.zarr.grid import Blocks, ChunkKeys

CUBE = SOURCES["cube-v3/"]
DIVISION = {"simulation/*": "whole", "temperature": {"time": 4}, "wind_*": (3, 5, 2), "height": "whole"}


@pytest.fixture
def views(tmp_path):
    return ShardedStore.partition(to_folder(CUBE.contents(), tmp_path / "cube.zarr"), DIVISION)


@pytest.fixture(params=["views", "zips", "written"])
def store(request, views, tmp_path):
    if request.param == "zips":
        return views.map_shards(ToZip(tmp_path / "out"))
    if request.param == "written":
        factory = array_shard_directory_store(tmp_path / "t")
        store = ShardedStore(tmp_path / "base", {"simulation": tmp_path / "s"}, {"temperature": (2, factory)})
        root = zarr.create_group(store)
        add_array(root, "temperature", numbers(7, 5, 4), (2, 2, 3))
        add_array(root, "height", numbers(25), (2,))
        add_array(root.create_group("simulation"), "field", numbers(3, 4), (2, 2))
        return store
    return views


def test_numbered_as_in_jobs(store):
    names = [shard.name for run in shard_runs(store.config) for shard in run.shards()]
    found = store.shards
    assert [shard.name for shard in found] == names
    assert [found[i].name for i in range(len(found))] == names
    assert [found[i - len(found)].name for i in range(len(found))] == names
    assert [shard.name for shard in found[1:-1:2]] == names[1:-1:2]
    assert [shard.name for shard in reversed(found)] == names[::-1]
    assert found.paths == list(store.config.shards)


def test_found_by_their_names(store):
    found = store.shards
    for shard in found:
        assert found[shard.name] == shard
        assert shard.name in found
        assert shard in found
        if shard.block is not None:
            assert found[shard.path, *shard.block] == found[shard.path][shard.block] == shard
    assert "nothing" not in found
    assert 3 not in found
    assert found["(base)"].path == ""
    assert found["(base)"] == found[0]


def test_each_is_a_zarr_of_its_own(store):
    found = store.shards
    whole = zarr.open_group(store, mode="r")
    temperature = found["temperature"]
    parts = np.empty(temperature.grid, dtype=object)
    for shard in temperature:
        parts[shard.block] = zarr.open_array(shard.open(), mode="r")[...]
    if parts.ndim == 2:
        parts = [np.concatenate(list(row), axis=1) for row in parts]
    assert np.array_equal(np.concatenate(list(parts)), whole["temperature"][...])

    for path in [path for path, mount in store.config.shards.items() if mount.division is None]:
        alone = contents_of(found[path].open())
        assert alone
        assert alone == {
            key[len(path) + 1 :]: data for key, data in contents_of(store).items() if key.startswith(f"{path}/")
        }
    base = contents_of(found["(base)"].open())
    assert "zarr.json" in base
    assert ("temperature/zarr.json" in base) != (
        "temperature/zarr.json.shardedstore" in base
    )  # the veiled name in results
    assert not any(key.startswith(("simulation/coarse", "temperature/c/")) for key in base)


def test_what_an_item_tells(views, tmp_path):
    zips = views.map_shards(ToZip(tmp_path / "out")).shards
    one = zips["temperature[1]"]
    assert (one.name, one.path, one.block, one.kind) == ("temperature[1]", "temperature", (1,), "zip")
    assert one.url == f"{tmp_path}/out/temperature/1.zarr.zip"
    assert one.location == Zip(one.url)
    assert one.nbytes == Path(one.url).stat().st_size
    assert repr(one).startswith("<Shard temperature[1]: zip '/")
    view = views.shards["temperature", 1]
    assert (view.kind, view.url, view.nbytes) == ("block", f"{tmp_path}/cube.zarr", None)
    assert views.shards["simulation/fine"].kind == "view"
    assert views.shards["(base)"].kind == "directory"
    Path(one.url).unlink()
    with pytest.raises(CorruptError, match=r"shard 'temperature\[1\]' is missing: '/.*' was removed"):
        _ = one.nbytes


def test_sizes_in_the_cloud(views, bucket):
    found = views.map_shards(ToZip(bucket.url)).shards
    local = bucket.client.head("temperature/0.zarr.zip")["size"]
    assert found["temperature"][0].nbytes == local
    assert zarr.open_array(found["temperature"][0].open(), mode="r").shape == (4, 5, 4)


def test_globs(views):
    found = views.shards["wind_*"]
    assert found.paths == ["wind_u", "wind_v"]
    assert found.grid == (len(found),)
    assert [shard.name for shard in found] == [s.name for s in views.shards if s.path.startswith("wind")]
    assert found["wind_u"].grid == (3, 1, 2)
    assert views.shards["simulation/*"].paths == ["simulation/coarse", "simulation/fine"]
    with pytest.raises(NoShardError, match=r"there is no shard '\(base\)': there are 'wind_u', 'wind_v'"):
        found["(base)"]
    assert len(views.shards["*"]) == len(views.shards) - 1  # the base has no path


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ("temprature", "no shard 'temprature': did you mean 'temperature'"),
        ("simulation/corse", "did you mean 'simulation/coarse'"),
        ("simulation", r"'simulation' is not a shard, .* below it: use 'simulation/\*\*'"),
        ("x", r"there are '\(base\)', .* and \d more"),
        ("x*", "there is no shard 'x"),
        ("[", "names the glob|no shard"),
        ("temperature[2]", r"'temperature' has no shard 'temperature\[2\]': its grid of shards is \(2,\)"),
        ("temperature[0/0]", r"its grid of shards is \(2,\)"),
        (("temperature", -1), "has no shard"),
        (("temperature", 0.5), "has no shard"),
        (("temperature", "0"), "has no shard"),
        (("nothing", 0), "no shard 'nothing'"),
        (("height", 0), "'height' is one shard, but .* leave the index out"),
        (1_000, r"no shard 1000: there are \d+ shards, and numbers start at 0"),
        (-1_000, "no shard -1000"),
        (1.5, "1.5 names no shard: use a number"),
        ((0, 1), "names no shard"),
        (None, "names no shard"),
    ],
    ids=str,
)
def test_what_is_not_there(views, key, match):
    with pytest.raises(UsageError, match=match):
        views.shards[key]
    assert key not in views.shards


def test_errors_are_those_of_mappings_and_sequences(views):
    with pytest.raises(KeyError):
        views.shards["x"]
    with pytest.raises(IndexError):
        views.shards[99]


def test_an_array_at_the_root(tmp_path):
    whole = numbers(7, 5)
    zarr.create_array(LocalStore(tmp_path / "a"), data=whole, chunks=(2, 2))
    found = ShardedStore.partition(tmp_path / "a", {"": (4, -1)}).shards
    assert [shard.name for shard in found] == ["(base)", "[0]", "[1]"]
    assert np.array_equal(zarr.open_array(found["[1]"].open(), mode="r")[...], whole[4:])
    assert found[""].grid == (2,)


def test_exceptions_and_stores_without_a_location(tmp_path):
    blocks = Blocks((3,), (1,), ChunkKeys("default", "/"))
    elsewhere = {"1": ViewOf(Directory("/x"), "t")}
    found = Shards(Config(Directory("/b"), {"t": Mount(Zip("/z/{block}.zip"), blocks, elsewhere)}))
    assert [shard.kind for shard in found["t"]] == ["zip", "view", "zip"]
    found = Shards(Config(Directory("/b"), {"t": Mount(ViewOf(Directory("/x"), "t"), blocks)}))
    assert found["t", 2].location == BlockOf(Directory("/x"), "t", blocks, (2,))
    assert Shards(Config(Own("tensors", "s3://bucket/a")))[0].kind == "tensors"
    memory = to_memory(CUBE.contents())
    one = ShardedStore(tmp_path / "base", {"m": memory}).shards["m"]
    assert (one.kind, one.url, one.nbytes, one.open()) == ("MemoryStore", None, None, memory)
    assert isinstance(memory, MemoryStore)


@pytest.mark.parametrize("together", [1, 2])
def test_collections(tmp_path, together):
    names = ("a", "b", "c")
    for i, name in enumerate(names):
        zarr.create_array(LocalStore(tmp_path / f"{name}.zarr"), data=numbers(3) + i, chunks=(2,))
    mount = Mount(Directory(f"{tmp_path}/{{name}}.zarr"), members=Members(names, together=together))
    found = Shards(Config(Group(), {"cells": mount}))
    if together == 1:
        assert [shard.name for shard in found["cells"]] == ["cells/a", "cells/b", "cells/c"]
        assert np.array_equal(zarr.open_array(found["cells/b"].open(), mode="r"), numbers(3) + 1)
        assert found["cells", 2] == found["cells/c"] == found["cells"][2]
    else:
        assert [shard.name for shard in found["cells"]] == ["cells[0]", "cells[1]"]
        assert found["cells/b"] == found["cells[0]"]
        both = found["cells[0]"].open()
        assert np.array_equal(zarr.open_array(both, path="b", mode="r"), numbers(3) + 1)
        assert "c/zarr.json" not in contents_of(both)
    for key in ("cells/d", "a", "b/c", "cells/a/zarr.json", "other/a"):
        with pytest.raises(NoShardError, match=f"no shard '{key}'"):
            found[key]


def test_a_store_that_is_not_in_a_collection():
    shards = Shards(Config(Group(), {"": Mount(Zip("/z/{block}.zip"), members=Members(("cell-1", "cell-2")))}))
    with pytest.raises(NoShardError, match="no shard 'cel-2': did you mean 'cell-2'"):
        shards["cel-2"]
    with pytest.raises(NoShardError, match=r"no shard 'x': there are '\(base\)', 'cell-1', 'cell-2'"):
        shards["x"]


def test_a_zip_of_several_stores(tmp_path):
    for name in ("a", "b", "c"):
        to_folder(CUBE.contents(), tmp_path / f"in/{name}.zarr")
    store = ShardedStore.collect(tmp_path / "in/*.zarr").map_shards(ToZip(tmp_path / "out", per_zip=2))
    one = store.shards["[0]"]
    assert store.shards["b"] == one
    assert (one.kind, one.nbytes) == ("zip", Path(one.url).stat().st_size)
    alone = contents_of(one.open())
    del alone["zarr.json"]  # a group around both
    assert alone == {f"{name}/{key}": data for name in "ab" for key, data in CUBE.contents().items()}
    assert "  /       2 zips of 3 stores  '{name}' in '{block}.zarr.zip'" in repr(store)


def test_a_million_are_made_when_they_are_asked_for(monkeypatch):
    made = []
    one = shards.nth_shard
    monkeypatch.setattr(shards, "nth_shard", lambda *args: made.append(args) or one(*args))
    blocks = Blocks((1_000_000,), (1,), ChunkKeys("default", "/"))
    mounts = {f"a{i}": Mount(Zip(f"/z/{i}/{{block}}.zip"), blocks) for i in range(3)}
    found = Shards(Config(Zip("/z/base.zip"), mounts))
    assert len(found) == 3_000_001
    assert not made
    assert found[1_000_001].name == "a1[0]"
    assert found["a2"][-1].url == "/z/2/999999.zip"
    assert "3000000  a2[999999]  zip  '/z/2/999999.zip'" in repr(found)
    assert len(repr(found["a1"]).splitlines()) == 7
    assert len(made) < 20


def test_they_pickle(views):
    again = pickle.loads(pickle.dumps(views.shards))
    assert list(again) == list(views.shards)
    one = pickle.loads(pickle.dumps(views.shards["(base)"]))
    assert contents_of(one.open()) == contents_of(views.shards["(base)"].open())
