"""What known readers of Zarr v3 lack: one table, from which steps and sinks warn by array and reader."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from shardedstore.codecs.arraydoc import name_of
from shardedstore.metadata import ArrayMeta, parse_json
from shardedstore.notices import Notice
from shardedstore.reading.hierarchy import Node


@dataclass(frozen=True)
class Reader:
    """A reader in a version, and what it lacks: patterns of names in the documents of arrays.

    `types` are data types; `sharded` are those that it reads, but not inside the sharding codec; `keys` are encodings of
    chunk keys. A reader that `misreads` gives fill values, and no error.
    """

    name: str
    codecs: str = ""
    types: str = ""
    sharded: str = ""
    keys: str = ""
    misreads: bool = False


READERS = (
    Reader("zarr-python 3.1", sharded=r"struct|structured|raw_bytes|r\d+"),
    Reader(
        "tensorstore 0.1.86",
        codecs=r"numcodecs\..*",
        types=r"struct|structured|string|variable_length_bytes|fixed_length_utf32|null_terminated_bytes|numpy\..*",
    ),
    Reader("GDAL 3.14", codecs=r"numcodecs\..*"),
    Reader("VirtualiZarr 2.8", keys="v2", misreads=True),
)
KINDS = {
    "codecs": "the codecs",
    "types": "elements of the types",
    "sharded": "inside the sharding codec elements of the types",
    "keys": "chunks that are named by the encoding",
}


def reader_notices(
    nodes: Mapping[str, Node], kinds: Iterable[str], remedies: Mapping[str, str] | None = None
) -> Iterator[Notice]:
    """Yield for each known reader what it can't read of some v3 arrays; the remedies are by what it lacks.

    Examples
    --------
    >>> document = b'{"data_type": "int8", "codecs": ["bytes"], "chunk_key_encoding": {"name": "v2"}}'
    >>> meta = ArrayMeta(3, (2,), (1,), None, None, 1)
    >>> for notice in reader_notices({"a": Node(meta, {"zarr.json": document})}, ["codecs", "keys"]):
    ...     print(notice)
    VirtualiZarr 2.8 reads fill values, without an error, for chunks that are named by the encoding 'v2': 'a'
    """
    arrays = {
        path: _names(node.documents["zarr.json"])
        for path, node in nodes.items()
        if isinstance(node.meta, ArrayMeta) and "zarr.json" in node.documents
    }
    found: dict[tuple[Reader, str], dict[str, tuple[str, ...]]] = {}
    for kind in kinds:
        for reader in READERS:
            lacking = {path: lacks for path, names in arrays.items() if (lacks := _lacks(reader, kind, names[kind]))}
            if lacking:
                found[reader, kind] = lacking
    for (reader, kind), lacking in found.items():
        named = ", ".join(map(repr, sorted({name for some in lacking.values() for name in some})))
        verb = "reads fill values, without an error, for" if reader.misreads else "can't read"
        remedy = (remedies or {}).get(kind)
        yield Notice(f"{reader.name} {verb} {KINDS[kind]} {named}{f'; {remedy}' if remedy else ''}", tuple(lacking))


def _names(data: bytes) -> Mapping[str, tuple[str, ...]]:
    """Return the names in an array's document, by what they are of."""
    return _cached(data) if len(data) < LARGEST_KEPT else _find_names(data)


def _find_names(data: bytes) -> Mapping[str, tuple[str, ...]]:
    document = parse_json(data, "", "zarr.json")
    types = (name_of(document["data_type"]),)
    keys = (name_of(document["chunk_key_encoding"]),)
    return {"codecs": tuple(map(name_of, document["codecs"])), "types": types, "sharded": types, "keys": keys}


LARGEST_KEPT = 1 << 14  # bytes of a document that equal ones are recognised by
_cached = functools.lru_cache(maxsize=1024)(_find_names)


@functools.lru_cache(maxsize=1024)
def _lacks(reader: Reader, kind: str, names: tuple[str, ...]) -> tuple[str, ...]:
    pattern = getattr(reader, kind)
    return tuple(name for name in names if pattern and re.fullmatch(pattern, name))
