"""The groups and arrays of a store, as text, data and HTML."""

import json

import numpy as np
import pandas as pd
import pytest
import zarr
from click.testing import CliRunner
from pages import Page
from zarr.storage import MemoryStore

from shardedstore import ShardedStore
from shardedstore.cli.main import main
from shardedstore.display.chunk_picture import chunk_picture
from shardedstore.transforms import ToZip

HOSTILE = "<script>alert('1')<!--\"&"
SCREEN = 40  # lines
MOST_BYTES = 400_000  # of HTML


@pytest.fixture
def source(tmp_path):
    root = zarr.create_group(tmp_path / "in.zarr")
    names = ("time", "y", "x")
    cube = root.create_array("cube", shape=(9, 4, 6), chunks=(2, 2, 3), dtype="f4", dimension_names=names)
    cube[:2] = 1
    root.create_array("deep/er/plain", data=np.arange(6), chunks=(4,), compressors=None)
    root.create_array("scalar", data=np.float32(1))
    return tmp_path / "in.zarr"


def many(arrays=1000, blocks=10, zarr_format=3):
    store = MemoryStore()
    root = zarr.create_group(store, zarr_format=zarr_format)
    root.create_array("zero", shape=(blocks, 3), chunks=(1, 3), dtype="i2")
    document = store._store_dict["zero/zarr.json"]
    for i in range(arrays):
        store._store_dict[f"g{i % 7}/a{i:04}/zarr.json"] = document
    for i in range(7):
        store._store_dict[f"g{i}/zarr.json"] = store._store_dict["zarr.json"]
    return store


def test_the_tree_of_a_partition(source):
    store = ShardedStore.partition(source, {"cube": {"time": 4}, "deep": "whole"})
    assert repr(store).splitlines()[1:] == [
        "  3 arrays in 3 groups: 916 B decoded; at most 29 files",
        "  cube       9 x 4 x 6  864 B  3 shards",
        "      float32, shards of 4 x 4 x 6, at most 20 chunks of 2 x 2 x 3, zstd(0)",
        "  deep/                        1 shard",
        "    er/",
        "      plain  6          48 B   in shard /deep",
        "          int64, at most 2 chunks of 4, not compressed",
        "  scalar     scalar     4 B    in the base",
        "      float32, at most 1 chunk of scalar, zstd(0)",
    ]
    assert str(store.info()) == repr(store)


def test_counted_chunks(source):
    info = ShardedStore.partition(source, {"cube": {"time": 4}}).info(count=True)
    found = {array.path: (array.files, array.stored is not None) for array in info.arrays}
    assert found == {
        "cube": ((4, "exact"), True),
        "deep/er/plain": ((2, "exact"), True),
        "scalar": ((1, "exact"), True),
    }
    assert info.files == (13, "exact")
    assert info.stored.value == sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    assert "exact" in json.dumps(info.to_dict())
    table = info.to_dataframe()
    assert isinstance(table, pd.DataFrame)
    assert table.loc["cube", ["files", "shards", "dtype"]].tolist() == [4, 3, "float32"]


def test_a_result_counts_objects(source, tmp_path):
    new = ShardedStore.partition(source, {"cube": {"time": 4}}).map_shards(ToZip(tmp_path / "out"))
    info = ShardedStore.load(tmp_path / "out").info(count=True)
    assert info.files.basis == "exact"
    assert info.files.value == len(new.shards)
    assert [array.path for array in info.arrays] == ["cube", "deep/er/plain", "scalar"]


def test_the_view_reads_nothing(source):
    store = ShardedStore.partition(source, {"cube": {"time": 4}})
    source.rename(source.with_name("away"))
    assert "3 shards" in repr(store)
    Page(store._repr_html_())


@pytest.mark.parametrize(("arrays", "blocks"), [(10, 10), (10, 10_000), (1000, 10)])
def test_a_view_fits_a_screen_and_is_bounded(arrays, blocks):
    store = ShardedStore.partition(many(arrays, blocks), {"**": (1, -1)})
    page = store._repr_html_()
    Page(page)
    assert len(page) < MOST_BYTES
    assert len(repr(store).splitlines()) < SCREEN
    assert page.count("<svg") <= 24
    if arrays > 100:
        assert "more" in page


def test_hostile_names(tmp_path):
    root = zarr.create_group(tmp_path / "in.zarr", attributes={HOSTILE: HOSTILE})
    root.create_array(HOSTILE, shape=(4, 4), chunks=(2, 2), dtype="i4", dimension_names=(HOSTILE, "</svg>"))
    store = ShardedStore.partition(tmp_path / "in.zarr", {"*": (2, -1)})
    page = Page(store._repr_html_())
    assert "script" not in page.tags
    assert any("<script>" in text for text in page.texts)


@pytest.mark.parametrize(
    ("shape", "boxes"), [((), 0), ((0, 3), 0), ((5,), 1), ((5, 6), 1), ((5, 6, 7), 1), ((2,) * 4, 2), ((2,) * 12, 3)]
)
def test_pictures(shape, boxes):
    picture = chunk_picture(shape, (1,) * len(shape), (1,) * len(shape), None)
    Page(picture)
    assert picture.count("<svg") == boxes
    assert len(chunk_picture((10_000,) * 3, (1,) * 3, (1,) * 3, None)) < 10_000


def test_the_command_line(source):
    def run(*options):
        done = CliRunner().invoke(main, ["info", str(source), *options])
        assert done.exit_code == 0, done.output
        return done.stdout

    divided = run("--shards", "cube=time:4")
    assert "a Zarr in 4 shards\n" in divided
    assert (
        "  /cube  array (9, 4, 6), chunks (2, 2, 3), 864 B, 3 views; float32, zstd(0), at most 20 chunks\n" in divided
    )
    assert "4 chunks" in run("--count")
    told = json.loads(run("--count", "--json"))
    assert [node["files"]["value"] for node in told["nodes"] if node["kind"] == "array"] == [4, 2, 1]
