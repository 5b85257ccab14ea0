"""Zips are joined to the bytes that one writer of all entries gives, also beyond the limits of 16 and 32 bits."""

import asyncio
import json
import os
import shutil
import subprocess
import zipfile
from functools import partial

import numpy as np
import pytest
import zarr
from obstore.store import LocalStore

from shardedstore import CorruptError
from shardedstore.storage.blobs import open_blob
from shardedstore.storage.outputs import output
from shardedstore.zips import ZipReadStore
from shardedstore.zips.index import Archive
from shardedstore.zips.join import Joined, Member, stored_members
from shardedstore.zips.writer import ZipWriter

DOCUMENTS = {"zarr.json": b"{}", "a/zarr.json": b"{1}"}


def write(path, entries, **options):
    with output(str(path)) as out:
        writer = ZipWriter(out.write, **options)
        for name, data in entries:
            writer.add(name, data)
        writer.close()
    return Archive.open(str(path), open_blob(str(path)))


def join(path, archives, documents=DOCUMENTS, *, is_local=True, **options):
    joined = Joined(documents, lambda: (one for archive in archives for one in stored_members(archive)), **options)
    with output(str(path)) as out:
        size = joined.write(out, is_local=is_local, seen=lambda: None)
    data, end = path.read_bytes(), joined.end()
    assert end[0] == size == len(data)
    assert data.endswith(end[1])
    return data


def entries_of(sizes, start=0):
    rng = np.random.default_rng(start)
    return [(f"a/c/{start}/{i}", rng.bytes(size)) for i, size in enumerate(sizes)]


@pytest.mark.few(4)
@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize("zip64", [True, False])
@pytest.mark.parametrize(
    "sizes",
    [
        [[0], [0, 0, 1], []],
        [[5, 300_000, 5, 5], [300_000, 262_144, 262_145], [1] * 700],
        [[9 << 20, 3, 17 << 20], [0, 9 << 20, 0], [4 << 20, 4 << 20, 4 << 20]],
    ],
    ids=["empty", "mixed", "large"],
)
def test_the_bytes_are_those_of_one_writer(sizes, zip64, is_local, tmp_path):
    parts = [entries_of(some, number) for number, some in enumerate(sizes)]
    archives = [write(tmp_path / f"{number}.zip", part, zip64=zip64) for number, part in enumerate(parts)]
    found = join(tmp_path / "joined.zip", archives, is_local=is_local, zip64=zip64, comment=b"told")
    everything = [*DOCUMENTS.items(), *(entry for part in parts for entry in part)]
    write(tmp_path / "whole.zip", everything, zip64=zip64, comment=b"told")
    assert found == (tmp_path / "whole.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "joined.zip") as file:
        assert file.testzip() is None


@pytest.mark.nightly
def test_more_entries_than_sixteen_bits(tmp_path):
    archives = [write(tmp_path / f"{i}.zip", [(f"a/{i}/{k}", b"x") for k in range(35_000)]) for i in range(2)]
    join(tmp_path / "joined.zip", archives)
    opened = Archive.open("joined", open_blob(str(tmp_path / "joined.zip")))
    assert len(opened.entries) == 70_002
    assert all(entry.is_exact for entry in opened.entries.values())
    with zipfile.ZipFile(tmp_path / "joined.zip") as file:
        assert file.read("a/1/34999") == b"x"


class Far:
    """The end of a file whose beginning is not there."""

    def __init__(self, size, end):
        self.size, self.end = size, end

    def tail(self, n):
        return self.end[-n:], self.size

    def read(self, start, stop):
        first = self.size - len(self.end)
        return self.end[start - first : stop - first]


def test_entries_beyond_four_gibibytes_are_found_by_the_directory_alone(tmp_path):
    archive = write(tmp_path / "part.zip", entries_of([3]))
    sizes = [1 << 30, 5 << 30, 7, 3 << 30, 0xFFFFFFFF, 9]
    members = [Member(f"a/c/{i}", archive, 0, size, 1) for i, size in enumerate(sizes)]
    size, end = Joined(DOCUMENTS, lambda: members).end()
    opened = Archive.open("far", Far(size, end))
    assert [opened.entries[f"a/c/{i}"].stored for i in range(len(sizes))] == sizes
    assert all(entry.is_exact for entry in opened.entries.values())
    assert size > sum(sizes) > 13 << 30


def test_a_real_zip_beyond_four_gibibytes_of_sparse_data(tmp_path):
    """Its one large entry is a hole, which is neither written nor read here."""
    large = 4 << 30
    with open(tmp_path / "part.zip", "wb", buffering=0) as file:
        writer = ZipWriter(lambda parts: [file.write(part) for part in parts] and None)
        writer.add("a/c/0", b"before")
        writer.begin("a/c/1", large, 0)
        file.seek(large, 1)
        writer.add("a/c/2", b"after")
        writer.close()
    opened = Archive.open("part", open_blob(str(tmp_path / "part.zip")))
    entry = opened.entries["a/c/2"]
    assert entry.is_exact
    assert opened.source.read(entry.data, entry.data + entry.stored) == b"after"
    with zipfile.ZipFile(tmp_path / "part.zip") as file:
        assert file.read("a/c/2") == b"after"


class Holes:
    """An output whose large entries stay holes of a sparse file."""

    def __init__(self, file):
        self.file = file

    def write(self, parts):
        self.file.writelines(parts)

    def copy(self, source, start, stop):
        self.file.seek(stop - start, os.SEEK_CUR)


@pytest.fixture(scope="module")
def beyond(tmp_path_factory):
    """A joined zip of six parts of 900 MB, whose large entries are zeros, and of more entries than sixteen bits."""
    folder = tmp_path_factory.mktemp("beyond")
    archive = write(folder / "part.zip", entries_of([9]))
    large = [Member(f"a/c/{i}", archive, 0, 900 << 20, 0x008AA31B) for i in range(6)]
    small = list(
        stored_members(write(folder / "small.zip", [(f"b/c/{i}", i.to_bytes(4, "little")) for i in range(66_000)]))
    )
    array = zarr.create_array({}, shape=(66_000,), chunks=(1,), dtype="i4", compressors=None)
    documents = {"zarr.json": b'{"zarr_format": 3, "node_type": "group"}'}
    documents["b/zarr.json"] = json.dumps(array.metadata.to_dict()).encode()
    joined = Joined(documents, lambda: [*large, *small])
    with open(folder / "far.zarr.zip", "wb") as file:
        size = joined.write(Holes(file), is_local=True, seen=lambda: None)
    assert (folder / "far.zarr.zip").stat().st_size == size == joined.end()[0] > 5 << 30
    assert os.stat(folder / "far.zarr.zip").st_blocks * 512 < 64 << 20
    return folder / "far.zarr.zip"


def with_zipfile(path):
    with zipfile.ZipFile(path) as file:
        return len(file.namelist()), file.read("b/c/65999"), file.getinfo("a/c/5").file_size


def with_unzip(path):
    if (unzip := shutil.which("unzip")) is None:
        pytest.skip("Info-ZIP's unzip is not installed")
    listed = subprocess.run([unzip, "-Z1", path], capture_output=True, text=True, check=True).stdout.splitlines()
    subprocess.run([unzip, "-tq", path, "b/c/65999", "zarr.json"], check=True, capture_output=True)
    data = subprocess.run([unzip, "-p", path, "b/c/65999"], capture_output=True, check=True).stdout
    return len(listed), data, 900 << 20


def with_our_reader(path):
    archive = Archive.open("far", open_blob(str(path)))
    assert all(entry.is_exact for entry in archive.entries.values())
    entry = archive.entry("b/c/65999")
    return len(archive.entries), archive.source.read(entry.data, entry.data + entry.size), archive.entry("a/c/5").size


def with_virtualizarr(path):
    parser = pytest.importorskip("virtualizarr.parsers.zarr.zip")
    found = asyncio.run(parser.parse_zip_index(LocalStore(), str(path).lstrip("/")))
    entry = found["b/c/65999"]
    with open(path, "rb") as file:
        file.seek(entry.data_offset)
        return len(found), file.read(entry.compressed_length), found["a/c/5"].compressed_length


@pytest.mark.few(2)
@pytest.mark.parametrize("read", [with_zipfile, with_unzip, with_our_reader, with_virtualizarr])
def test_a_joined_zip_beyond_the_limits_of_plain_zips_is_read_by_all_readers(read, beyond):
    assert read(beyond) == (66_008, (65_999).to_bytes(4, "little"), 900 << 20)


@pytest.mark.parametrize("open_store", [ZipReadStore, partial(zarr.storage.ZipStore, mode="r")])
def test_zarr_reads_chunks_beyond_four_gibibytes(open_store, beyond):
    array = zarr.open_group(open_store(beyond), mode="r")["b"]
    assert array[-3:].tolist() == [65_997, 65_998, 65_999]


def test_a_damaged_part_is_found(tmp_path):
    write(tmp_path / "part.zip", [("a", b"abcdef"), ("b", b"xyz")])
    data = (tmp_path / "part.zip").read_bytes().replace(b"abcdef", b"abcdeg")
    (tmp_path / "part.zip").write_bytes(data)
    archive = Archive.open("part.zip", open_blob(str(tmp_path / "part.zip")))
    with pytest.raises(CorruptError, match=r"'a' is damaged: its CRC-32 is wrong"):
        join(tmp_path / "joined.zip", [archive])
    assert not (tmp_path / "joined.zip").exists()


def test_compressed_entries_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "part.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", b"a" * 100)
    archive = Archive.open("part.zip", open_blob(str(tmp_path / "part.zip")))
    with pytest.raises(CorruptError, match="it is compressed, or was not written by shardedstore"):
        list(stored_members(archive))
