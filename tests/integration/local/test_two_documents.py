"""Nodes with documents of both formats, as after ``zarr migrate v3``: no reader of a result sees fill values."""

import json
import logging
import re

import dask
import numpy as np
import pytest
import zarr
from sources import add_array
from zarr.errors import BaseZarrError, NodeNotFoundError
from zarr.metadata.migrate_v3 import migrate_v2_to_v3
from zarr.storage import LocalStore

from shardedstore import ChainError, ShardedStore, ShardsFailed, step
from shardedstore.transforms import CopyTo, MapBlocks, MapChunks, MigrateV3, Recompress, ToShardingCodec, ToZip

VALUES = np.arange(1, 49, dtype="i4").reshape(8, 6)
NONE = (BaseZarrError, NodeNotFoundError, FileNotFoundError, KeyError)


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def negated(data, position):
    return -data


def passed_on(entries, shard):
    yield from entries


STEPS = {
    "none": (),
    "recompress": (Recompress("zstd", level=3),),
    "filters": (Recompress(filters=[{"id": "numcodecs.delta", "dtype": "<i4"}]),),
    "map chunks": (MapChunks(negated, name="negated"),),
    "map blocks": (MapBlocks(lambda data, position: data[::2], shape=(2, 1), name="half"),),
    "custom": (step(passed_on, name="passed on"),),
    "migrate": (MigrateV3(),),
}
SINKS = {
    "zip": ToZip,
    "copy": CopyTo,
    "shards": lambda url: CopyTo(url, layout="shards"),
    "codec": lambda url: ToShardingCodec(url, object_size=64),
}


def source_at(folder, kind, *, consolidated=False):
    """A Zarr with documents of v2, v3 or both; one array in the root group and one in another group."""
    zarr_format = 3 if kind == "v3" else 2
    root = zarr.create_group(folder, zarr_format=zarr_format, attributes={"title": "both"})
    for group, name in (root, "y"), (root.create_group("g"), "z"):
        encoding = {"chunk_key_encoding": {"name": "v2", "separator": "."}} if kind == "v3" else {}
        add_array(group, name, VALUES, (2, 6), ("t", "x"), compressors="auto", **encoding)
    if kind == "both":
        migrate_v2_to_v3(input_store=LocalStore(folder))
    if consolidated:
        zarr.consolidate_metadata(folder, zarr_format=2)
    return folder


def read(path, name, zarr_format):
    """The values that zarr reads by the documents of one format, from the root and directly; None for an error."""
    values = []
    try:
        values.append(zarr.open_group(path, mode="r", zarr_format=zarr_format)[name][...])
    except NONE:
        values.append(None)
    try:
        values.append(zarr.open_array(path, path=name, mode="r", zarr_format=zarr_format)[...])
    except NONE:
        values.append(None)
    return values


def expected(steps):
    return {"map chunks": -VALUES, "map blocks": VALUES[::2]}.get(steps, VALUES)


BLOCKS = {"y": (4, 6)}
WHOLE = {"g": "whole"}

CASES = [
    *((steps, "both", BLOCKS) for steps in STEPS),
    *((steps, "both", WHOLE) for steps in ("none", "recompress", "migrate")),
    *(("recompress", kind, BLOCKS) for kind in ("v2", "v3")),
]


def refused(steps, sink, kind):
    """The message if the job is refused, else None."""
    if steps == "migrate":
        return "Zarr v3 already"
    if sink == "codec" and kind == "v2":
        return "is Zarr v2"
    return "changes the shape of the blocks" if sink == "codec" and steps == "map blocks" else None


@pytest.mark.few(6)
@pytest.mark.parametrize(("steps", "kind", "shards"), CASES)
@pytest.mark.parametrize("sink", SINKS)
def test_every_reader_gets_the_values_or_an_error(tmp_path, steps, sink, kind, shards):
    source = ShardedStore.partition(source_at(tmp_path / "s.zarr", kind), shards)
    chain = (*STEPS[steps], SINKS[sink](tmp_path / "out"))
    refusal = refused(steps, sink, kind)
    if refusal is not None:
        with pytest.raises(ChainError, match=refusal):
            source.map_shards(*chain)
        return
    new = source.map_shards(*chain)
    formats = {"v2": [2], "v3": [3], "both": [2, 3]}[kind]
    stores = [new] if sink in ("zip", "shards") else [new, tmp_path / "out"]
    for store in stores:
        found = {}
        for zarr_format in (2, 3):
            for name in ("y", "g/z"):
                for values in read(store, name, zarr_format):
                    assert values is None or np.array_equal(values, expected(steps)), (name, zarr_format, values)
                    found[zarr_format] = found.get(zarr_format, False) or values is not None
        assert found[formats[-1]]  # by the newer of the formats
        if steps == "none" and sink != "codec":
            assert all(found[zarr_format] for zarr_format in formats)
    if sink in ("zip", "shards") and shards == BLOCKS:
        for number in range(2):
            check_block(next((tmp_path / f"out/y/{number}").glob("0.zarr*")), number, steps)


def check_block(path, number, steps):
    """Each block is right separately, by the documents of each of its formats."""
    store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else path
    whole = expected(steps)
    half = len(whole) // 2
    for zarr_format in (2, 3):
        try:
            values = zarr.open_array(store, mode="r", zarr_format=zarr_format)[...]
        except NONE:
            continue
        assert np.array_equal(values, whole[number * half : (number + 1) * half])


@pytest.mark.parametrize("sink", ["zip", "copy", "shards"])
def test_a_copy_of_a_whole_has_both_as_they_are(tmp_path, sink):
    source = source_at(tmp_path / "s.zarr", "both", consolidated=True)
    new = ShardedStore.partition(source).map_shards(SINKS[sink](tmp_path / "out"))
    for path in source.rglob("*"):
        key = str(path.relative_to(source))
        if path.is_file() and not key.endswith("zmetadata"):
            assert (
                zarr.core.sync.sync(new.get(key, zarr.core.buffer.default_buffer_prototype())).to_bytes()
                == path.read_bytes()
            )


def test_consolidated_metadata_of_v2_does_not_outlive_what_it_says(tmp_path):
    """A .zmetadata that describes the old chunks would give wrong values to a v2 reader."""
    source = source_at(tmp_path / "s.zarr", "both", consolidated=True)
    result = ShardedStore.partition(source).map_shards(ToShardingCodec(tmp_path / "out", object_size=64))
    assert not (tmp_path / "out" / ".zmetadata").exists()
    assert result.verify(ShardedStore.partition(source)).ok


def test_a_notice_names_the_arrays_that_lose_documents(tmp_path, caplog):
    source = ShardedStore.partition(source_at(tmp_path / "s.zarr", "both"))
    with caplog.at_level(logging.WARNING, "shardedstore"):
        new = source.map_shards(Recompress("zstd"), ToZip(tmp_path / "out"))
    (notice,) = (notice for notice in new.summary.notices if "v2 and v3" in notice.text)
    assert notice.arrays == ("g/z", "y")
    assert any("'g/z', 'y'" in record.getMessage() for record in caplog.records)
    assert (
        not ShardedStore.partition(source_at(tmp_path / "v3.zarr", "v3"))
        .map_shards(Recompress("zstd"), ToZip(tmp_path / "o2"))
        .summary.notices
    )


def other_shape(path):
    document = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps({**document, "shape": [6, 6]}))


def other_chunks(path):
    document = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps({**document, "chunks": [4, 6]}))


def a_group(path):
    (path / ".zarray").unlink()
    (path / ".zgroup").write_text('{"zarr_format": 2}')


def other_keys(path):
    document = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps({**document, "dimension_separator": "/"}))


def check_fails(match, store, *chain):
    with pytest.raises(ShardsFailed) as caught:
        store.map_shards(*chain)
    assert re.search(match, str(caught.value.exceptions[0]))


@pytest.mark.parametrize("damage", [other_shape, other_chunks, other_keys, a_group])
def test_documents_that_describe_different_arrays_are_refused(tmp_path, damage):
    """Two arrays may share one folder: neither is dropped."""
    source = source_at(tmp_path / "s.zarr", "both")
    damage(source / "y")
    match = "'y' has documents of Zarr v2 and v3 that describe different"
    check_fails(match, ShardedStore.partition(source), Recompress("zstd"), CopyTo(tmp_path / "out"))
    ShardedStore.partition(source).map_shards(CopyTo(tmp_path / "plain"))
    assert (tmp_path / "plain/y/zarr.json").exists()
    if damage is not a_group:
        match = r"'y' was divided as an array of \(4, 1\) chunks, but its .zarray"
        check_fails(match, ShardedStore.partition(source, BLOCKS), ToZip(tmp_path / "zips"))


def test_below_a_group_of_v2_the_documents_of_v2_are_the_ones_that_stay(tmp_path):
    """Readers use the format of the parent group: dropping its documents would remove the array."""
    source = source_at(tmp_path / "s.zarr", "both")
    for folder in ("", "g"):
        (source / folder / "zarr.json").unlink()
    for number, shards in enumerate([{}, BLOCKS]):
        store = ShardedStore.partition(source, shards)
        out = tmp_path / f"out{number}"
        store.map_shards(MapChunks(negated, name="negated"), Recompress("zstd"), CopyTo(out))
        assert np.array_equal(zarr.open_group(out, mode="r", zarr_format=2)["y"][...], -VALUES)
        assert not (out / "y/zarr.json").exists()


def test_a_node_of_v2_alone_below_a_group_of_both_is_still_found(tmp_path):
    """Its parent groups keep their v2 documents, so that v2 readers find it."""
    source = source_at(tmp_path / "s.zarr", "both")
    (source / "g/z/zarr.json").unlink()
    ShardedStore.partition(source).map_shards(Recompress("zstd"), CopyTo(tmp_path / "out"))
    root = zarr.open_group(tmp_path / "out", mode="r", zarr_format=2)
    assert np.array_equal(root["g/z"][...], VALUES)
    assert "y" not in root
    assert np.array_equal(zarr.open_group(tmp_path / "out", mode="r", zarr_format=3)["y"][...], VALUES)


def test_a_group_is_migrated_by_the_document_that_is_read(tmp_path):
    """The format of the parent group, even if this group contains only v2 nodes."""
    zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    group = zarr.create_group(tmp_path / "a.zarr" / "tw", zarr_format=2, attributes={"which": "v2"})
    group.create_array("a", data=np.arange(4), chunks=(2,))
    new = {"zarr_format": 3, "node_type": "group", "attributes": {"which": "v3"}}
    (tmp_path / "a.zarr" / "tw" / "zarr.json").write_text(json.dumps(new))
    result = ShardedStore.partition(tmp_path / "a.zarr").map_shards(MigrateV3(), ToZip(tmp_path / "out"))
    assert dict(zarr.open_group(result, mode="r")["tw"].attrs) == {"which": "v2"}
    assert result.verify(tmp_path / "a.zarr").ok
