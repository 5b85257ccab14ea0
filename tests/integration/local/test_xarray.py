"""The xarray engine: configs open by path or URL, and equal their source."""

import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import dask
import iris_sample_data
import numpy as np
import pytest
import xarray as xr
import zarr
from helpers_jobs import CUBE
from servers import web
from sources import build, root_array, to_folder
from xarray.backends import ZarrBackendEntrypoint
from xarray.backends.plugins import guess_engine
from xarray.testing import assert_identical
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.registry import register_pipeline

from shardedstore import ConfigError, CorruptError, ShardedStore, UsageError
from shardedstore.transforms import ToZip
from shardedstore.xarray_engine import ShardedStoreBackend

SHARDS = {"air": "whole", "ocean/surface_temperature": {"time": 18}}
CHUNKS = {"time": 6, "latitude": 9}


def real_data(path, zarr_format, *, consolidated):
    """Real air and ocean data as groups of one Zarr, and some air data at the root."""
    air, ocean = (
        xr.open_dataset(Path(iris_sample_data.path, f"{name}.nc"), decode_times=False)
        for name in ("A1B_north_america", "ostia_monthly")
    )
    for dataset in (air, ocean):
        for variable in dataset.variables.values():
            variable.encoding.clear()
            if variable.ndim > 1:
                variable.encoding["chunks"] = [CHUNKS.get(dim, n) for dim, n in variable.sizes.items()]
    tree = xr.DataTree.from_dict({"/": air[["height"]], "air": air, "ocean": ocean})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        tree.to_zarr(path, zarr_format=zarr_format, consolidated=consolidated)
    return f"{path}"


@pytest.fixture(scope="module", params=[2, 3])
def zarr_format(request):
    return request.param


@pytest.fixture(scope="module", params=[True, False], ids=["consolidated", "not consolidated"])
def consolidated(request):
    return request.param


@pytest.fixture(scope="module")
def source(zarr_format, consolidated, tmp_path_factory):
    return real_data(tmp_path_factory.mktemp("source") / "real.zarr", zarr_format, consolidated=consolidated)


@pytest.fixture(scope="module")
def out(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    ShardedStore.partition(source, SHARDS).map_shards(ToZip(folder))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One result, for tests that do not depend on the format."""
    folder = tmp_path_factory.mktemp("plain")
    source = real_data(folder / "real.zarr", 3, consolidated=False)
    ShardedStore.partition(source, SHARDS).map_shards(ToZip(folder / "out"))
    return folder


def original(source, consolidated, **options):
    return xr.open_dataset(source, engine="zarr", consolidated=consolidated, **options)


# Everything that opens


def test_a_dataset(source, out, consolidated):
    for group in ("air", "/ocean/", None):
        expected = original(source, consolidated, group=group)
        for place in (out / "shardedstore.json", f"{out}/shardedstore.json", out, f"{out}/"):
            with xr.open_dataset(place, engine="shardedstore", group=group) as found:
                assert_identical(found.load(), expected)


def test_a_tree(source, out, consolidated):
    expected = xr.open_datatree(source, engine="zarr", consolidated=consolidated)
    with xr.open_datatree(out / "shardedstore.json", engine="shardedstore") as found:
        assert_identical(found.load(), expected)
    groups = xr.open_groups(out, engine="shardedstore")
    assert groups.keys() == {"/", "/air", "/ocean"}
    assert_identical(groups["/ocean"].load(), expected["ocean"].to_dataset())
    below = xr.open_datatree(out, engine="shardedstore", group="ocean")
    assert_identical(below.to_dataset().load(), expected["ocean"].to_dataset())


def test_consolidated_metadata_is_used_where_there_is_some(out, consolidated, monkeypatch):
    asked, get = [], ShardedStore.get
    monkeypatch.setattr(
        ShardedStore, "get", lambda store, key, *args, **more: asked.append(key) or get(store, key, *args, **more)
    )
    xr.open_dataset(out, engine="shardedstore", group="air", decode_cf=False)
    alone = [key for key in asked if key.startswith("air/air_temperature/") and key.endswith((".zarray", "zarr.json"))]
    assert bool(alone) is not consolidated
    xr.open_dataset(out, engine="shardedstore", group="air", decode_cf=False, consolidated=False)
    assert any(key.startswith("air/air_temperature/") for key in asked)


def test_chunks_of_dask_are_blocks(source, out, consolidated):
    found = xr.open_dataset(out, engine="shardedstore", group="ocean", chunks={})
    assert found["surface_temperature"].chunks == ((18,) * 3, (18,), (432,))
    array = found["surface_temperature"].data
    tasks = [key for key in array.__dask_graph__() if key[0] == array.name]
    assert sorted(tasks) == [(array.name, i, 0, 0) for i in range(3)]
    assert_identical(found.compute(scheduler="threads"), original(source, consolidated, group="ocean"))
    for opened in (
        xr.open_datatree(out, engine="shardedstore", chunks={})["ocean"],
        xr.open_groups(out, engine="shardedstore", chunks={})["/ocean"],
        xr.open_datatree(out, engine="shardedstore", group="ocean", chunks={}),
    ):
        assert opened["surface_temperature"].chunks == ((18,) * 3, (18,), (432,))


@pytest.mark.parametrize(("limit", "expected", "auto"), [("8 MiB", 18, 54), ("300 KiB", 6, 6), ("1.2 MiB", 18, 36)])
def test_chunks_of_dask_divide_blocks_or_join_them(plain, limit, expected, auto):
    """A block has 547 KiB, and its chunks have 6 steps of 54."""
    with dask.config.set({"array.chunk-size": limit}), warnings.catch_warnings():
        warnings.simplefilter("error")
        blocks = xr.open_dataset(plain / "out", engine="shardedstore", group="ocean", chunks={})
        found = xr.open_dataset(plain / "out", engine="shardedstore", group="ocean", chunks="auto")
    assert set(blocks["surface_temperature"].chunks[0]) == {expected}
    ends = np.cumsum(found["surface_temperature"].chunks[0])
    assert not np.any(ends % expected)
    assert found["surface_temperature"].chunks[0][0] == auto
    assert found["surface_temperature"].dtype == "f4"


def test_undivided_arrays_keep_their_chunks(plain):
    found = xr.open_dataset(plain / "out", engine="shardedstore", group="air", chunks={})
    theirs = xr.open_dataset(plain / "real.zarr", engine="zarr", consolidated=False, group="air", chunks={})
    for name in found.variables:
        assert found[name].chunks == theirs[name].chunks
    with dask.config.set({"array.chunk-size": "2 KiB"}):  # a chunk of the array is larger
        found = xr.open_dataset(plain / "out", engine="shardedstore", group="ocean", chunks={})
    assert set(found["surface_temperature"].chunks[0]) == {6}


def test_a_view_has_chunks_of_blocks_as_well(plain):
    view = ShardedStore.partition(plain / "real.zarr", SHARDS)
    assert (
        xr.open_dataset(view, engine="shardedstore", group="ocean", chunks={})["surface_temperature"].chunks[0]
        == (18,) * 3
    )


# The codec pipeline


def pipelines(dataset):
    """The codec pipelines of the variables that are read from arrays."""
    for variable in dataset.variables.values():
        data = variable._data
        while data is not None and not hasattr(data, "get_array"):
            data = getattr(data, "array", None)
        if data is not None:
            yield type(data.get_array().async_array.codec_pipeline).__name__


def test_the_fused_pipeline_reads(plain):
    fused = "FusedCodecPipeline" if hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline") else "BatchedCodecPipeline"
    before = zarr.config.get("codec_pipeline.path")
    found = xr.open_dataset(plain / "out", engine="shardedstore", group="ocean")
    assert {*pipelines(found), *pipelines(pickle.loads(pickle.dumps(found)))} == {fused}
    assert {*pipelines(xr.open_groups(plain / "out", engine="shardedstore")["/air"])} == {fused}
    assert zarr.config.get("codec_pipeline.path") == before
    assert {*pipelines(original(plain / "real.zarr", False, group="ocean"))} == {"BatchedCodecPipeline"}
    assert_identical(found.load(), original(plain / "real.zarr", False, group="ocean"))


class OwnPipeline(BatchedCodecPipeline):
    """A pipeline of the user."""


def test_a_configured_pipeline_stays(plain):
    register_pipeline(OwnPipeline)
    with zarr.config.set({"codec_pipeline.path": f"{OwnPipeline.__module__}.OwnPipeline"}):
        found = xr.open_dataset(plain / "out", engine="shardedstore", group="ocean")
    assert {*pipelines(found)} == {"OwnPipeline"}


# Zips


@pytest.fixture(scope="module")
def zips(plain):
    """The real data as zips: with the Zarr at the root, and in a folder."""
    keys = {path.relative_to(plain).as_posix(): path for path in (plain / "real.zarr").rglob("*") if path.is_file()}
    for name, start in (
        ("a.zarr.zip", "real.zarr/"),
        ("a.ozx", "real.zarr/"),
        ("in.zarr.zip", ""),
        ("a.zip", "real.zarr/"),
    ):
        with zipfile.ZipFile(plain / name, "w") as made:
            for key, path in keys.items():
                made.write(path, key.removeprefix(start))
    return plain


@pytest.mark.parametrize("name", ["a.zarr.zip", "a.ozx", "in.zarr.zip", "in.zarr.zip|zip:real.zarr/"])
def test_zips_need_no_engine(name, zips):
    expected = original(zips / "real.zarr", False, group="air")
    for place in (zips / name, f"{zips}/{name}"):
        assert_identical(xr.open_dataset(place, group="air").load(), expected)
        assert set(xr.open_datatree(place).groups) == {"/", "/air", "/ocean"}


def test_urls_need_no_engine(zips, tmp_path):
    """netCDF4 guesses that each URL is its own that does not contain the word zarr."""
    expected = original(zips / "real.zarr", False, group="air")
    (tmp_path / "real.zarr-site").symlink_to(zips)
    with web(tmp_path) as server:
        for name in ("a.zarr.zip", "a.ozx", "out/shardedstore.json"):
            assert_identical(xr.open_dataset(f"{server}/real.zarr-site/{name}", group="air").load(), expected)
        assert_identical(
            xr.open_dataset(f"{server}/real.zarr-site/a.zip", engine="shardedstore", group="air").load(), expected
        )


def test_netcdf4_claims_other_urls(zips):
    """If this fails, xarray has changed its order, and docs/read.md can be shorter."""
    pytest.importorskip("netCDF4")
    for url in ("s3://bucket/out/shardedstore.json", "https://example.org/a.ozx"):
        assert guess_engine(url) == "netcdf4"
        assert guess_engine(url.replace("/out", "/out-zarr").replace("a.ozx", "a.zarr.zip")) == "shardedstore"
    with web(zips) as server:
        expected = original(zips / "real.zarr", False, group="air")
        for name in ("a.ozx", "out/shardedstore.json"):
            assert_identical(xr.open_dataset(ShardedStore.load(f"{server}/{name}"), group="air").load(), expected)
            found = xr.open_dataset(f"{server}/{name}", engine="shardedstore", group="air")
            assert_identical(found.load(), expected)


def test_a_plain_zip_needs_the_engine(zips):
    with xr.open_dataset(zips / "a.zip", engine="shardedstore", group="air") as found:
        assert_identical(found.load(), original(zips / "real.zarr", False, group="air"))
    refused("is a zip, and partial= is an option of configs", zips / "a.zip", partial=True)
    refused("there is no group 'aire': did you mean 'air'?", zips / "a.zip", group="aire")


@pytest.mark.parametrize(
    "options",
    [
        {"decode_cf": False},
        {"decode_times": False, "mask_and_scale": False},
        {"drop_variables": ["air_temperature", "time_bnds"]},
        {"decode_coords": "all"},
        {"use_zarr_fill_value_as_mask": True},
        {"cache_members": False},
    ],
    ids=str,
)
def test_options_of_decoding(plain, options):
    expected = original(plain / "real.zarr", False, group="air", **options)
    assert_identical(xr.open_dataset(plain / "out", engine="shardedstore", group="air", **options), expected)


def test_all_options_of_the_engine_for_zarr():
    here = set(ShardedStoreBackend.open_dataset_parameters)
    theirs = xr.backends.plugins.detect_parameters(ZarrBackendEntrypoint.open_dataset)
    assert here == set(theirs) - {"mode", "store", "engine"} | {"allow", "partial", "root"}


def test_without_a_name_of_the_engine(plain):
    expected = original(plain / "real.zarr", False, group="air")
    for place in (plain / "out/shardedstore.json", f"{plain}/out", ShardedStore.load(plain / "out")):
        assert_identical(xr.open_dataset(place, group="air"), expected)
        assert set(xr.open_datatree(place).groups) == {"/", "/air", "/ocean"}


def test_what_it_guesses_to_be_its_own(plain, monkeypatch):
    guess = ShardedStoreBackend().guess_can_open
    assert guess("s3://bucket/out/shardedstore.json")  # without a request: there is no such server
    assert guess("https://example.invalid/a/old-shardedstore.json")
    assert guess("https://example.invalid/a.ozx?signature=a/b.nc#part")
    assert guess("s3://bucket/A.ZARR.ZIP|zip:b/")
    assert guess(Path("a.zarr.zip"))
    assert guess(plain / "out")
    assert not any(
        map(
            guess,
            (
                "s3://bucket/out",
                plain,
                plain / "real.zarr",
                f"{plain}/none",
                "a.nc",
                "a.zip",
                "b.zarr",
                b"CDF",
                None,
                3,
            ),
        )
    )
    with os.scandir(os.fsencode(plain)) as entries:
        assert not any(map(guess, entries))  # whose paths are bytes
    monkeypatch.chdir(plain / "out")
    assert guess("shardedstore.json")
    assert guess(".")


def test_many_at_once(tmp_path):
    parts = [xr.Dataset({"t": ("x", np.arange(6.0))}, {"x": np.arange(6) + 6 * i}) for i in range(3)]
    for i, part in enumerate(parts):
        part.to_zarr(tmp_path / f"{i}.zarr", consolidated=False)
        ShardedStore.partition(tmp_path / f"{i}.zarr").map_shards(ToZip(tmp_path / f"out-{i}"))
    with xr.open_mfdataset(f"{tmp_path}/out-*/shardedstore.json", engine="shardedstore", parallel=True) as dataset:
        assert_identical(dataset.compute(), xr.concat(parts, "x"))


def test_the_dimensions_of_nczarr(tmp_path):
    """They are only in the array's document, which xarray requests in its own way."""
    array = zarr.create_array(tmp_path / "nc.zarr", name="t", data=np.arange(6.0), chunks=(2,), zarr_format=2)
    document = tmp_path / "nc.zarr" / array.path / ".zarray"
    document.write_text(json.dumps(json.loads(document.read_text()) | {"_NCZARR_ARRAY": {"dimrefs": ["/x"]}}))
    expected = original(tmp_path / "nc.zarr", consolidated=False)
    assert expected.t.dims == ("x",)
    views = ShardedStore.partition(tmp_path / "nc.zarr", {"t": (2,)})
    zips = ShardedStore.partition(tmp_path / "nc.zarr").map_shards(ToZip(tmp_path / "out"))
    for store in (views, views.map_shards(ToZip(tmp_path / "blocks")), ShardedStore(tmp_path / "nc.zarr")):
        assert_identical(original(store, consolidated=False), expected)
        assert_identical(xr.open_dataset(store, engine="shardedstore"), expected)
    assert_identical(original(zips.shards["(base)"].open(), consolidated=False), expected)


# In the cloud


def test_in_the_cloud(plain, bucket, s3_server, use_environment):
    store = ShardedStore.partition(plain / "real.zarr", SHARDS)
    environment = s3_server.environment()
    store.map_shards(ToZip(bucket.url))
    expected = original(plain / "real.zarr", False, group="air")
    for place in (bucket.url, f"{bucket.url}/shardedstore.json"):
        assert_identical(xr.open_dataset(place, engine="shardedstore", group="air").load(), expected)
    tree = xr.open_datatree(bucket.url, engine="shardedstore", chunks={})
    assert_identical(tree["air"].to_dataset().compute(), expected)

    use_environment({})
    options = {
        name.lower(): value == "true" if value in ("true", "false") else value for name, value in environment.items()
    }
    found = xr.open_dataset(bucket.url, engine="shardedstore", group="air", storage_options=options)
    assert_identical(found.load(), expected)


def test_nothing_in_the_cloud(bucket):
    with pytest.raises(ConfigError, match=r"no config can be read at 's3://tests/.*/none/shardedstore\.json'"):
        xr.open_dataset(f"{bucket.url}/none", engine="shardedstore")


# On a cluster


def test_on_a_cluster_of_processes(plain, workers):
    found = xr.open_dataset(plain / "out", engine="shardedstore", group="ocean", chunks={})
    assert_identical(found.compute(), original(plain / "real.zarr", False, group="ocean"))
    tree = xr.open_datatree(plain / "out", engine="shardedstore", chunks={})
    mean = tree["air/air_temperature"].mean().compute()
    expected = original(plain / "real.zarr", False, group="air")["air_temperature"].mean()
    assert float(mean) == pytest.approx(float(expected), rel=1e-5)


# Mistakes


def refused(match, place, error=UsageError, **options):
    with pytest.raises(error, match=match) as raised:
        xr.open_dataset(place, engine="shardedstore", **options)
    return raised.value


def test_a_place_without_a_config(plain, tmp_path):
    refused("no config can be read at '.*none/shardedstore.json': No such file", tmp_path / "none", ConfigError)
    refused("is a Zarr: open it with ShardedStore.partition", plain / "real.zarr", ConfigError)
    (tmp_path / "shardedstore.json").write_text('{"a": 1}')
    refused("this is not a shardedstore config", tmp_path, ConfigError)
    refused("opens the path or URL of a shardedstore.json or a zip, but was given a bytes", b"CDF")


@pytest.mark.parametrize("consolidated", [None, False])
def test_a_group_that_is_not_there(plain, consolidated):
    out = plain / "out"
    refused(
        "can't be opened: there is no group 'aire': did you mean 'air'?", out, group="aire", consolidated=consolidated
    )
    refused("no group 'ocean/x': there are 'ocean/", out, group="ocean/x", consolidated=consolidated)
    refused(
        "no group 'x/y': there are 'air', 'forecast_reference_time', 'height', 'ocean'",
        out,
        group="x/y",
        consolidated=consolidated,
    )
    refused("'air/height' is an array, but a dataset is a group", out, group="air/height", consolidated=consolidated)
    with pytest.raises(UsageError, match="there is no group 'aire'"):
        xr.open_datatree(out, engine="shardedstore", group="aire")
    with pytest.raises(UsageError, match="there is no group 'aire'"):
        xr.open_groups(out, engine="shardedstore", group="aire")


def test_a_group_that_is_not_there_in_consolidated_metadata(out):
    refused("there is no group 'aire': did you mean 'air'?", out, group="aire")


def test_what_is_not_as_asked_for(plain):
    refused("its Zarr format is 3, but zarr_format=2 was given", plain / "out", zarr_format=2)
    refused("it has no consolidated metadata, but consolidated=True was given", plain / "out", consolidated=True)
    for name in ("mode", "store"):
        refused(f"engine 'shardedstore' takes no {name}=", plain / "out", **{name: "a"})


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_is_no_dataset(tmp_path, zarr_format):
    source = to_folder(build(root_array, zarr_format), tmp_path / "a.zarr")
    ShardedStore.partition(source).map_shards(ToZip(tmp_path / "out"))
    refused("its root is an array, but a dataset is a group: open it with zarr.open_array", tmp_path / "out")


def test_an_empty_store(tmp_path):
    refused("it holds no Zarr", ShardedStore(tmp_path / "none"))


def test_a_shard_that_was_removed_is_not_taken_for_a_mistake(plain, tmp_path):
    ShardedStore.partition(plain / "real.zarr", ["air"]).map_shards(ToZip(tmp_path))
    (tmp_path / "air.zarr.zip").unlink()
    refused("air.zarr.zip", tmp_path, (CorruptError, FileNotFoundError), group="air")


def test_places_elsewhere_are_allowed_one_by_one(plain, tmp_path):
    ShardedStore.partition(plain / "real.zarr", ["air"]).save(tmp_path / "shardedstore.json")
    refused("which is outside its own folder", tmp_path, ConfigError, group="air")
    found = xr.open_dataset(tmp_path, engine="shardedstore", group="air", allow=[f"{plain}"])
    assert_identical(found, original(plain / "real.zarr", False, group="air"))


def test_a_job_that_has_not_ended(tmp_path):
    source = to_folder(CUBE.contents(), tmp_path / "source.zarr")
    ShardedStore.partition(source, {"temperature": {"time": 2}}).map_shards(ToZip(tmp_path / "out"))
    (tmp_path / "out/shardedstore.json").unlink()
    refused("there is no config at .* yet, as the job has not ended", tmp_path / "out", ConfigError)
    found = xr.open_dataset(tmp_path / "out", engine="shardedstore", partial=True, allow=[source])
    assert np.array_equal(found["temperature"], zarr.open(source)["temperature"])


# Imported modules

IMPORTS = """
import sys
import shardedstore
assert "xarray" not in sys.modules, "importing shardedstore imports xarray"
import xarray
xarray.open_dataset(sys.argv[1], engine="shardedstore", group="air").load()
assert "shardedstore.xarray_engine" in sys.modules
assert "distributed" not in sys.modules, "the engine imports distributed"
"""


def test_what_importing_brings_along(plain):
    command = [sys.executable, "-c", IMPORTS, f"{plain}/out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
