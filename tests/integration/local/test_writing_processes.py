"""Several processes, event loops and threads write to one sharded store."""

import asyncio
import multiprocessing
import pickle
import random
import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import zarr
from helpers_writing import divided, make, values
from zarr.api import asynchronous
from zarr.core.buffer import cpu
from zarr.storage import LocalStore

from shardedstore import ShardedStore, UsageError, array_shard_directory_store
from shardedstore.transforms import ToZip


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def three_arrays(root):
    return ShardedStore(
        root / "base", {"g": root / "g"}, {name: ((4, -1), array_shard_directory_store(root / name)) for name in "abc"}
    )


def write_one(root, name, seed):
    """Make, resize, write and delete an array at random, in the sharded store and in a folder."""
    chance, store, plain = random.Random(seed), three_arrays(root), LocalStore(root / f"plain-{name}")
    zarr.open_group(plain, mode="a")
    for _ in range(25):
        act, shape, value = chance.random(), (chance.randint(1, 12), 4), chance.randint(1, 99)
        for each in (store, plain):
            group = zarr.open_group(each, mode="a")
            if name not in group or act < 0.2:
                group.create_array(name, shape=shape, chunks=(2, 2), dtype="i4", overwrite=True)[...] = 3
            elif act < 0.3:
                del group[name]
            elif act < 0.6:
                group[name].resize(shape)
            else:
                group[name][: shape[0]] = value
        if act > 0.8:
            store = pickle.loads(pickle.dumps(store))


def test_each_process_has_an_array(processes, tmp_path):
    before = three_arrays(tmp_path)
    zarr.create_group(before)
    list(processes.map(write_one, [tmp_path] * 3, "abc", range(3)))
    for store in (before, three_arrays(tmp_path)):
        group = zarr.open_group(store, mode="r")
        for name in "abc":
            plain = zarr.open_group(tmp_path / f"plain-{name}", mode="r")
            assert (name in group) == (name in plain)
            if name in plain:
                assert np.array_equal(group[name][...], plain[name][...])


def write_rows(store, first, step):
    """Write every `step`th pair of rows as soon as it is in the array."""
    for row in range(first, 40, step):
        while (array := zarr.open_array(store, path="a", mode="r+")).shape[0] < row + 2:
            pass
        array[row : row + 2] = row + 1


def test_regions_are_written_while_the_array_grows(processes, tmp_path):
    store = divided(tmp_path, (4, -1))
    zarr.create_group(store)
    array = zarr.create_array(store, name="a", shape=(2, 4), chunks=(2, 2), dtype="i4")
    writing = [processes.submit(write_rows, pickle.loads(pickle.dumps(store)), first, 4) for first in (0, 2)]
    for rows in range(4, 42, 2):
        array.resize((rows, 4))
    for future in writing:
        future.result()
    expected = np.repeat(np.arange(1, 41, 2), 2)[:, None] * np.ones((1, 4), int)
    assert np.array_equal(values(store), expected)
    result = divided(tmp_path, (4, -1)).map_shards(ToZip(tmp_path / "zips"))
    assert np.array_equal(values(result), expected)


def make_again(root, value):
    """Replace the array like mode "w"; return the refusal, or None if a folder disappeared meanwhile."""
    try:
        options = {"shape": (8, 4), "chunks": (2, 2), "dtype": "i4", "fill_value": -1, "overwrite": True}
        zarr.create_array(divided(root), name="a", **options)[...] = value
    except UsageError as error:
        return str(error)
    except OSError:  # as with any store of folders
        return None
    return ""


def test_one_array_is_made_by_all_at_once(processes, tmp_path):
    """Each chunk equals that of one writer, or is missing; a writer that meets another's shards gets an error."""
    done = 0
    for attempt in range(8):
        root = tmp_path / str(attempt)
        zarr.create_group(divided(root))
        failed = list(processes.map(make_again, [root] * 3, [1, 2, 3]))
        done += failed.count("")
        assert all(re.search("which already holds|does not hold the first", why) for why in failed if why)
        with suppress(UsageError, FileNotFoundError):  # the last writer deleted it, or its first shard
            array = zarr.open_array(divided(root), path="a", mode="r")
            for chunk in np.ndindex(4, 2):
                box = tuple(slice(2 * i, 2 * i + 2) for i in chunk)
                assert set(array[box].flat) in ({-1}, {1}, {2}, {3})
    assert done


def test_threads_and_loops_share_a_store(tmp_path):
    store = divided(tmp_path)
    zarr.create_group(store)
    make(store, np.zeros((40, 4), "i4"), (1, 2))

    async def in_a_loop(row):
        array = await asynchronous.open_array(store=store, path="a", mode="r+")
        for _ in range(3):
            await array.setitem((slice(row, row + 1), slice(None)), row + 1)
            document = await store.get("a/zarr.json", cpu.buffer_prototype)
            await store.set("a/zarr.json", document)
            assert [key async for key in store.list_prefix(f"a/c/{row}/")]

    def in_a_thread(row):
        array = zarr.open_array(store, path="a")
        for _ in range(3):
            array[row] = row + 1
            array.attrs["row"] = row
            assert store.config.shards["a"].blocks.count == 40

    with ThreadPoolExecutor(8) as threads:
        running = [threads.submit(asyncio.run, in_a_loop(row)) for row in range(0, 40, 2)]
        running += [threads.submit(in_a_thread, row) for row in range(1, 40, 2)]
        for future in running:
            future.result()
    assert np.array_equal(values(store), np.arange(1, 41)[:, None] * np.ones((1, 4), int))
