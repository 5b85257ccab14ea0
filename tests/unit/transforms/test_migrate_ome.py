"""`MigrateOME`: its results are valid OME-Zarr 0.5, for each kind of hierarchy, division and sink."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from shardedstore import ChainError, ShardedStore
from shardedstore.jobfiles.registry import make_step
from shardedstore.stores.hierarchy import read_nodes, walk
from shardedstore.stores.ome import why_not_ome
from shardedstore.transforms import CopyTo, MigrateOME, MigrateV3, ToZip

AXES = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
OMERO = {"id": 1, "version": "0.4", "channels": []}


def multiscale(count: int = 2) -> dict[str, Any]:
    scales = ([1.0, 2.0**i, 2.0**i] for i in range(count))
    levels = [
        {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        for i, scale in enumerate(scales)
    ]
    return {"version": "0.4", "name": "image", "axes": copy.deepcopy(AXES), "datasets": levels}


def image(group: zarr.Group, **attributes: Any) -> None:
    group.attrs.update({"multiscales": [multiscale()], "mine": {"version": "7"}, **attributes})
    for i in range(2):
        data = np.arange(2 * 8 * 8, dtype="u2").reshape(2, 8, 8)[:, :: 2**i, :: 2**i]
        group.create_array(str(i), data=data, chunks=(1, 4, 4))


def plain(root: zarr.Group) -> None:
    image(root, omero=OMERO)


def labelled(root: zarr.Group) -> None:
    image(root, omero=OMERO)
    root.create_group("labels").attrs["labels"] = ["nuclei"]
    image(root.create_group("labels/nuclei"), **{"image-label": {"version": "0.4", "source": {"image": "../../"}}})


def plate(root: zarr.Group) -> None:
    wells = [{"path": "A/1", "rowIndex": 0, "columnIndex": 0}]
    names = {"rows": [{"name": "A"}], "columns": [{"name": "1"}]}
    root.attrs["plate"] = {"version": "0.4", "wells": wells, **names}
    root.create_group("A")
    root.create_group("A/1").attrs["well"] = {"version": "0.4", "images": [{"path": "0"}]}
    image(root.create_group("A/1/0"))


def layout(root: zarr.Group) -> None:
    root.attrs["bioformats2raw.layout"] = 3
    root.create_group("OME").attrs["series"] = ["0"]
    image(root.create_group("0"))


KINDS = {"image": plain, "labels": labelled, "plate": plate, "layout": layout}
DIVISIONS = {"whole": "1 TiB", "small": "100 B", "blocks": None}


def source(folder: Path, kind: str, zarr_format: Any = 2) -> Path:
    KINDS[kind](zarr.create_group(folder, zarr_format=zarr_format))
    return folder


def values(group: zarr.Group) -> dict[str, Any]:
    return {path: node[...].tolist() for path, node in group.members(None) if isinstance(node, zarr.Array)}


@pytest.mark.few(4)
@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_zips(kind, division, tmp_path):
    folder = source(tmp_path / "in", kind)
    shards = DIVISIONS[division] or dict.fromkeys(values(zarr.open_group(folder)), 1)
    store = ShardedStore.partition(folder, shards=shards)
    made = store.map_shards(MigrateV3(chunk_keys="default"), MigrateOME(), ToZip(tmp_path / "out"))
    assert made.summary.notices == ()
    assert why_not_ome(read_nodes(made.config)) is None
    assert values(zarr.open_group(made, mode="r")) == values(zarr.open_group(folder, mode="r"))
    assert made.verify(store).ok


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_one_zarr(kind, zarr_format, tmp_path):
    store = ShardedStore.partition(source(tmp_path / "in", kind, zarr_format))
    steps = [MigrateV3()] if zarr_format == 2 else []
    made = store.map_shards(*steps, MigrateOME(), CopyTo(tmp_path / "out"))
    nodes = walk(zarr.storage.LocalStore(tmp_path / "out"))
    assert why_not_ome(nodes) is None
    assert made.verify(store).ok
    texts = [node.documents["zarr.json"].decode() for node in nodes.values()]
    assert not any('"0.4"' in text for text in texts)


def test_attributes(tmp_path):
    ShardedStore.partition(source(tmp_path / "in", "plate")).map_shards(
        MigrateV3(), MigrateOME(), CopyTo(tmp_path / "out")
    )

    def attributes(path: str) -> Any:
        return json.loads((tmp_path / "out" / path / "zarr.json").read_text())["attributes"]

    assert attributes("")["ome"]["plate"]["version"] == attributes("")["ome"]["version"] == "0.5"
    assert attributes("A/1") == {"ome": {"version": "0.5", "well": {"images": [{"path": "0"}]}}}
    expected = {key: value for key, value in multiscale().items() if key != "version"}
    assert attributes("A/1/0") == {"mine": {"version": "7"}, "ome": {"version": "0.5", "multiscales": [expected]}}
    assert zarr.open_array(tmp_path / "out" / "A/1/0/1").metadata.dimension_names == ("c", "y", "x")


def test_members_of_a_collection(tmp_path):
    for name in ("a", "b", "c"):
        source(tmp_path / "in" / name, "labels")
    store = ShardedStore.collect(str(tmp_path / "in" / "*"))
    made = store.map_shards(MigrateV3(), MigrateOME(), ToZip(tmp_path / "out", per_zip=2))
    for name in ("a", "b", "c"):
        group = zarr.open_group(made, path=name, mode="r")
        assert group.attrs["ome"]["version"] == "0.5"
        assert group["labels/nuclei/1"].metadata.dimension_names == ("c", "y", "x")


def test_a_verify_sees_other_attributes(tmp_path):
    store = ShardedStore.partition(source(tmp_path / "in", "image"))
    made = store.map_shards(MigrateV3(), MigrateOME(), CopyTo(tmp_path / "out"))
    path = tmp_path / "out" / "zarr.json"
    path.write_text(path.read_text().replace('"image"', '"other"'))
    assert not made.verify(store).ok


def chain_error(nodes: Any, says: str) -> None:
    with pytest.raises(ChainError, match=re.escape(says)):
        MigrateOME().check(nodes)


def test_what_it_can_not_change_is_refused(tmp_path):
    chain_error(walk(zarr.storage.LocalStore(source(tmp_path / "a", "image"))), "the root is Zarr v2")
    zarr.create_group(tmp_path / "b", zarr_format=3)
    chain_error(walk(zarr.storage.LocalStore(tmp_path / "b")), "no group has attributes of OME-Zarr 0.4")
    root = zarr.open_group(source(tmp_path / "c", "image", 3))
    root.attrs["multiscales"] = [{**multiscale(), "version": "0.3", "axes": ["c", "y", "x"]}]
    chain_error(walk(root.store), "version 0.3: its images have no axes")
    root.attrs["multiscales"] = [{**multiscale(), "version": "0.1", "datasets": [{"path": "0"}]}]
    chain_error(walk(root.store), "version 0.1: its images have no 'datasets'")


def test_levels_that_are_not_there_are_reported(tmp_path):
    root = zarr.open_group(source(tmp_path / "in", "image", 3))
    root.attrs["multiscales"] = [multiscale(3)]
    assert [notice.arrays for notice in MigrateOME().notices(walk(root.store))] == [("2",)]


def test_migrate_v3_alone_says_the_step(tmp_path):
    store = ShardedStore.partition(source(tmp_path / "in", "labels"))
    made = store.map_shards(MigrateV3(chunk_keys="default"), CopyTo(tmp_path / "out"))
    (notice,) = made.summary.notices
    assert "add MigrateOME() (--step migrate-ome)" in notice.text
    assert notice.arrays == ("", "labels", "labels/nuclei")


def test_the_command_line_has_it():
    assert make_step("migrate-ome") == MigrateOME()
