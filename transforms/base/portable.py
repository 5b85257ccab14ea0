"""Portability checks: codecs and types that known readers lack, and names that systems can't store."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from toolz import groupby

from shardedstore.codecs.array_document import name_of
from shardedstore.errors import ChainError
from shardedstore.notices import Notice
from shardedstore.storage.urls import is_remote
from shardedstore.stores.hierarchy import Node
from shardedstore.zarr.metadata import ArrayMeta, parse_json


@dataclass(frozen=True)
class OtherReader:
    """A reader in one version, and regular expressions for the features of arrays that it lacks.

    The features are `codecs`, data `types`, data types inside the sharding codec only (`sharded`), and encodings of chunk
    `keys`. A reader that `misreads` returns fill values instead of an error.
    """

    name: str
    codecs: str = ""
    types: str = ""
    sharded: str = ""
    keys: str = ""
    misreads: bool = False


READERS = (
    OtherReader("zarr-python 3.1", sharded=r"struct|structured|raw_bytes|r\d+"),
    OtherReader(
        "tensorstore 0.1.86",
        codecs=r"numcodecs\..*",
        types=r"struct|structured|string|variable_length_bytes|fixed_length_utf32|null_terminated_bytes|numpy\..*",
    ),
    OtherReader("GDAL 3.14", codecs=r"numcodecs\..*"),
    OtherReader("VirtualiZarr 2.8", keys="v2", misreads=True),
)

KINDS = {
    "codecs": "the codecs",
    "types": "elements of the types",
    "sharded": "inside the sharding codec, elements of the types",
    "keys": "chunks that are named by the encoding",
}


def reader_notices(
    nodes: Mapping[str, Node], kinds: Iterable[str], remedies: Mapping[str, str] | None = None
) -> Iterator[Notice]:
    """Yield a notice for each known reader and each feature of v3 arrays that it lacks; `remedies` are by feature.

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
    found: dict[tuple[OtherReader, str], dict[str, tuple[str, ...]]] = {}
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
    """Return the names of codecs, types and encodings in an array's document, by feature."""
    return _cached(data) if len(data) < LARGEST_KEPT else _find_names(data)


def _find_names(data: bytes) -> Mapping[str, tuple[str, ...]]:
    document = parse_json(data, "", "zarr.json")
    types = (name_of(document["data_type"]),)
    keys = (name_of(document["chunk_key_encoding"]),)
    return {"codecs": tuple(map(name_of, document["codecs"])), "types": types, "sharded": types, "keys": keys}


LARGEST_KEPT = 1 << 14  # bytes of the largest document in the cache

_cached = functools.lru_cache(maxsize=1024)(_find_names)


@functools.lru_cache(maxsize=1024)
def _lacks(reader: OtherReader, kind: str, names: tuple[str, ...]) -> tuple[str, ...]:
    pattern = getattr(reader, kind)
    return tuple(name for name in names if pattern and re.fullmatch(pattern, name))


_DEVICES = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(?:\.|\Z)")

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")

_REFUSED = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]\Z')


def name_notices(paths: Iterable[str]) -> Iterator[Notice]:
    """Yield notices for paths that Windows, macOS or network drives can't store, or not in the same folder.

    >>> for notice in name_notices(["a/b", "a/aux.x", "a:b", "T", "t"]):
    ...     print(notice)
    Windows and SMB can't hold these names: 'a/aux.x', 'a:b'
    Windows and macOS treat these names as equal: 'T', 't'
    """
    paths = list(paths)
    if refused := tuple(path for path in paths if not is_portable(path)):
        yield Notice("Windows and SMB can't hold these names", refused)
    alike = [some for some in groupby(str.casefold, paths).values() if len(some) > 1]
    if alike:
        yield Notice("Windows and macOS treat these names as equal", tuple(path for some in alike for path in some))


def is_portable(path: str) -> bool:
    """Tell whether Windows can store the names in a path.

    >>> [is_portable(path) for path in ("a/b", "con", "a/nul.txt", "confer", "a./b", "a?", ".a")]
    [True, False, False, True, False, False, True]
    """
    return not any(_DEVICES.match(name) or _REFUSED.search(name) for name in path.split("/"))


def check_carried(paths: Iterable[str], url: str) -> None:
    """Refuse paths with control characters, if each file becomes an object in an object store.

    Raises
    ------
    ChainError
        Names the first such path.
    """
    bad = next((path for path in paths if _CONTROLS.search(path)), None) if is_remote(url) else None
    if bad is not None:
        raise ChainError(
            f"{bad!r} has control characters, which names of objects at {url!r} can't hold: use ToZip, or leave it out with "
            "exclude="
        )
