"""Outdated stores and configs: another process has written meanwhile, and all reads and writes are still right."""

import asyncio
import pickle

import numpy as np
import pytest
import zarr
from conformance import contents_of, get, keys_of
from helpers_writing import DATA, divided, files, folders, make, values
from zarr.core.buffer import cpu
from zarr.core.sync import sync
from zarr.storage import LocalStore

from shardedstore import ConfigError, PartitionError, ShardedStore
from shardedstore.transforms import ToZip


@pytest.fixture
def one(tmp_path):
    store = divided(tmp_path)
    zarr.create_group(store)
    return store


@pytest.fixture
def other(one, tmp_path):
    """A store that was opened before the array existed."""
    return divided(tmp_path)


def test_another_process_goes_by_what_is_there(one, other, tmp_path):
    make(one)
    seen = zarr.open_group(other)["a"]
    assert np.array_equal(seen[...], DATA)
    seen.append(DATA)
    third = divided(tmp_path)
    for store in (one, other, third):
        assert np.array_equal(values(store), np.concatenate([DATA, DATA]))
        assert store.config.shards["a"].blocks.count == 8
    assert one == other == third
    del zarr.open_group(other)["a"]
    assert "a" not in zarr.open_group(one)
    assert "a" not in one.config.shards


def test_what_it_does_not_know_is_overwritten_and_deleted(one, other, tmp_path):
    make(one)
    again = zarr.create_array(other, name="a", shape=(8, 4), chunks=(2, 2), dtype="i4", overwrite=True)
    assert not again[...].any()
    make(one, overwrite=True)
    sync(pickle.loads(pickle.dumps(other)).clear())
    assert files(tmp_path) == []


def test_a_part_of_what_it_does_not_know_is_deleted(one, other):
    make(one)
    sync(other.delete_dir("a/c/1"))
    assert [key for key in keys_of(one) if key.startswith("a/c/1")] == []
    assert np.array_equal(values(one)[4:], DATA[4:])


def test_what_it_does_not_know_is_listed_and_mapped(one, other, tmp_path):
    make(one)
    assert sorted(keys_of(other)) == sorted(keys_of(one))
    assert np.array_equal(values(other.map_shards(ToZip(tmp_path / "zips"))), DATA)


def test_a_chunk_beyond_what_is_known_is_not_lost(one, other, tmp_path):
    """A reader that knows the array's new shape reads and writes the right shard."""
    array = make(one)
    assert get(other, "a/zarr.json") is not None
    array.append(DATA)
    assert sync(other.exists("a/c/7/1"))
    sync(other.set("a/c/6/0", cpu.Buffer.from_bytes(get(other, "a/c/7/1"))))
    assert np.array_equal(array[12:14, :2], array[14:16, 2:])
    assert [key for key in keys_of(LocalStore(tmp_path / "base")) if "/c/" in key] == []


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_metadata_that_another_process_wrote_is_gone_by(zarr_format, tmp_path):
    """With it, zarr never reads an array's own document."""
    one, other, third = (divided(tmp_path, (4, -1)) for _ in range(3))
    zarr.create_group(one, zarr_format=zarr_format)
    make(one, zarr_format=zarr_format)
    zarr.consolidate_metadata(one)
    assert np.array_equal(zarr.open_consolidated(other)["a"][...], DATA)
    sync(one.delete_dir("a"))
    make(one, -DATA, (1, 4), zarr_format=zarr_format)
    zarr.consolidate_metadata(one)
    assert np.array_equal(zarr.open_consolidated(other)["a"][...], -DATA)
    zarr.open_consolidated(third)["a"][7] = 1
    assert (zarr.open_consolidated(one)["a"][7] == 1).all()


def test_a_listing_goes_on_while_arrays_are_made(tmp_path):
    rules = {name: folders(tmp_path / name)["a"] for name in "abc"}
    store = ShardedStore(tmp_path / "base", {"g": tmp_path / "g"}, rules)
    zarr.create_group(store)
    make(store)

    async def list_and_write():
        document, keys = await store.get("a/zarr.json", cpu.buffer_prototype), []
        async for key in store.list():
            keys.append(key)
            if key.startswith("a/c/") and "b" not in store.known_config.shards:
                await store.set("b/zarr.json", document)
        return keys

    assert {key for key in asyncio.run(list_and_write()) if key.startswith("a/")} == set(contents_of(store)) - {
        "zarr.json",
        "b/zarr.json",
    }
    assert "b" in store.config.shards


# Configs that were saved before an array was resized


@pytest.fixture
def older(one):
    """A config, and the array for a later resize."""
    array = make(one)
    return ShardedStore.from_config(one.get_config()), array


GROWN = r"'a' has \(8, 2\) chunks by its document in the base, and \(4, 2\) by the config, which is older .* save the config again"


@pytest.mark.parametrize(
    "read",
    [
        values,
        lambda store: values(pickle.loads(pickle.dumps(store))),
        lambda store: sync(store.exists("a/c/7/1")),
        lambda store: get(store, "a/c/7/1"),
        keys_of,
        lambda store: values(ShardedStore.partition(store, [])),
    ],
)
def test_chunks_that_an_older_config_does_not_lead_to_are_not_missing(read, older):
    store, array = older
    array.append(DATA)
    assert np.array_equal(zarr.open_group(store, mode="r")["a"][:8], DATA)
    with pytest.raises(ConfigError, match=GROWN):
        read(store)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_chunks_of_other_keys_are_not_missing_either(zarr_format, tmp_path):
    store = divided(tmp_path)
    keys = [{"name": "v2" if zarr_format == 2 else "default", "separator": separator} for separator in "/."]
    zarr.create_group(store, zarr_format=zarr_format)
    make(store, zarr_format=zarr_format, chunk_key_encoding=keys[0])
    older = ShardedStore.from_config(store.get_config())
    make(store, zarr_format=zarr_format, chunk_key_encoding=keys[1], overwrite=True)
    with pytest.raises(ConfigError, match=r"'a' has \(4, 2\) chunks of other keys by its document"):
        values(older)


def test_an_older_config_is_not_mapped(older, tmp_path):
    store, array = older
    for resize, now in ((lambda: array.append(DATA), r"\(8, 2\)"), (lambda: array.resize((3, 4)), r"\(2, 2\)")):
        resize()
        with pytest.raises(
            PartitionError, match=rf"array of \(4, 2\) chunks, and now has {now}: save the config again"
        ):
            store.map_shards(ToZip(tmp_path / "zips"))
    assert not (tmp_path / "zips").exists()


def test_an_older_config_of_what_shrank_is_read(older):
    store, array = older
    array.resize((3, 4))
    assert np.array_equal(values(store), DATA[:3])
    assert get(store, "a/c/7/0") is None
    assert "a/c/3/0" not in keys_of(store)


def test_what_is_missing_and_no_chunk_is_missing(older):
    store, _ = older
    for key in ("a/c/9/0", "a/.zattrs", "a/README", "a/c", "b/c/9/0", "zarr"):
        assert get(store, key) is None


def test_a_view_of_what_has_grown_is_read(tmp_path):
    """All its chunks are in the source, also chunks that were never written."""
    array = make(LocalStore(tmp_path / "a.zarr"))
    view = ShardedStore.partition(tmp_path / "a.zarr/a", {"": (4, -1)})
    array.resize((16, 4))
    array[14:] = 5
    assert np.array_equal(zarr.open_array(view, mode="r")[...], array[...])
    with pytest.raises(PartitionError, match="partition the source again"):
        view.map_shards(ToZip(tmp_path / "zips"))


def test_a_config_without_an_array_that_is_to_come_is_warned_of(tmp_path):
    store = divided(tmp_path)
    with pytest.warns(UserWarning, match="'a' does not exist yet, so this config will not lead to its shards"):
        store.save(tmp_path / "a.json")
    zarr.create_group(store)
    make(store)
    store.save(tmp_path / "a.json")
    assert (values(ShardedStore.load(tmp_path / "a.json")) == values(store)).all()
