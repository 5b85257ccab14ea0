"""References in Kerchunk's format: one JSON file, or a folder of Parquet files.

Both formats are described in https://fsspec.github.io/kerchunk/spec.html.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from zarr.abc.store import Store

from shardedstore.errors import DestinationError
from shardedstore.export.references import Numbers, References, references_to, shown_url
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Folder, open_folder
from shardedstore.storage.options import StorageOptions, take_options
from shardedstore.storage.urls import normalize, unquote_name
from shardedstore.stores.kerchunk_parquet import import_parquet
from shardedstore.zarr.metadata import CONSOLIDATED_V2, parse_json
from shardedstore.zarr.paths import join

RECORDS = 100_000  # references in one Parquet file
PAGE = 10_000  # references that are turned into Python's numbers at a time
ONLY_V2 = "Kerchunk's Parquet files hold references to Zarr v2 only, but the store is of Zarr v3: export it as JSON or to icechunk"


def write_json(store: Store, url: str | os.PathLike[str], storage_options: StorageOptions = None) -> int:
    """Write the references to a JSON file of version 1, and return their number."""
    place = normalize(url)
    folder, _, name = place.rpartition("/")
    target = open_folder(folder or "/", take_options(folder or "/", storage_options))
    references = references_to(store)
    data, separator = io.BytesIO(), b'{"version":1,"refs":{\n'
    for line in _lines(references):
        data.write(separator + line)
        separator = b",\n"
    data.write(b"\n}}\n")
    _write(target, unquote_name(name, place), data.getvalue())
    return references.total


def _lines(references: References) -> Iterator[bytes]:
    encode = msgspec.json.Encoder().encode
    for key, value in references.documents.items():
        yield b"%s:%s" % (encode(key), encode(_inline(value)))
    urls = [encode(shown_url(url)) for url in references.urls]
    columns = (references.files, references.starts, references.sizes)
    for first in range(0, len(references.keys), PAGE):
        page = slice(first, first + PAGE)
        for key, file, start, nbytes in zip(
            references.keys[page], *(one[page].tolist() for one in columns), strict=True
        ):
            yield b"%s:[%s,%d,%d]" % (encode(key), urls[file], start, nbytes)


def _inline(data: bytes) -> str:
    """Return a value as text; other values than JSON texts are in base64."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    return text if text.startswith(("{", "[")) else "base64:" + base64.b64encode(data).decode()


def _write(folder: Folder, name: str, data: bytes) -> None:
    try:
        folder.write(name, data)
    except STORAGE_ERRORS as error:
        raise DestinationError(f"{name!r} can't be written in {folder.url!r}: {explain(error)}") from error


def write_parquet(store: Store, url: str | os.PathLike[str], storage_options: StorageOptions = None) -> int:
    """Write the references to a folder of Parquet files, and return their number.

    The format exists for Zarr v2 only: the readers find a reference by the position of its chunk in the array of ``.zarray``.

    Raises
    ------
    UsageError
        If the store is of Zarr v3, or if pyarrow is not installed.
    """
    parquet = import_parquet()
    references = references_to(store, only=2, otherwise=ONLY_V2)
    place = normalize(url)
    target = open_folder(place, take_options(place, storage_options))
    documents = {key: data for key, data in references.documents.items() if key.rpartition("/")[2] != CONSOLIDATED_V2}
    for chunks in references.chunks():
        records = chunks.places // RECORDS
        for record in np.unique(records).tolist():
            some = slice(*np.searchsorted(records, [record, record + 1]))
            columns = _columns(references, chunks.places[some] - record * RECORDS, chunks.numbers[some], parquet[0])
            _write(target, join(chunks.path, f"refs.{record}.parq"), _encoded(columns, *parquet))
    metadata = {key: parse_json(data, *_split(key)) for key, data in documents.items()}
    _write(target, ".zmetadata", msgspec.json.encode({"metadata": metadata, "record_size": RECORDS}))
    return references.total


def _split(key: str) -> tuple[str, str]:
    folder, _, name = key.rpartition("/")
    return folder, name


def _columns(references: References, rows: Numbers, numbers: Numbers, pyarrow: Any) -> dict[str, Any]:
    """Return the columns of one Parquet file; rows without a reference are null."""

    def column(values: Numbers) -> Numbers:
        filled = np.zeros(rows[-1] + 1, values.dtype)
        filled[rows] = values
        return filled

    files, first, inverse = np.unique(references.files[numbers], return_index=True, return_inverse=True)
    order = np.argsort(first)  # the order in which the files are used, as pyarrow encodes dictionaries
    ranks = np.argsort(order).astype("i4")[inverse]
    is_null = ~column(np.ones(len(rows), bool))
    paths = pyarrow.array([shown_url(references.urls[file]) for file in files[order]], pyarrow.string())
    return {
        "path": pyarrow.DictionaryArray.from_arrays(pyarrow.array(column(ranks), mask=is_null), paths),
        "offset": pyarrow.array(column(references.starts[numbers])),
        "size": pyarrow.array(column(references.sizes[numbers])),
        "raw": pyarrow.nulls(len(is_null), pyarrow.binary()),
    }


def _encoded(columns: dict[str, Any], pyarrow: Any, parquet: Any) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns), sink, compression="zstd")
    return bytes(sink.getvalue())
