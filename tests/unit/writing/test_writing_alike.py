"""zarr's functions have the same effect on a sharded store as on a folder, without remains."""

import logging
import warnings

import numpy as np
import pytest
import zarr
from conformance import keys_of
from helpers_writing import DATA, divided, files, folders, make, values
from zarr.core.sync import sync
from zarr.storage import LocalStore, LoggingStore, MemoryStore, WrapperStore, ZipStore

from shardedstore import ShardedStore, array_shard_directory_store
from shardedstore.transforms import Recompress, ToZip

CALLS = {
    "save_array": lambda store: zarr.save_array(store, DATA, path="a"),
    "load": lambda store: zarr.load(store, path="a").tolist(),
    "save again": lambda store: zarr.save(store, DATA, path="a"),
    "save two": lambda store: zarr.save(store, a=DATA, b=DATA),
    "save_group": lambda store: zarr.save_group(store, DATA, path="h"),
    "load all": lambda store: sorted(zarr.load(store)),
    "open_array": lambda store: zarr.open_array(store, path="a", mode="w", shape=(4, 4), chunks=(2, 2), dtype="i4")[
        ...
    ].tolist(),
    "open_group": lambda store: sorted(zarr.open_group(store, mode="w").members()),
    "array": lambda store: zarr.array(DATA, store=store, path="a", chunks=(2, 2))[...].tolist(),
    "require_array": lambda store: zarr.open_group(store).require_array("a", shape=(8, 4), dtype="i4")[...].tolist(),
    "open": lambda store: zarr.open(store, path="a", mode="w", shape=(4, 4), dtype="i8")[...].tolist(),
    "is_empty": lambda store: [sync(store.is_empty(path)) for path in ("", "a", "a/c", "b")],
    "getsize_prefix": lambda store: sync(store.getsize_prefix("")),
    "open the root": lambda store: zarr.open(store, mode="w").store_path.path,
}


def test_zarrs_functions_one_after_the_other(tmp_path):
    def results(store):
        for name, call in CALLS.items():
            try:
                yield name, call(store)
            except Exception as error:  # noqa: BLE001
                yield name, type(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert dict(results(divided(tmp_path / "ours"))) == dict(results(LocalStore(tmp_path / "plain")))


OTHERS = [
    {"chunks": (2, 2)},
    {"chunks": (1, 4)},
    {"chunks": (2, 2), "chunk_key_encoding": {"name": "v2", "separator": "."}},
    {"chunks": (2, 2), "zarr_format": 2},
    {"chunks": (1, 1), "shards": (2, 2)},
    {"chunks": (4, 4)},
]


@pytest.mark.filterwarnings("ignore:Both zarr.json")  # for the root, as in a folder
def test_overwriting_with_other_chunks_keys_and_formats(tmp_path):
    store = divided(tmp_path, (4, -1))
    zarr.create_group(store)
    for number, options in enumerate(OTHERS, 1):
        array = zarr.create_array(store, name="a", shape=(8, 4), dtype="i4", overwrite=True, **options)
        assert not array[...].any()
        array[...] = DATA * number
        assert np.array_equal(zarr.open_array(divided(tmp_path, (4, -1)), path="a", mode="r")[...], DATA * number)
    make(zarr.create_group(divided(tmp_path, (4, -1)), path="a", overwrite=True).store, name="a/c")
    assert np.array_equal(values(store, "a/c"), DATA)
    assert files(tmp_path / "a") == []


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_at_the_root(zarr_format, tmp_path):
    rule = {"": (1, array_shard_directory_store(tmp_path / "a"))}
    store = ShardedStore(tmp_path / "base", None, rule)
    for data in (DATA, -DATA):
        zarr.create_array(store, data=data, chunks=(2, 2), zarr_format=zarr_format, overwrite=True)
        assert np.array_equal(zarr.open_array(ShardedStore(tmp_path / "base", None, rule))[...], data)
    zarr.open_group(store, mode="w").create_array("x", data=DATA)
    assert files(tmp_path / "a") == []


def test_arrays_without_dimensions_or_elements(tmp_path):
    rules = {
        name: (shape, array_shard_directory_store(tmp_path / name))
        for name, shape in (("a", (4,)), ("z", ()), ("n", {}))
    }
    store = ShardedStore(tmp_path / "base", None, rules)
    group = zarr.create_group(store)
    array = group.create_array("a", shape=(0,), chunks=(2,), dtype="i4")
    for size in (6, 3):
        array.append(np.arange(size, dtype="i4"))
        assert np.array_equal(values(store), np.arange(size))
        array.resize((0,))
    for name in "zn":
        group.create_array(name, shape=(), dtype="i4")[...] = 4
        assert values(store, name) == 4


@pytest.mark.parametrize("wrap", [WrapperStore, lambda store: LoggingStore(store, log_handler=logging.NullHandler())])
def test_stores_around_it_and_inside(wrap, tmp_path):
    store = ShardedStore(wrap(LocalStore(tmp_path / "base")), {"g": wrap(MemoryStore())}, folders(tmp_path))
    around = wrap(store)
    group = zarr.open_group(around, mode="w")
    make(around)
    group.create_group("g").create_array("x", data=DATA)
    assert np.array_equal(values(around), DATA)
    assert np.array_equal(values(store, "g/x"), DATA)
    assert store.known_config.shards["a"].blocks.count == 4
    del group["a"]
    assert files(tmp_path / "a") == []


def test_zips_that_are_written_are_closed(tmp_path):
    """Also if more shards were used since than are kept open."""
    store = ShardedStore(
        ZipStore(tmp_path / "base.zip", mode="w"), {"h": ZipStore(tmp_path / "h.zip", mode="w")}, folders(tmp_path)
    )
    zarr.create_group(store).create_group("h").create_array("x", data=DATA)
    make(store, np.ones((600, 1), "i4"), (1, 1))
    store.close()
    store = ShardedStore(ZipStore(tmp_path / "base.zip"), {"h": ZipStore(tmp_path / "h.zip")}, folders(tmp_path))
    assert np.array_equal(values(store, "h/x"), DATA)
    assert values(store).all()
    store.close()


def test_a_group_with_shards_below_it_is_deleted(tmp_path):
    store = ShardedStore(
        tmp_path / "base", {"g/h": tmp_path / "h"}, {"g/a": (1, array_shard_directory_store(tmp_path / "a"))}
    )
    group = zarr.create_group(store).create_group("g")
    group.create_group("h")
    make(store, name="g/a")
    sync(store.delete_dir("g/"))
    assert files(tmp_path) == ["base/zarr.json"]
    assert keys_of(store) == ["zarr.json"]


def test_all_is_deleted_with_the_root(tmp_path):
    """For any place of the shards, and also by another process."""
    shards = {"g": tmp_path / "g"}
    other, store = (divided(tmp_path, 1, shards) for _ in range(2))
    zarr.create_group(store).create_group("g").create_array("x", data=DATA)
    make(store)
    zarr.open_group(other, mode="w")
    assert files(tmp_path) == ["base/zarr.json"]
    assert np.array_equal(make(store)[...], DATA)


def test_one_that_divides_arrays_inside_another(tmp_path):
    outer, other = (ShardedStore(tmp_path / "outer", {"g": divided(tmp_path)}) for _ in range(2))
    zarr.create_group(outer).create_group("g")
    make(outer, name="g/a")
    assert len(files(tmp_path / "a")) == 4 + 8
    zarr.open_group(other)["g/a"].append(DATA)
    assert np.array_equal(values(outer, "g/a"), np.concatenate([DATA, DATA]))
    result = outer.map_shards(ToZip(tmp_path / "zips"))
    assert np.array_equal(values(result, "g/a"), np.concatenate([DATA, DATA]))
    del zarr.open_group(outer, mode="a")["g/a"]
    assert files(tmp_path / "a") == []


def test_shards_in_folders_inside_the_base(tmp_path):
    store = ShardedStore(tmp_path / "x", {"g": tmp_path / "x/g"}, folders(tmp_path / "x"))
    zarr.create_group(store).create_group("g").create_array("x", data=DATA)
    make(store)
    assert np.array_equal(values(store.map_shards(ToZip(tmp_path / "zips"))), DATA)


def test_what_failed_half_way_is_done_again(tmp_path):
    store = divided(tmp_path, (4, -1))
    zarr.create_group(store)
    array = make(store, DATA[:6])
    (tmp_path / "a/2.zarr").write_text("a file where a folder should be")
    with pytest.raises(OSError, match=r"2\.zarr"):
        array.resize((12, 4))
    (tmp_path / "a/2.zarr").unlink()
    array = zarr.open_array(divided(tmp_path, (4, -1)), path="a")
    assert array.shape == (6, 4)
    array.resize((12, 4))
    array[...] = 5
    for number in range(3):
        assert zarr.open_array(tmp_path / f"a/{number}.zarr", mode="r").shape == (4, 4)
    result = divided(tmp_path, (4, -1)).map_shards(Recompress("zstd", level=1), ToZip(tmp_path / "zips"))
    assert (values(result) == 5).all()
