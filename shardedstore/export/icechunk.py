"""References in an Icechunk repository: virtual chunks that lead to the files of a store.

Icechunk's own documentation, https://icechunk.io/en/stable/virtual/, describes virtual chunks and their containers.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import obstore
from toolz import partition_all
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from shardedstore.errors import UsageError
from shardedstore.export.references import ChunkTable, References, references_to, shown_url
from shardedstore.storage.blobs import object_store
from shardedstore.storage.options import NONE, Options, take_options
from shardedstore.storage.request_metrics import request
from shardedstore.storage.requests import in_flight
from shardedstore.storage.urls import is_remote, is_within, normalize, quote_name, url_with_scheme
from shardedstore.stores.icechunk import client_options, import_icechunk
from shardedstore.stores.location import Location, Place
from shardedstore.zarr.grid import Coords, index_of

if TYPE_CHECKING:
    from shardedstore.stores.routing import RoutedStore

PER_CALL = 10_000  # references that are handed to Icechunk at a time
PER_COMMIT = 200_000  # references; Icechunk keeps the changes of one commit in memory
PER_MANIFEST = 100_000  # references in one file of Icechunk; a commit writes the files again that it changes
ONLY_V3 = "Icechunk stores Zarr v3 only, but this store is of Zarr v2: convert it with MigrateV3, and export the result"
Pin = tuple[str | None, datetime | None]  # the ETag or the modification time of a file
STEP = "shardedstore"  # the key of our entry in the metadata of a commit


def to_icechunk(store: RoutedStore, repository: Any, branch: str = "main") -> int:
    """Write virtual references to a branch in place of an earlier export, and return their number.

    Raises
    ------
    UsageError
        If the store is of Zarr v2, the branch has other commits than exports, or the repository has no container for the files.
    """
    references = references_to(store, only=3, otherwise=ONLY_V3)
    arrays = sorted(references.chunks(), key=attrgetter("path"))
    names, pins = _Names(repository), _pins(store.config, references.urls)
    before, state, total = _last_export(repository, branch), _state(references, pins), len(references.keys)
    done = int(before["done"]) if before is not None and before["state"] == state else None
    repository = _with_small_manifests(repository, arrays)
    while done is None or done < total:
        session = repository.writable_session(branch)
        if done is None:
            if before is not None:
                sync(session.store.clear())
            _write_documents(session.store, references)
        first, done = done or 0, min(total, ((done or 0) // PER_COMMIT + 1) * PER_COMMIT)
        for chunks in _between(arrays, first, done):
            _write_references(session.store, references, chunks, names, pins)
        session.commit(f"references to {done:,} chunks", metadata={STEP: {"state": state, "done": done}})
    return total


def _with_small_manifests(repository: Any, arrays: list[ChunkTable]) -> Any:
    """Return the repository with files of limited size for large arrays, unless its own config divides them."""
    icechunk = import_icechunk()
    manifest = repository.config.manifest
    large = {chunks.path: _split_sizes(chunks.grid) for chunks in arrays if math.prod(chunks.grid) > PER_MANIFEST}
    if not large or (manifest is not None and manifest.splitting is not None):
        return repository
    condition, axis = icechunk.ManifestSplitCondition, icechunk.ManifestSplitDimCondition.Axis
    splitting = icechunk.ManifestSplittingConfig.from_dict(
        {
            condition.path_matches(f"^/{re.escape(path)}$"): {axis(i): size for i, size in enumerate(sizes)}
            for path, sizes in large.items()
        }
    )
    config = icechunk.RepositoryConfig(manifest=icechunk.ManifestConfig(splitting=splitting))
    return repository.reopen(config=repository.config.merge(config))


def _split_sizes(grid: Coords) -> list[int]:
    """Return the number of chunks of one file along each dimension; in C order, the chunks follow each other.

    >>> _split_sizes((50, 1000, 1000)), _split_sizes((2, 300_000))
    ([1, 100, 1000], [1, 100000])
    """
    sizes, room = list[int](), PER_MANIFEST
    for n in reversed(grid):
        sizes.append(max(1, min(n, room)))
        room = room // n if sizes[-1] == n else 0
    return sizes[::-1]


def _state(references: References, pins: list[Pin]) -> str:
    """Return a digest of the documents and of all references with the states of their files."""
    state = hashlib.blake2b(digest_size=16)
    for key, data in references.documents.items():
        state.update(b"%s\0%d\0%s" % (key.encode(), len(data), data))
    for url, pin in zip(references.urls, pins, strict=True):
        state.update(f"{url}\0{pin}\n".encode())
    for keys in partition_all(PER_CALL, references.keys):
        state.update("\0".join((*keys, "")).encode())
    for column in (references.files, references.starts, references.sizes):
        state.update(column.astype("<i8").tobytes())
    return state.hexdigest()


def _between(arrays: list[ChunkTable], first: int, stop: int) -> Iterator[ChunkTable]:
    """Yield some of the chunks of all arrays, at most `PER_CALL` at a time."""
    for path, grid, places, numbers in arrays:
        low, high = max(0, first), min(stop, len(places))
        for start in range(low, high, PER_CALL):
            some = slice(start, min(start + PER_CALL, high))
            yield ChunkTable(path, grid, places[some], numbers[some])
        first, stop = first - len(places), stop - len(places)


def _last_export(repository: Any, branch: str) -> Mapping[str, Any] | None:
    """Return the entry of the last export of a branch; None for a branch without commits."""
    last, *earlier = islice(repository.ancestry(branch=branch), 2)
    entry: Mapping[str, Any] | None = (last.metadata or {}).get(STEP)
    if entry is None and earlier:
        raise UsageError(
            f"the branch {branch!r} has commits that are not exports of shardedstore, and an export replaces all that is there: "
            "export to another branch or repository"
        )
    return entry


def _write_documents(target: Any, references: References) -> None:
    buffer = default_buffer_prototype().buffer

    async def write() -> None:
        for key, data in references.documents.items():  # parents before children
            await target.set(key, buffer.from_bytes(data))

    sync(write())


def _write_references(target: Any, references: References, chunks: ChunkTable, names: _Names, pins: list[Pin]) -> None:
    from icechunk import VirtualChunkSpec

    files, starts, sizes = (
        column[chunks.numbers].tolist() for column in (references.files, references.starts, references.sizes)
    )
    coords = [list(index_of(place, chunks.grid)) for place in chunks.places.tolist()]
    specs = [
        VirtualChunkSpec(index, names[references.urls[file]], start, nbytes, *pins[file])
        for index, file, start, nbytes in zip(coords, files, starts, sizes, strict=True)
    ]
    if target.set_virtual_refs(f"/{chunks.path}", specs):
        raise UsageError(
            f"the repository has no virtual chunk container for {references.urls[files[0]]!r}: add one whose prefix is the folder of "
            "the files, with icechunk.VirtualChunkContainer"
        )


class _Names(dict[str, str]):
    """The location of each file: relative to a container that has a name, and absolute otherwise.

    Icechunk compares the prefixes of containers with quoted URLs, so that a prefix with special characters matches by name only.
    """

    def __init__(self, repository: Any) -> None:
        super().__init__()
        self._containers = repository.config.virtual_chunk_containers or {}

    def __missing__(self, url: str) -> str:
        plain, self[url] = shown_url(url), url_with_scheme(url)
        for prefix, container in self._containers.items():
            if container.name and plain.startswith(prefix):
                self[url] = f"vcc://{container.name}/{quote_name(plain.removeprefix(prefix).lstrip('/'))}"
        return self[url]


def _pins(config: Location, urls: list[str]) -> list[Pin]:
    """Return the state of each file, so that Icechunk refuses chunks of a file that was replaced.

    An object has its ETag. A local file has its modification time, in whole seconds.
    """
    places = _places(config)

    def pin(url: str) -> Pin:
        if not is_remote(url):
            return None, datetime.fromtimestamp(int(os.stat(url).st_mtime) + 1, UTC)
        folder, _, name = url.rpartition("/")
        options = next((place.options for start, place in places.items() if url.startswith(start)), NONE)
        with request("HEAD"):
            return obstore.head(object_store(folder, options, url), unquote(name))["e_tag"], None

    return list(in_flight(pin, urls) if any(map(is_remote, urls)) else map(pin, urls))


def create_repository(url: str, store: RoutedStore, options: Mapping[str, Any] | None = None) -> Any:
    """Create a repository whose containers are the folders of a store, or open an existing one.

    Credentials of a bucket come from the environment, and are not stored in the repository.

    Parameters
    ----------
    url : str
        A local folder, or ``s3://bucket/prefix``.
    store : RoutedStore
        The store whose references it will hold.
    options : mapping, optional
        The public options of the bucket: ``endpoint``, ``region`` and ``allow_http``.

    Raises
    ------
    UsageError
        If icechunk is not installed, or the URL has another scheme.
    """
    icechunk = import_icechunk()
    place = normalize(url)
    if not is_remote(place):
        storage = icechunk.local_filesystem_storage(place)
    elif place.startswith("s3://"):
        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        storage = icechunk.s3_storage(
            bucket=bucket, prefix=prefix, from_env=True, **client_options(take_options(place, options))
        )
    else:
        raise UsageError(
            f"no repository can be created at {url!r}: give a folder or an s3:// URL, or call store.to_icechunk with a repository that "
            "you have opened"
        )
    config = icechunk.RepositoryConfig.default()
    for number, (folder, given) in enumerate(sorted(_folders(store.config).items())):
        container: Any
        if is_remote(folder):
            container = icechunk.s3_store(s3_compatible=given.endpoint is not None, **client_options(given))
        else:
            container = icechunk.local_filesystem_store(folder)
        name = f"shards{number or ''}"
        config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(f"{shown_url(folder)}/", container, name))
    repository = icechunk.Repository.open_or_create(storage, config=config)
    repository.save_config()
    return repository


def _folders(config: Location) -> dict[str, Options]:
    """Return the outermost folders that hold all files of a store, each with its public options."""
    folders = {
        url if place.is_folder else url.rpartition("/")[0]: place.options for url, place in _places(config).items()
    }
    return {
        url: options
        for url, options in folders.items()
        if not any(url != other and is_within(url, other) for other in folders)
    }


def _places(config: Location) -> dict[str, Place]:
    """Return the files and folders of a store by their URLs, up to the first field of a template."""
    return {place.url.partition("{")[0]: place for place in config.places() if isinstance(place, Place)}
