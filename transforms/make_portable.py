"""`MakePortable`: replace codecs that only some readers have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shardedstore.codecs.array_info import ArrayInfo
from shardedstore.codecs.codec_config import Config, complete
from shardedstore.transforms.base.array_step import ArrayStep

COMPRESSORS = {2: {"blosc", "zlib", "zstd"}, 3: {"blosc", "zstd", "gzip"}}  # of all readers in codecs/readers.py
FILTERS = {2: set[str](), 3: {"transpose"}}
DEFLATE = {2: "zlib", 3: "gzip"}
SHUFFLED = {"zlib": "zlib", "gzip": "zlib", "zstd": "zstd", "lz4": "lz4"}  # Blosc's names of compressors
LEVEL = 5  # replaces the level of a compressor that has another scale


@dataclass(frozen=True)
class MakePortable(ArrayStep):
    """Replace codecs that only some readers have, with equal values.

    Compressors other than Blosc, zstd and gzip (zlib in Zarr v2) are replaced: by gzip or zlib with the same level, by Blosc
    after a shuffle filter, and by zstd otherwise. Filters are removed. Arrays without such codecs are copied unchanged.

    Parameters
    ----------
    arrays : str or tuple of str
        The arrays to change: see `ArrayStep`.
    threads : int, optional
        The number of chunks that are encoded at a time: see `ArrayStep`.

    See Also
    --------
    MigrateV3 : Its option `portable` does the same for arrays of Zarr v2.

    Notes
    -----
    ``store.plan(..., portable=True)`` adds this step, and refuses features that it can't replace, such as data types.

    Examples
    --------
    >>> MakePortable()
    MakePortable()
    """

    needs_empty = False
    keeps_values = True

    def __repr__(self) -> str:
        return "MakePortable()" if self.arrays == "*" else f"MakePortable(arrays={self.arrays!r})"

    def metadata(self, meta: ArrayInfo) -> ArrayInfo:
        # docstring inherited
        version = meta.zarr_format
        filters = [codec for codec in meta.filters if codec["id"] in FILTERS[version]]
        names = [_bare(codec) for codec in meta.compressors]
        if len(filters) == len(meta.filters) and all(name in COMPRESSORS[version] for name in _ids(meta.compressors)):
            return meta
        removed = [*(_bare(codec) for codec in meta.filters), *names]
        new = _compressor([*meta.filters, *meta.compressors], removed, version)
        itemsize = 1 if meta.dtype is None or meta.dtype.kind in "OT" else max(1, meta.dtype.itemsize)
        compressors = () if new is None else (complete(new, version, itemsize),)
        return meta.replace(filters=tuple(filters), compressors=compressors)


def _ids(codecs: Sequence[Config]) -> list[str]:
    return [codec["id"] for codec in codecs]


def _bare(codec: Config) -> str:
    return str(codec["id"]).removeprefix("numcodecs.")


def _compressor(codecs: list[Config], names: list[str], version: int) -> dict[str, Any] | None:
    """Return the compressor that replaces codecs; None if none of them compresses."""
    found = dict(zip(names, codecs, strict=True))
    name = next((one for one in names if one in {*SHUFFLED, "blosc", "bz2", "lzma"}), None)
    if name is None:
        return None
    level = found[name].get("level", LEVEL)
    if name == "blosc":
        return {key: value for key, value in found[name].items() if key != "typesize"}
    if "shuffle" in names and name in SHUFFLED:
        return {"id": "blosc", "cname": SHUFFLED[name], "clevel": min(9, max(1, level)), "shuffle": "shuffle"}
    if name in {"zlib", "gzip"}:
        return {"id": DEFLATE[version], "level": level if 0 <= level <= 9 else LEVEL}
    return {"id": "zstd", "level": level if name == "zstd" else LEVEL}
