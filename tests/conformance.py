"""Checks for any store that must show given keys and bytes: functions, not a base class."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Mapping

import pytest
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync

PROTOTYPE = default_buffer_prototype()
MISSING = ["nothing", "nothing/zarr.json", "temperature/c/99/99/99", "temperature/99.99.99", ".zmetadat"]


async def _collect(names) -> list[str]:
    return [name async for name in names]


def keys_of(store: Store) -> list[str]:
    return sync(_collect(store.list()))


def get(store: Store, key: str, byte_range=None) -> bytes | None:
    value = sync(store.get(key, PROTOTYPE, byte_range))
    return None if value is None else value.to_bytes()


def contents_of(store: Store) -> dict[str, bytes]:
    return {key: get(store, key) for key in keys_of(store)}


def folders_of(keys: Mapping[str, bytes]) -> list[str]:
    """All prefixes that end before a slash; the root is empty."""
    return sorted({"", *(key[:i] for key in keys for i, letter in enumerate(key) if letter == "/")})


def names_in(keys: Mapping[str, bytes], folder: str) -> set[str]:
    start = f"{folder}/" if folder else ""
    return {key[len(start) :].partition("/")[0] for key in keys if key.startswith(start)}


def check_same_contents(store: Store, expected: Mapping[str, bytes]) -> None:
    """Check that the store lists exactly these keys, each once, and returns these bytes."""
    listed = keys_of(store)
    assert sorted(listed) == sorted(expected)
    check_values(store, expected)
    check_listings(store, expected)
    check_missing(store, [key for key in MISSING if key not in expected])


def check_values(store: Store, expected: Mapping[str, bytes]) -> None:
    async def read():
        values = await asyncio.gather(*(store.get(key, PROTOTYPE) for key in expected))
        found = await asyncio.gather(*(store.exists(key) for key in expected))
        sizes = await asyncio.gather(*(store.getsize(key) for key in expected))
        return values, found, sizes

    values, found, sizes = sync(read())
    assert {k: None if v is None else v.to_bytes() for k, v in zip(expected, values, strict=True)} == dict(expected)
    assert [key for key, there in zip(expected, found, strict=True) if not there] == []
    assert dict(zip(expected, sizes, strict=True)) == {key: len(data) for key, data in expected.items()}
    some = [key for key, data in expected.items() if len(data) > 4][::5]
    for key in some:
        data = expected[key]
        assert get(store, key, RangeByteRequest(1, 3)) == data[1:3]
        assert get(store, key, OffsetByteRequest(2)) == data[2:]
        assert get(store, key, SuffixByteRequest(2)) == data[-2:]
    partial = sync(store.get_partial_values(PROTOTYPE, ((key, RangeByteRequest(0, 2)) for key in some)))
    assert [value.to_bytes() for value in partial] == [expected[key][:2] for key in some]


def check_listings(store: Store, expected: Mapping[str, bytes]) -> None:
    """Check that listings below and in any folder give each key or name once."""

    async def read():
        folders = folders_of(expected)
        prefixes = [f"{folder}/" if folder else "" for folder in folders]
        below = [sorted(await _collect(store.list_prefix(prefix))) for prefix in prefixes]
        inside = [sorted(await _collect(store.list_dir(folder))) for folder in folders]
        slashed = [sorted(await _collect(store.list_dir(prefix))) for prefix in prefixes]
        return folders, prefixes, below, inside, slashed

    folders, prefixes, below, inside, slashed = sync(read())
    assert dict(zip(prefixes, below, strict=True)) == {
        prefix: sorted(key for key in expected if key.startswith(prefix)) for prefix in prefixes
    }
    names = [sorted(names_in(expected, folder)) for folder in folders]
    assert dict(zip(folders, inside, strict=True)) == dict(zip(folders, names, strict=True))
    assert slashed == inside


def check_missing(store: Store, keys: list[str]) -> None:
    for key in keys:
        assert get(store, key) is None
        assert not sync(store.exists(key))
        with pytest.raises(FileNotFoundError, match=r".*"):
            sync(store.getsize(key))
    assert sync(_collect(store.list_dir("nothing"))) == []
    assert sync(_collect(store.list_prefix("nothing/"))) == []


def check_read_only(store: Store) -> None:
    """Check that the store refuses writes, whatever its mode."""
    assert not store.supports_writes
    assert not store.supports_deletes
    for opened, message in ((store, "can't be written to"), (store.with_read_only(True), "opened in read-only mode")):
        value = cpu.Buffer.from_bytes(b"")
        for refused in (opened.set("zarr.json", value), opened.delete("zarr.json"), opened.delete_dir("")):
            with pytest.raises(ValueError, match=message):
                sync(refused)
    assert store.with_read_only(True).read_only
    assert not store.with_read_only(True).with_read_only(False).read_only


def check_pickles(store: Store) -> Store:
    """Check that an unpickled copy is equal, and return it."""
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    assert copy.read_only == store.read_only
    return copy
