"""The data type and the codecs of an array in words, by its documents alone, so that unknown codecs are shown too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from shardedstore.codecs.array_document import SHARDING, name_of, options_of
from shardedstore.text import shown

SHOWN = ("cname", "clevel", "level", "shuffle", "order", "keepbits")  # options of codecs that are shown
SHUFFLES = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle", -1: "autoshuffle"}
MOST = 40  # characters


class ArrayWords(NamedTuple):
    """The data type and the codecs of an array."""

    dtype: str
    codecs: str


def array_words(documents: Mapping[str, bytes]) -> ArrayWords:
    """Return the data type and the codecs of an array.

    >>> array_words(
    ...     {".zarray": b'{"dtype": "<f4", "compressor": {"id": "zstd", "level": 5}, "filters": [{"id": "delta"}]}'}
    ... )
    ArrayWords(dtype='float32', codecs='delta + zstd(5)')
    >>> array_words(
    ...     {
    ...         "zarr.json": b'{"data_type": "int8", "codecs": [{"name": "bytes"}, {"name": "gzip", "configuration": {}}]}'
    ...     }
    ... )
    ArrayWords(dtype='int8', codecs='gzip')
    """
    try:
        return _v3(documents["zarr.json"]) if "zarr.json" in documents else _v2(documents[".zarray"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return ArrayWords("?", "?")


def _v2(data: bytes) -> ArrayWords:
    document = json.loads(data)
    codecs = [*(document.get("filters") or ()), *filter(None, [document.get("compressor")])]
    dtype = document["dtype"]
    return ArrayWords(
        _dtype(dtype) if isinstance(dtype, str) else "struct",
        _joined(_words(codec["id"], codec) for codec in codecs),
    )


@lru_cache(maxsize=256)
def _dtype(text: str) -> str:
    return np.dtype(text).name


def _v3(data: bytes) -> ArrayWords:
    document = json.loads(data)
    return ArrayWords(shown(name_of(document["data_type"]), MOST), _joined(_v3_words(document["codecs"])))


def _v3_words(codecs: Iterable[Any]) -> Iterator[str]:
    for codec in codecs:
        name, options = name_of(codec), options_of(codec)
        if name == SHARDING:
            yield f"sharding({_joined(_v3_words(options['codecs']))})"
        elif name != "bytes":
            yield _words(name, options)


def _words(name: str, options: Mapping[str, Any]) -> str:
    given = [
        SHUFFLES.get(value, value) if key == "shuffle" else value for key, value in options.items() if key in SHOWN
    ]
    return f"{name}({', '.join(map(str, given))})" if given else name


def _joined(words: Iterable[str]) -> str:
    return shown(" + ".join(words) or "none", MOST)
