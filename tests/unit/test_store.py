"""`ShardedStore` as a zarr store: zarr's own tests of stores, and behaviour that is independent of partitions."""

import asyncio
import gc
import itertools
from pathlib import Path

import pytest
import zarr
from conformance import (
    check_pickles,
    check_same_contents,
    check_values,
    contents_of,
    get,
    keys_of,
)
from sources import (
    SOURCES,
    Recording,
    add_array,
    build,
    cube,
    numbers,
    store_of,
    to_folder,
    to_memory,
    to_objects,
    to_zip,
)
from zarr.core.buffer import cpu
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore
from zarr.testing.store import StoreTests

from shardedstore import ShardedStore, UsageError
from shardedstore.stores import components
from shardedstore.stores.locations import Config, Directory, Mount, Zip
from shardedstore.stores.routing import RoutedStore
from shardedstore.transforms import ToZip
from shardedstore.writing.writable import WritableStore
from shardedstore.zarr.grid import Blocks, ChunkKeys
from shardedstore.zips import ZipReadStore

# zarr's own tests


def whole(root, path):
    return Mount(Directory(f"{root}/{path}"))


def blocked(root, path, grid, chunks, name, separator):
    blocks = Blocks(grid, chunks, ChunkKeys(name, separator))
    return Mount(Directory(f"{root}/{path or 'root'}/{{block}}"), blocks)


# Mounts for the keys in zarr's tests: "zarr.json", "c/0", "foo/c/0.0", "foo/0/0", "a/b/c/zarr.json" ...
ARRANGEMENTS = {
    "base": lambda root: {},
    "groups": lambda root: {path: whole(root, path) for path in ("foo/c", "foo/0", "a/b", "c")},
    "arrays": lambda root: {
        "c": blocked(root, "c", (2, 3), (1, 2), "v2", "/"),
        "foo/c": blocked(root, "foo/c", (10,), (3,), "v2", "/"),
        "a/b": blocked(root, "a/b", (5,), (2,), "default", "/"),
    },
    "array at the root": lambda root: {"": blocked(root, "", (10,), (4,), "default", "/")},
    "both": lambda root: {
        "foo/c": whole(root, "foo/c"),
        "c": blocked(root, "c", (9,), (2,), "v2", "/"),
        "a/b/c": whole(root, "a/b/c"),
    },
}


def file_of(root, mounts, key):
    """The place of a key, by an independent search through all chunks of all blocks."""
    for path, mount in mounts.items():
        rest = key.removeprefix(f"{path}/") if path else key
        if path and rest == key:
            continue
        if mount.blocks is None:
            return Path(root, path, rest)
        grid, chunks, keys = mount.blocks.chunk_grid, mount.blocks.chunks, mount.blocks.keys
        for coords in itertools.product(*map(range, grid)):
            if keys.encode(coords) == rest:
                block = [c // n for c, n in zip(coords, chunks, strict=False)]
                local = [c % n for c, n in zip(coords, chunks, strict=False)] + list(coords[len(chunks) :])
                return Path(root, path or "root", *map(str, block), keys.encode(tuple(local)))
    return Path(root, "base", key)


class Arranged(ShardedStore):
    """The store with mounts from the start, without regard to their arrays' metadata."""

    def __init__(self, root, arrangement, read_only=False):
        self.root, self.arrangement = root, arrangement
        config = Config(Directory(f"{root}/base"), ARRANGEMENTS[arrangement](root))
        WritableStore.__init__(self, config, is_writable=True)
        self._read_only = read_only

    def __getstate__(self):
        return super().__getstate__() | {"kwargs": (self.root, self.arrangement)}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.root, self.arrangement = state["kwargs"]


class TestShardedStore(StoreTests[Arranged, cpu.Buffer]):
    """Keys are written and read directly in their files, without the store's own code."""

    store_cls = Arranged
    buffer_cls = cpu.Buffer

    def file(self, store, key):
        return file_of(store.root, store.config.shards, key)

    async def set(self, store, key, value):
        self.file(store, key).parent.mkdir(parents=True, exist_ok=True)
        self.file(store, key).write_bytes(value.to_bytes())

    async def get(self, store, key):
        return cpu.Buffer.from_bytes(self.file(store, key).read_bytes())

    @pytest.fixture(params=ARRANGEMENTS)
    def store_kwargs(self, tmp_path, request):
        return {"root": f"{tmp_path}", "arrangement": request.param}

    def test_store_repr(self, store):
        assert repr(store).startswith("<Arranged of '/")
        assert ("shards at" in repr(store)) == bool(store.config.shards)

    def test_store_supports_writes(self, store):
        assert store.supports_writes
        assert store.supports_deletes

    def test_store_supports_listing(self, store):
        assert store.supports_listing

    def test_keys_went_where_they_belong(self, store):
        """Check that the other tests use the components of each arrangement."""
        for key in ("c/5", "c/0/1", "foo/c/7", "a/b/c/3", "a/b/c/zarr.json"):
            sync(self.set(store, key, cpu.Buffer.from_bytes(key.encode())))
            assert get(store, key) == key.encode()
        used = {path.relative_to(store.root).parts[0] for path in Path(store.root).rglob("*") if path.is_file()}
        assert (
            used
            == {
                "base": {"base"},
                "groups": {"c", "foo", "a"},
                "arrays": {"base", "c", "foo", "a"},
                "array at the root": {"base", "root"},
                "both": {"base", "c", "foo", "a"},
            }[store.arrangement]
        )


# The constructor


def split(contents, path):
    """Split contents into the keys outside a path and those below it."""
    inside = {key.removeprefix(f"{path}/"): data for key, data in contents.items() if key.startswith(f"{path}/")}
    return {key: data for key, data in contents.items() if not key.startswith(f"{path}/")}, inside


@pytest.mark.parametrize("source", ["cube-v2.", "cube-v3/", "consolidated-v2", "others-v3"])
def test_components_make_one_zarr(source, tmp_path):
    """A base in memory, a folder, a zip and objects: listings join all of them."""
    contents = SOURCES[source].contents()
    base, fine = split(contents, "simulation/fine")
    base, coarse = split(base, "simulation/coarse")
    base, height = split(base, "height")
    store = ShardedStore(
        to_memory(base),
        {
            "simulation/fine": to_folder(fine, tmp_path / "fine"),
            "simulation/coarse": to_zip(coarse, tmp_path / "coarse.zip"),
            "height": to_objects(height),
        },
    )
    check_same_contents(store, contents)
    with pytest.raises(
        ValueError, match=r"'simulation/coarse/a' can't be written: shard 'simulation/coarse' is .*read-only"
    ):
        sync(store.set("simulation/coarse/a", cpu.Buffer.from_bytes(b"")))
    assert {path for path, _ in zarr.open_group(store, mode="r").members()} >= {"simulation", "height", "temperature"}


def test_a_group_of_mounts_alone_is_listed():
    """The base has no key in the parent group of a mount."""
    base, fine = split(build(cube, "v3/"), "simulation/fine")
    base = {key: data for key, data in base.items() if not key.startswith("simulation")}
    store = ShardedStore(to_memory(base), {"simulation/fine": to_memory(fine)})
    check_same_contents(store, {**base, **{f"simulation/fine/{key}": data for key, data in fine.items()}})


def test_a_component_hides_what_the_base_has():
    contents = build(cube, "v3/")
    _, fine = split(contents, "simulation/fine")
    store = ShardedStore(to_memory(contents), {"simulation/fine": to_memory({"zarr.json": fine["zarr.json"]})})
    assert [key for key in keys_of(store) if key.startswith("simulation/fine")] == ["simulation/fine/zarr.json"]
    assert get(store, "simulation/fine/field/zarr.json") is None
    assert get(store, "simulation/fineness") is None


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (["a", "a/b"], "shards overlap: 'a/b' lies inside 'a', which is one shard: leave one of them out"),
        (["a/b/c", "a"], "'a/b/c' lies inside 'a'"),
        (["/a"], "shard '/a' has an empty segment"),
        (["a/"], "shard 'a/' has an empty segment"),
        (["a//b"], "shard 'a//b' has an empty segment"),
        ([""], "shard '' has an empty segment"),
        (["a/../b"], r"shard 'a/\.\./b' has a segment '\.\.'"),
        ([3], "shard 3 is not a string"),
    ],
)
def test_bad_mounts(shards, message):
    with pytest.raises(UsageError, match=message):
        ShardedStore(MemoryStore(), {path: MemoryStore() for path in shards})


def test_no_components():
    contents = build(cube, "v3/")
    check_same_contents(ShardedStore(to_memory(contents)), contents)


def test_a_store_of_stores():
    """A component may be a sharded store."""
    contents = build(cube, "v3/")
    base, simulation = split(contents, "simulation")
    inner = ShardedStore.partition(to_memory(simulation), ["fine"])
    check_same_contents(ShardedStore(ShardedStore.partition(to_memory(base), 100), {"simulation": inner}), contents)


# Its own consolidated metadata


def test_rebuilt_consolidated_metadata_goes_before(tmp_path):
    contents = build(cube, "v3/")
    document = contents["zarr.json"].replace(b"a cube", b"consolidated")
    to_folder({"zarr.json": document, "simulation/.zmetadata": b"new"}, tmp_path / "consolidated")
    to_folder(contents, tmp_path / "base")
    view = ShardedStore.partition(tmp_path / "base", SOURCES["cube-v3/"].shards).config
    store = store_of(Config(view.base, view.shards, Directory(f"{tmp_path}/consolidated")))
    check_same_contents(store, {**contents, "zarr.json": document, "simulation/.zmetadata": b"new"})
    check_values(check_pickles(store), {"zarr.json": document})


def test_blocks_of_a_view_that_are_elsewhere(tmp_path):
    """An unfinished job: finished shards are read from the result, and are not listed twice."""
    contents = build(cube, "v3/")
    view = ShardedStore.partition(to_folder(contents, tmp_path / "a"), {"temperature": {"time": 4, "y": 2}}).config
    done = contents_of(store_of(view).component("temperature", (1, 0)))
    new = {key: data if key == "zarr.json" else b"new" + data for key, data in done.items()}
    to_zip(new, tmp_path / "1.zip")
    mount = Mount(
        view.shards["temperature"].location, view.shards["temperature"].blocks, {"1/0": Zip(f"{tmp_path}/1.zip")}
    )
    keys = ["temperature/c/2/0/0", "temperature/c/2/0/1", "temperature/c/3/0/0", "temperature/c/3/0/1"]
    check_same_contents(
        store_of(Config(view.base, {"temperature": mount})),
        {key: b"new" + data if key in keys else data for key, data in contents.items()},
    )


# JobManifest


def test_equality(tmp_path):
    folder = to_folder(build(cube, "v3/"), tmp_path / "a")
    store = ShardedStore.partition(folder, ["simulation"])
    assert store == ShardedStore.partition(LocalStore(folder), {"simulation": "whole"})
    assert store != ShardedStore.partition(folder, ["temperature"])
    assert store != ShardedStore(folder)
    assert store != LocalStore(folder)


def test_repr(tmp_path):
    folder = to_folder(build(cube, "v3/"), tmp_path / "a")
    store = ShardedStore.partition(folder, {"simulation": "whole", "temperature": {"time": 4}})
    assert str(store) == f"<ShardedStore of '{folder}' and 3 shards at 2 paths>"


# Many components


def test_components_are_opened_when_they_are_asked_for(tmp_path):
    """No component exists, but the store can be made; a config of a million shards opens quickly."""
    blocks = Blocks((10**6,), (1,), ChunkKeys("default", "/"))
    store = store_of(Config(Directory("/no/base"), {"a": Mount(Directory("/no/{block}"), blocks)}))
    with pytest.raises(FileNotFoundError, match="/no/77"):
        get(store, "a/c/77")


@pytest.mark.parametrize("most", [1, 2, 5])
def test_few_components_stay_open(monkeypatch, most, tmp_path):
    monkeypatch.setattr(components, "MOST_OPEN", most)
    contents = SOURCES["others-v3"].contents()
    view = ShardedStore.partition(to_folder(contents, tmp_path / "a"), SOURCES["others-v3"].shards)
    store = RoutedStore(view.map_shards(ToZip(tmp_path / "out")).config)
    check_same_contents(store, contents)
    gc.collect()
    zips = [thing for thing in gc.get_objects() if type(thing) is ZipReadStore and thing.url.startswith(str(tmp_path))]
    assert 0 < len(zips) <= most


def test_the_component_that_was_used_last_stays_open(monkeypatch):
    monkeypatch.setattr(components, "MOST_OPEN", 3)
    store = ShardedStore.partition(to_memory(build(cube, "v3/")), {"temperature": (2, -1, -1)})
    base = store.component(None)
    for block in range(4):
        store.component("temperature", (block,))
        assert store.component(None) is base


def test_listing_a_view_lists_its_source_once():
    """The work must not grow with the square of the number of chunks."""
    recording = Recording(to_memory(build(cube, "v3/")))
    store = ShardedStore.partition(recording, {"temperature": (2, 2, 3)})
    recording.calls.clear()
    keys_of(store)
    listings = [key for call, key in recording.calls if call.startswith("list")]
    assert listings == ["", "temperature/"]


def test_reading_at_once(tmp_path):
    """Many coroutines of zarr read one array: each gets its own chunk."""
    group = zarr.create_group(tmp_path / "a")
    add_array(group, "a", numbers(16, 16), (2, 2))
    store = ShardedStore.partition(tmp_path / "a", {"a": (4, 4)})
    contents = contents_of(LocalStore(tmp_path / "a"))

    async def read():
        return await asyncio.gather(*(store.get(key, cpu.buffer_prototype) for key in contents for _ in range(2)))

    assert [value.to_bytes() for value in asyncio.run(read())] == [d for d in contents.values() for _ in range(2)]
    assert (zarr.open_array(store, path="a", mode="r")[...] == numbers(16, 16)).all()
