"""Zips of OME-Zarr are whole and valid OME-Zarr 0.5, or are refused by name."""

import json
import zipfile

import numpy as np
import pytest
import zarr

from shardedstore import ChainError, ShardedStore, ShardsFailed
from shardedstore.stores.hierarchy import walk
from shardedstore.stores.ome import why_not_ome
from shardedstore.transforms import ToZip
from shardedstore.zips import ZipReadStore

AXES = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
SCALE = [{"type": "scale", "scale": [1.0, 1.0]}]
OME = {
    "version": "0.5",
    "multiscales": [{"axes": AXES, "datasets": [{"path": "0", "coordinateTransformations": SCALE}]}],
}


def image(folder, ome=OME, attributes=None):
    root = zarr.open_group(
        folder, mode="w", zarr_format=3, attributes=attributes or ({} if ome is None else {"ome": ome})
    )
    root.create_array("0", data=np.arange(1, 65, dtype="u2").reshape(8, 8), chunks=(2, 8), dimension_names=("y", "x"))
    return folder


def plate(folder):
    """Two images below a group that is not an image."""
    for name in ("a", "b"):
        image(folder / "images" / name)
    return zarr.open_group(folder, mode="a", zarr_format=3).require_group("images") and folder


def test_a_whole_image_is_one_zip(tmp_path):
    result = ShardedStore.partition(image(tmp_path / "in.zarr"), []).map_shards(
        ToZip(tmp_path / "out", name="{path}.ozx")
    )
    assert why_not_ome(walk(ZipReadStore(tmp_path / "out" / "__base__.ozx"))) is None
    with zarr.storage.ZipStore(tmp_path / "out" / "__base__.ozx", mode="r") as opened:
        np.testing.assert_array_equal(zarr.open_group(opened, mode="r")["0"], zarr.open_group(result, mode="r")["0"])


@pytest.mark.parametrize(
    ("ome", "attributes", "why"),
    [
        (None, {}, "the root has no attribute 'ome' of version 0.5"),
        (None, {"multiscales": OME["multiscales"]}, "the attribute 'multiscales' of OME-Zarr 0.4.*; put MigrateOME"),
        ({"multiscales": OME["multiscales"]}, None, r"no attribute 'ome' of version 0.5 \(but None\)"),
        ({**OME, "version": "0.4"}, None, r"no attribute 'ome' of version 0.5 \(but '0.4'\)"),
        ({"version": "0.5"}, None, "has none of 'multiscales'"),
        ({**OME, "multiscales": [{"axes": AXES, "datasets": [{"path": "9", "coordinateTransformations": SCALE}]}]}, None, "'9', which 'multiscales' names, is not an array"),
    ],
)  # fmt: skip
def test_what_is_not_valid_is_refused_before_anything_is_written(ome, attributes, why, tmp_path):
    store = ShardedStore.partition(image(tmp_path / "in.zarr", ome, attributes), [])
    with pytest.raises(ChainError, match=f"'{{path}}.ozx' names zips of OME-Zarr, which must be valid OME-Zarr 0.5, but the source is not: .*{why}.*end the name with .zarr.zip"):  # fmt: skip
        store.map_shards(ToZip(tmp_path / "out", name="{path}.ozx"))
    assert not (tmp_path / "out").exists()


def test_an_array_that_is_divided_is_refused(tmp_path):
    store = ShardedStore.partition(image(tmp_path / "in.zarr"), {"0": (4, -1)})
    with pytest.raises(
        ChainError, match="names zips of OME-Zarr, which must be whole, but '0' is divided: make it whole"
    ):
        store.map_shards(ToZip(tmp_path / "out", name="{path}/{block}.ozx"))


def test_several_images_in_one_zip_are_refused(tmp_path):
    store = ShardedStore.partition(plate(tmp_path / "in.zarr"), ["images/*"])
    with pytest.raises(ChainError, match="which must be of one image each: leave out per_zip"):
        store.map_shards(ToZip(tmp_path / "out", name="{path}/{block}.ozx", per_zip=2))


@pytest.mark.parametrize("is_collected", [False, True])
def test_images_that_are_whole_stand_beside_a_base_that_is_none(is_collected, tmp_path):
    folder = plate(tmp_path / "in.zarr")
    if is_collected:
        store = ShardedStore.collect(folder / "images" / "*")
        images = {"a.ozx", "b.ozx"}
    else:
        store = ShardedStore.partition(folder, ["images/*"])
        images = {"images/a.ozx", "images/b.ozx"}
    result = store.map_shards(ToZip(tmp_path / "out", name="{path}/{block}.ozx"))
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.suffix}
    assert found - {".shardedstore", "shardedstore.json"} >= images | {"__base__.zarr.zip"}
    assert not {name for name in found if name.endswith(".ozx")} - images
    for name in images:
        with zipfile.ZipFile(tmp_path / "out" / name) as file:
            assert json.loads(file.comment)["ome"]["version"] == "0.5"
        assert why_not_ome(walk(ZipReadStore(tmp_path / "out" / name))) is None
    assert result.verify().ok
    assert store.map_shards(ToZip(tmp_path / "out", name="{path}/{block}.ozx")).summary.done == 0


def test_a_member_of_a_collection_that_is_none_fails_by_its_name(tmp_path):
    folder = plate(tmp_path / "in.zarr")
    image(folder / "images" / "c", None)
    store = ShardedStore.collect(folder / "images" / "*")
    with pytest.raises(ShardsFailed) as caught:
        store.map_shards(ToZip(tmp_path / "out", name="{path}/{block}.ozx"))
    (failure,) = caught.value.exceptions
    assert failure.shard == "c"
    assert "its root has no attribute 'ome' with a version, so it is not OME-Zarr" in str(failure)
