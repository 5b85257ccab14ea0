"""Writing through a `ShardedStore`: zarr's own tests and state machines, and arrays that become shards as they are made."""

import pickle
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from conformance import contents_of, get, keys_of
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
from zarr.storage import LocalStore, MemoryStore, ZipStore
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.store import StoreTests

from shardedstore import (
    PartitionError,
    ShardedStore,
    UsageError,
    array_shard_directory_store,
    array_shard_store,
)
from shardedstore.errors import ConfigError
from shardedstore.transforms import ToZip

# zarr's own tests: components that are stores in memory, folders, and a sharded store


def in_memory():
    """A factory of stores in memory, one for each block, and always the same."""
    made = {}

    def factory(block):
        return made.setdefault(block, MemoryStore())

    return factory


class Nested(ShardedStore):
    """A store one of whose components is sharded itself."""

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
    """A store with components at the names that zarr's machines come upon first."""
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
        lambda: ZarrHierarchyStateMachine(arranged(kind)), settings=settings(max_examples=25, stateful_step_count=20)
    )


@pytest.mark.parametrize("kind", ARRANGEMENTS)
def test_zarrs_machine_of_stores(kind):
    run_state_machine_as_test(
        lambda: ZarrStoreStateMachine(arranged(kind)), settings=settings(max_examples=50, stateful_step_count=30)
    )


class Arrays(RuleBasedStateMachine):
    """Arrays that are made, resized, written, replaced and deleted are those of a store that is not sharded."""

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
        """Do something to both, and return what both then gave; errors must be of one type."""
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
        v3 = self.zarr_format == 3
        named = {"dimension_names": ("x", "y")} if v3 else {"attributes": {"_ARRAY_DIMENSIONS": ["x", "y"]}}
        keys = {"name": "default" if v3 else "v2", "separator": sep}

        def act(group):
            array = group.create_array(
                self.names[name],
                shape=shape,
                chunks=(2, 1),
                dtype="i4",
                overwrite=True,
                chunk_key_encoding=keys,
                **named,
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
    run_state_machine_as_test(lambda: Arrays(tmp_path), settings=settings(max_examples=60, stateful_step_count=25))


# Arrays that become shards


def folders(tmp_path, shape=1):
    return {"a": (shape, array_shard_directory_store(tmp_path / "a"))}


def numbers(*shape):
    return np.arange(np.prod(shape), dtype="i4").reshape(shape)


def make(store, data, chunks, name="a", **options):
    array = zarr.create_array(store, name=name, shape=data.shape, chunks=chunks, dtype=data.dtype, **options)
    array[...] = data
    return array


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("shape", "shards"),
    [(1, 3), (2, 6), ((4, 3), 4), ((-1, 3), 2), ({"x": 4}, 2), ({"y": 3}, 2), ({"x": 4, "y": 3}, 4), ((100, 100), 1)],
)
def test_a_shape_in_chunks_elements_or_names(shape, shards, zarr_format, tmp_path):
    store = ShardedStore(tmp_path / "base", None, folders(tmp_path, shape))
    zarr.create_group(store, zarr_format=zarr_format)
    named = {"dimension_names": ("x", "y")} if zarr_format == 3 else {"attributes": {"_ARRAY_DIMENSIONS": ["x", "y"]}}
    data = numbers(6, 6)
    make(store, data, (2, 3), zarr_format=zarr_format, **named)
    found = store.config.shards["a"].blocks
    assert found.count == shards
    assert len(list((tmp_path / "a").rglob("*.zarr"))) == found.count
    assert not [path for path in (tmp_path / "base/a").rglob("*") if path.name[0] in "c0123456789"]
    for copy in (store, pickle.loads(pickle.dumps(store)), ShardedStore.from_config(store.get_config())):
        assert np.array_equal(zarr.open_group(copy, mode="r")["a"][...], data)
    assert np.array_equal(zarr.open_group(store.map_shards(ToZip(tmp_path / "zips")), mode="r")["a"][...], data)


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        (3, UsageError, r"array_shard_funcs\['a'\] divides 3 dimensions, and the array has 2"),
        (
            (3, 3),
            PartitionError,
            "shards of 'a' are 3 elements along dimension 0, which is not a whole number of its chunks",
        ),
        ((4,), PartitionError, r"shards\['a'\] has 1 sizes, and the array has 2 dimensions"),
        ({"time": 4}, PartitionError, "'a' has no dimension 'time': it has no named dimensions"),
    ],
)
def test_what_cant_be_divided_is_refused_before_it_is_written(shape, error, message, tmp_path):
    store = ShardedStore(tmp_path / "base", None, folders(tmp_path, shape))
    zarr.create_group(store)
    with pytest.raises(error, match=message):
        make(store, numbers(6, 6), (2, 3))
    assert "a/zarr.json" not in keys_of(store)
    assert not (tmp_path / "a").exists()


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
    ("factory", "message"),
    [
        (lambda block: MEMORY, r"gave one store for the blocks '0' and '1'"),
        (
            lambda block: LocalStore("/nowhere"),
            r"gave one store for the blocks '0' and '1', '/nowhere': each needs its own",
        ),
        (lambda block: block, r"gave '0' for the block '0', which is no zarr store"),
        (
            lambda block: ZipStore(f"/nowhere/{block}.zip", mode="w"),
            "which can't be opened again to be written to: give folders",
        ),
    ],
)
def test_bad_factories(factory, message):
    store = ShardedStore(MemoryStore(), None, {"a": (1, factory)})
    zarr.create_group(store)
    with pytest.raises(UsageError, match=message):
        make(store, numbers(4, 4), (2, 2))
    assert "a/zarr.json" not in keys_of(store)


MEMORY = MemoryStore()


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
    assert (
        tmp_path / "a/0.zarr/zarr.json"
    ).stat().st_mtime_ns == before  # only the shards that have changed are written
    assert zarr.open_array(tmp_path / "a/1.zarr").shape == (4, 4)
    array.resize((3, 4))
    assert np.array_equal(array[...], numbers(6, 4)[:3])
    assert not (tmp_path / "a/1.zarr/zarr.json").exists()
    array.resize((8, 4))
    assert not array[4:].any()
    assert zarr.open_array(tmp_path / "a/1.zarr").shape == (4, 4)


def test_another_process_goes_by_what_is_there(tmp_path):
    """A store that is made again, or was made before: an array that has grown is routed as it is now."""
    one = ShardedStore(tmp_path / "base", None, folders(tmp_path))
    zarr.create_group(one)
    other = ShardedStore(tmp_path / "base", None, folders(tmp_path))
    make(one, numbers(4, 4), (2, 2))
    seen = zarr.open_group(other)["a"]
    assert np.array_equal(seen[...], numbers(4, 4))
    seen.append(numbers(4, 4))
    third = ShardedStore(tmp_path / "base", None, folders(tmp_path))
    for store in (one, other, third):
        assert np.array_equal(zarr.open_group(store, mode="r")["a"][...], np.concatenate([numbers(4, 4)] * 2))
        assert store.config.shards["a"].blocks.count == 4
    assert one == other == third
    del zarr.open_group(other)["a"]
    assert "a" not in zarr.open_group(one)
    assert "a" not in one.config.shards


def test_shards_of_another_shape_are_refused(tmp_path):
    store = ShardedStore(tmp_path / "base", None, folders(tmp_path, (4, -1)))
    zarr.create_group(store)
    make(store, numbers(8, 4), (2, 2))
    with pytest.raises(
        UsageError, match=r"'a' is there already, in shards of \(4, 4\), and array_shard_funcs asks for \(2, 4\)"
    ):
        ShardedStore(tmp_path / "base", None, folders(tmp_path, 1))


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
    assert [key for key in keys_of(store) if key.startswith("a/c")] == ["a/c/0/0", "a/c/0/1"]
    assert get(store, "a/zarr.json") is not None


def test_names_of_dimensions_come_later_in_v2(tmp_path):
    store = ShardedStore(tmp_path / "base", None, folders(tmp_path, {"x": 2}))
    root = zarr.create_group(store, zarr_format=2)
    array = root.create_array("a", shape=(4, 4), chunks=(2, 2), dtype="i4")
    with pytest.raises(UsageError, match="'a' is to be divided by the names of its dimensions, and has none"):
        array[...] = 1
    array.attrs["_ARRAY_DIMENSIONS"] = ["x", "y"]
    array[...] = 1
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["0.zarr", "1.zarr"]


def test_read_only(tmp_path):
    store = ShardedStore(tmp_path / "base", None, folders(tmp_path))
    zarr.create_group(store)
    make(store, numbers(4, 4), (2, 2))
    closed = ShardedStore(tmp_path / "base", None, folders(tmp_path), read_only=True)
    for refused in (closed, store.with_read_only(True)):
        assert refused.read_only
        with pytest.raises(ValueError, match="read-only"):
            zarr.open_array(refused, path="a", mode="r+")
    for view in (ShardedStore.partition(tmp_path / "base"), ShardedStore.from_config(store.get_config())):
        assert not view.supports_writes
        with pytest.raises(ValueError, match="can't be written to"):
            zarr.open_array(view, path="a", mode="r+")[...] = 0


def test_stores_in_memory_have_no_config():
    store = ShardedStore(MemoryStore(), None, {"a": (1, in_memory())})
    zarr.create_group(store)
    make(store, numbers(4, 4), (2, 2))
    with pytest.raises(ConfigError, match="the base is a MemoryStore"):
        store.get_config()


def test_any_url(bucket):
    url, _ = bucket
    store = ShardedStore(f"{url}/base", None, {"a": ((2, -1), array_shard_store(f"{url}/a"))})
    zarr.create_group(store)
    data = numbers(6, 4)
    make(store, data, (2, 2))
    assert store.get_config()["shards"]["a"]["location"]["url"] == f"{url}/a/{{block}}.zarr"
    copy = pickle.loads(pickle.dumps(store))
    zarr.open_group(copy)["a"].append(data)
    assert np.array_equal(zarr.open_group(store, mode="r")["a"][...], np.concatenate([data, data]))


def test_a_shard_that_was_not_written_is_not_mapped(tmp_path):
    (tmp_path / "g").mkdir()
    store = ShardedStore(tmp_path / "base", {"g": tmp_path / "g"})
    zarr.create_group(store)
    with pytest.raises(
        PartitionError, match=f"shard 'g' is '{tmp_path}/g', which holds no Zarr: write it, or leave it out"
    ):
        store.map_shards(ToZip(tmp_path / "zips"))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part:UserWarning")
def test_consolidated_metadata_that_another_process_wrote_is_gone_by(zarr_format, tmp_path):
    """Through it zarr never reads an array's own document."""
    one, other, third = (ShardedStore(tmp_path / "base", None, folders(tmp_path, (4, -1))) for _ in range(3))
    zarr.create_group(one, zarr_format=zarr_format)
    make(one, numbers(8, 4), (2, 2), zarr_format=zarr_format)
    zarr.consolidate_metadata(one)
    assert np.array_equal(zarr.open_consolidated(other)["a"][...], numbers(8, 4))
    sync(one.delete_dir("a"))
    make(one, -numbers(8, 8), (1, 4), zarr_format=zarr_format)
    zarr.consolidate_metadata(one)
    assert np.array_equal(zarr.open_consolidated(other)["a"][...], -numbers(8, 8))
    zarr.open_consolidated(third)["a"][7] = 1
    assert (zarr.open_consolidated(one)["a"][7] == 1).all()


def test_a_chunk_beyond_what_is_known_is_not_lost(tmp_path):
    """Another process has resized the array; who knows its new shape from elsewhere reads and writes the right shard."""
    one, other = (ShardedStore(tmp_path / "base", None, folders(tmp_path)) for _ in range(2))
    zarr.create_group(one)
    array = make(one, numbers(4, 4), (2, 2))
    assert get(other, "a/zarr.json") is not None
    array.append(numbers(4, 4))
    assert sync(other.exists("a/c/3/1"))
    sync(other.set("a/c/2/0", cpu.Buffer.from_bytes(get(other, "a/c/3/1"))))
    assert np.array_equal(array[4:6, :2], array[6:8, 2:])
    assert [key for key in keys_of(LocalStore(tmp_path / "base")) if "/c/" in key] == []
