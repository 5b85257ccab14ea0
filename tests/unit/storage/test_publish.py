"""Files that appear complete or not at all, and the rebuilt consolidated metadata."""

import ctypes
import json
import os
import re
import socket
import stat
from types import SimpleNamespace

import dask
import pytest
import xarray as xr
import zarr
from conformance import get, keys_of
from helpers_jobs import cube_at, division, files_of
from sources import SOURCES

from shardedstore import ShardedStore
from shardedstore.storage.options import NONE
from shardedstore.storage.publish import TEMPORARY, published, remove_temporaries, write_file
from shardedstore.transforms import ToZip
from shardedstore.transforms.base.objects import write_objects


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "a" / "b.zip"
    with published(str(path)) as descriptor:
        os.write(descriptor, b"half")
        assert not path.exists()
        os.write(descriptor, b" and half")
    assert path.read_bytes() == b"half and half"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt("bad")])
def test_an_exception_leaves_nothing(tmp_path, error):
    def publish():
        with published(str(tmp_path / "b.zip")) as descriptor:
            os.write(descriptor, b"half")
            raise error

    with pytest.raises(type(error), match="bad"):
        publish()
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_old_file(tmp_path):
    path = tmp_path / "b.zip"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="bad"), published(str(path)):
        raise ValueError("bad")
    assert path.read_bytes() == b"old"


def test_the_bytes_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []

    def recorded(name):
        original = getattr(os, name)

        def call(*args, **kwargs):
            is_folder = name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)
            calls.append("fsync folder" if is_folder else name)
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    recorded("fsync")
    recorded("rename")
    write_file(str(tmp_path / "a"), b"data")
    assert calls == ["fsync", "rename", "fsync folder"]


def test_many_files_are_stored_or_it_is_reported(tmp_path, monkeypatch):
    """The synced descriptor must be older than the first file, as it does not report earlier errors."""
    opened, synced = [], []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *args, **kwargs: opened.append(str(path)) or real(path, *args, **kwargs)
    )
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(syncfs=lambda fd: synced.append(fd) or -1))
    with pytest.raises(OSError, match="copy"):
        write_objects(str(tmp_path / "copy"), NONE, [("a/0", b"0"), ("a/1", b"1")])
    assert len(synced) == 1
    temporary = next(i for i, path in enumerate(opened) if TEMPORARY in path)
    assert str(tmp_path / "copy") in opened[:temporary]


def test_a_file_has_the_mode_that_the_user_asks_for(tmp_path):
    old = os.umask(0o027)
    try:
        write_file(str(tmp_path / "a"), b"data")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_temporary_file_tells_whose_it_is(tmp_path):
    with published(str(tmp_path / "a")):
        (name,) = os.listdir(tmp_path)
    assert re.fullmatch(rf"\.shardedstore-.+-{os.getpid()}-[0-9a-f]{{8}}\.tmp", name)


def temporary(host: str = "") -> str:
    """The name of a temporary file of a dead process."""
    return f"{TEMPORARY}{host or socket.gethostname()}-4711-0123abcd.tmp"


def test_only_temporary_files_that_nobody_writes_to_are_removed(tmp_path):
    kept = {"a.zip", f"{TEMPORARY}mine", temporary()[:-1], temporary("another.host")}
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        for name in (*kept, temporary(), temporary("a-b.c")):
            (folder / name).touch()
        os.utime(folder / temporary("a-b.c"), (0, 0))
    with published(str(tmp_path / "sub" / "b.zip")):
        remove_temporaries(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "sub"}
    assert {path.name for path in (tmp_path / "sub").iterdir()} == {*kept, "b.zip"}


def test_a_link_to_another_folder_is_not_followed(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / temporary()).touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "other")
    remove_temporaries(str(tmp_path / "out"))
    assert (tmp_path / "other" / temporary()).exists()


# Consolidated metadata


@pytest.fixture(params=[2, 3])
def consolidated(request, tmp_path):
    """A source whose root and one group have consolidated metadata, and the result of zipping it."""
    source = SOURCES[f"consolidated-v{request.param}"]
    path = cube_at(tmp_path / "source.zarr", source)
    with dask.config.set(scheduler="synchronous"):
        division(path, source).map_shards(ToZip(tmp_path / "out"))
    return path, ShardedStore.load(tmp_path / "out")


@pytest.mark.parametrize("group", ["", "simulation"])
def test_consolidated_metadata_is_rebuilt(consolidated, group):
    source, result = consolidated
    before = zarr.open_consolidated(str(source), mode="r", path=group)
    after = zarr.open_consolidated(result, mode="r", path=group)
    assert after.metadata.consolidated_metadata == before.metadata.consolidated_metadata
    assert dict(after.members(max_depth=None)).keys() == dict(before.members(max_depth=None)).keys()


def test_xarray_opens_by_consolidated_metadata(consolidated):
    source, result = consolidated
    with xr.open_zarr(source, consolidated=True) as before, xr.open_zarr(result, consolidated=True) as after:
        xr.testing.assert_identical(after.load(), before.load())


def test_the_keys_are_those_of_the_source(consolidated):
    source, result = consolidated
    expected = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())
    assert sorted(keys_of(result)) == expected


def test_no_zip_holds_consolidated_metadata(consolidated):
    source, _ = consolidated
    zips = {name: data for name, data in files_of(source.parent / "out").items() if name.endswith(".zip")}
    assert len(zips) > 20
    assert [name for name, data in zips.items() if b"zmetadata" in data or b"consolidated_metadata" in data] == []


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_source_without_consolidated_metadata_gets_none(tmp_path, zarr_format):
    name = {2: "cube-v2.", 3: "cube-v3/"}[zarr_format]
    source = cube_at(tmp_path / "source.zarr", SOURCES[name])
    with dask.config.set(scheduler="synchronous"):
        result = division(source, SOURCES[name]).map_shards(ToZip(tmp_path / "out"))
    with pytest.raises((ValueError, KeyError), match=r"onsolidated metadata|\.zmetadata"):
        zarr.open_consolidated(result, mode="r")
    assert result.config.consolidated is None
    assert not list((tmp_path / "out").glob("__consolidated__*"))


def test_rebuilt_metadata_is_that_of_the_result_not_of_the_source(consolidated):
    """The source's consolidated metadata of a group is not copied: it is rebuilt from the components."""
    source, result = consolidated
    key = ".zmetadata" if (source / ".zmetadata").exists() else "zarr.json"
    document = json.loads(get(result, key))
    members = document["metadata"] if key == ".zmetadata" else document["consolidated_metadata"]["metadata"]
    for name, member in members.items():
        path = name if key == ".zmetadata" else f"{name}/zarr.json"
        if path != "simulation/zarr.json":  # it has its own consolidated metadata
            assert member == json.loads(get(result, path)), name
