import asyncio
import io
import mmap
import os
import pickle
import re
import shutil
import struct
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import obstore
import pytest
import zarr
from hypothesis import example, given
from hypothesis import strategies as st
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.testing.store import StoreTests

from shardedstore.errors import CorruptError, UsageError
from shardedstore.storage.blobs import LocalFile, RemoteObject
from shardedstore.storage.outputs import writev_all
from shardedstore.zips import ZipReadStore
from shardedstore.zips.writer import ZipWriter

PROTOTYPE = default_buffer_prototype()
BYTE_RANGES = [RangeByteRequest(1, 4), RangeByteRequest(3, 99), OffsetByteRequest(2), SuffixByteRequest(2)]
EMPTY_RANGES = [RangeByteRequest(2, 2), RangeByteRequest(50, 60), OffsetByteRequest(50), SuffixByteRequest(0)]
ENTRIES = {"zarr.json": b'{"zarr_format": 3}', "t/c/0": b"0123456789", "t/c/1": b"", "température/c/0": b"\xff" * 99}


ODD_NAMES = ["/a", "//a", "a//b", "./b", ".", "..", "a/.", "a/./b", "../c", "a/../b", "a/.."]


def archive(entries, **options):
    written = io.BytesIO()
    writer = ZipWriter(written.writelines, **options)
    for name, data in entries.items():
        writer.add(name, data)
    assert writer.close() == written.tell()
    return written.getvalue()


class Stream(io.BytesIO):
    """Output that can't seek: sizes follow the data, in data descriptors."""

    def tell(self):
        raise io.UnsupportedOperation


def foreign(entries, *, method=zipfile.ZIP_STORED, comment=b"", extra=b"", zip64=False, stream=False):
    """A zip by the standard library."""
    written = Stream() if stream else io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        file.comment = comment
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.extra = extra
            info.compress_type = method if method is not None else len(data) % 2 * zipfile.ZIP_DEFLATED
            with file.open(info, "w", force_zip64=zip64) as member:  # zip64 fields in the local header only
                member.write(data)
    return written.getvalue()


class Recorded:
    """A ByteSource that records its requests."""

    def __init__(self, data):
        self.data = data
        self.requests = []

    def tail(self, n):
        self.requests.append("tail")
        return self.data[-n:], len(self.data)

    def read(self, start, stop):
        self.requests.append((start, stop))
        return self.data[start:stop]

    async def aread(self, start, stop):
        await asyncio.sleep(0)
        return self.read(start, stop)


def opened(data):
    return ZipReadStore("some.zip", source=Recorded(data))


def contents(store):
    return {name: store.read_sync(name) for name in store.names()}


def get(store, key, byte_range=None):
    value = sync(store.get(key, PROTOTYPE, byte_range))
    return None if value is None else value.to_bytes()


def sliced(data, byte_range):
    match byte_range:
        case RangeByteRequest(start, end):
            return data[start:end]
        case OffsetByteRequest(start):
            return data[start:]
        case SuffixByteRequest(length):
            return data[max(0, len(data) - length) :]
    return data


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(archive(ENTRIES))
    return path


# The reader, with zarr's own tests


def rewrite(url, key, data):
    with zipfile.ZipFile(url) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    Path(url).write_bytes(archive(entries | {key: data}))


class Rewritten(ZipReadStore):
    """The reader with a `set` that rewrites the whole zip, as most of zarr's tests fill stores by `set`."""

    def __init__(self, url, *, read_only=False, **kwargs):
        super().__init__(url, **kwargs)
        self._read_only = read_only

    async def set(self, key, value):
        self._check_writable()
        rewrite(self.url, key, value.to_bytes())
        self.close()


class TestZipReadStore(StoreTests[Rewritten, cpu.Buffer]):
    store_cls = Rewritten
    buffer_cls = cpu.Buffer

    async def set(self, store, key, value):
        rewrite(store.url, key, value.to_bytes())
        store.close()

    async def get(self, store, key):
        with zipfile.ZipFile(store.url) as file:
            return cpu.Buffer.from_bytes(file.read(key))

    @pytest.fixture
    def store_kwargs(self, tmp_path):
        (tmp_path / "a.zip").write_bytes(archive({}))
        return {"url": tmp_path / "a.zip"}

    def test_store_repr(self, store):
        assert repr(store) == f"Rewritten({store.url!r})"
        assert str(store) == f"zip::{store.url}"

    def test_store_supports_writes(self, store):
        assert not store.supports_writes
        assert not store.supports_deletes

    def test_store_supports_listing(self, store):
        assert store.supports_listing

    async def test_with_read_only_store(self, store):
        assert store.with_read_only(True) == store
        with pytest.raises(ValueError, match="can't be written to"):
            store.with_read_only(False)

    async def test_clear(self, store):
        with pytest.raises(NotImplementedError, match=r"^$"):
            await store.clear()


async def test_is_read_only(path):
    store = ZipReadStore(path)
    assert store.read_only
    for refused in (store.set("t/c/1", cpu.Buffer.from_bytes(b"")), store.delete("t/c/1")):
        with pytest.raises(ValueError, match="store was opened in read-only mode"):
            await refused


# Round trips

segments = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=6)
names = st.lists(segments.filter(lambda text: text not in (".", "..")), min_size=1, max_size=4).map("/".join)
entries_strategy = st.dictionaries(names, st.binary(max_size=300), max_size=12)


@given(entries_strategy, st.booleans(), st.binary(max_size=50).filter(lambda text: b"PK" not in text))
@example(ENTRIES, False, b"")
def test_what_is_written_is_read(entries, zip64, comment):
    data = archive(entries, zip64=zip64, comment=comment)
    assert data == archive(entries, zip64=zip64, comment=comment)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.comment == comment
        assert {name: file.read(name) for name in file.namelist()} == entries
    store = opened(data)
    assert store.names() == sorted(entries)
    assert contents(store) == entries
    assert all(get(store, name) == value for name, value in entries.items())
    assert [store.entry_size(name) for name in entries] == [len(value) for value in entries.values()]


@given(
    entries_strategy,
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, None]),
    st.binary(max_size=50).filter(lambda text: b"PK" not in text),
    st.sampled_from([b"", b"\x99\x99\x04\x00abcd"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([b"", b"#!/bin/sh\n", b"PK\3\4" * 9]),
    st.sampled_from([None, *BYTE_RANGES, *EMPTY_RANGES]),
)
def test_foreign_zips_are_read(entries, method, comment, extra, zip64, stream, prepended, byte_range):
    entries = {name: value for name, value in entries.items() if not name.startswith("/")}
    data = foreign(entries, method=method, comment=comment, extra=extra, zip64=zip64, stream=stream)
    store = opened(prepended + data)
    assert contents(store) == entries
    assert {name: get(store, name, byte_range) for name in entries} == {
        name: sliced(value, byte_range) for name, value in entries.items()
    }


@pytest.mark.parametrize("zip64", [False, True])
def test_other_readers_agree(tmp_path, zip64):
    path = tmp_path / "a.zip"
    path.write_bytes(archive(ENTRIES, zip64=zip64, comment=b"a comment"))
    with sync(zarr.storage.ZipStore.open(path, read_only=True)) as store:
        assert {name: get(store, name) for name in ENTRIES} == ENTRIES
    if unzip := shutil.which("unzip"):
        tested = subprocess.run([unzip, "-t", path], capture_output=True, text=True, check=False)
        assert (tested.returncode, tested.stderr) == (0, "")


def test_an_array_is_read(tmp_path):
    source, data = zarr.storage.MemoryStore(), np.arange(100.0).reshape(10, 10)
    zarr.create_array(source, name="a", data=data, chunks=(2, 2), shards=(4, 4))
    path = tmp_path / "a.zip"
    path.write_bytes(archive({key: value.to_bytes() for key, value in source._store_dict.items()}))
    np.testing.assert_array_equal(zarr.open_group(ZipReadStore(path), mode="r")["a"][3:, 5:], data[3:, 5:])


@pytest.mark.skipif(not shutil.which("zip"), reason="Info-ZIP is not installed")
def test_zips_of_info_zip_are_read(tmp_path):
    for name, data in ENTRIES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    subprocess.run(
        ["zip", "-qr", "a.zip", *ENTRIES, "t"], cwd=tmp_path, check=True, env=os.environ | {"LC_ALL": "C.UTF-8"}
    )
    store = ZipReadStore(tmp_path / "a.zip")
    assert contents(store) == ENTRIES
    assert get(store, "t/c/0", RangeByteRequest(1, 3)) == b"12"


def test_directories_duplicates_and_code_page_437():
    with zipfile.ZipFile(written := io.BytesIO(), "w") as file:
        for name, data in ("t/", b""), ("cafX", b"4"), ("t/c/0", b"old"), ("t/c/1", b"new"):
            file.writestr(name, data)
    store = opened(written.getvalue().replace(b"cafX", b"caf\x82").replace(b"c/1", b"c/0"))
    assert contents(store) == {"café": b"4", "t/c/0": b"new"}


# The writer


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is empty"),
        ("c/", "ends with a slash"),
        *[(name, "it has a segment that is empty, '.' or '..'") for name in ODD_NAMES],
        ("a\0b", "null character"),
        ("é" * 32768, "longer than 65535 bytes"),
        ("\ud800", "not Unicode text"),
        ("there", "'there' already"),
    ],
)
def test_bad_names_are_refused(name, why):
    writer = ZipWriter(lambda _: None)
    writer.add("there", b"")
    with pytest.raises(UsageError, match=re.escape(why)):
        writer.add(name, b"")


@pytest.mark.parametrize("comment", [b"-" * 65536, b"PK\5\6"])
def test_bad_comments_are_refused(comment):
    with pytest.raises(UsageError, match="comment must have at most 65535 bytes"):
        ZipWriter(lambda _: None, comment=comment)


@pytest.mark.parametrize(
    "data",
    [
        bytearray(b"abcd"),
        memoryview(b"abcd"),
        np.arange(12, dtype=">f8").reshape(3, 4),
        np.zeros((0, 3)),
        np.zeros(100_000),
        cpu.Buffer.from_bytes(b"abcd").as_buffer_like(),
    ],
    ids=lambda data: f"{type(data).__name__}-{memoryview(data).nbytes}",
)
def test_any_buffer_is_written_and_may_be_changed_afterwards(data):
    written, expected = io.BytesIO(), memoryview(data).tobytes()
    writer = ZipWriter(written.writelines)
    crc = writer.add("a", data)
    if not memoryview(data).readonly:
        np.frombuffer(data, dtype="B")[:] = 255
    writer.close()
    store = opened(written.getvalue())
    assert store.read_sync("a") == expected
    assert store.entry_crc("a") == crc


def test_a_buffer_with_gaps_is_refused():
    with pytest.raises(BufferError, match="non-contiguous"):
        ZipWriter(lambda _: None).add("a", np.arange(10)[::2])


def test_writes_are_few():
    calls = []
    writer = ZipWriter(lambda parts: calls.append(len(parts)))
    for i in range(1000):
        writer.add(f"c/{i}", b"x" * 9216)
    writer.close()
    assert len(calls) < 40


def test_a_zip_whose_writing_failed_can_not_be_finished():
    def full(parts):
        raise OSError(28, "No space left on device")

    writer = ZipWriter(full)
    with pytest.raises(OSError, match="No space left"):
        writer.add("a", np.zeros(100_000))
    with pytest.raises(UsageError, match="can't add 'b': the zip is closed, or writing to it failed"):
        writer.add("b", b"")
    with pytest.raises(UsageError, match="can't close the zip"):
        writer.close()


@pytest.mark.parametrize("most", [7, 1 << 30])
def test_all_is_written_to_a_descriptor(tmp_path, monkeypatch, most):
    whole = os.writev
    if most == 7:
        monkeypatch.setattr(os, "writev", lambda fd, views: whole(fd, [b"".join(views)[:most]]))
    parts = [b"%d" % i if i % 3 else b"" for i in range(3000)]
    with (tmp_path / "a").open("wb") as file:
        writev_all(file.fileno())(parts)
    assert (tmp_path / "a").read_bytes() == b"".join(parts)


@pytest.mark.few(1)
@pytest.mark.parametrize("count", [65534, 65535, 70000])
def test_many_entries(count):
    data = archive(dict.fromkeys(map(str, range(count)), b""))
    assert (b"PK\6\6" in data) == (count >= 65535)
    assert len(opened(data).names()) == count
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert len(file.namelist()) == count


def test_sizes_and_offsets_over_4_gib(tmp_path, monkeypatch):
    big = mmap.mmap(-1, (1 << 32) + 5, prot=mmap.PROT_READ)
    with (tmp_path / "a.zip").open("wb") as file:

        def write(parts):
            for part in parts:
                if len(part) > 1 << 20:
                    file.seek(len(part), os.SEEK_CUR)  # a hole reads as the zeros that the part holds
                else:
                    file.write(part)

        writer = ZipWriter(write)
        writer.add("a", b"before")
        with monkeypatch.context() as patch:
            patch.setattr("shardedstore.zips.writer.crc32", lambda _: 0)  # seconds
            writer.add("b", big)
        writer.add("c", b"after")
        assert writer.close() == file.tell() > 1 << 32
    store = ZipReadStore(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        assert file.read("a") == store.read_sync("a") == b"before"
        assert file.read("c") == store.read_sync("c") == b"after"
        assert file.getinfo("b").file_size == store.entry_size("b") == len(big)
    assert get(store, "b", SuffixByteRequest(3)) == get(store, "b", RangeByteRequest(0, 3)) == b"\0\0\0"
    with open(tmp_path / "a.zip", "rb") as file:
        assert extra_lengths(file) == {"a": (0, 0), "b": (20, 20), "c": (12, 12)}
    if zipinfo := shutil.which("zipinfo"):
        told = subprocess.run([zipinfo, "-v", tmp_path / "a.zip", "c"], capture_output=True, text=True, check=False)
        assert (told.returncode, told.stderr) == (0, "")


# The lengths of headers


def extra_lengths(file):
    """The lengths of the extra fields of each entry, in the directory and in the local header.

    Each entry must fill the space up to the next header or the directory. Only then, readers that index a zip with one request use
    the lengths in the directory instead of those in the local headers.
    """
    found = {}
    with zipfile.ZipFile(file) as opened:
        entries = sorted(opened.infolist(), key=lambda info: info.header_offset)
        stops = [info.header_offset for info in entries[1:]] + [opened.start_dir]
        at = opened.start_dir
        for info, stop in zip(entries, stops, strict=True):
            file.seek(at)
            header = file.read(46)
            name, central, comment = struct.unpack_from("<3H", header, 28)
            file.seek(info.header_offset + 28)
            (local,) = struct.unpack("<H", file.read(2))
            assert info.header_offset + 30 + name + central + info.compress_size == stop
            found[info.filename] = central, local
            at += 46 + name + central + comment
    return found


@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("count", [3, 65536])
def test_no_entry_has_extra_fields_that_it_does_not_need(zip64, count):
    data = archive({f"t/c/{i}": b"x" for i in range(count)}, zip64=zip64)
    assert set(extra_lengths(io.BytesIO(data)).values()) == {(0, 0)}
    assert (b"PK\6\6" in data) == (zip64 or count > 65535)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert {info.extract_version for info in file.infolist()} == {45 if zip64 else 20}


@pytest.mark.parametrize("zip64", [False, True])
def test_threads_read_what_they_should_through_one_zipfile(tmp_path, zip64):
    """Also if Python skips extra fields of local headers relative to the position of another thread."""
    path = tmp_path / "a.zip"
    entries = {f"c/{i}": bytes([i % 251]) * 3000 for i in range(400)}
    path.write_bytes(archive(entries, zip64=zip64))
    with zipfile.ZipFile(path) as file, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(file.read, list(entries) * 4)) == list(entries.values()) * 4


def test_where_the_directory_has_the_same_extra_fields_a_byte_range_takes_one_request():
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        for name, data in ENTRIES.items():
            info = zipfile.ZipInfo(name)
            info.extra = b"\x99\x99\x04\x00abcd"
            file.writestr(info, data)
    source = Recorded(written.getvalue())
    store = ZipReadStore("some.zip", source=source)
    assert get(store, "t/c/0", RangeByteRequest(2, 5)) == b"234"
    assert len(source.requests) == 2
    assert contents(store) == ENTRIES


def test_a_data_descriptor_of_the_length_of_extra_fields_is_distinguished_from_them():
    """The start of the data does not follow from the directory alone."""
    stream = foreign({"t/c/0": b"0123456789", "t/c/1": b"abc"}, stream=True)
    with zipfile.ZipFile(io.BytesIO(stream)) as file:
        start, infos = file.start_dir, file.infolist()
    directory = b""
    at = start
    for info in infos:  # each gets an extra field of 16 bytes, the size of a data descriptor
        header = bytearray(stream[at : at + 46 + len(info.filename)])
        struct.pack_into("<H", header, 30, 16)
        directory += bytes(header) + b"\x99\x99\x0c\x00" + bytes(12)
        at += len(header)
    end = bytearray(stream[at:])
    struct.pack_into("<L", end, 12, len(directory))
    store = opened(stream[:start] + directory + bytes(end))
    assert get(store, "t/c/0", RangeByteRequest(2, 5)) == b"234"
    assert contents(store) == {"t/c/0": b"0123456789", "t/c/1": b"abc"}


# Requests


def test_a_small_zip_opens_with_one_request_and_each_value_takes_one():
    source = Recorded(archive(ENTRIES))
    store = ZipReadStore("some.zip", source=source)
    assert get(store, "nothing") is None
    assert source.requests == ["tail"]
    assert get(store, "t/c/0") == b"0123456789"
    assert get(store, "t/c/0", RangeByteRequest(2, 5)) == b"234"
    _, (start, stop), (first, last) = source.requests
    assert (stop - start, last - first) == (30 + len("t/c/0") + 10, 3)
    assert start + 30 + len("t/c/0") + 2 == first


def test_a_large_directory_takes_a_second_request():
    source = Recorded(archive({f"temperature/c/{i}": b"%d" % i for i in range(2000)}))
    store = ZipReadStore("some.zip", source=source)
    assert len(store.names()) == 2000
    assert get(store, "temperature/c/77") == b"77"
    assert len(source.requests) == 3


@pytest.mark.parametrize(
    ("byte_range", "requests"), [(None, 1), (RangeByteRequest(2, 5), 2), (RangeByteRequest(5, 5), 1)]
)
def test_longer_local_headers_take_a_request_more_for_a_byte_range(byte_range, requests):
    source = Recorded(foreign(ENTRIES, zip64=True))
    store = ZipReadStore("some.zip", source=source)
    store.names()
    assert get(store, "t/c/0", byte_range) == sliced(b"0123456789", byte_range)
    assert len(source.requests) == 1 + requests


async def test_many_first_uses_share_one_opening():
    source = Recorded(archive(ENTRIES))
    store = ZipReadStore("some.zip", source=source)
    values = await asyncio.gather(*(store.get("t/c/0", PROTOTYPE) for _ in range(50)))
    assert {value.to_bytes() for value in values} == {b"0123456789"}
    assert source.requests.count("tail") == 1


async def test_sizes_and_lists_take_no_request():
    source = Recorded(archive(ENTRIES))
    store = ZipReadStore("some.zip", source=source)
    assert await store.getsize("t/c/0") == 10
    assert [name async for name in store.list_dir("t/c")] == ["0", "1"]
    assert [name async for name in store.list_prefix("t/c/")] == ["t/c/0", "t/c/1"]
    assert source.requests == ["tail"]


@pytest.mark.parametrize("method", ["read_sync", "entry_crc", "entry_size"])
def test_a_missing_key_is_not_found(path, method):
    with pytest.raises(FileNotFoundError, match="t/c/7"):
        getattr(ZipReadStore(path), method)("t/c/7")


@pytest.mark.parametrize("has_suffix", [True, False])
def test_objects_are_read(tmp_path, monkeypatch, has_suffix):
    if not has_suffix:

        def refuse(*args, **kwargs):
            raise obstore.exceptions.NotSupportedError("no suffix ranges")

        monkeypatch.setattr(obstore, "get", refuse)
    memory = obstore.store.MemoryStore()
    obstore.put(memory, "a.zip", archive(ENTRIES))
    obstore.put(memory, "empty.zip", b"")
    store = ZipReadStore("s3://bucket/a.zip", source=RemoteObject(memory, "a.zip"))
    assert store.is_remote
    assert contents(store) == ENTRIES
    assert {name: get(store, name) for name in ENTRIES} == ENTRIES
    assert get(store, "t/c/0", SuffixByteRequest(2)) == b"89"
    with pytest.raises(CorruptError, match="not a zip"):
        ZipReadStore("s3://bucket/empty.zip", source=RemoteObject(memory, "empty.zip")).names()


# A local zip


@pytest.mark.parametrize("form", [str, Path, Path.as_uri, os.path.relpath])
def test_local_urls(tmp_path, form):
    path = tmp_path / "my cube é.zip"
    path.write_bytes(archive(ENTRIES))
    store = ZipReadStore(form(path))
    assert store.url == str(path)
    assert not store.is_remote
    assert contents(store) == ENTRIES


def test_what_is_no_local_zip_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.zip"):
        ZipReadStore(tmp_path / "none.zip").names()
    with pytest.raises(UsageError, match="unknown URL scheme memory://"):
        ZipReadStore("memory:///a.zip")


def test_pickles_its_url_and_nothing_that_is_open(path):
    store = ZipReadStore(path)
    store.names()
    assert len(pickle.dumps(store)) < 300
    loaded = pickle.loads(pickle.dumps(store))
    assert loaded == store
    assert contents(loaded) == ENTRIES
    remote = ZipReadStore("s3://bucket/a.zip", storage_options={"region": "x", "secret_access_key": "hidden"})
    assert pickle.loads(pickle.dumps(remote)) == remote != ZipReadStore("s3://bucket/a.zip")
    assert "hidden" not in repr(remote) + str(remote)
    assert b"hidden" not in pickle.dumps(remote)


def test_threads_open_and_read_and_close_at_once(tmp_path):
    entries = {f"c/{i}": os.urandom(5000) for i in range(50)}
    path = tmp_path / "a.zip"
    path.write_bytes(archive(entries))
    store = ZipReadStore(path)

    def read(i):
        if i % 10 == 0:
            store.close()
        return all(store.read_sync(name) == data for name, data in entries.items())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(100)))


def descriptors_of(path):
    """Return how many descriptors of this process lead to a file; other threads open and close descriptors of theirs."""
    found = Path("/proc/self/fd").iterdir()
    return sum(os.path.realpath(one) == os.path.realpath(path) for one in found)


def test_closing_closes_the_descriptor_and_reading_opens_it_again(path):
    store = ZipReadStore(path)
    store.names()
    assert descriptors_of(path) == 1
    store.close()
    assert descriptors_of(path) == 0
    assert contents(store) == ENTRIES


def test_a_zip_that_is_replaced_is_read_to_its_end(path):
    store = ZipReadStore(path)
    store.names()
    other = path.with_name("other")
    other.write_bytes(archive({"other": b""}))
    other.rename(path)
    assert contents(store) == ENTRIES
    store.close()
    assert contents(store) == {"other": b""}


async def test_large_values_are_read_in_a_thread(tmp_path):
    data = os.urandom(3 << 20)
    (tmp_path / "a.zip").write_bytes(foreign({"a": data}, method=zipfile.ZIP_DEFLATED))
    store = await ZipReadStore.open(tmp_path / "a.zip")
    assert (await store.get("a", PROTOTYPE)).to_bytes() == data
    assert await LocalFile(store.url).aread(0, 2 << 20) == (tmp_path / "a.zip").read_bytes()[: 2 << 20]


# Damage

VICTIMS = {
    "plain": archive(ENTRIES),
    "zip64": archive(ENTRIES, zip64=True, comment=b"a comment"),
    "foreign": foreign(ENTRIES, method=zipfile.ZIP_DEFLATED, comment=b"a comment", stream=True),
    "extra": foreign(ENTRIES, zip64=True, extra=b"\x99\x99\x04\x00abcd"),
    "prepended": b"#!/bin/sh\n" + foreign(ENTRIES),
}
victims = pytest.mark.parametrize("victim", VICTIMS.values(), ids=VICTIMS.keys())


def assert_never_wrong(data):
    """Only right values, and only our own exceptions."""
    store = opened(data)
    with suppress(CorruptError):
        for name in store.names():
            with suppress(CorruptError):
                assert store.read_sync(name) == ENTRIES.get(name, "an error")
            with suppress(CorruptError):
                assert get(store, name) == ENTRIES.get(name, "an error")
            with suppress(CorruptError):
                assert len(get(store, name, RangeByteRequest(1, 5))) <= 4


@victims
def test_every_cut_is_refused(victim):
    for cut in range(len(victim)):
        with pytest.raises(CorruptError, match=r"some\.zip: "):
            opened(victim[:cut]).names()


@pytest.mark.few(3)
@victims
@pytest.mark.parametrize("mask", [0x01, 0x08, 0x80, 0xFF])
def test_no_flipped_byte_gives_wrong_data(victim, mask):
    for at in range(len(victim)):
        assert_never_wrong(victim[:at] + bytes([victim[at] ^ mask]) + victim[at + 1 :])


@given(st.sampled_from(list(VICTIMS)), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8))
def test_no_damage_gives_wrong_data(victim, changes):
    data = bytearray(VICTIMS[victim])
    for at, value in changes:
        data[at % len(data)] = value
    assert_never_wrong(bytes(data))


@given(st.binary(max_size=200), st.binary(max_size=100))
def test_garbage_is_refused(before, after):
    assert_never_wrong(before + b"PK\6\7" + after + b"PK\5\6" + bytes(18))


@victims
def test_a_byte_range_is_right_or_refused_when_what_is_around_the_data_is_damaged(victim):
    with zipfile.ZipFile(io.BytesIO(victim)) as file:
        infos = file.infolist()
    spared = set()
    for info in infos:
        lengths = victim[info.header_offset + 26 : info.header_offset + 30]
        start = info.header_offset + 30 + sum(np.frombuffer(lengths, dtype="<u2").tolist())
        spared.update(range(start, start + info.compress_size))
    for at in set(range(len(victim))) - spared:
        store = opened(victim[:at] + bytes([victim[at] ^ 0x01]) + victim[at + 1 :])
        for name, value in ENTRIES.items():
            with suppress(CorruptError):
                assert get(store, name, RangeByteRequest(1, 5)) in (value[1:5], None)


def edited(where, field, value, data=VICTIMS["plain"]):
    """A zip with one replaced byte, `field` bytes after the last occurrence of `where`."""
    at = data.rindex(where) + field
    return data[:at] + bytes([value]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a zip, or truncated"),
        (edited(b"PK\5\6", 4, 1), "one part of a multi-disk zip"),
        (edited(b"PK\5\6", 8, 9), "one part of a multi-disk zip"),
        (edited(b"PK\5\6", 17, 9), "directory does not lie inside the file"),
        (edited(b"PK\1\2", 0, 1), "no entry at byte"),
        (edited(b"PK\1\2", 8, 1), "'température/c/0' is encrypted"),
        (edited(b"PK\1\2", 10, 12), "'.*' has compression 12; only 0 .* and 8"),
        (edited(b"PK\1\2", 20, 98), "'.*' is damaged, or on another disk"),
        (edited(b"PK\1\2", 34, 1), "'.*' is damaged, or on another disk"),
        (edited(b"PK\1\2", 43, 9), "'.*' overlaps another entry"),
        (edited(b"PK\1\2", 46, 0xFF), "directory is damaged: 'utf-8' codec"),
        (edited(b"PK\1\2", 32, 200), "it has 4 entries|no entry|unpack"),
        (edited(b"PK\6\6", 4, 1, VICTIMS["zip64"]), "zip64 end record is damaged"),
        (edited(b"PK\5\6", 10, 9, VICTIMS["zip64"]), "one part of a multi-disk zip|contradict each other"),
        (archive({"a+b": b""}).replace(b"a+b", b"a\0b"), r"'a\\x00b' is not a valid key"),
        *[
            (foreign({"zarr.json": b"", name: b""}), f"{re.escape(repr(name))} is not a valid key")
            for name in ODD_NAMES
        ],
    ],
)
def test_a_zip_that_can_not_be_read_is_refused_with_the_reason(data, message):
    with pytest.raises(CorruptError, match=f"some.zip: .*({message})"):
        opened(data).names()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (edited(b"PK\3\4", 0, 1), "local header contradicts the directory"),
        (edited(b"PK\3\4", 31, 1), "local header has another name"),
        (edited(b"PK\3\4", 29, 1), "overlaps the next entry"),
        (edited(b"PK\3\4", 99, 1), "CRC-32 is wrong"),
    ],
)
def test_a_damaged_entry_is_refused_with_the_reason(data, message):
    with pytest.raises(CorruptError, match=f"some.zip: 'température/c/0' is damaged: .*{message}"):
        opened(data).read_sync("température/c/0")


def test_a_bomb_is_not_inflated():
    data = foreign({"a": bytes(10 << 20)}, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(CorruptError, match="does not inflate to the expected 10485759 bytes"):
        opened(data.replace((10 << 20).to_bytes(4, "little"), ((10 << 20) - 1).to_bytes(4, "little"))).read_sync("a")


def test_a_file_that_became_shorter_is_refused(path):
    store = ZipReadStore(path)
    store.names()
    os.truncate(path, 60)
    with pytest.raises(CorruptError, match="'t/c/0' is damaged: the file ends inside its local header"):
        store.read_sync("t/c/0")
    with pytest.raises(CorruptError, match="'t/c/0' is damaged: the file ends inside its data"):
        get(store, "t/c/0", RangeByteRequest(1, 4))
