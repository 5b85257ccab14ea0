"""Validation of OME-Zarr 0.5: accepted hierarchies, and one sentence for each refused one."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import zarr
from zarr.storage import MemoryStore

from shardedstore.stores.hierarchy import walk
from shardedstore.stores.ome import why_not_ome

AXES = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
LEVEL = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0]}]}
IMAGE = {"version": "0.5", "multiscales": [{"axes": AXES, "datasets": [LEVEL]}]}


def image(group: zarr.Group, ome: dict[str, Any] = IMAGE, names: tuple[str, ...] | None = ("y", "x")) -> None:
    group.attrs["ome"] = copy.deepcopy(ome)
    group.create_array("0", shape=(4, 4), chunks=(2, 2), dtype="u1", dimension_names=names)


def plate(root: zarr.Group) -> None:
    wells = [{"path": "A/1", "rowIndex": 0, "columnIndex": 0}]
    root.attrs["ome"] = {"version": "0.5", "plate": {"version": "0.5", "rows": [], "columns": [], "wells": wells}}
    root.create_group("A")
    root.create_group("A/1").attrs["ome"] = {"version": "0.5", "well": {"images": [{"path": "0"}]}}
    image(root.create_group("A/1/0"))


def labelled(root: zarr.Group) -> None:
    image(root)
    root.create_group("labels").attrs["ome"] = {"version": "0.5", "labels": ["nuclei"]}
    image(root.create_group("labels/nuclei"))


def layout(root: zarr.Group) -> None:
    root.attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
    image(root.create_group("0"))


def verdict(*changes: Any) -> str | None:
    root = zarr.create_group(store := MemoryStore(), zarr_format=3)
    for change in changes:
        change(root)
    return why_not_ome(walk(store))


@pytest.mark.parametrize("make", [image, plate, labelled, layout])
def test_valid(make):
    assert verdict(make) is None


def of_image(path: str, value: Any):
    """Make an image with one changed value in its metadata."""

    def make(root: zarr.Group) -> None:
        ome = copy.deepcopy(IMAGE)
        *keys, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        part: Any = ome
        for key in keys:
            part = part[key]
        part[last] = value
        image(root, ome)

    return make


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: None, "the root has no attribute 'ome' of version 0.5 (but None)"),
        (of_image("version", "0.4"), "the root has no attribute 'ome' of version 0.5 (but '0.4')"),
        (
            lambda root: root.attrs.update(ome={"version": "0.5"}),
            "the root's attribute 'ome' has none of 'multiscales'",
        ),
        (lambda root: root.attrs.update(multiscales=[{}]), "the root has the attribute 'multiscales' of OME-Zarr 0.4"),
        (of_image("multiscales", []), "the root has no image in 'multiscales'"),
        (of_image("multiscales.0.axes", ["y", "x"]), "the root has no two to five axes"),
        (of_image("multiscales.0.axes", [{"name": "x"}, {"name": "x"}]), "the root has no two to five axes"),
        (of_image("multiscales.0.datasets", [{"path": "0"}]), "the root has no 'datasets' with a path and a scale"),
        (of_image("multiscales.0.datasets.0.path", "9"), "'9', which 'multiscales' names, is not an array"),
        (lambda root: image(root, names=None), "'0' has the dimension_names None, and its axes are ('y', 'x')"),
        (lambda root: image(root, names=("x", "y")), "'0' has the dimension_names ('x', 'y')"),
        (lambda root: (labelled(root), root["labels/nuclei"].attrs.clear()), "'labels' names 'nuclei'"),
        (
            lambda root: (plate(root), root["A/1"].attrs.clear()),
            "the root names 'A/1', which is not a group with 'well'",
        ),
        (lambda root: (plate(root), root["A/1/0"].attrs.clear()), "'A/1' names '0', which is not a group"),
        (lambda root: (image(root), root.create_group("b").attrs.update(plate={"wells": []})), "'b' has the attribute"),
    ],
)
def test_what_is_not_valid_is_reported_in_one_sentence(make, says):
    assert re.match(re.escape(says), verdict(make) or "None")


def test_zarr_v2_and_an_array_are_none():
    zarr.create_group(store := MemoryStore(), zarr_format=2)
    assert why_not_ome(walk(store)) == "the root is Zarr v2, and OME-Zarr 0.5 is Zarr v3"
    zarr.create_array(store := MemoryStore(), shape=(2,), dtype="u1", zarr_format=3)
    assert why_not_ome(walk(store)) == "the root is not a group"
