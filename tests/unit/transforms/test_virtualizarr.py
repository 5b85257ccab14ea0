"""VirtualiZarr indexes the zips of `ToZip` with few requests, and its references have the same values."""

import asyncio
import zipfile

import dask
import numpy as np
import pytest
import xarray as xr
from obstore.store import LocalStore

from shardedstore import ShardedStore
from shardedstore.transforms import ToZip

pytest.importorskip("virtualizarr.parsers.zarr.zip", reason="VirtualiZarr 2.6 and older have no parser of zips")
from obspec_utils.registry import ObjectStoreRegistry  # installed with virtualizarr
from virtualizarr import open_virtual_dataset, open_virtual_datatree
from virtualizarr.parsers import ZippedZarrParser
from virtualizarr.parsers.zarr.zip import parse_zip_index

KINDS = [(zarr_format, zip64) for zarr_format in (2, 3) for zip64 in (False, True)]


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def dataset():
    values = np.random.default_rng(0).random((4, 3, 2))
    coords = {"time": np.arange(4), "lat": [10.0, 20, 30], "lon": [1.0, 2]}
    return xr.Dataset({"air": (("time", "lat", "lon"), values), "scalar": ((), 3.5)}, coords, {"title": "air"})


def zipped(data, folder, zarr_format=3, *, zip64=False, encoding=None):
    """Write a dataset or a tree to one zip, in several shards."""
    data.to_zarr(folder / "source.zarr", zarr_format=zarr_format, consolidated=False, encoding=encoding)
    store = ShardedStore.partition(folder / "source.zarr", 48)
    assert len(store.shards) > 0
    store.map_shards(ToZip(folder / "air.zarr.zip", zip64=zip64))
    return folder / "air.zarr.zip"


def opened(url, open_virtual=open_virtual_dataset, group=None, **options):
    registry = ObjectStoreRegistry({"file://": LocalStore()})
    parser = ZippedZarrParser(group=group, skip_variables=options.pop("skip_variables", ()))
    return open_virtual(url=f"file://{url}", registry=registry, parser=parser, **options)


CHUNKS = {"air": {"chunks": (2, 3, 2)}}


@pytest.mark.parametrize(("zarr_format", "zip64"), KINDS)
def test_values_and_ranges_are_those_of_the_zip(zarr_format, zip64, tmp_path):
    expected = dataset()
    url = zipped(expected, tmp_path, zarr_format, zip64=zip64, encoding=CHUNKS)
    with opened(url, loadable_variables=list(expected.variables)) as found:
        xr.testing.assert_identical(found.load(), expected)
    data = url.read_bytes()
    with opened(url, loadable_variables=[]) as virtual, zipfile.ZipFile(url) as file:
        manifest = virtual["air"].data.manifest.dict()
        assert manifest.keys() == {"0.0.0", "1.0.0"}
        for index, entry in manifest.items():
            name = f"air/c/{index.replace('.', '/')}" if zarr_format == 3 else f"air/{index}"
            assert data[entry["offset"] :][: entry["length"]] == file.read(name)


class Counted:
    """Counts the ranges that the parser reads."""

    def __init__(self, store):
        self.store, self.ranges = store, 0

    async def head_async(self, path):
        return await self.store.head_async(path)

    async def get_range_async(self, path, **options):
        self.ranges += 1
        return await self.store.get_range_async(path, **options)

    async def get_ranges_async(self, path, *, starts, ends):
        self.ranges += len(starts)
        return await self.store.get_ranges_async(path, starts=starts, ends=ends)


@pytest.mark.parametrize(("zarr_format", "zip64"), KINDS)
def test_the_index_needs_the_directory_alone(zarr_format, zip64, tmp_path):
    many = xr.Dataset({f"v{i}": (("x",), np.arange(8, dtype="f4")) for i in range(30)})
    url = zipped(many, tmp_path, zarr_format, zip64=zip64)
    store = Counted(LocalStore(prefix=tmp_path))
    index = asyncio.run(parse_zip_index(store, url.name))
    assert store.ranges <= 2
    data = url.read_bytes()
    with zipfile.ZipFile(url) as file:
        assert index.keys() == set(file.namelist())
        for name, entry in index.items():
            assert data[entry.data_offset :][: entry.compressed_length] == file.read(name)


def test_trees_groups_and_variables_are_found(tmp_path):
    child = xr.Dataset({"pressure": (("y",), np.arange(3.0))})
    url = zipped(xr.DataTree.from_dict({"/": dataset(), "/child": child}), tmp_path)
    with opened(url, open_virtual_datatree) as tree:
        assert {"air", "scalar"} <= tree.ds.variables.keys()
        assert "pressure" in tree["child"].ds
    with opened(url, group="child", loadable_variables=["pressure"]) as found:
        xr.testing.assert_identical(found["pressure"].load(), child["pressure"])
    with opened(url, skip_variables=["air"]) as found:
        assert "air" not in found


def test_chunk_keys_may_have_dots(tmp_path):
    encoding = {
        "air": {**CHUNKS["air"], "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}}}
    }
    url = zipped(dataset(), tmp_path, encoding=encoding)
    with opened(url, loadable_variables=["air"]) as found:
        xr.testing.assert_identical(found["air"].load().variable, dataset()["air"].variable)
