"""A process that dies at any step of writing: no data is lost, and repeating the operation completes it."""

import numpy as np
import pytest
import zarr
from fuzz import some
from helpers_writing import named, numbers
from zarr.storage import MemoryStore, WrapperStore

from shardedstore import ShardedStore

DATA = numbers(4, 4) + 1  # four chunks, of which two are a block of rows
MORE = np.full((3, 4), 9, "i4")


class DeadError(Exception):
    """The process has died."""


class World:
    """Stores in memory by name, with a number of changes after which each further change raises `Death`."""

    def __init__(self, stores=None, left=None):
        self.stores, self.left = stores or {}, left

    def copy(self, left):
        return World({name: MemoryStore(dict(store._store_dict)) for name, store in self.stores.items()}, left)

    def at(self, name):
        return Mortal(self.stores.setdefault(name, MemoryStore()), self)

    def sharded(self, shape):
        """The sharded store as opened by another process."""
        return ShardedStore(self.at("base"), None, {"a": (shape, self.at)})

    def change(self):
        if self.left == 0:
            raise DeadError
        if self.left is not None:
            self.left -= 1

    def chunks(self):
        """The chunks in all shards, by name."""
        shards = {name: set(store._store_dict) for name, store in self.stores.items() if name != "base"}
        return {name: keys - {"zarr.json", ".zarray", ".zattrs"} for name, keys in shards.items()}


class Mortal(WrapperStore):
    def __init__(self, store, world):
        super().__init__(store)
        self.world = world

    def _with_store(self, store):
        return Mortal(store, self.world)

    async def set(self, key, value):
        self.world.change()
        await self._store.set(key, value)

    async def set_if_not_exists(self, key, value):
        self.world.change()
        await self._store.set_if_not_exists(key, value)

    async def delete(self, key):
        self.world.change()
        await self._store.delete(key)

    async def delete_dir(self, prefix):
        start = f"{prefix}/" if prefix and not prefix.endswith("/") else prefix
        for key in [key async for key in self._store.list_prefix(start)]:
            await self.delete(key)


class Acts:
    """The operations that may be interrupted, in one format."""

    def __init__(self, zarr_format):
        self.zarr_format = zarr_format

    def _create(self, store, shape, chunks):
        options = {"dtype": "i4", "zarr_format": self.zarr_format, "overwrite": True, **named(self.zarr_format)}
        return zarr.create_array(store, name="a", shape=shape, chunks=chunks, **options)

    def create(self, store):
        self._create(store, (4, 4), (2, 2))[...] = DATA

    def replace(self, store):
        self._create(store, (3, 4), (1, 2))[:1] = MORE[:1]

    def append(self, store):
        array = zarr.open_array(store, path="a", mode="a")
        array.resize((7, 4))
        array[4:] = MORE

    def shrink(self, store):
        zarr.open_array(store, path="a", mode="a").resize((1, 4))

    def describe(self, store):
        zarr.open_array(store, path="a", mode="a").attrs.update(units="K")

    def delete(self, store):
        del zarr.open_group(store, mode="a")["a"]

    def wipe(self, store):
        zarr.open_group(store, mode="w", zarr_format=self.zarr_format)


EXPECTED = {
    "create": DATA,
    "replace": np.where(np.arange(3)[:, None] < 1, MORE, 0),
    "append": np.concatenate([DATA, MORE]),
    "shrink": DATA[:1],
    "describe": DATA,
}
KEPT = {"append": DATA, "shrink": DATA[:1], "describe": DATA}  # always present


def shards_of(store):
    """Yield each shard's own array, and the shape of its block in the whole array."""
    whole, blocks = zarr.open_array(store, path="a", mode="r"), store.config.shards["a"].blocks
    for block in map(blocks.index, range(blocks.count)):
        alone = zarr.open_array(store.component("a", block), mode="r")
        yield alone, blocks.crop(whole.shape, whole.chunks, block)


def check_what_is_left(store, act, zarr_format):
    """Check that old data exists, and that no shard's document describes less than the whole array's."""
    group = zarr.open_group(store, mode="a", zarr_format=zarr_format)
    if act in KEPT:
        kept, found = KEPT[act], group["a"][...]
        assert np.array_equal(found[: len(kept)], kept)
        assert np.isin(found[len(kept) :], (0, 9) if act == "append" else (0, *DATA.flat)).all()
        for alone, shape in shards_of(store):
            assert all(n >= m for n, m in zip(alone.shape, shape, strict=True))
    elif "a" in group:
        group["a"][...]


def check_done(world, shape, act):
    store = world.sharded(shape)
    if act not in EXPECTED:
        assert "a" not in zarr.open_group(store)
        assert not any(world.chunks().values())
        return
    array = zarr.open_array(store, path="a", mode="r")
    assert np.array_equal(array[...], EXPECTED[act])
    for alone, own in shards_of(store):
        assert alone.shape == own or (act == "shrink" and all(n >= m for n, m in zip(alone.shape, own, strict=True)))
        assert dict(alone.attrs) == dict(array.attrs)


@pytest.mark.few(5)
@pytest.mark.parametrize("act", ["create", "append", "shrink", "describe", "delete", "replace", "wipe"])
@pytest.mark.parametrize(
    ("zarr_format", "shape"),
    [
        pytest.param(3, (2, -1), id="rows"),
        pytest.param(2, {"x": 2}, id="v2 names"),
        pytest.param(3, 2, id="chunks"),
        pytest.param(2, 2, id="v2 chunks"),
    ],
)
def test_death_at_every_step(act, shape, zarr_format):
    acts, start = Acts(zarr_format), World()
    zarr.create_group(start.sharded(shape), zarr_format=zarr_format)
    if act != "create":
        acts.create(start.sharded(shape))
    whole = start.copy(left=1000)
    getattr(acts, act)(whole.sharded(shape))
    check_done(whole, shape, act)
    steps = 1000 - whole.left
    assert steps > 1
    for deaths in some(4, range(steps)):
        world = start.copy(left=deaths)
        with pytest.raises(DeadError):
            getattr(acts, act)(world.sharded(shape))
        world.left = None
        after = world.sharded(shape)
        check_what_is_left(after, act, zarr_format)
        getattr(acts, act)(after if deaths % 2 else world.sharded(shape))  # this store has not read the remains
        check_done(world, shape, act)
