"""Coordinates in steps: `arrays="data_vars"` and `"coords"` as in xarray, notices, and conflicting sizes."""

import dask
import numpy as np
import pytest
import xarray as xr
import zarr

from shardedstore import ChainError, ShardedStore
from shardedstore.transforms import CopyTo, MapBlocks, MapChunks, Recompress, ToZip


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def dataset():
    """Index coordinates, scalar and two-dimensional ones, a dimension without one, and names in attributes."""
    return xr.Dataset(
        {"tp": (("time", "y", "x"), np.ones((4, 6, 8), "f4")), "crs": 4326, "station": ("y", [*"abcdef"])},
        {
            "time": np.arange(4),
            "y": np.arange(6.0),
            "lat": (("y", "x"), np.ones((6, 8))),
            "height": 2.0,
            "label": ("x", np.arange(8)),
        },
    )


@pytest.fixture(params=[2, 3])
def folder(request, tmp_path):
    root = tmp_path / "source.zarr"
    dataset().to_zarr(root, zarr_format=request.param, consolidated=False)
    dataset().drop_vars("height").to_zarr(root, group="fine", mode="a", zarr_format=request.param, consolidated=False)
    group = zarr.open_group(root / "fine")
    group.attrs["coordinates"] = "station missing"
    group["crs"].attrs["coordinates"] = "label nowhere"
    return root


def plus_one(data, position):
    return data + 1


def changed(before, after):
    """The changed variables of a group."""
    return {name for name in before.variables if not before.variables[name].equals(after.variables[name])}


def numbers(names):
    return names - {"station"}


@pytest.mark.few(3)
@pytest.mark.parametrize("group", [None, "fine"])
@pytest.mark.parametrize("word", ["data_vars", "coords"])
def test_words_select_as_xarray_does(folder, tmp_path, word, group):
    step = MapChunks(plus_one, arrays=(word, "!**station", "!fine/station?"), name="plus one")
    view = ShardedStore.partition(folder, ["fine/tp"])
    view.map_shards(step, CopyTo(tmp_path / "out"))
    options = {"group": group, "consolidated": False, "decode_times": False}
    with xr.open_zarr(folder, **options) as before, xr.open_zarr(tmp_path / "out", **options) as after:
        assert changed(before, after) == numbers(set(before.data_vars if word == "data_vars" else before.coords))
    again = view.map_shards(step, CopyTo(tmp_path / "out"))
    assert again.summary.done == 0


def test_index_coordinates_in_a_glob_are_reported(folder, tmp_path):
    view = ShardedStore.partition(folder, [])
    told = view.map_shards(MapChunks(plus_one, arrays=("*", "!**station"), name="1"), ToZip(tmp_path / "1")).summary
    (notice,) = told.notices
    assert "MapChunks changes index coordinates, which arrays= does not name: use arrays='data_vars'" in notice.text
    assert notice.arrays == ("fine/time", "fine/y", "time", "y")
    for number, arrays in enumerate(["tp", ("time", "fine/y"), ("data_vars", "!**station"), ("coords", "!**station")]):
        step = MapChunks(plus_one, arrays=arrays, name="1")
        assert view.map_shards(step, ToZip(tmp_path / f"more{number}")).summary.notices == ()
    assert view.map_shards(Recompress("zstd"), ToZip(tmp_path / "2")).summary.notices == ()


def test_words_that_mean_nothing_or_an_array_are_refused(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("coords", data=np.arange(4))
    view = ShardedStore.partition(tmp_path / "a.zarr")
    with pytest.raises(ChainError, match=r"there is an array of that name: write '\[c\]oords' for this array"):
        view.map_shards(MapChunks(plus_one, arrays="coords"), ToZip(tmp_path / "out"))
    view.map_shards(MapChunks(plus_one, arrays="[c]oords", name="1"), ToZip(tmp_path / "out"))
    (tmp_path / "a.zarr/coords").rename(tmp_path / "a.zarr/tp")
    with pytest.raises(ChainError, match="was given arrays='coords', but the source has no coords"):
        ShardedStore.partition(tmp_path / "a.zarr").map_shards(
            Recompress("zstd", arrays="coords"), ToZip(tmp_path / "2")
        )


def half(block, position):
    return block[tuple(slice(None, None, 2) for _ in block.shape)]


def test_a_dimension_of_two_sizes_is_refused(folder, tmp_path):
    view = ShardedStore.partition(folder, [], exclude=["fine", "station"])

    def rows(block, position):
        return block[:, ::2] if block.ndim == 3 else block[::2]

    with pytest.raises(
        ChainError,
        match=r"the dimension 'y' of the root would have . elements in '.*' and . in '.*', but both have 6",
    ):
        view.map_shards(MapBlocks(rows, shape={"y": 2}, arrays="tp", name="rows"), ToZip(tmp_path / "out"))
    data = MapBlocks(rows, shape={"y": 2}, arrays="tp", name="rows")
    others = MapBlocks(rows, shape={"y": 2}, arrays=("y", "lat"), name="rows")
    result = view.map_shards(data, others, ToZip(tmp_path / "out"))
    with xr.open_zarr(result, consolidated=False, decode_times=False) as seen:
        assert dict(seen.sizes) == {"time": 4, "y": 3, "x": 8}


def test_advice_at_the_root_and_for_brackets(tmp_path):
    zarr.create_array(tmp_path / "root.zarr", data=np.ones((4, 4)), dimension_names=("y", "x"))
    step = MapBlocks(half, shape={"z": 2})
    with pytest.raises(ChainError, match="leave the step out, because there is no other array"):
        ShardedStore.partition(tmp_path / "root.zarr").map_shards(step, ToZip(tmp_path / "out"))
    zarr.create_group(tmp_path / "b.zarr").create_array("b[1]", data=np.ones(4), dimension_names=("y",))
    with pytest.raises(ChainError, match=r"leave it out with arrays=\('\*', '!b\[\[\]1\]'\)"):
        ShardedStore.partition(tmp_path / "b.zarr").map_shards(step, ToZip(tmp_path / "out"))
