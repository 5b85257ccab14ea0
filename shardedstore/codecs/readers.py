"""Readers of Zarr, and the features of arrays that they lack: the one table of portability.

Each rule was found by a run of the reader, in the version of the table, on an array with that feature.
tests/unit/codecs/test_reader_rules.py has these arrays, and repeats the runs of the installed readers.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from shardedstore.codecs.array_document import SHARDING, name_of, options_of
from shardedstore.errors import ShardedStoreError
from shardedstore.zarr.metadata import parse_json

Feature = Literal[
    "format", "codecs", "types", "sharded", "keys", "index", "names", "compressors", "filters", "dtypes", "order"
]
KINDS: dict[Feature, str] = {
    "format": "arrays of the Zarr format",
    "codecs": "the codecs",
    "types": "elements of the types",
    "sharded": "inside the sharding codec, elements of the types",
    "keys": "chunks that are named by the encoding",
    "index": "objects of the sharding codec with the index at the",
    "names": "arrays whose names of dimensions are",
    "compressors": "the compressors",
    "filters": "the filters",
    "dtypes": "elements of the types",
    "order": "chunks in the order",
}
OTHER_TYPES = (
    r"numpy\..*|fixed_length_utf32|null_terminated_bytes|raw_bytes|r\d+|struct|structured|variable_length_bytes"
)
OTHER_DTYPES = r"struct|\|O|[<>|=][MmUSV].*"


class Lack(NamedTuple):
    """A feature that a reader lacks.

    Attributes
    ----------
    feature : str
        The kind of the feature; a key of `KINDS`.
    pattern : str
        A regular expression for its names: of codecs and types of Zarr v3, or of compressors, filters and dtypes of v2.
    misreads : bool
        Whether the reader returns wrong values instead of an error.
    is_core : bool
        Whether the feature is a part of the core specification, so that the lack is the reader's, and not the data's.
    """

    feature: Feature
    pattern: str
    misreads: bool = False
    is_core: bool = False


@dataclass(frozen=True)
class Reader:
    """A reader, the tested version, and the features that it lacks.

    Attributes
    ----------
    name : str
        The name with the version.
    source : str
        The package that was run, with its exact version.
    lacks : tuple of Lack
        The lacking features.
    is_noticed : bool
        Whether jobs have notices about it, in addition to the table of the plan.
    """

    name: str
    source: str
    lacks: tuple[Lack, ...]
    is_noticed: bool = False


READERS = (
    Reader(
        "zarr-python 3.1",
        "PyPI zarr 3.1.6",
        (Lack("sharded", r"struct|structured|raw_bytes|r\d+"), Lack("types", "struct")),
        is_noticed=True,
    ),
    Reader(
        "tensorstore 0.1.86",
        "PyPI tensorstore 0.1.86",
        (
            Lack("codecs", r"numcodecs\..*"),
            Lack(
                "types",
                r"struct|structured|string|variable_length_bytes|fixed_length_utf32|null_terminated_bytes|numpy\..*",
            ),
            Lack("compressors", "lz4|lzma"),
            Lack("filters", ".*"),
            Lack("dtypes", OTHER_DTYPES),
        ),
        is_noticed=True,
    ),
    Reader("zarr-python 3.4", "PyPI zarr 3.4.2", ()),
    Reader(
        "zarrs 0.2",
        "PyPI zarrs 0.2.3, the codec pipeline for zarr-python",
        (
            Lack("codecs", r"numcodecs\.(adler32|bitround|bz2|crc32|delta|fletcher32|lz4|lzma|packbits|zlib|zstd)"),
            Lack("types", rf"string|{OTHER_TYPES}"),
            Lack("compressors", "lz4|lzma"),
            Lack("filters", "bitround|delta|fletcher32|packbits|quantize"),
            Lack("dtypes", OTHER_DTYPES),
            Lack("dtypes", ">.*", is_core=True),
            Lack("order", "F", is_core=True),
        ),
    ),
    Reader(
        "zarrita.js 0.7",
        "npm zarrita 0.7.5, Node.js",
        (
            Lack("codecs", r"numcodecs\.(adler32|bz2|crc32|fixedscaleoffset|fletcher32|lzma|packbits)"),
            Lack("types", OTHER_TYPES),
            Lack("types", "float16|complex.*", is_core=True),
            Lack("index", "start", is_core=True),
            Lack("compressors", "bz2|lzma"),
            Lack("filters", "fletcher32|packbits|quantize"),
            Lack("dtypes", r"struct|[<>|=][MmV].*"),
            Lack("dtypes", r"[<>]f2|[<>]c.*", is_core=True),
        ),
    ),
    Reader(
        "GDAL 3.12",
        "PyPI rasterio 1.5, with GDAL 3.12.2",
        (
            Lack("codecs", r"numcodecs\..*"),
            Lack("codecs", "crc32c|sharding_indexed", is_core=True),
            Lack("types", rf"string|{OTHER_TYPES}"),
            Lack("compressors", "bz2|lz4"),
            Lack("filters", "bitround|fixedscaleoffset|fletcher32|packbits"),
            Lack("dtypes", OTHER_DTYPES),
            Lack("dtypes", "[<>]c.*", is_core=True),
        ),
        is_noticed=True,
    ),
    Reader(
        "netCDF-C 4.10",
        "PyPI netCDF4 1.7.5, with netCDF-C 4.10.1",
        (
            Lack("format", "3", is_core=True),
            Lack("compressors", "gzip|lz4|lzma"),
            Lack("filters", "bitround|delta|fixedscaleoffset|packbits|quantize"),
            Lack("dtypes", r"struct|\|O|[<>|=][MmUV].*"),
            Lack("dtypes", r"\|b1|[<>]f2|[<>]c.*", is_core=True),
            Lack("order", "F", misreads=True),
        ),
    ),
    Reader(
        "VirtualiZarr 2.8",
        "PyPI virtualizarr 2.8.0",
        (
            Lack("keys", "v2", misreads=True),
            Lack("names", "none", is_core=True),
            Lack("filters", "fletcher32|shuffle"),
            Lack("dtypes", r"\|O"),
        ),
        is_noticed=True,
    ),
)


class Obstacle(NamedTuple):
    """A feature of an array that a reader lacks.

    Attributes
    ----------
    reader : Reader
        The reader.
    lack : Lack
        The rule.
    names : tuple of str
        The features of the array that it matches.
    """

    reader: Reader
    lack: Lack
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{KINDS[self.lack.feature]} {', '.join(self.names)}"


def find_obstacles(documents: Mapping[str, bytes], will_be_sharded: bool = False) -> tuple[Obstacle, ...]:
    """Return the features of an array that readers lack, also those after a sink that packs it by the sharding codec.

    >>> document = b'{"data_type": "int8", "codecs": ["bytes"], "chunk_key_encoding": {"name": "v2"}, "dimension_names": ["x"]}'
    >>> [(one.reader.name, str(one)) for one in find_obstacles({"zarr.json": document})]
    [('netCDF-C 4.10', 'arrays of the Zarr format 3'), ('VirtualiZarr 2.8', 'chunks that are named by the encoding v2')]
    """
    found = features_of(documents)
    if will_be_sharded and "types" in found:
        found = {**found, "sharded": found["types"]}
    return _obstacles(tuple(sorted((kind, names) for kind, names in found.items() if names)))


@functools.lru_cache(maxsize=1024)
def _obstacles(features: tuple[tuple[Feature, tuple[str, ...]], ...]) -> tuple[Obstacle, ...]:
    found = dict(features)
    return tuple(
        Obstacle(reader, lack, names)
        for reader in READERS
        for lack in reader.lacks
        if (names := tuple(name for name in found.get(lack.feature, ()) if re.fullmatch(lack.pattern, name)))
    )


def features_of(documents: Mapping[str, bytes]) -> dict[Feature, tuple[str, ...]]:
    """Return the names of an array's features, by kind."""
    name = "zarr.json" if "zarr.json" in documents else ".zarray"
    data = documents[name]
    return _cached(data, name) if len(data) < LARGEST_KEPT else _features(data, name)


def _features(data: bytes, name: str) -> dict[Feature, tuple[str, ...]]:
    try:
        document = parse_json(data, "", name)
        return _v3(document) if name == "zarr.json" else _v2(document)
    except (ShardedStoreError, KeyError, TypeError, ValueError, AttributeError):
        return {}


LARGEST_KEPT = 1 << 14  # bytes of the largest document in the cache

_cached = functools.lru_cache(maxsize=1024)(_features)


def _v3(document: Mapping[str, Any]) -> dict[Feature, tuple[str, ...]]:
    codecs = list(_flat(document["codecs"]))
    types = (name_of(document["data_type"]),)
    names = document.get("dimension_names")
    is_sharded = any(name_of(codec) == SHARDING for codec in codecs)
    return {
        "format": ("3",),
        "codecs": tuple(map(name_of, codecs)),
        "types": types,
        "sharded": types if is_sharded else (),
        "keys": (name_of(document["chunk_key_encoding"]),),
        "index": tuple(
            options_of(codec).get("index_location", "end") for codec in codecs if name_of(codec) == SHARDING
        ),
        "names": () if (names and None not in names) or not document.get("shape") else ("none",),
    }


def _flat(codecs: Any) -> Iterator[Any]:
    """Yield codecs, with those inside the sharding codec."""
    for codec in codecs:
        yield codec
        if name_of(codec) == SHARDING:
            yield from _flat(options_of(codec)["codecs"])


def _v2(document: Mapping[str, Any]) -> dict[Feature, tuple[str, ...]]:
    dtype, compressor = document["dtype"], document.get("compressor")
    filters = [codec["id"] for codec in document.get("filters") or ()]
    is_object = dtype == "|O"  # the first filter is then the object codec
    return {
        "format": ("2",),
        "compressors": () if compressor is None else (compressor["id"],),
        "filters": tuple(filters[is_object:]),
        "dtypes": (dtype if isinstance(dtype, str) else "struct",),
        "order": (document.get("order", "C"),) if len(document["shape"]) > 1 else (),
    }
