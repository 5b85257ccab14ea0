"""xarray writes through a `ShardedStore` in all modes and from several workers, like to a folder."""

import warnings
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import zarr

from shardedstore import ShardedStore, array_shard_directory_store
from shardedstore.transforms import ToZip

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part:UserWarning")


@pytest.fixture(params=[2, 3])
def zarr_format(request):
    return request.param


def sharded(root: Path) -> ShardedStore:
    return ShardedStore(
        root / "base",
        {"height": root / "height"},
        {
            "temperature": ({"time": 4}, array_shard_directory_store(root / "temperature")),
            "wind": (2, array_shard_directory_store(root / "wind")),
        },
    )


def dataset(first=0, times=8):
    shape = (times, 6, 5)
    time = np.arange(first, first + times)
    data = np.arange(np.prod(shape), dtype="f4").reshape(shape) + 1000 * first
    return xr.Dataset(
        {
            "temperature": (("time", "y", "x"), data, {"units": "K"}),
            "wind": (("time", "y", "x"), -data),
            "height": (("y", "x"), data[0] / 2),
        },
        coords={"time": time, "y": np.arange(6)},
        attrs={"title": "a cube"},
    ).chunk({"time": 2, "y": 3, "x": 5})


def write(stores, data, zarr_format, **options):
    for store in stores:
        data.to_zarr(store, zarr_format=zarr_format if options.get("mode") in ("w", "w-") else None, **options)


def check_same(stores, *, consolidated=False):
    plain, ours = (xr.open_zarr(store, chunks=None, consolidated=consolidated).load() for store in stores)
    assert plain.identical(ours)
    return ours


@pytest.fixture
def stores(tmp_path):
    return [zarr.storage.LocalStore(tmp_path / "plain"), sharded(tmp_path)]


@pytest.mark.few(2)
@pytest.mark.parametrize("consolidated", [True, False])
def test_all_modes(stores, zarr_format, consolidated, workers, tmp_path):
    write(stores, dataset(), zarr_format, mode="w", consolidated=consolidated)
    check_same(stores, consolidated=consolidated)
    for store in stores:
        with pytest.raises(FileExistsError):
            dataset().to_zarr(store, mode="w-")
    more = xr.Dataset({"later": (("time",), np.arange(8.0))}).chunk({"time": 4})
    write(stores, more, zarr_format, mode="a", consolidated=consolidated)
    check_same(stores, consolidated=consolidated)
    write(stores, dataset()[["wind"]] * 2, zarr_format, mode="r+", consolidated=consolidated)
    check_same(stores, consolidated=consolidated)
    region = dataset().isel(time=slice(2, 6)).drop_vars(["y", "height"]) + 5
    write(stores, region, zarr_format, region={"time": slice(2, 6)}, consolidated=consolidated)
    ours = check_same(stores, consolidated=consolidated)
    assert float(ours.temperature[2, 0, 0]) == 65
    write(stores, dataset(3, 4), zarr_format, mode="w", consolidated=consolidated)
    assert check_same(stores, consolidated=consolidated).sizes["time"] == 4
    assert {path.name for path in (tmp_path / "temperature").iterdir()} == {"0.zarr"}


def test_appending(stores, zarr_format, workers, tmp_path):
    write(stores, dataset(0, 6), zarr_format, mode="w", consolidated=False)
    for first in (6, 10, 12):
        part = dataset(first, 4 if first == 6 else 2).drop_vars(["height"])
        write(stores, part, zarr_format, append_dim="time", consolidated=False)
    ours = check_same(stores)
    assert ours.sizes["time"] == 14
    assert {path.name for path in (tmp_path / "temperature").iterdir()} == {f"{i}.zarr" for i in range(4)}
    assert zarr.open_array(tmp_path / "temperature/3.zarr").shape == (2, 6, 5)
    zips = stores[1].map_shards(ToZip(tmp_path / "zips"))
    assert xr.open_zarr(zips, chunks=None, consolidated=False).load().identical(ours)
    assert zips.verify(stores[1]).ok


def test_regions_from_several_processes(stores, zarr_format, workers):
    """Metadata first, then each region from a separate process with the pickled store."""
    for store in stores:
        dataset().to_zarr(store, mode="w", zarr_format=zarr_format, compute=False, consolidated=True)

        def region(first, store=store):
            part = dataset().isel(time=slice(first, first + 2)).drop_vars(["y", "height"])
            with dask.config.set(scheduler="synchronous"):
                part.to_zarr(store, region={"time": slice(first, first + 2)}, consolidated=True)

        workers.gather(workers.map(region, range(0, 8, 2), pure=False))
        dataset()[["height"]].drop_vars("y").to_zarr(store, mode="r+")
    assert check_same(stores, consolidated=True).identical(dataset().load())


def test_a_tree(tmp_path, zarr_format, workers):
    tree = xr.DataTree.from_dict({"/": dataset()[["height"]], "a": dataset(), "a/b": dataset(0, 8) * 2})
    store = ShardedStore(
        tmp_path / "base",
        {"a/b": tmp_path / "b"},
        {"a/temperature": (1, array_shard_directory_store(tmp_path / "t"))},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tree.to_zarr(store, zarr_format=zarr_format)
    found = xr.open_datatree(ShardedStore.from_config(store.get_config()), engine="zarr").load()
    assert found.identical(tree.load())
