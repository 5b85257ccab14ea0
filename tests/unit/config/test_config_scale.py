"""A config with a million shards: it is small, opens quickly, and accesses only the requested shards."""

import json
import os
import re
import time

import numpy as np
import pytest
import zarr
from sources import to_folder, to_zip
from watching import outside, watched
from zarr.storage import MemoryStore

from shardedstore import ShardedStore
from shardedstore.config import document
from shardedstore.stores.locations import Config, Directory, Mount, Zip
from shardedstore.zarr.grid import Blocks, ChunkKeys

MILLION = 1_000_000
ASKED = 123_456
LIMIT = 20_000  # bytes


def contents(write):
    store = MemoryStore()
    write(zarr.create_group(store))
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An array with two existing shards and many missing ones, and many missing arrays beside it."""
    made = tmp_path_factory.mktemp("million") / "out"
    whole = contents(lambda group: group.create_array("t", shape=(MILLION, 4), chunks=(1, 2), dtype="i4"))
    to_zip(whole, made / "__base__.zarr.zip")
    one = contents(lambda group: group.create_array("t", data=np.array([[1, 2, 3, 4]], "i4"), chunks=(1, 2)))
    one = {key.removeprefix("t/"): data for key, data in one.items() if key.startswith("t/")}
    to_zip(one, made / "t" / f"{ASKED}.zarr.zip")
    to_folder(one, made / "t" / "late.zarr")
    blocks = Blocks((MILLION, 2), (1,), ChunkKeys("default", "/"))
    shards = {"t": Mount(Zip(f"{made}/t/{{block}}.zarr.zip"), blocks, {"999999": Directory(f"{made}/t/late.zarr")})}
    shards |= {f"other_{i}": Mount(Zip(f"{made}/other_{i}/{{block}}.zarr.zip"), blocks) for i in range(30)}
    (made / "shardedstore.json").write_bytes(document.dump(Config(Zip(f"{made}/__base__.zarr.zip"), shards), str(made)))
    return made


def test_it_is_small(folder):
    data = (folder / "shardedstore.json").read_bytes()
    assert len(data) < LIMIT
    assert len(json.dumps(json.loads(data))) < LIMIT / 2
    shards = ShardedStore.load(folder).config.shards
    assert sum(mount.count for mount in shards.values()) == 31 * MILLION
    assert re.search(r"31.?000.?00[01] shards", repr(ShardedStore.load(folder)))


def names(found, folder):
    return [os.path.relpath(path, folder) for path in found if path.startswith(str(folder))]


@pytest.mark.parametrize(
    ("number", "component"),
    [(ASKED, f"t/{ASKED}.zarr.zip"), (MILLION - 1, "t/late.zarr/c/0/0")],
    ids=["template", "exception"],
)
def test_only_what_is_asked_for_is_touched(folder, number, component):
    zarr.open_array(ShardedStore.load(folder), path="t", mode="r")[number, :2]  # imports
    with watched() as found:
        store = ShardedStore.load(folder)
    assert names(found, folder) == ["shardedstore.json"]
    with watched() as found:
        array = zarr.open_array(store, path="t", mode="r")
    assert names(found, folder) == ["__base__.zarr.zip"]
    with watched() as found:
        np.testing.assert_array_equal(array[number, :2], [1, 2])
    assert names(found, folder) == [component]
    assert outside(found, folder) == []


def test_it_opens_at_once(folder):
    """The limit is ten times the target of 0.1 s, for busy machines; a walk over all shards takes longer."""
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        store = ShardedStore.load(folder)
        value = zarr.open_array(store, path="t", mode="r")[ASKED, 3]
        taken.append(time.perf_counter() - start)
        assert value == 4
    assert min(taken) < 1
