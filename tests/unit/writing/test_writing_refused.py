"""Writes that would lose or hide data are refused before anything is written, with the reason."""

import pickle

import numpy as np
import pytest
import zarr
from conformance import contents_of, get, keys_of
from helpers_writing import DATA, divided, files, folders, in_memory, make, named, values
from zarr.core.buffer import cpu
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, ZipStore

from shardedstore import PartitionError, ShardedStore, UsageError, array_shard_directory_store
from shardedstore.transforms import ToZip

# Rules and their stores


@pytest.mark.parametrize(
    ("funcs", "message"),
    [
        ({"a": 1}, r"array_shard_funcs\['a'\] is 1: give the number of sharded dimensions"),
        ({"a": (1, "prefix")}, r"array_shard_funcs\['a'\] is .*'prefix'.*: give the number"),
        ({"a": ("x", in_memory())}, r"array_shard_funcs\['a'\] divides by 'x': give"),
        ({"a": (True, in_memory())}, r"array_shard_funcs\['a'\] divides by True: give"),
        ({"/a": (1, in_memory())}, "array_shard_funcs '/a' has an empty segment"),
        ({"a": (1, in_memory()), "a/b": (1, in_memory())}, "'a/b' lies inside 'a'"),
        ({"g/a": (1, in_memory())}, "'g/a' lies inside 'g'"),
    ],
)
def test_bad_rules(funcs, message):
    with pytest.raises(UsageError, match=message):
        ShardedStore(MemoryStore(), {"g": MemoryStore()}, funcs)


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        (3, UsageError, r"array_shard_funcs\['a'\] divides 3 dimensions, but the array has 2"),
        ((3, 3), PartitionError, "have 3 elements along dimension 0, which is not a multiple of its chunk size"),
        ((4,), PartitionError, r"shards\['a'\] has 1 sizes, but the array has 2 dimensions"),
        ({"time": 4}, PartitionError, "'a' has no dimension 'time': it has no named dimensions"),
    ],
)
def test_arrays_that_cant_be_divided_so(shape, error, message, tmp_path):
    store = divided(tmp_path, shape)
    zarr.create_group(store)
    with pytest.raises(error, match=message):
        make(store)
    assert "a/zarr.json" not in keys_of(store)
    assert not (tmp_path / "a").exists()


ONE = MemoryStore()


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda block: ONE, "returned the same store, .*, for the blocks '0' and '1'"),
        (
            lambda block: LocalStore("/nowhere"),
            "returned the same store, '/nowhere', for the blocks '0' and '1': use the index",
        ),
        (lambda block: block, "returned '0' for the block '0', which is not a zarr store"),
        (
            lambda block: ZipStore(f"/nowhere/{block}.zip", mode="w"),
            "can't be reopened for writing: write to folders",
        ),
    ],
)
def test_bad_factories(factory, message):
    store = ShardedStore(MemoryStore(), None, {"a": (1, factory)})
    zarr.create_group(store)
    with pytest.raises(UsageError, match=message):
        make(store)
    assert "a/zarr.json" not in keys_of(store)


@pytest.mark.parametrize("how", ["two arrays", "a shard and the base", "two shards"])
def test_one_place_for_two(how, tmp_path):
    match how:
        case "two arrays":
            factory = array_shard_directory_store(tmp_path / "x")
            store = ShardedStore(tmp_path / "base", None, {"a": (1, factory), "b": (1, factory)})
            zarr.create_group(store)
            make(store)
            with pytest.raises(UsageError, match=r"'a' and 'b' are both in .*/x/\{block\}.zarr', and would overwrite"):
                make(store, -DATA, name="b")
            assert np.array_equal(values(store), DATA)
        case "a shard and the base":
            with pytest.raises(
                UsageError, match=r"the base and 'g' are both in .*base', and would overwrite each other"
            ):
                ShardedStore(tmp_path / "base", {"g": tmp_path / "base"})
        case "two shards":
            with pytest.raises(UsageError, match=r"'g' and 'h' are both in .*, and would overwrite each other"):
                ShardedStore(tmp_path / "base", {"g": ONE, "h": ONE})


# Existing arrays


@pytest.mark.parametrize("where", ["in the base", "below another prefix", "in shards of another shape"])
def test_an_array_that_is_there_and_not_in_such_shards(where, tmp_path):
    written = LocalStore(tmp_path / "base") if where == "in the base" else divided(tmp_path, (4, -1))
    zarr.create_group(written)
    make(written)
    rules, message = {
        "in the base": (
            folders(tmp_path),
            "'a' already exists, but not in the shards .*/a/0.zarr' does not hold the first shard",
        ),
        "below another prefix": (
            folders(tmp_path / "typo", (4, -1)),
            "/typo/a/0.zarr' does not hold the first shard. Use the",
        ),
        "in shards of another shape": (
            folders(tmp_path),
            r"'a' already exists in shards of \(4, 4\), .* gives \(2, 4\)",
        ),
    }[where]
    with pytest.raises(UsageError, match=message):
        ShardedStore(tmp_path / "base", None, rules)
    assert np.array_equal(values(written), DATA)


@pytest.mark.parametrize("names", [{"units": "K"}, {"_ARRAY_DIMENSIONS": ["y", "x"]}])
def test_names_of_dimensions_that_are_divided_by_stay(names, tmp_path):
    store = divided(tmp_path, {"x": 2})
    zarr.create_group(store, zarr_format=2)
    array = make(store, zarr_format=2, **named(2))
    with pytest.raises(
        UsageError, match="'a' already exists in shards, and other chunks or dimension names would divide it"
    ):
        array.attrs.put(names)
    assert np.array_equal(values(divided(tmp_path, {"x": 2})), DATA)


def test_a_document_of_another_format_beside(tmp_path):
    store = divided(tmp_path)
    zarr.create_group(store, zarr_format=2)
    make(store, zarr_format=2)
    with pytest.raises(UsageError, match="'a' already exists in shards, and other chunks"):
        zarr.create_array(store, name="a", shape=(8, 4), chunks=(4, 2), dtype="i4", zarr_format=3)
    assert np.array_equal(zarr.open_array(store, path="a", zarr_format=2)[...], DATA)


def test_a_group_in_place_of_an_array(tmp_path):
    store = divided(tmp_path)
    zarr.create_group(store)
    make(store)
    group = get(store, "zarr.json")
    with pytest.raises(UsageError, match="'a' already exists in shards, and other chunks"):
        sync(store.set("a/zarr.json", cpu.Buffer.from_bytes(group)))
    assert np.array_equal(values(store), DATA)


def test_chunks_of_an_array_that_was_deleted_by_its_document_alone(tmp_path):
    """They would become chunks of the new array."""
    store = divided(tmp_path)
    zarr.create_group(store)
    make(store)
    sync(store.delete("a/zarr.json"))
    with pytest.raises(
        UsageError, match=r"'a' can't be written to '.*/a/[0-3]\.zarr', which already holds 'c/0/[01]': delete"
    ):
        zarr.create_array(store, name="a", shape=(8, 4), chunks=(2, 2), dtype="i4")
    assert "a" not in zarr.open_group(store)


def test_what_a_process_left_half_written_is_no_chunk(tmp_path):
    store = divided(tmp_path)
    zarr.create_group(store)
    (tmp_path / "a/0.zarr/c/0").mkdir(parents=True)
    (tmp_path / "a/0.zarr/c/0/0.f3a1.partial").write_bytes(b"half a chunk")
    make(store)
    assert np.array_equal(values(store), DATA)


# Chunks


def copy(source, store, keys):
    for key in keys:
        sync(store.set(key, cpu.Buffer.from_bytes(get(source, key))))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_copying_key_by_key_begins_with_the_document(zarr_format, tmp_path):
    """Chunks that were written first would be in the base, and would not be found there."""
    source = MemoryStore()
    zarr.create_group(source, zarr_format=zarr_format)
    make(source, zarr_format=zarr_format)
    document = {2: "a/.zarray", 3: "a/zarr.json"}[zarr_format]
    keys = sorted(keys_of(source), key=lambda key: key != document)
    with pytest.raises(
        UsageError,
        match=r"as the base already holds its chunk 'a/.*', which would not be found: delete it. When you copy",
    ):
        copy(source, divided(tmp_path / "last"), keys[::-1])
    assert get(divided(tmp_path / "last"), document) is None
    copy(source, divided(tmp_path / "first"), keys)
    assert contents_of(divided(tmp_path / "first")) == contents_of(source)
    assert files(tmp_path / "first/base/a") == sorted(key[2:] for key in keys if key[2:].startswith((".z", "zarr")))


@pytest.mark.parametrize("shape", [(8, 4), (0, 4)])
def test_a_chunk_outside_of_its_array(shape, tmp_path):
    store = divided(tmp_path)
    zarr.create_group(store)
    zarr.create_array(store, name="a", shape=shape, chunks=(2, 2), dtype="i4")
    for write in (store.set, store.set_if_not_exists):
        with pytest.raises(
            UsageError, match=rf"'a/c/4/0' is outside 'a', which has \({shape[0] // 2}, 2\) chunks: resize"
        ):
            sync(write("a/c/4/0", cpu.Buffer.from_bytes(b"a chunk")))
    sync(store.delete("a/c/4/0"))
    sync(store.set("a/README", cpu.Buffer.from_bytes(b"no chunk")))
    assert files(tmp_path / "base/a") == ["README", "zarr.json"]


@pytest.mark.parametrize("pickled", [False, True])
def test_chunks_before_the_names_of_dimensions_in_v2(pickled, tmp_path):
    store = divided(tmp_path, {"x": 2})
    zarr.create_group(store, zarr_format=2)
    zarr.create_array(store, name="a", shape=(8, 4), chunks=(2, 2), dtype="i4", zarr_format=2)
    array = zarr.open_group(pickle.loads(pickle.dumps(store)) if pickled else store)["a"]
    with pytest.raises(
        UsageError, match="array_shard_funcs divides 'a' by the names of its dimensions, but it has none"
    ):
        array[...] = DATA
    array.attrs["_ARRAY_DIMENSIONS"] = ["x", "y"]
    array[...] = DATA
    assert np.array_equal(values(store), DATA)
    assert files(tmp_path / "base/a") == [".zarray", ".zattrs"]


# Read-only components


def test_a_part_that_is_read_only(tmp_path):
    """Nothing is deleted unless everything can be deleted."""
    zarr.create_group(LocalStore(tmp_path / "h"))
    store = divided(tmp_path, 1, {"h": LocalStore(tmp_path / "h", read_only=True)})
    zarr.create_group(store)
    make(store)
    before = files(tmp_path)
    for act in (
        store.clear,
        lambda: store.delete("h/zarr.json"),
        lambda: store.set("h/x", cpu.Buffer.from_bytes(b"x")),
    ):
        with pytest.raises(ValueError, match=r"can't be written: shard 'h' is LocalStore.*, which is read-only"):
            sync(act())
    assert files(tmp_path) == before


def test_read_only(tmp_path):
    store = divided(tmp_path)
    zarr.create_group(store)
    make(store)
    before = files(tmp_path)
    value = cpu.Buffer.from_bytes(b"{}")
    for refused in (divided(tmp_path).with_read_only(True), pickle.loads(pickle.dumps(store.with_read_only(True)))):
        assert refused.read_only
        acts = [refused.set("a/zarr.json", value), refused.set("a/c/0/0", value), refused.set_if_not_exists("x", value)]
        for act in [*acts, refused.delete("a/c/0/0"), refused.delete_dir("a"), refused.clear()]:
            with pytest.raises(ValueError, match="read-only mode"):
                sync(act)
    for view in (ShardedStore.partition(tmp_path / "base"), ShardedStore.from_config(store.get_config())):
        assert not view.supports_writes
        with pytest.raises(ValueError, match="can't be written to"):
            zarr.open_array(view, path="a", mode="r+")[...] = 0
    assert files(tmp_path) == before
    make(store.with_read_only(True).with_read_only(False), -DATA, overwrite=True)
    assert np.array_equal(values(store), -DATA)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_shard_that_was_not_written_is_not_mapped(tmp_path, is_there):
    if is_there:
        (tmp_path / "g").mkdir()
    store = ShardedStore(tmp_path / "base", {"g": tmp_path / "g"})
    zarr.create_group(store)
    with pytest.raises(PartitionError, match=f"shard 'g'.* '{tmp_path}/g'.*: write it, or leave it out"):
        store.map_shards(ToZip(tmp_path / "zips"))
