"""Chunks with other keys than in their array's document: read like zarr 2, refused, or copied unchanged."""

import itertools
import json
import re

import dask
import numpy as np
import pytest
import zarr
from servers import upload, web
from sources import KEYS, add_array, build, to_folder, to_zip

from shardedstore import ChainError, PartitionError, ShardedStore, ShardsFailed
from shardedstore.transforms import CopyTo, MapBlocks, MapChunks, MigrateV3, Recompress, ToShardingCodec, ToZip

VALUES = np.arange(1, 25, dtype="i4").reshape(4, 6)
LOOKS = "looks like one of its chunks, but its metadata says keys of another kind"
SAID = ["v2.", "v2/", "v3/", "v3.", "v3-v2.", "v3-v2/"]
BOTH_WAYS = [pair for pair in itertools.permutations(SAID, 2) if KEYS[pair[0]][1:] != KEYS[pair[1]][1:]]


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def array_of(store, keys):
    zarr_format, name, separator = KEYS[keys]
    root = zarr.create_group(store, zarr_format=zarr_format)
    encoding = {"chunk_key_encoding": {"name": name, "separator": separator}}
    add_array(root, "a", VALUES, (2, 3), ("y", "x"), **encoding)
    add_array(root, "b", VALUES, (2, 3), ("y", "x"), **encoding)


def contents_of(said, stored):
    """An array with a document for one kind of keys, and chunks with another kind."""
    said, stored = build(array_of, said), build(array_of, stored)
    documents = {
        key: data for key, data in said.items() if key.rpartition("/")[2] in (".zarray", "zarr.json") or "/" not in key
    }
    others = {key: data for key, data in said.items() if key.startswith("b/") or key.endswith(".zattrs")}
    chunks = {key: data for key, data in stored.items() if key.startswith("a/") and not re.search(r"json|\.z", key)}
    assert len(chunks) == 4
    return {**documents, **others, **chunks}


def unsaid(contents):
    """As written before zarr 2.8, and by a store with its own separator."""
    document = json.loads(contents["a/.zarray"])
    document.pop("dimension_separator", None)
    return {**contents, "a/.zarray": json.dumps(document).encode()}


NESTED = unsaid(contents_of("v2.", "v2/"))


def check_fails(match, store, *chain):
    with pytest.raises((ShardsFailed, ChainError)) as caught:
        store.map_shards(*chain)
    errors = caught.value.exceptions if isinstance(caught.value, ShardsFailed) else [caught.value]
    assert any(re.search(match, str(error)) for error in errors), errors


def read(folder, name="a"):
    return zarr.open_group(folder, mode="r")[name][...]


def half(data, position):
    return data[::2]


@pytest.mark.parametrize(("said", "stored"), BOTH_WAYS[::2])
def test_a_step_refuses_the_array_by_name(tmp_path, said, stored):
    source = to_folder(contents_of(said, stored), tmp_path / "s.zarr")
    store = ShardedStore.partition(source)
    check_fails(rf"Recompress can't .*'a/.*{LOOKS}", store, Recompress("gzip"), CopyTo(tmp_path / "out"))
    left_out = Recompress("gzip", arrays=("*", "!a"))
    store.map_shards(left_out, CopyTo(tmp_path / "other"))
    assert np.array_equal(read(tmp_path / "other", "b"), VALUES)


@pytest.mark.parametrize("put", [to_folder, to_zip])
@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Recompress("gzip"), "v3/"),
        (MapChunks(lambda data, position: -data, name="negated"), "v3/"),
        (MapBlocks(half, shape=(2, 1)), "v2."),
        (MigrateV3(), "v2."),
        (None, "v3/"),
    ],
    ids=["recompress", "chunks", "blocks", "migrate", "codec"],
)
def test_every_step_refuses_it_wherever_it_lies(tmp_path, step, said, put):
    stored = "v3-v2." if said == "v3/" else "v3/"
    source = put(contents_of(said, stored), tmp_path / "s.zarr.zip" if put is to_zip else tmp_path / "s.zarr")
    divisions = [{}, {"a": (2, 6)}] if said == "v3/" else [{}]  # the base has the chunks that do not fit
    for number, shards in enumerate(divisions):
        folder = tmp_path / f"out{number}"
        chain = (ToShardingCodec(folder, object_size=64),) if step is None else (step, ToZip(folder))
        check_fails(LOOKS, ShardedStore.partition(source, shards), *chain)


@pytest.mark.parametrize(("said", "stored"), BOTH_WAYS[::7])
@pytest.mark.parametrize(
    "sink", [ToZip, CopyTo, lambda url: CopyTo(url, layout="shards")], ids=["zip", "copy", "shards"]
)
def test_a_plain_copy_has_every_key_where_it_was(tmp_path, said, stored, sink):
    contents = contents_of(said, stored)
    for number, shards in enumerate([{}, {"a": (2, 6)}]):
        source = ShardedStore.partition(to_folder(contents, tmp_path / f"{number}.zarr"), shards)
        new = source.map_shards(sink(tmp_path / f"out{number}"))
        for key, data in contents.items():
            assert get(new, key) == data
        assert new.verify(source).ok


def get(store, key):
    found = zarr.core.sync.sync(store.get(key, zarr.core.buffer.default_buffer_prototype()))
    return None if found is None else found.to_bytes()


@pytest.mark.parametrize("put", [to_folder, to_zip])
@pytest.mark.parametrize(
    "step", [Recompress("zstd", level=2), MapChunks(lambda data, _: data, name="same"), MigrateV3()]
)
def test_chunks_below_folders_are_read_as_zarr_2_read_them(tmp_path, step, put):
    """Zarr 2 took a separator that the document lacks from the store; the result has it in its document."""
    source = put(NESTED, tmp_path / "s.zarr.zip" if put is to_zip else tmp_path / "s.zarr")
    store = ShardedStore.partition(source)
    new = store.map_shards(step, CopyTo(tmp_path / "out"))
    assert np.array_equal(read(tmp_path / "out"), VALUES)
    assert new.verify(store).ok
    zipped = store.map_shards(step, ToZip(tmp_path / "zips"))
    assert np.array_equal(zarr.open_group(zipped, mode="r")["a"][...], VALUES)


def test_objects_are_like_files(bucket, tmp_path):
    upload(bucket.client, NESTED)
    store = ShardedStore.partition(bucket.url)
    store.map_shards(Recompress("zstd"), CopyTo(tmp_path / "out"))
    assert np.array_equal(read(tmp_path / "out"), VALUES)
    with pytest.raises(PartitionError, match="'a' can't be divided"):
        ShardedStore.partition(bucket.url, {"a": (2, 6)})


def test_consolidated_metadata_says_the_separator_as_well(tmp_path):
    source = to_folder(NESTED, tmp_path / "s.zarr")
    zarr.consolidate_metadata(source)
    store = ShardedStore.partition(source)
    for number, sink in enumerate([ToZip, CopyTo]):
        new = store.map_shards(Recompress("zstd"), sink(tmp_path / f"out{number}"))
        assert np.array_equal(zarr.open_consolidated(new)["a"][...], VALUES)


def test_a_plain_copy_of_it_is_as_it_was(tmp_path):
    source = to_folder(NESTED, tmp_path / "s.zarr")
    ShardedStore.partition(source).map_shards(CopyTo(tmp_path / "out"))
    for key, data in NESTED.items():
        assert (tmp_path / "out" / key).read_bytes() == data


def test_what_is_not_certain_is_refused(tmp_path):
    """Chunks with both separators: zarr 2 would have read those of its store."""
    source = to_folder({**NESTED, "a/0.0": NESTED["a/0/0"]}, tmp_path / "s.zarr")
    check_fails(LOOKS, ShardedStore.partition(source), Recompress("zstd"), CopyTo(tmp_path / "out"))


@pytest.mark.parametrize("put", [to_folder, to_zip])
def test_it_can_not_be_divided_before_its_document_says_it(tmp_path, put):
    source = put(NESTED, tmp_path / "s.zarr.zip" if put is to_zip else tmp_path / "s.zarr")
    with pytest.raises(
        PartitionError, match=r"'a' can't be divided: .*'a/\d/\d'.* write \"dimension_separator\": \"/\" into a/.zarray"
    ):
        ShardedStore.partition(source, {"a": (2, 6)})
    ShardedStore.partition(source, {"b": (2, 6)})
    without = {key: data for key, data in NESTED.items() if not re.fullmatch(r"a/\d/\d", key)}
    ShardedStore.partition(to_folder(without, tmp_path / "none.zarr"), {"a": (2, 6)})


@pytest.mark.parametrize("shards", [{}, {"a": (2, 6)}], ids=["whole", "blocks"])
@pytest.mark.parametrize("contents", [NESTED, contents_of("v3/", "v3-v2.")], ids=["v2", "v3"])
def test_a_web_server_that_can_not_be_listed_loses_none(tmp_path, contents, shards):
    """All keys of the metadata are missing, so an unchecked copy would have no data."""
    folder = to_folder(contents, tmp_path / "s.zarr")
    zarr.consolidate_metadata(folder)
    with web(folder) as server:
        for chain in ((CopyTo(tmp_path / "out"),), (Recompress("zstd"), ToZip(tmp_path / "zips"))):
            check_fails(
                "'a' has no chunk where its metadata says, and 'a/0", ShardedStore.partition(server, shards), *chain
            )


def test_an_array_without_chunks_on_a_web_server_is_copied(tmp_path):
    without = {key: data for key, data in NESTED.items() if not re.fullmatch(r"a/\d/\d", key)}
    folder = to_folder(without, tmp_path / "s.zarr")
    zarr.consolidate_metadata(folder)
    with web(folder) as server:
        ShardedStore.partition(server).map_shards(CopyTo(tmp_path / "out"))
    assert not read(tmp_path / "out").any()


def test_files_that_only_resemble_chunks_are_other_files(tmp_path):
    """Numbers outside the grid, names with more or fewer parts, and one dimension, where separators do not matter."""
    contents = contents_of("v3/", "v3/")
    contents |= {f"a/{name}": b"x" for name in ("2.0", "0", "0.0.0", "c/0/x", "00.0", "thumb.0.0")}
    ShardedStore.partition(to_folder(contents, tmp_path / "s.zarr")).map_shards(
        Recompress("gzip"), CopyTo(tmp_path / "out")
    )
    assert (tmp_path / "out/a/thumb.0.0").read_bytes() == b"x"
    assert np.array_equal(read(tmp_path / "out"), VALUES)
