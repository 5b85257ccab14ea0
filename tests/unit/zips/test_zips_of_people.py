"""Zips of other programs: with the Zarr's folder inside, by macOS and Windows, with wrong counts and other bytes."""

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from itertools import count

import numpy as np
import pytest
import zarr
from sources import to_folder

from shardedstore import CorruptError, PartitionError, ShardedStore, UsageError
from shardedstore.stores.locations import ViewOf, Zip
from shardedstore.transforms import ToZip
from shardedstore.zips import ZipReadStore

DATA = np.arange(1, 13, dtype="i4").reshape(3, 4)
FORMATS = [2, 3]
NUMBERS = count()


@pytest.fixture(params=FORMATS)
def contents(request, tmp_path):
    """The keys and bytes of a small Zarr."""
    root = zarr.create_group(tmp_path / "made.zarr", zarr_format=request.param)
    root.create_array("g/a", data=DATA, chunks=(1, 4))
    folder = tmp_path / "made.zarr"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def zipped(path, contents, method=zipfile.ZIP_STORED, folders=()):
    with zipfile.ZipFile(path, "w", method) as file:
        for name in folders:
            file.writestr(f"{name}/", b"")
        for name, data in contents.items():
            file.writestr(name, data)
    return path


def inside(contents, folder):
    return {f"{folder}/{key}": data for key, data in contents.items()}


def check(what, tmp_path, **options):
    """Check that the Zarr opens, and can be mapped, saved in a config and loaded again."""
    store = ShardedStore.partition(what, {"g/a": (2, -1)}, **options)
    np.testing.assert_array_equal(zarr.open_group(store, mode="r")["g/a"], DATA)
    result = store.map_shards(ToZip(tmp_path / f"out{next(NUMBERS)}"), changed="listing")
    np.testing.assert_array_equal(zarr.open_group(result, mode="r")["g/a"], DATA)
    store.save(tmp_path / "saved.json")
    loaded = ShardedStore.load(tmp_path / "saved.json", allow=["/"])
    np.testing.assert_array_equal(zarr.open_group(loaded, mode="r")["g/a"], DATA)
    return store


OF_MACOS = {
    "__MACOSX/x.zarr/._zarr.json": b"\0\5\x16\7",
    "__MACOSX/._x.zarr": b"",
    ".DS_Store": b"",
    "x.zarr/.DS_Store": b"",
}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("folder", ["x.zarr", "data/2024/x y%20.zarr"])
@pytest.mark.parametrize("more", [{}, OF_MACOS], ids=["alone", "macos"])
def test_the_only_zarr_in_a_folder_of_a_zip_is_opened(method, folder, more, contents, tmp_path):
    path = zipped(tmp_path / "x.zip", inside(contents, folder) | more, method, ["data", "x.zarr"])
    store = check(path, tmp_path)
    assert store.config.base == ViewOf(Zip(str(path)), folder)


def test_several_are_listed_with_what_names_one(contents, tmp_path):
    path = zipped(tmp_path / "x.zip", inside(contents, "b 1.zarr") | inside(contents, "in/a.zarr"))
    with pytest.raises(PartitionError, match=r"x.zip' holds 2 Zarrs in its folders: name one of them, '.*x.zip\|zip:b%201.zarr/', '.*x.zip\|zip:in/a.zarr/'"):  # fmt: skip
        ShardedStore.partition(path, [])
    for name in ("b%201.zarr/", "in/a.zarr", "in/a.zarr/|zarr:", "in"):
        check(f"{path}|zip:{name}", tmp_path)


def test_a_folder_in_a_zip_is_a_store(contents, tmp_path):
    path = zipped(tmp_path / "x.zip", inside(contents, "a/x.zarr") | inside(contents, "y.zarr") | {"a/x.zarrs": b""})
    store = ZipReadStore(f"{path}|zip:a/x.zarr/")
    assert {name: store.read_sync(name) for name in store.names()} == contents
    assert (store.url, store.path) == (str(path), "a/x.zarr")
    assert eval(repr(store), {"ZipReadStore": ZipReadStore}) == store != ZipReadStore(path)
    np.testing.assert_array_equal(zarr.open_group(store, mode="r")["g/a"], DATA)
    check(store, tmp_path)
    assert ZipReadStore(path).zarrs() == ["a/x.zarr", "y.zarr"]


@pytest.mark.few(1)
def test_the_command_line_reads_it(contents, tmp_path):
    path = zipped(tmp_path / "x.zip", inside(contents, "a.zarr") | inside(contents, "b.zarr"))
    run = [sys.executable, "-m", "shardedstore"]
    told = subprocess.run([*run, "info", f"{path}|zip:b.zarr/"], capture_output=True, text=True, check=True)
    assert "g/a" in told.stdout or "g" in told.stdout
    refused = subprocess.run([*run, "info", path], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "|zip:a.zarr/" in refused.stderr


@pytest.mark.parametrize("name", ["x.zip|zip:../y", "x.zip|zip:a//b", "x.zip|zip:a|zip:b"])
def test_what_is_no_folder_of_a_zip_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match=r"segment|is not a path inside a zip"):
        ShardedStore.partition(f"{tmp_path}/{name}", [])


def test_backslashes_are_separators_where_nothing_else_is(contents, tmp_path):
    for prefix in ("", "x.zarr\\"):
        names = {prefix + key.replace("/", "\\"): data for key, data in contents.items()}
        check(zipped(tmp_path / "x.zip", names), tmp_path)
    odd = zipped(tmp_path / "odd.zip", contents | {"g/back\\slash": b"x"})
    assert "g/back\\slash" in ZipReadStore(odd).names()


@pytest.mark.few(1)
@pytest.mark.parametrize("entries", [65536, 65537, 131080])
def test_more_entries_than_the_record_counts(entries):
    """Archive Utility of macOS counts modulo 65,536, and writes no zip64 record."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        for number in range(entries):
            file.writestr(zipfile.ZipInfo(f"c/{number}"), b"%d" % number)
    data = written.getvalue()
    end, record = data.rindex(b"PK\5\6"), data.rindex(b"PK\6\6")
    size, start = struct.unpack_from("<2Q", data, record + 40)
    plain = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, entries % 65536, entries % 65536, size, start, 0)
    store = ZipReadStore("/x.zip", source=InMemory(data[:record] + plain))
    assert len(store.names()) == entries
    assert store.read_sync(f"c/{entries - 1}") == b"%d" % (entries - 1)
    assert end > record
    other = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, (entries + 1) % 65536, (entries + 1) % 65536, size, start, 0)
    with pytest.raises(CorruptError, match="entries and should have"):
        ZipReadStore("/x.zip", source=InMemory(data[:record] + other)).names()


class InMemory:
    def __init__(self, data):
        self.data = data

    def tail(self, n):
        return self.data[-n:], len(self.data)

    def read(self, start, stop):
        return self.data[start:stop]


@pytest.mark.parametrize("after", [b"\n", b"\0" * 512, b"PK\5\6" + bytes(18) + b"x", os.urandom(60000)])
@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_bytes_after_its_end_are_passed_over(after, comment, contents, tmp_path):
    path = zipped(tmp_path / "x.zip", contents)
    with zipfile.ZipFile(path, "a") as file:
        file.comment = comment
    path.write_bytes(path.read_bytes() + after)
    assert {name: ZipReadStore(path).read_sync(name) for name in ZipReadStore(path).names()} == contents


def test_bytes_before_its_start_are_passed_over(contents, tmp_path):
    path = zipped(tmp_path / "x.zip", inside(contents, "x.zarr"))
    path.write_bytes(b"#!/bin/sh\nexit\n" + path.read_bytes())
    check(path, tmp_path)


def test_a_zip_in_a_zip_that_is_cut_off_is_not_taken_for_it(contents, tmp_path):
    inner = zipped(tmp_path / "inner.zip", contents).read_bytes()
    outer = zipped(tmp_path / "outer.zip", {"first": b"x" * 99, "inner.zip": inner, "last": b"y" * 9}).read_bytes()
    after = outer.index(inner) + len(inner)
    for cut in (after + 1, after + 45, len(outer) - 30, len(outer) - 1):
        (tmp_path / "cut.zip").write_bytes(outer[:cut])
        with pytest.raises(CorruptError, match=r"truncated|damaged"):
            ZipReadStore(tmp_path / "cut.zip").names()


def test_what_holds_no_zarr_at_all_is_reported_as_before(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a/readme.txt": b"", "__MACOSX/zarr.json": json.dumps({}).encode()})
    with pytest.raises(PartitionError, match="holds no Zarr"):
        ShardedStore.partition(path, [])
    assert to_folder({"a": b""}, tmp_path / "f")
