"""The stream of entries: all shards together have the contents of the Zarr, each in order."""

import json
import os

import pytest
import zarr
from conformance import contents_of
from sources import COMBINATIONS, KINDS, SOURCES, Recording, build, cube, others, to_folder, to_memory, to_zip
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from shardedstore import CorruptError, ShardedStore
from shardedstore.jobs.make_plan import make_plan
from shardedstore.jobs.open_shard import open_shard
from shardedstore.stores.base import Remainder
from shardedstore.stores.block import Block
from shardedstore.stores.entries import array_folder, read_entries
from shardedstore.stores.view import View
from shardedstore.zarr.grid import Blocks, ChunkKeys
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zips import ZipReadStore

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


def shards_of(store):
    """Every shard of a store, with its component and the entries that a job reads."""
    for run in make_plan(store.config).runs:
        for shard in run.shards():
            component = open_shard(run, shard)
            yield shard, component, list(read_entries(component, shard.blocks, shard.block, run.consolidated))


def whole_key(shard, entry):
    """The key of an entry in the source; None for a block's own metadata."""
    start = f"{shard.path}/" if shard.path else ""
    if shard.blocks is None:
        return start + entry.key
    return None if entry.coords is None else start + shard.blocks.keys.encode(entry.coords)


def without_consolidated(contents):
    """The contents of a source's entries: keys and bytes, with documents as JSON."""
    kept = {}
    for key, data in contents.items():
        name = key.rpartition("/")[2]
        if name == ".zmetadata":
            continue
        kept[key] = data
        if name == "zarr.json" and b'"consolidated_metadata"' in data:
            document = json.loads(data)
            document.pop("consolidated_metadata")
            kept[key] = document
    return kept


def is_metadata(entry):
    return entry.key.rpartition("/")[2] in METADATA


# All shards together


@pytest.mark.parametrize(("source", "kind"), COMBINATIONS)
@pytest.mark.few(30)
def test_shards_together_hold_what_the_source_holds(source, kind, tmp_path):
    contents = SOURCES[source].contents()
    store = ShardedStore.partition(KINDS[kind](contents, tmp_path), SOURCES[source].shards)
    together, expected = {}, without_consolidated(contents)
    for shard, _, entries in shards_of(store):
        for entry in entries:
            key = whole_key(shard, entry)
            if key is not None:
                assert key not in together, f"{key!r} is in two shards"
                data = bytes(entry.data)
                together[key] = json.loads(data) if isinstance(expected.get(key), dict) else data
    assert together == expected


@pytest.mark.parametrize("kind", ["path", "zip", "any", "ObjectStore"])
@pytest.mark.parametrize("source", ["cube-v2.", "cube-v3/", "others-v2", "others-v3", "root-array-v3", "types-v2"])
def test_order(source, kind, tmp_path):
    """Check the order: metadata from parents to children, then other files, then each array's chunks in C order."""
    store = ShardedStore.partition(KINDS[kind](SOURCES[source].contents(), tmp_path), SOURCES[source].shards)
    for _, _, entries in shards_of(store):
        keys = [entry.key for entry in entries]
        documents = [entry.key for entry in entries if is_metadata(entry)]
        assert keys[: len(documents)] == documents
        assert [key.count("/") for key in documents] == sorted(key.count("/") for key in documents)
        rest = entries[len(documents) :]
        chunks = [entry for entry in rest if entry.coords is not None]
        assert rest[len(rest) - len(chunks) :] == chunks
        places = [(array_path(entry), entry.coords) for entry in chunks]
        assert places == sorted(places)


def array_path(entry):
    """The path of a chunk's array inside the shard."""
    key = entry.array.keys.encode(entry.coords)
    return entry.key[: len(entry.key) - len(key)]


@pytest.mark.parametrize("source", SOURCES)
def test_entries_know_their_arrays(source):
    contents = SOURCES[source].contents()
    store = ShardedStore.partition(to_memory(contents), SOURCES[source].shards)
    arrays = {key.rpartition("/")[0]: json.loads(data) for key, data in contents.items() if key.endswith(".zarray")}
    for key, data in contents.items():
        if key.rpartition("/")[2] == "zarr.json" and json.loads(data)["node_type"] == "array":
            arrays[key.rpartition("/")[0]] = json.loads(data)
    seen = set()
    for shard, _, entries in shards_of(store):
        for entry in entries:
            if entry.coords is not None:
                path = whole_key(shard, entry)
                folder = "/".join(part for part in (shard.path, array_folder(entry)) if part)
                assert path == f"{folder}/{entry.array.keys.encode(entry.coords)}".lstrip("/")
            if shard.blocks is None and is_metadata(entry):
                path = whole_key(shard, entry).rpartition("/")[0]
                assert isinstance(entry.array, ArrayMeta) == (path in arrays)
                if path in arrays:
                    assert list(entry.array.shape) == arrays[path]["shape"]
                    seen.add(path)
            elif shard.blocks is not None:
                assert isinstance(entry.array, ArrayMeta)
                assert is_metadata(entry) == (entry.coords is None)
    assert seen == arrays.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_the_stream_is_the_same_for_every_kind_of_store(kind, tmp_path):
    contents, shards = build(others, 3), SOURCES["others-v3"].shards
    streams = [
        [(shard.name, entries) for shard, _, entries in shards_of(store)]
        for store in (
            ShardedStore.partition(to_memory(contents), shards),
            ShardedStore.partition(KINDS[kind](contents, tmp_path), shards),
        )
    ]
    assert streams[0] == streams[1]


# Blocks


@pytest.mark.parametrize(
    "source", ["cube-v2.", "cube-v2/", "cube-v3/", "cube-v3.", "missing-v3", "root-array-v2", "sharding-codec"]
)
def test_blocks_are_arrays_of_their_own(source, tmp_path):
    """The block's metadata is cropped, and zarr reads this part of the whole array."""
    contents = SOURCES[source].contents()
    store = ShardedStore.partition(to_memory(contents), SOURCES[source].shards)
    for shard, component, entries in shards_of(store):
        if shard.blocks is None:
            continue
        local = {entry.key: bytes(entry.data) for entry in entries}
        assert contents_of(component) == local
        block = zarr.open_array(to_memory(local), mode="r")
        whole = zarr.open_array(to_memory(contents), path=shard.path or None, mode="r")
        chunk = whole.shards or whole.chunks
        cut = tuple(slice(r.start * c, r.stop * c) for r, c in zip(shard.blocks.box(shard.block), chunk, strict=True))
        assert (block[...] == whole[cut]).all()
        assert block.attrs.asdict() == whole.attrs.asdict()


@pytest.mark.parametrize("source", ["cube-v2.", "cube-v3/", "missing-v2", "root-array-v3"])
def test_a_zip_of_a_block_gives_the_stream_of_the_block(source, tmp_path):
    """Its chunk keys are local, and the coordinates are those of the whole array."""
    store = ShardedStore.partition(to_memory(SOURCES[source].contents()), SOURCES[source].shards)
    for number, (shard, _, entries) in enumerate(shards_of(store)):
        path = to_zip({entry.key: bytes(entry.data) for entry in entries}, tmp_path / f"{number}.zip")
        assert list(read_entries(ZipReadStore(path), shard.blocks, shard.block)) == entries


def test_blocks_are_read_without_listing():
    recording = Recording(to_memory(build(cube, "v3/")))
    list(read_entries(Block(recording, "temperature", Blocks((4, 3, 2), (2,), ChunkKeys("default", "/")), (1,))))
    assert {call for call, _ in recording.calls} == {"get"}


def test_coordinates_are_those_of_the_whole():
    blocks = Blocks((4, 3, 2), (2, 2), ChunkKeys("default", "/"))
    entries = list(read_entries(Block(to_memory(build(cube, "v3/")), "temperature", blocks, (1, 1))))
    assert [(entry.key, entry.coords) for entry in entries] == [
        ("zarr.json", None),
        ("c/0/0/0", (2, 2, 0)),
        ("c/0/0/1", (2, 2, 1)),
        ("c/1/0/0", (3, 2, 0)),
        ("c/1/0/1", (3, 2, 1)),
    ]
    assert entries[1].array.shape == (3, 1, 4)


def test_an_array_that_has_changed_is_refused():
    """A block equals that at the time of the division, or raises an error."""
    blocks = Blocks((9, 3, 2), (2,), ChunkKeys("default", "/"))
    with pytest.raises(
        CorruptError,
        match=r"'temperature' was divided as an array of \(9, 3, 2\) chunks, .* partition the source again",
    ):
        list(read_entries(Block(to_memory(build(cube, "v3/")), "temperature", blocks, (0,))))


# The base, and views


def test_the_base_is_not_walked_into_what_is_mounted(tmp_path, monkeypatch):
    folder = to_folder(build(cube, "v3/"), tmp_path / "a")
    scanned = []
    monkeypatch.setattr(os, "scandir", lambda path, real=os.scandir: scanned.append(os.fspath(path)) or real(path))
    keys = [entry.key for entry in read_entries(Remainder(LocalStore(folder), {"simulation": None}))]
    assert "temperature/c/0/0/0" in keys
    assert not any("simulation" in path for path in [*scanned, *keys])


@pytest.mark.parametrize("path", ["simulation", "simulation/fine", "temperature"])
def test_a_view_has_the_keys_below_its_path(path):
    contents = build(cube, "v3/")
    view = View(to_memory(contents), path)
    assert {entry.key: entry.data for entry in read_entries(view)} == {
        key.removeprefix(f"{path}/"): data for key, data in contents.items() if key.startswith(f"{path}/")
    }


def test_documents_that_are_no_metadata_are_carried():
    contents = {**build(cube, "v3/"), "notes/zarr.json": b"these are notes", "notes/c/0": b"0"}
    assert {e.key: e.data for e in read_entries(to_memory(contents))} == contents


def test_an_empty_store_is_an_error():
    with pytest.raises(CorruptError, match="the root no longer holds metadata: is the source still there"):
        list(read_entries(MemoryStore()))


class Vanishing(WrapperStore):
    """A store with a key that is listed but then missing."""

    async def get(self, key, prototype, byte_range=None):
        return None if key == "temperature/c/1/1/1" else await super().get(key, prototype, byte_range)


def test_a_key_that_vanishes_is_an_error():
    with pytest.raises(CorruptError, match="'temperature/c/1/1/1' was listed, but is not there now"):
        list(read_entries(Vanishing(to_memory(build(cube, "v3/")))))


def test_links_to_folders_are_followed(tmp_path):
    contents = build(cube, "v3/")
    folder = to_folder(contents, tmp_path / "a")
    (folder / "simulation").rename(tmp_path / "elsewhere")
    (folder / "simulation").symlink_to(tmp_path / "elsewhere")
    assert {entry.key: entry.data for entry in read_entries(LocalStore(folder))} == contents


def test_a_link_to_a_folder_above_is_refused(tmp_path):
    folder = to_folder(build(cube, "v3/"), tmp_path / "a")
    (folder / "simulation" / "again").symlink_to(folder)
    with pytest.raises(CorruptError, match=r"simulation/again' is a link to a folder that it lies in"):
        list(read_entries(LocalStore(folder)))


@pytest.mark.parametrize("source", ["others-v2", "others-v3"])
def test_base_and_blocks_share_no_key(source):
    """`Remainder` holds a key if and only if no mounted component does."""
    contents = SOURCES[source].contents()
    store = ShardedStore.partition(to_memory(contents), SOURCES[source].shards)
    mounted = {path: mount.blocks for path, mount in store.config.shards.items()}
    base = contents_of(Remainder(store.config.base.open(), mounted))
    held = set()
    for path, mount in store.config.shards.items():
        start = f"{path}/"
        if mount.blocks is None:
            held |= {key for key in contents if key.startswith(start)}
        else:
            grid = mount.blocks.chunk_grid
            whole = range(grid[0]), *map(range, grid[1:])
            held |= {start + key for key in mount.blocks.keys.encode_box(whole)}
    assert base == {key: data for key, data in contents.items() if key not in held}
    assert base.keys() >= {"temperature/notes.txt", "temperature/c/0/99/0", "temperature/c/0/0/01"}


def test_names_of_shards():
    store = ShardedStore.partition(to_memory(build(cube, "v3/")), {"temperature": (4, 4, -1), "simulation": "whole"})
    assert [shard.name for shard, *_ in shards_of(store)] == [
        "(base)",
        "simulation",
        *(f"temperature[{block}]" for block in ("0/0", "0/1", "1/0", "1/1")),
    ]
