"""References in Kerchunk's Parquet format: a folder with ``.zmetadata``, and files of references for each array.

The format is that of fsspec's ``LazyReferenceMapper``. It holds Zarr v2: a row of ``refs.N.parq`` belongs to the chunk with this position in
the grid of the array.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta
from obstore.exceptions import BaseError

from shardedstore.errors import CorruptError, UsageError
from shardedstore.fields import Url
from shardedstore.storage.blobs import nbytes_of, open_blob
from shardedstore.storage.options import NONE, Options, StorageOptions, take_options
from shardedstore.storage.urls import is_remote, object_url
from shardedstore.stores.references import ReferencePlace, ReferenceSet, version_of
from shardedstore.stores.targets import Reference, consented, is_consent_settled
from shardedstore.zarr.grid import index_of, place_of
from shardedstore.zarr.metadata import CONSOLIDATED_V2, ArrayMeta, parse_node
from shardedstore.zarr.paths import check_key, is_below, join

SUFFIXES = (".parq", ".parquet")  # of folders in object stores and on web servers, which are not looked into otherwise


class KerchunkParquet(ReferencePlace, frozen=True, tag="kerchunk_parquet", omit_defaults=True, repr_omit_defaults=True):
    """A folder of Parquet files of references to the chunks of a Zarr, in Kerchunk's format."""

    url: Annotated[Url, Meta(description="The path or URL; inside the folder of the config it is relative to it.")]
    options: Annotated[Options, Meta(description="The public options of the object stores.")] = NONE

    def load(self) -> ReferenceSet:
        # docstring inherited
        return load_parquet(self.url, self.options)

    @property
    def proofs(self) -> list[str]:
        # docstring inherited
        import_parquet()
        return [object_url(self.url, CONSOLIDATED_V2)]


class Columns(NamedTuple):
    """The columns of one file of references."""

    path: Sequence[str | None]
    offset: Sequence[int | None]
    size: Sequence[int | None]
    raw: Sequence[bytes | None]


EMPTY = Columns((), (), (), ())


class ParquetReferences:
    """The references of one folder; the files of an array are read when they are needed.

    Parameters
    ----------
    url : str
        The URL of the folder.
    options : Options
        The public options of the folder.
    documents : mapping of str to bytes
        The metadata documents by key.
    record_size : int
        The number of references in one file.
    """

    def __init__(self, url: str, options: Options, documents: Mapping[str, bytes], record_size: int) -> None:
        self.url, self.options, self.documents, self.record_size = url, options, documents, record_size
        self.arrays = dict(self._arrays())
        self.record = lru_cache(maxsize=32)(self._record)

    def _arrays(self) -> Iterator[tuple[str, ArrayMeta]]:
        for key in self.documents:
            path, _, name = key.rpartition("/")
            if name == ".zarray":
                array = parse_node({name: self.documents[key]}, path)
                if isinstance(array, ArrayMeta) and array.keys is not None:
                    yield path, array

    def _record(self, path: str, number: int) -> Columns:
        """Return one file of references; an empty one if it is missing."""
        url = object_url(self.url, join(path, f"refs.{number}.parq"))
        nbytes = nbytes_of(url, self.options)
        if nbytes is None:
            return EMPTY
        pyarrow, parquet = import_parquet()
        try:
            table = parquet.read_table(pyarrow.BufferReader(bytes(open_blob(url, self.options).read(0, nbytes))))
        except (pyarrow.ArrowException, OSError) as error:
            raise CorruptError(f"{url!r} is no readable file of references: {error}") from None
        nothing = [None] * table.num_rows
        names = table.column_names
        return Columns(*(table.column(name).to_pylist() if name in names else nothing for name in Columns._fields))

    def names(self, prefix: str) -> Sequence[str]:
        # docstring inherited
        folder = prefix.rpartition("/")[0]
        chunks = (
            self._chunks(path, array)
            for path, array in self.arrays.items()
            if is_below(path, folder) or is_below(folder, path) or path == folder
        )
        return sorted(key for key in chain(self.documents, *chunks) if key.startswith(prefix))

    def _chunks(self, path: str, array: ArrayMeta) -> Iterator[str]:
        assert array.keys is not None
        for number in range(-(-array.chunk_count // self.record_size)):
            record, first = self.record(path, number), number * self.record_size
            for row in range(min(len(record.path), array.chunk_count - first)):
                if record.path[row] is not None or record.raw[row] is not None:
                    yield join(path, array.keys.encode(index_of(first + row, array.chunk_grid)))

    def find(self, key: str) -> Reference | bytes | None:
        # docstring inherited
        if key in self.documents:
            return self.documents[key]
        for path, name in _splits(key):
            array = self.arrays.get(path)
            if array is None or array.keys is None:
                continue
            coords = array.keys.decode(name, array.chunk_grid)
            if coords is not None:
                return self._row(path, place_of(coords, array.chunk_grid))
        return None

    def _row(self, path: str, place: int) -> Reference | bytes | None:
        number, row = divmod(place, self.record_size)
        record = self.record(path, number)
        if row >= len(record.path):
            return None
        raw, target = record.raw[row], record.path[row]
        if raw is not None or target is None:
            return raw
        start, nbytes = record.offset[row] or 0, record.size[row] or 0
        return Reference(target, start, nbytes) if start or nbytes else Reference(target)

    def targets(self) -> Iterator[str]:
        """Yield the targets of all references."""
        for path, array in self.arrays.items():
            for number in range(-(-array.chunk_count // self.record_size)):
                yield from (target for target in set(self.record(path, number).path) if target is not None)


def _splits(key: str) -> Iterator[tuple[str, str]]:
    """Yield each division of a key into the path of an array and a name, the longest path first."""
    parts = key.split("/")
    for n in range(len(parts) - 1, -1, -1):
        yield "/".join(parts[:n]), "/".join(parts[n:])


def import_parquet() -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet, or raise UsageError if they are not installed."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(
            "Parquet files need pyarrow, which is not installed: pip install 'shardedstore[export]'"
        ) from error
    return pa, parquet


def load_parquet(url: str, options: Options) -> ParquetReferences:
    """Read the metadata of a folder of references, or take it from the cache of this process if it has not changed.

    Raises
    ------
    CorruptError
        If the folder holds no references.
    """
    found = _load(url, options, version_of(object_url(url, CONSOLIDATED_V2), options))
    if found is None:
        raise CorruptError(f"{url!r} holds no references by Kerchunk: is it the right folder?")
    return found


@lru_cache(maxsize=4)
def _load(url: str, options: Options, _version: object) -> ParquetReferences | None:
    place = object_url(url, CONSOLIDATED_V2)
    data = bytes(open_blob(place, options).read(0, nbytes_of(place, options) or 0))
    if b'"record_size"' not in data:
        return None
    try:
        found = msgspec.json.decode(data, type=_Metadata)
    except (msgspec.DecodeError, RecursionError):
        return None
    try:
        for key in found.metadata:
            check_key(key)
    except UsageError as error:
        raise CorruptError(f"{place!r} has an invalid key: {error}") from None
    return ParquetReferences(url, options, {key: bytes(raw) for key, raw in found.metadata.items()}, found.record_size)


class _Metadata(msgspec.Struct):
    metadata: dict[str, msgspec.Raw]
    record_size: Annotated[int, Meta(ge=1)]


msgspec.json.Decoder(_Metadata)  # prepared here: msgspec crashes when two threads prepare a type at the same time


def locate_kerchunk_parquet(url: str, storage_options: StorageOptions) -> KerchunkParquet | None:
    """Return the location of a folder of references; None for any other folder.

    Raises
    ------
    UsageError
        If the storage options can't be used, or if pyarrow is not installed.
    """
    if is_remote(url) and not url.endswith(SUFFIXES):
        return None
    is_settled = is_consent_settled(url, storage_options)
    options = take_options(url, storage_options) if is_settled else NONE
    found = None
    with suppress(OSError, BaseError):
        found = _load(url, options, version_of(object_url(url, CONSOLIDATED_V2), options))
    if found is None:
        return None
    return KerchunkParquet(url, options if is_settled else consented(url, storage_options, found.targets(), url))
