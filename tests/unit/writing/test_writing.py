"""Writing through a `ShardedStore`: zarr's own tests and state machines, and arrays that are divided when written."""

import pickle
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from conformance import contents_of, get, keys_of
from fuzz import examples
from helpers_writing import folders, in_memory, make, named, numbers
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from zarr.core.buffer import cpu
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.store import StoreTests

from shardedstore import (
    ShardedStore,
    array_shard_directory_store,
)
from shardedstore.errors import ConfigError
from shardedstore.transforms import ToZip

# zarr's own tests: components in memory, folders, and a sharded store


class Nested(ShardedStore):
    """A store with a sharded component."""

    def __init__(self, root, read_only=False):
        self.root = root
        inner = ShardedStore(
            f"{root}/inner", {"c/0": f"{root}/inner-c"}, {"z": (1, array_shard_directory_store(f"{root}/z"))}
        )
        super().__init__(f"{root}/base", {"foo": inner, "a/b": f"{root}/b"}, read_only=read_only)

    def __getstate__(self):
        return super().__getstate__() | {"root": self.root}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.root = state["root"]

    def place(self, key):
        for path, folder in (("foo/c/0/", "inner-c"), ("foo/", "inner"), ("a/b/", "b")):
            if key.startswith(path):
                return Path(self.root, folder, key.removeprefix(path))
        return Path(self.root, "base", key)


class TestNested(StoreTests[Nested, cpu.Buffer]):
    store_cls = Nested
    buffer_cls = cpu.Buffer

    async def set(self, store, key, value):
        store.place(key).parent.mkdir(parents=True, exist_ok=True)
        store.place(key).write_bytes(value.to_bytes())

    async def get(self, store, key):
        return cpu.Buffer.from_bytes(store.place(key).read_bytes())

    @pytest.fixture
    def store_kwargs(self, tmp_path):
        return {"root": f"{tmp_path}"}

    def test_store_repr(self, store):
        assert repr(store).startswith("<Nested")

    def test_store_supports_writes(self, store):
        assert store.supports_writes

    def test_store_supports_listing(self, store):
        assert store.supports_listing


def arranged(kind):
    """A store with components at the first names of zarr's state machines."""
    groups = {"A": MemoryStore(), "2": MemoryStore(), "0/0": MemoryStore()}
    arrays = {"1": (1, in_memory()), "B": (1, in_memory()), "a/0": (1, in_memory()), "": (1, in_memory())}
    match kind:
        case "groups":
            return ShardedStore(MemoryStore(), groups)
        case "arrays":
            del arrays[""]
            return ShardedStore(MemoryStore(), None, arrays)
        case "both":
            del arrays[""]
            return ShardedStore(MemoryStore(), groups, arrays)
        case "nested":
            return ShardedStore(arranged("groups"), {"1": arranged("both"), "B": arranged("arrays")})


ARRANGEMENTS = ("groups", "arrays", "both", "nested")


@pytest.mark.parametrize("kind", ARRANGEMENTS)
@pytest.mark.filterwarnings("ignore::zarr.core.dtype.common.UnstableSpecificationWarning")
@pytest.mark.filterwarnings("ignore:Object at .* is not recognized:UserWarning")
def test_zarrs_machine_of_hierarchies(kind):
    run_state_machine_as_test(
        lambda: ZarrHierarchyStateMachine(arranged(kind)),
        settings=settings(max_examples=examples(3), stateful_step_count=20),
    )


@pytest.mark.parametrize("kind", ARRANGEMENTS)
def test_zarrs_machine_of_stores(kind):
    run_state_machine_as_test(
        lambda: ZarrStoreStateMachine(arranged(kind)),
        settings=settings(max_examples=examples(4), stateful_step_count=30),
    )


class Arrays(RuleBasedStateMachine):
    """Arrays that are made, resized, written, replaced and deleted equal those in a plain store."""

    def __init__(self, root):
        super().__init__()
        rules = {
            "t": (1, in_memory()),
            "g/u": ((4, 2), in_memory()),
            "v": ({"x": 4}, in_memory()),
        }
        self.store = ShardedStore(MemoryStore(), {"h": MemoryStore()}, rules)
        self.model = MemoryStore()
        self.names = ("t", "g/u", "v", "h/w", "plain")

    def both(self, act):
        """Apply an operation to both stores, and return both results; errors must have the same type."""
        results = []
        for store in (self.store, self.model):
            try:
                results.append(act(zarr.open_group(store, mode="a")))
            except Exception as error:  # noqa: BLE001
                results.append(type(error))
        assert results[0] == results[1]
        return results[0]

    @initialize(zarr_format=st.sampled_from([2, 3]))
    def begin(self, zarr_format):
        self.zarr_format = zarr_format
        for store in (self.store, self.model):
            zarr.create_group(store, zarr_format=zarr_format)

    @rule(name=st.integers(0, 4), shape=st.tuples(st.integers(0, 9), st.integers(1, 5)), sep=st.sampled_from("./"))
    def create(self, name, shape, sep):
        keys = {"name": "default" if self.zarr_format == 3 else "v2", "separator": sep}

        def act(group):
            array = group.create_array(
                self.names[name],
                shape=shape,
                chunks=(2, 1),
                dtype="i4",
                overwrite=True,
                chunk_key_encoding=keys,
                **named(self.zarr_format),
            )
            array[...] = 7

        self.both(act)

    @rule(name=st.integers(0, 4), shape=st.tuples(st.integers(0, 9), st.integers(1, 5)))
    def resize(self, name, shape):
        self.both(lambda group: group[self.names[name]].resize(shape))

    @rule(name=st.integers(0, 4), row=st.integers(0, 8), value=st.integers(-3, 3))
    def write(self, name, row, value):
        def act(group):
            group[self.names[name]][row] = value

        self.both(act)

    @rule(name=st.integers(0, 4))
    def describe(self, name):
        self.both(lambda group: group[self.names[name]].attrs.update(units="K") or None)

    @rule(name=st.sampled_from(["t", "g", "g/u", "v", "h", "h/w", "plain"]))
    def delete(self, name):
        def act(group):
            del group[name]

        self.both(act)

    @rule()
    def copy(self):
        self.store = self.store.with_read_only(True).with_read_only(False)

    @invariant()
    def same(self):
        assert contents_of(self.store) == contents_of(self.model)

    @invariant()
    def each_shard_is_an_array_of_its_own(self):
        for path, mount in self.store.config.shards.items():
            if mount.blocks is None:
                continue
            whole = zarr.open_group(self.model, mode="r")[path]
            for block in map(mount.blocks.index, range(mount.blocks.count)):
                alone = zarr.open_array(self.store.component(path, block), mode="r")
                start = [b * n * c for b, n, c in zip(block, mount.blocks.chunks, whole.chunks, strict=False)]
                box = tuple(slice(s, s + n) for s, n in zip([*start, 0][: whole.ndim], alone.shape, strict=False))
                assert np.array_equal(alone[...], whole[box])
                assert dict(alone.attrs) == dict(whole.attrs)


def test_arrays_that_are_sharded_are_as_any(tmp_path):
    run_state_machine_as_test(
        lambda: Arrays(tmp_path), settings=settings(max_examples=examples(5), stateful_step_count=25)
    )


# Arrays that are divided into shards


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("shape", "shards"),
    [(1, 3), (2, 6), ((4, 3), 4), ((-1, 3), 2), ({"x": 4}, 2), ({"y": 3}, 2), ({"x": 4, "y": 3}, 4), ((100, 100), 1)],
)
def test_a_shape_in_chunks_elements_or_names(shape, shards, zarr_format, tmp_path):
    store = ShardedStore(tmp_path / "base", None, folders(tmp_path, shape))
    zarr.create_group(store, zarr_format=zarr_format)
    data = numbers(6, 6)
    make(store, data, (2, 3), zarr_format=zarr_format, **named(zarr_format))
    found = store.config.shards["a"].blocks
    assert found.count == shards
    assert len(list((tmp_path / "a").rglob("*.zarr"))) == found.count
    assert not [path for path in (tmp_path / "base/a").rglob("*") if path.name[0] in "c0123456789"]
    for copy in (store, pickle.loads(pickle.dumps(store)), ShardedStore.from_config(store.get_config())):
        assert np.array_equal(zarr.open_group(copy, mode="r")["a"][...], data)
    assert np.array_equal(zarr.open_group(store.map_shards(ToZip(tmp_path / "zips")), mode="r")["a"][...], data)


def test_a_function_of_ones_own_becomes_a_template(tmp_path):
    store = ShardedStore(
        tmp_path / "base", None, {"a": (2, lambda block: LocalStore(tmp_path / "0" / f"x{block}.zarr"))}
    )
    zarr.create_group(store)
    make(store, numbers(20, 20), (2, 2))
    mount = store.get_config()["shards"]["a"]
    assert mount["location"]["url"] == f"{tmp_path}/0/x{{block}}.zarr"
    assert "exceptions" not in mount


def test_resizing_keeps_what_is_there(tmp_path):
    store = ShardedStore(tmp_path / "base", None, folders(tmp_path, (4, -1)))
    zarr.create_group(store)
    array = make(store, numbers(6, 4), (2, 2))
    before = (tmp_path / "a/0.zarr/zarr.json").stat().st_mtime_ns
    array.append(numbers(6, 4))
    assert np.array_equal(array[...], np.concatenate([numbers(6, 4)] * 2))
    assert (tmp_path / "a/0.zarr/zarr.json").stat().st_mtime_ns == before  # only changed shards are written
    assert zarr.open_array(tmp_path / "a/1.zarr").shape == (4, 4)
    array.resize((3, 4))
    assert np.array_equal(array[...], numbers(6, 4)[:3])
    assert not (tmp_path / "a/1.zarr/zarr.json").exists()
    array.resize((8, 4))
    assert not array[4:].any()
    assert zarr.open_array(tmp_path / "a/1.zarr").shape == (4, 4)


def test_deleting_an_array_deletes_what_is_in_its_shards(tmp_path):
    store = ShardedStore(tmp_path / "base", {"g": tmp_path / "g"}, folders(tmp_path))
    root = zarr.create_group(store)
    make(store, numbers(4, 4), (2, 2))
    root.create_group("g").create_array("x", shape=(2,), dtype="i4")[...] = 1
    del root["a"]
    assert [path for path in (tmp_path / "a").rglob("*") if path.is_file()] == []
    make(store, numbers(4, 4)[:2], (2, 2))
    assert np.array_equal(root["a"][...], numbers(4, 4)[:2])
    sync(store.clear())
    assert keys_of(store) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_part_of_an_array_is_deleted(tmp_path):
    store = ShardedStore(tmp_path / "base", None, folders(tmp_path))
    zarr.create_group(store)
    make(store, numbers(4, 4), (2, 2))
    sync(store.delete_dir("a/c/1"))
    assert {key for key in keys_of(store) if key.startswith("a/c")} == {"a/c/0/0", "a/c/0/1"}
    assert get(store, "a/zarr.json") is not None


def test_stores_in_memory_have_no_config():
    store = ShardedStore(MemoryStore(), None, {"a": (1, in_memory())})
    zarr.create_group(store)
    make(store, numbers(4, 4), (2, 2))
    with pytest.raises(ConfigError, match="the base is a MemoryStore"):
        store.get_config()
