"""Specs of TensorStore: it opens each array without this package, with the values of the source."""

import json

import dask
import numpy as np
import pytest
import tensorstore
import zarr
from click.testing import CliRunner

from shardedstore import ShardedStore, UsageError
from shardedstore.cli import main
from shardedstore.transforms import CopyTo, ToShardingCodec, ToZip


@pytest.fixture(autouse=True)
def _serial():
    with dask.config.set(scheduler="sync"):
        yield


def source(folder, zarr_format):
    group = zarr.open_group(folder / "source ä%.zarr", mode="w", zarr_format=zarr_format)
    names = {3: {"dimension_names": ("time", "y")}, 2: {"attributes": {"_ARRAY_DIMENSIONS": ["time", "y"]}}}[
        zarr_format
    ]
    array = group.create_array("g/t ä%2p", shape=(63, 37), chunks=(4, 10), dtype="f4", fill_value=np.nan, **names)
    array[:] = np.random.default_rng(3).random((63, 37), "f4")
    group.create_array("one", shape=(), dtype="i8")[...] = 5
    group.create_array("y", shape=(37,), chunks=(7,), dtype="complex64")[:] = np.arange(37) * 1j
    return folder / "source ä%.zarr"


SHARDS = {"g/t ä%2p": (16, 20)}
STRUCTURES = {
    "views": lambda store, _: store,
    "zips": lambda store, folder: store.map_shards(ToZip(folder / "zips ä%")),
    "one zip": lambda store, folder: ShardedStore.partition(store.map_shards(ToZip(folder / "a ä%.zarr.zip")), []),
    "directories": lambda store, folder: store.map_shards(CopyTo(folder / "folders", layout="shards")),
    "one zarr": lambda store, folder: ShardedStore.partition(store.map_shards(CopyTo(folder / "one.zarr")), []),
    "nested": lambda store, folder: ShardedStore.partition(
        store.map_shards(ToZip(folder / "zips")), {"g/t ä%2p": (32, -1)}
    ),
    "a nested result": lambda store, folder: ShardedStore.partition(
        store.map_shards(ToZip(folder / "zips")), {"g/t ä%2p": (24, -1), "y": (14,)}
    ).map_shards(ToZip(folder / "zips of zips")),
    "a part": lambda store, folder: ShardedStore.partition(
        store.map_shards(ToZip(folder / "zips")), [], include=["g", "one"]
    ),
}


def check(store, specs):
    for path, spec in specs.items():
        expected = zarr.open_array(store, path=path, mode="r")
        found = tensorstore.open(json.loads(json.dumps(spec)), read=True).result()
        np.testing.assert_array_equal(found.read().result(), expected[...])
        if path.startswith("g/"):
            assert found.domain.labels == ("time", "y") or found.spec().to_json()["driver"] == "zarr"


@pytest.mark.few(5)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_tensorstore_reads_the_same_values(zarr_format, structure, tmp_path):
    store = STRUCTURES[structure](ShardedStore.partition(source(tmp_path, zarr_format), SHARDS), tmp_path)
    specs = store.to_tensorstore()
    assert specs.keys() == {
        path for path, node in zarr.open_group(store, mode="r").members(None) if isinstance(node, zarr.Array)
    }
    check(store, specs)


def test_the_sharding_codec(tmp_path):
    store = ShardedStore.partition(source(tmp_path, 3), SHARDS)
    result = ShardedStore.partition(store.map_shards(ToShardingCodec(tmp_path / "packed.zarr")), [])
    check(result, result.to_tensorstore())


@pytest.mark.few(3)
@pytest.mark.parametrize("value", [np.nan, -np.inf, 7])
@pytest.mark.parametrize("dtype", ["f4", "i2", "c8"])
def test_blocks_without_chunks_have_the_fill_value(dtype, value, tmp_path):
    fill = value if dtype != "i2" else 7
    array = zarr.create_array(
        tmp_path / "a.zarr", name="t", shape=(400, 60), chunks=(2, 3), dtype=dtype, fill_value=fill
    )
    array[100:104, 3:9] = 1
    result = ShardedStore.partition(tmp_path / "a.zarr", {"t": (100, -1)}).map_shards(ToZip(tmp_path / "zips"))
    specs = result.to_tensorstore()
    assert len(specs["t"]["layers"]) < 4
    check(result, specs)


def a_string(folder):
    zarr.create_array(folder / "a.zarr", name="s", shape=(4,), chunks=(2,), dtype=str)[:] = np.array(
        ["a", "b", "c", "d"]
    )
    return ShardedStore.partition(folder / "a.zarr")


def in_memory(folder):
    memory = zarr.storage.MemoryStore()
    zarr.create_array(memory, shape=(4,), chunks=(2,), dtype="i4")[:] = 1
    return ShardedStore.partition(memory, [])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (a_string, UsageError, "TensorStore can't read 's' .elements of the types string.*--portable"),
        (in_memory, UsageError, "is not an ordinary Zarr in a file or folder: convert"),
    ],
)
def test_what_tensorstore_cannot_read_is_refused(make, error, message, tmp_path):
    store = make(tmp_path)
    with pytest.raises(error, match=message):
        store.to_tensorstore(tmp_path / "specs")
    assert not (tmp_path / "specs").exists()


def test_the_command_writes_a_file_for_each_array(tmp_path):
    store = ShardedStore.partition(source(tmp_path, 3), SHARDS).map_shards(ToZip(tmp_path / "zips"))
    done = CliRunner().invoke(main, ["export", str(tmp_path / "zips"), str(tmp_path / "specs"), "--to", "tensorstore"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == ["3 specs written", str(tmp_path / "specs")]
    check(
        store,
        {path: json.loads((tmp_path / "specs" / f"{path}.json").read_bytes()) for path in ("g/t ä%2p", "one", "y")},
    )
