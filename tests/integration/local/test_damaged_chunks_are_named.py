"""Errors name unreadable chunks by their keys in the source, even if the shard's keys start at zero."""

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr

from shardedstore import ShardedStore, ShardError, ShardsFailed
from shardedstore.transforms import CopyTo, MapBlocks, MapChunks, MigrateV3, Recompress, ToShardingCodec, ToZip


@pytest.fixture(autouse=True)
def one_process():
    with dask.config.set(scheduler="synchronous"):
        yield


def same(chunk, position):
    return chunk


CUT = b"\x28\xb5"  # the magic number of zstd
RULE = {"a": (4, -1), "*": "whole"}


def write(folder: Path, zarr_format: int = 3, **options) -> Path:
    """An array of four by three chunks, and an array in a group; the tests damage the chunk at 3, 1."""
    root = zarr.create_group(folder, zarr_format=zarr_format)
    values = np.arange(1, 49, dtype="i4").reshape(8, 6)
    root.create_array("a", data=values, chunks=(2, 2), compressors=zarr_codec(zarr_format), **options)
    root.create_array("g/b", data=values, chunks=(2, 2), compressors=zarr_codec(zarr_format))
    return folder


def zarr_codec(zarr_format: int):
    return {"id": "zstd", "level": 1} if zarr_format == 2 else {"name": "zstd", "configuration": {"level": 1}}


def failure(store: ShardedStore, *chain, **options) -> ShardError:
    with pytest.raises(ShardsFailed) as failed:
        store.map_shards(*chain, retries=0, **options)
    (error,) = failed.value.failures
    return error


def failures(store: ShardedStore, *chain, **options) -> str:
    return failure(store, *chain, **options).cause


CHAINS: dict[str, Callable[[Path], tuple[list, dict]]] = {
    "Recompress": lambda out: ([Recompress("gzip", level=1), ToZip(out)], {}),
    "filters": lambda out: ([Recompress(filters="delta"), ToZip(out)], {}),
    "MapChunks": lambda out: ([MapChunks(same), CopyTo(out)], {}),
    "MapBlocks": lambda out: ([MapBlocks(same), ToZip(out)], {}),
    "a second step": lambda out: ([MapChunks(same, arrays="g/*"), Recompress("gzip"), ToZip(out)], {}),
    "ToShardingCodec": lambda out: ([Recompress("gzip"), ToShardingCodec(out)], {}),
    "digest": lambda out: ([CopyTo(out)], {"digest": True}),
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("separator", ["/", "."])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_chunk_of_a_block(zarr_format, separator, chain, tmp_path):
    if (zarr_format, chain) in {(2, "ToShardingCodec"), (3, "filters")}:
        pytest.skip("not for this format")
    name = "default" if zarr_format == 3 else "v2"
    encoding = {"name": name, "configuration": {"separator": separator}} if zarr_format == 3 else None
    keys = {"chunk_key_encoding": encoding or {"name": "v2", "separator": separator}}
    folder = write(tmp_path / "source", zarr_format, **keys)
    key = f"a/{'c' + separator if zarr_format == 3 else ''}3{separator}1"
    (folder / key).write_bytes(CUT)
    steps, options = CHAINS[chain](tmp_path / "out")
    error = failure(ShardedStore.partition(folder, RULE), *steps, **options)
    assert f"'{key}'" in error.cause
    assert f"1{separator}1'" not in error.cause
    assert "shard 'a[1]'" in error.cause
    assert "restore it from another copy" in error.cause
    assert (error.key, error.chunk) == (key, (3, 1))


def test_a_chunk_of_a_whole_array_and_of_the_base(tmp_path):
    """The base has no name of its own; the key tells where the chunk is."""
    for shards, shard in ({"g": "whole"}, "shard 'g': "), ({"a": (4, -1)}, ""):
        folder = tmp_path / str(len(shard))
        source = write(folder / "source")
        (source / "g/b/c/3/1").write_bytes(CUT)
        cause = failures(ShardedStore.partition(source, shards), Recompress("gzip"), ToZip(folder / "out"))
        assert f"CorruptError: {shard}'g/b/c/3/1' can't be decoded with zstd: " in cause


def test_a_chunk_that_is_migrated(tmp_path):
    folder = write(tmp_path / "source", 2)
    document = json.loads((folder / "a/.zarray").read_text())
    document |= {"filters": [{"id": "base64"}], "compressor": {"id": "zlib", "level": 1}}
    (folder / "a/.zarray").write_text(json.dumps(document))
    for i in range(4):
        for j in range(3):
            (folder / f"a/{i}.{j}").write_bytes(zlib.compress(b"AAAAAAAAAAAAAAAAAAAAAA=="))
    (folder / "a/3.1").write_bytes(b"rubbish")
    cause = failures(ShardedStore.partition(folder, RULE), MigrateV3(), CopyTo(tmp_path / "out"))
    assert "shard 'a[1]': 'a/3.1' can't be decoded with base64, zlib: error: " in cause


@pytest.mark.parametrize("chain", ["Recompress", "ToShardingCodec"])
def test_an_object_of_the_sharding_codec(chain, tmp_path):
    folder = write(tmp_path / "source", shards=(2, 6))
    (folder / "a/c/3/0").write_bytes(b"cut short")
    sink = ToShardingCodec(tmp_path / "out") if chain == "ToShardingCodec" else CopyTo(tmp_path / "out")
    steps = [] if chain == "ToShardingCodec" else [Recompress("gzip")]
    cause = failures(ShardedStore.partition(folder, RULE), *steps, sink)
    assert "shard 'a[1]': 'a/c/3/0' can't be decoded with sharding_indexed: ValueError: the object has 9 bytes" in cause


def test_a_file_of_no_bytes_among_chunks_that_are_packed(tmp_path):
    folder = write(tmp_path / "source")
    (folder / "a/c/3/1").write_bytes(b"")
    cause = failures(ShardedStore.partition(folder, RULE), ToShardingCodec(tmp_path / "out"))
    assert "shard 'a[1]': 'a/c/3/1' can't be decoded with any codec: ValueError: it has 0 bytes" in cause


# Shards with their own stores


def result(tmp_path: Path, layout: str) -> tuple[ShardedStore, Path]:
    """A result with blocks as components, and the component of the second block."""
    source = ShardedStore.partition(write(tmp_path / "source"), RULE)
    out = tmp_path / "made"
    if layout == "zip":
        source.map_shards(ToZip(out))
        return ShardedStore.load(out), out / "a/1.zarr.zip"
    source.map_shards(CopyTo(out, layout="shards"))
    return ShardedStore.load(out), next(path for path in out.glob("a/1*") if path.is_dir())


def damage(component: Path, key: str) -> None:
    if component.is_dir():
        (component / key).write_bytes(CUT)
        return
    with zipfile.ZipFile(component) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(component, "w") as file:
        for name, data in {**members, key: CUT}.items():
            file.writestr(name, data)


@pytest.mark.parametrize("layout", ["zip", "folder"])
def test_a_block_that_is_a_store_by_itself(layout, tmp_path):
    store, component = result(tmp_path, layout)
    damage(component, "c/1/1")
    cause = failures(store, Recompress("gzip"), ToZip(tmp_path / "out"))
    assert f"'a/c/3/1' ('c/1/1' in '{component}') can't be decoded with zstd" in cause
    (difference,) = ShardedStore.partition(tmp_path / "source").verify(store).differences
    assert (difference.key, difference.chunk, difference.is_of_source) == ("a/c/3/1", (3, 1), True)
    assert f"'a/c/3/1' ('c/1/1' in '{component}')" in difference.what


def test_a_zip_whose_checksum_does_not_agree(tmp_path):
    store, component = result(tmp_path, "zip")
    data = bytearray(component.read_bytes())
    with zipfile.ZipFile(component) as file:
        at = file.getinfo("c/1/1").header_offset + 30 + len("c/1/1") + 3
    data[at] ^= 1
    component.write_bytes(data)
    cause = failures(store, ToZip(tmp_path / "out"))
    assert str(component) in cause
    assert "'c/1/1'" in cause


def test_a_source_in_one_zip(tmp_path):
    folder = write(tmp_path / "source")
    (folder / "a/c/3/1").write_bytes(CUT)
    path = shutil.make_archive(str(tmp_path / "source"), "zip", folder)
    cause = failures(ShardedStore.partition(path, RULE), Recompress("gzip"), ToZip(tmp_path / "out"))
    assert "shard 'a[1]': 'a/c/3/1' can't be decoded with zstd" in cause


@pytest.mark.parametrize("per_zip", [1, 2])
def test_a_member_of_a_collection(per_zip, tmp_path):
    for name in ("one", "two", "three"):
        write(tmp_path / f"cells/{name}.zarr")
    (tmp_path / "cells/two.zarr/g/b/c/3/1").write_bytes(CUT)
    store = ShardedStore.collect(f"{tmp_path}/cells/*.zarr")
    cause = failures(store, Recompress("gzip"), ToZip(tmp_path / "out", per_zip=per_zip))
    assert "two" in cause
    assert "g/b/c/3/1'" in cause


def test_a_part_of_a_source(tmp_path):
    folder = write(tmp_path / "source")
    (folder / "g/b/c/3/1").write_bytes(CUT)
    store = ShardedStore.partition(folder, {"g/b": (4, -1)}, exclude=["a"])
    cause = failures(store, Recompress("gzip"), ToZip(tmp_path / "out"))
    assert "shard 'g/b[1]': 'g/b/c/3/1' can't be decoded with zstd" in cause


def test_verify_names_the_files_of_both_sides(tmp_path):
    folder = write(tmp_path / "source")
    store = ShardedStore.partition(folder, RULE)
    made = store.map_shards(ToZip(tmp_path / "out"))
    (folder / "a/c/3/1").write_bytes(CUT)
    (difference,) = made.verify(store).differences
    assert (difference.key, difference.is_of_source) == ("a/c/3/1", True)
    assert "the source: shard 'a[1]': 'a/c/3/1' (chunk (3, 1) of 'a') can't be decoded" in difference.what
