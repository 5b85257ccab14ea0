"""What tells whether a shard's source is as it was without reading it: a digest of its keys, sizes and tags.

Of a local file the tag is the time of its last change and its inode, of an object its ETag, and of a member of a zip its
CRC-32. It costs some microseconds for each local file, and for objects a request for each thousand.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import obstore
from zarr.abc.store import Store
from zarr.storage import LocalStore, ObjectStore

from shardedstore.storage.crc import crc32
from shardedstore.stores.batch_reader import ObjectBulk, batch_reader
from shardedstore.stores.bundle import Bundle
from shardedstore.stores.group import GroupStore
from shardedstore.stores.part import Part, Rest
from shardedstore.stores.squeezed import SqueezedBlock
from shardedstore.stores.veiled import Veiled
from shardedstore.stores.views import Block, Left, Remainder, View
from shardedstore.zips import ZipReadStore

if TYPE_CHECKING:
    from obstore import ObjectMeta

Listed = tuple[str, int, str]  # key, bytes, tag
PAGE = 1000  # keys that a store lists with one request


def listing(component: Store) -> str:
    """Return the digest of a component's keys, sizes and tags; of a block, of its chunks alone, as an array may grow."""
    found: Iterator[Listed]
    match component:
        case Remainder() if isinstance(component.store, GroupStore):  # it has nothing but documents
            found = ((key, len(data), str(crc32(data))) for key, data in component.store.documents.items())
        case Bundle():
            found = ((name, 0, listing(component.member(name))) for name in component.members.names)
        case Block():
            found = _of_block(component)
        case SqueezedBlock():
            found = _of_keys(component.store, component.stored_keys())
        case View():
            found = _below(component.store, component.path, None)
        case Remainder():
            found = _below(component.store, "", component)
        case _:
            found = _below(component, "", None)
    state = hashlib.blake2b(digest_size=16)
    for key, nbytes, tag in sorted(found):
        state.update(f"{key}\0{nbytes}\0{tag}\n".encode())
    return state.hexdigest()


def _of_block(view: Block) -> Iterator[Listed]:
    start = f"{view.path}/" if view.path else ""
    return _of_keys(view.store, map(start.__add__, view.keys()))


def _below(store: Store, path: str, remainder: Left | None) -> Iterator[Listed]:
    if isinstance(store, Part):
        return _below(store.store, path, Rest(store, remainder))
    if isinstance(store, Veiled):
        return _below(store.store, path, remainder)
    if isinstance(store, ObjectStore):
        return map(_listed, ObjectBulk(store).objects(path, remainder))
    return _of_keys(store, batch_reader(store).keys(path, remainder))


def _of_keys(store: Store, keys: Iterable[str]) -> Iterator[Listed]:
    """Yield what there is of some keys."""
    match store:
        case Part():
            return _of_keys(store.store, keys)
        case Veiled():
            return _of_keys(store.store, map(store.veil.stored, keys))
        case LocalStore():
            return _of_files(os.fspath(store.root), keys)
        case ObjectStore():
            return _of_objects(store, keys)
        case ZipReadStore():
            return ((key, store.entry_size(key), str(store.entry_crc(key))) for key in keys if store.holds(key))
    raise NotImplementedError(f"{store!r} can't be listed with sizes and tags")


def can_list(store: Store) -> bool:
    """Tell whether what a store holds can be listed with sizes and tags."""
    while isinstance(store, Part):
        store = store.store
    return isinstance(store, LocalStore | ObjectStore | ZipReadStore)


def _of_files(root: str, keys: Iterable[str]) -> Iterator[Listed]:
    for key in keys:
        try:
            found = os.stat(f"{root}/{key}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        yield key, found.st_size, f"{found.st_mtime_ns} {found.st_ino}"


def _of_objects(store: ObjectStore, keys: Iterable[str]) -> Iterator[Listed]:  # type: ignore[type-arg]
    """List from the first key on, and leap to the next where a page has none of them."""
    wanted = sorted(keys)
    names, place = set(wanted), 0
    while place < len(wanted):
        batch = next(iter(obstore.list(store.store, offset=_before(wanted[place]), chunk_size=PAGE)), None)
        if not batch:
            return
        yield from (_listed(found) for found in batch if found["path"] in names)
        last = batch[-1]["path"]
        while place < len(wanted) and wanted[place] <= last:
            place += 1


def _before(key: str) -> str:
    """Return a name in the same folder before a key, with no chunk's key between them.

    >>> _before("t/c/1/0"), _before("t/c/1/7")
    ('t/c/1/-', 't/c/1/6z')
    """
    start, last = key[:-1], key[-1]
    return f"{start}-" if last == "0" else f"{start}{chr(ord(last) - 1)}z"


def _listed(found: ObjectMeta) -> Listed:
    return found["path"], found["size"], str(found["e_tag"] or found["last_modified"])
