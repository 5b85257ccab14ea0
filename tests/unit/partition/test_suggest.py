"""`ShardedStore.suggest` and `shardedstore suggest`: shards by the ways in which arrays are read."""

import json
import os
import tomllib
import zipfile

import iris_sample_data
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from watching import watched
from zarr.storage import MemoryStore

from shardedstore import PartitionError, ShardedStore
from shardedstore.cli import main
from shardedstore.transforms import ToShardingCodec, ToZip


@pytest.fixture(scope="module")
def climate(tmp_path_factory):
    """Air temperature, 240 months of 37 x 49 values, in chunks of a month."""
    folder = tmp_path_factory.mktemp("climate") / "e1.zarr"
    data = xr.open_dataset(os.path.join(iris_sample_data.path, "E1_north_america.nc"), decode_times=False)
    data[["air_temperature"]].chunk({"time": 1, "latitude": 19, "longitude": 25}).to_zarr(folder, zarr_format=3)
    return folder


def opened_zips(read):
    with watched() as found:
        read()
    return len({name for name in found if ".zip" in name})


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("access", "read"),
    [
        ({"time": "series"}, np.s_[:, 3, 3]),
        ({"time": "step"}, np.s_[7]),
        ({"latitude": 10, "longitude": 10}, np.s_[:, :10, :10]),
    ],
    ids=["series", "step", "region"],
)
def test_the_files_of_a_read_are_those_of_the_suggestion(access, read, climate, tmp_path):
    suggestion = ShardedStore.partition(climate).suggest(size="256 KiB", access=access)
    store = ShardedStore.partition(climate, suggestion)
    assert len(store.shards) == suggestion.shard_count
    store.map_shards(ToZip(tmp_path / "zips"))
    (one,) = (one for one in suggestion.arrays if one.path == "air_temperature")
    assert one.nbytes <= 256 * 1024
    array = zarr.open_array(ShardedStore.load(tmp_path / "zips"), path="air_temperature", mode="r")
    base = 1  # the document of the array
    assert opened_zips(lambda: array[read]) - base in {one.costs[0].files, one.costs[0].files - base}
    assert one.costs[0].files <= one.by_size[0].files


def test_the_index_of_a_zip_has_the_supposed_size(climate, tmp_path):
    suggestion = ShardedStore.partition(climate).suggest(size="256 KiB", access={"time": "series"})
    ShardedStore.partition(climate, suggestion).map_shards(ToZip(tmp_path / "zips"))
    (one,) = (one for one in suggestion.arrays if one.path == "air_temperature")
    file = next((tmp_path / "zips" / "air_temperature").rglob("*.zip"))
    with zipfile.ZipFile(file) as found:
        index = file.stat().st_size - found.start_dir
    chunks = one.costs[0].requests - one.costs[0].files
    supposed = one.costs[0].nbytes - chunks * 19 * 25 * 4
    assert index * one.costs[0].files == pytest.approx(supposed, rel=0.2)


def test_objects_of_the_sharding_codec(climate, tmp_path):
    suggestion = ShardedStore.partition(climate).suggest(target="sharding", size="256 KiB", access={"time": "series"})
    store = ShardedStore.partition(climate, suggestion)
    store.map_shards(ToShardingCodec(tmp_path / "out.zarr", object_size=suggestion.size))
    array = zarr.open_array(tmp_path / "out.zarr", path="air_temperature", mode="r")
    (one,) = (one for one in suggestion.arrays if one.path == "air_temperature")
    assert tuple(array.shards) == tuple(-(-s // c) * c for s, c in zip(one.shape, array.chunks, strict=True))
    assert np.array_equal(array[:], zarr.open_array(climate, path="air_temperature", mode="r")[:])


def grid(shape, chunks, names=None, **options):
    store = MemoryStore()
    zarr.create_group(store)
    zarr.create_array(store, name="a[1]", shape=shape, chunks=chunks, dtype="f4", dimension_names=names, **options)
    return ShardedStore.partition(store)


ERA5 = grid((8760, 721, 1440), (24, 103, 180), ("time", "lat", "lon"))


@pytest.mark.parametrize(
    ("access", "rule"),
    [
        (None, {"time": 120}),
        ({"time": "step"}, {"time": 120}),
        ({"time": "series"}, {"time": 4392, "lat": 103, "lon": 180}),
        ({"lat": 100, "lon": 100}, {"time": 4392, "lat": 103, "lon": 180}),
        ([{"time": "series"}, {"time": "step"}], {"time": 432, "lat": 206}),
    ],
)
def test_shapes_by_access(access, rule):
    assert dict(ERA5.suggest(access=access)) == {"a[[]1]": rule, "*": "512 MiB"}


def test_reasons_tell_growth_chunks_and_single_objects():
    store = grid((400, 4, 4), (1, 4, 4), ("time", "y", "x"))
    (one,) = store.suggest(size="16 KiB", access={"time": "step"}).arrays
    assert "one step of time opens 1 of 2 shards" in one.reason
    store = grid((400, 8, 8), (1, 4, 4), ("time", "y", "x"))
    (one,) = store.suggest(size="32 KiB", access={"time": "series"}).arrays
    assert "data that are appended along time change all shards" in one.reason
    (one,) = ERA5.suggest(access={"time": "series"}).arrays
    assert "decodes 619.57 MiB for 34.22 kiB, because of its chunks" in one.reason
    (one,) = grid((9,), (2,)).suggest(target="sharding").arrays
    assert (one.rule, one.reason) == ((-1,), "one object for its 5 chunks")


@pytest.mark.parametrize(
    ("shape", "chunks", "says"),
    [((), (), "it is a scalar"), ((9,), (9,), "it is one chunk"), ((9,), (2,), "its 36 B are less than the size")],
)
def test_arrays_that_stay_in_the_base(shape, chunks, says):
    suggestion = grid(shape, chunks).suggest()
    assert dict(suggestion) == {"*": "512 MiB"}
    assert suggestion.arrays[0].reason.startswith(says)
    assert suggestion.shard_count == 1


def test_the_sharding_codec_is_read_by_its_inner_chunks():
    store = grid((400, 8), (10, 8), ("time", "x"), shards=(100, 8))
    (one,) = store.suggest(size="6 KiB", access={"time": 10}).arrays
    assert (one.shape, one.costs[0].requests, one.now[0].requests) == ((100, 8), 2, 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target": "tar"}, "target='tar' is not known: say 'zip' or 'sharding'"),
        ({"size": "big"}, "size='big' is not a size: write it like '512 MiB'"),
        ({"size": 0}, "size=0 is not a size"),
        (
            {"access": {"tim": "series"}},
            "the dimension 'tim', but the dimensions of the arrays have the names: 'lat', 'lon'",
        ),
        ({"access": {"time": "map"}}, r"access\['time'\] is 'map': write 'series'"),
        ({"access": {"time": 0}}, r"access\['time'\] is 0: write 'series'"),
        ({"access": ["time"]}, "access='time' names no dimension"),
        ({"access": "time"}, "access='time' names no dimension"),
        ({"access": {}}, "access={} names no dimension"),
    ],
)
def test_refused(options, says):
    with pytest.raises(PartitionError, match=says):
        ERA5.suggest(**options)


def test_collections_are_refused(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(9,), chunks=(2,), dtype="i4")
    with pytest.raises(PartitionError, match="each of its members is a shard: ToZip"):
        ShardedStore.collect(tmp_path / "*.zarr").suggest()


def test_views():
    suggestion = ERA5.suggest(access=[{"time": "series"}, {"time": "step"}])
    told = suggestion.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["shards"] == dict(suggestion)
    frame = suggestion.to_dataframe()
    assert frame.loc["a[1]", "read_files_now_2"] == 56
    text = str(suggestion)
    assert "files 365 -> 21, requests 365 -> 386, 619.87 MiB" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "365 -&gt; 21" in suggestion._repr_html_()


def test_many_arrays_fill_one_screen():
    store = MemoryStore()
    group = zarr.create_group(store)
    for number in range(30):
        group.create_array(f"a{number}", shape=(8, 8), chunks=(2, 2), dtype="f8")
    suggestion = ShardedStore.partition(store).suggest(size="64 B")
    assert len(repr(suggestion).splitlines()) < 40
    assert "... and 24 more" in repr(suggestion)


def run(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_command_line(climate):
    done = run("suggest", climate, "--size", "256 KiB", "--access", "time=series")
    assert done.exit_code == 0, done.output
    rules = tomllib.loads(done.stdout.splitlines()[-1])["shards"]
    assert rules == dict(ShardedStore.partition(climate).suggest(size="256 KiB", access={"time": "series"}))
    told = json.loads(run("suggest", climate, "--json", "--to", "sharding-codec").stdout)
    assert told["target"] == "sharding"
    refused = run("suggest", climate, "--access", "time")
    assert refused.exit_code == 2
    assert "--access 'time' is not an access: write it like time=series" in refused.stderr


def test_init_writes_the_suggestion(tmp_path):
    zarr.create_group(tmp_path / "e5.zarr")
    zarr.create_array(
        tmp_path / "e5.zarr",
        name="t2m",
        shape=(8760, 721, 1440),
        chunks=(24, 103, 180),
        dtype="f4",
        dimension_names=("time", "lat", "lon"),
    )
    plain = run("init", tmp_path / "e5.zarr")
    assert 'or for each array: {t2m = {time = 120}, "*" = "512 MiB"}' in plain.stdout
    done = run("init", tmp_path / "e5.zarr", "--access", "time=series")
    assert tomllib.loads(done.stdout)["job"][0]["shards"]["t2m"] == {"time": 4392, "lat": 103, "lon": 180}
    assert "# /t2m: a series along time opens 2 of 112 shards" in done.stdout
