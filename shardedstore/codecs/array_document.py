"""Parse an array's metadata document into its codecs, and build documents with changed codecs, for Zarr v2 and v3."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from zarr.abc.codec import ArrayBytesCodec
from zarr.dtype import ZDType, parse_dtype
from zarr.registry import get_codec_class

from shardedstore.codecs.codec_config import OBJECT_CODECS, Config, filter_from_json, filtered_dtype, settled
from shardedstore.codecs.sharding import NestedIndex, ShardIndex
from shardedstore.errors import ChainError
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import FieldError
from shardedstore.zarr.paths import escape_glob

SERIALIZERS = {"bytes", "endian", "vlen-utf8", "vlen-bytes", "sharding_indexed"}
SHARDING = "sharding_indexed"
ORDERS: dict[Any, Literal["<", ">"]] = {"little": "<", "big": ">"}
ENDS = ("start", "end")
INDEX_CODECS = ["bytes", "crc32c"]
AnyType = ZDType[Any, Any]


@dataclass(frozen=True)
class ArrayDoc:
    """An array's document and its chunks' codecs.

    If the array uses the sharding codec, these are the codecs of the inner chunks.

    Attributes
    ----------
    document : dict
        The content of the document.
    zarr_format : int
        2 or 3.
    shape : tuple of int
        The array's shape.
    chunks : tuple of int
        The shape of a chunk; of an inner chunk if the array uses the sharding codec.
    stored : tuple of int
        The shape of a stored object.
    filters : list
        The codecs before `serializer`.
    serializer : str or dict
        The codec that converts arrays to bytes; None in Zarr v2.
    compressors : list
        The codecs after `serializer`.
    index : ShardIndex or NestedIndex, optional
        The index of stored objects if the array uses the sharding codec.
    """

    document: dict[str, Any]
    zarr_format: int
    shape: Coords
    chunks: Coords
    stored: Coords
    filters: list[Any]
    serializer: Any
    compressors: list[Any]
    index: ShardIndex | NestedIndex | None = None

    @property
    def inner_grid(self) -> Coords:
        """The number of chunks in a stored object along each dimension."""
        return tuple(n // c for n, c in zip(self.stored, self.chunks, strict=True))

    @property
    def has_checksum(self) -> bool:
        """Whether the last codec is a CRC-32C."""
        return self.zarr_format == 3 and bool(self.compressors) and name_of(self.compressors[-1]) == "crc32c"

    def with_compressors(self, compressors: list[Any]) -> ArrayDoc:
        """Return a copy with other compressors, given as in a document."""
        document = dict(self.document)
        if self.zarr_format == 2:
            document["compressor"] = compressors[0] if compressors else None
            return dataclasses.replace(self, document=document, compressors=compressors)
        return self._with_codecs([*self.filters, self.serializer, *compressors])

    def with_filters(self, filters: list[Any]) -> ArrayDoc:
        """Return a copy with other filters, given as in a document."""
        if self.zarr_format == 2:
            return dataclasses.replace(self, document={**self.document, "filters": filters or None}, filters=filters)
        return self._with_codecs([*filters, self.serializer, *self.compressors])

    def with_serializer(self, serializer: Any) -> ArrayDoc:
        """Return a copy with another serializer."""
        return self._with_codecs([*self.filters, serializer, *self.compressors])

    def one_chunk(self, shape: Coords) -> ArrayDoc:
        """Return the document of an array with the same codecs and a single chunk."""
        document = {**self.document, "shape": list(shape)}
        if self.zarr_format == 2:
            return parse_array_document({**document, "chunks": list(shape)}, "")
        grid = {"name": "regular", "configuration": {"chunk_shape": list(shape)}}
        codecs = [*self.filters, self.serializer, *self.compressors]
        return parse_array_document({**document, "chunk_grid": grid, "codecs": codecs}, "")

    def _with_codecs(self, codecs: list[Any]) -> ArrayDoc:
        document = dict(self.document)
        if self.index is None:
            document["codecs"] = codecs
        else:
            document["codecs"] = _inside(document["codecs"][0], codecs)
        return parse_array_document(document, "")


def _inside(sharding: Any, codecs: list[Any]) -> list[Any]:
    """Replace the codecs of the innermost chunks of a sharding codec."""
    inner = options_of(sharding)["codecs"][0]
    if name_of(inner) == SHARDING:
        codecs = _inside(inner, codecs)
    return [{**sharding, "configuration": {**sharding["configuration"], "codecs": codecs}}]


def name_of(codec: Any) -> str:
    """Return the name of a codec in a v3 document."""
    return codec if isinstance(codec, str) else str(codec["name"])


def options_of(codec: Any) -> dict[str, Any]:
    """Return the configuration of a codec in a v3 document."""
    return {} if isinstance(codec, str) else codec.get("configuration") or {}


def endian_of(codec: Any) -> Any:
    """Return the byte order of a ``bytes`` codec; little if it is not given, as in zarr."""
    return options_of(codec).get("endian", "little")


def parse_array_document(document: Mapping[str, Any], path: str) -> ArrayDoc:
    """Parse a document, and resolve ambiguous options of its codecs.

    Raises
    ------
    ChainError
        If the array has an unknown kind of codec or chunk grid, or an invalid field.
    """
    try:
        return _parse_v3(document, path) if document.get("zarr_format") == 3 else _parse_v2(document, path)
    except (FieldError, KeyError) as error:
        cause = f"has no {error}" if isinstance(error, KeyError) else f"has invalid Zarr metadata: {error}"
        raise ChainError(f"{path!r} {cause}: fix it, or {leave_out(path)}") from None


def _parse_v2(document: Mapping[str, Any], path: str) -> ArrayDoc:
    shape = tuple(document["shape"])
    chunks = _chunks(document["chunks"], shape, "chunks")
    compressor, filters = document.get("compressor"), document.get("filters") or []
    for field, codecs in (("compressor", [] if compressor is None else [compressor]), ("filters", filters)):
        if not isinstance(codecs, list) or not all(_is_named(codec, "id") for codec in codecs):
            raise FieldError(field, document[field], "null, or have an id")
    if document.get("order") not in (None, "C", "F"):
        raise FieldError("order", document["order"], "'C' or 'F'")
    filters, compressors = _settled_v2(document, path)
    meant = {"compressor": next(iter(compressors), None), "filters": filters or document.get("filters")}
    known = {name: meant.get(name, value) for name, value in document.items()}
    return ArrayDoc(known, 2, shape, chunks, chunks, filters, None, compressors)


def _is_named(codec: Any, key: str) -> bool:
    return isinstance(codec, dict) and isinstance(codec.get(key), str)


def _chunks(chunks: Any, shape: Coords, field: str) -> Coords:
    """Return a valid chunk shape, which may be empty if the array is."""
    least = 1 if all(shape) else 0
    is_shape = isinstance(chunks, list | tuple) and all(type(n) is int and n >= least for n in chunks)
    if not is_shape or len(chunks) != len(shape):
        raise FieldError(field, chunks, f"sizes of at least {least} for each of {len(shape)} dimensions")
    return tuple(chunks)


def _codecs(codecs: Any, field: str = "codecs") -> list[Any]:
    """Check that each codec of a v3 document has a name, and return the codecs."""
    named = isinstance(codecs, list) and all(isinstance(c, str) or _is_named(c, "name") for c in codecs)
    if not named or not all(isinstance(options_of(codec), dict) for codec in codecs):
        raise FieldError(field, codecs, "a list of codecs with names and configurations")
    return list(codecs)


def _parse_v3(document: Mapping[str, Any], path: str) -> ArrayDoc:
    shape, grid = tuple(document["shape"]), document["chunk_grid"]
    if name_of(grid) != "regular":
        raise ChainError(f"{path!r} has an unknown chunk grid {name_of(grid)!r}: {leave_out(path)}")
    stored = _chunks(options_of(grid)["chunk_shape"], shape, "chunk_shape")
    document = {**document, "codecs": _settled_v3(_codecs(document["codecs"]), document, path)}
    filters, serializer, compressors = split_codecs(document["codecs"], path)
    if name_of(serializer) != SHARDING:
        return ArrayDoc(dict(document), 3, shape, stored, stored, filters, serializer, compressors)
    _refuse_around([*filters, *compressors], path)
    return _parse_sharding(document, path, stored, options_of(serializer))


def _settled_v2(document: Mapping[str, Any], path: str) -> tuple[list[Any], list[Any]]:
    """Return the filters and the compressor of a v2 document with resolved options."""
    found: list[Any] = []
    codecs = [
        *(document.get("filters") or ()),
        *([] if document.get("compressor") is None else [document["compressor"]]),
    ]
    for codec in codecs:
        options = {option: value for option, value in codec.items() if option != "id"}
        found.append({"id": codec["id"], **_settled(options, codec["id"], found, document, path)})
    count = len(document.get("filters") or ())
    return found[:count], found[count:]


def _settled_v3(codecs: Iterable[Any], document: Mapping[str, Any], path: str) -> list[Any]:
    """Return codecs of a v3 document with resolved options, also inside sharding codecs."""
    found: list[Any] = []
    for codec in codecs:
        name, options = name_of(codec), options_of(codec)
        known = _settled(options, name, [c for c in found if not _is_serializer(name_of(c))], document, path)
        if name == SHARDING and "codecs" in options:
            known["codecs"] = _settled_v3(_codecs(options["codecs"]), document, path)
        named = {"name": codec} if isinstance(codec, str) else codec
        found.append(codec if known == options else {**named, "configuration": known})
    return found


def _settled(options: dict[str, Any], name: str, before: list[Any], document: Mapping[str, Any], path: str) -> Config:
    try:
        return settled(options, name, None)
    except ValueError:
        pass  # the option depends on the size of the elements
    zarr_format = 3 if document.get("zarr_format") == 3 else 2
    try:
        known = [filter_from_json(codec, zarr_format) for codec in before]
        itemsize = filtered_dtype(known, data_type(document).to_native_dtype()).itemsize
    except Exception as error:
        raise ChainError(
            f"{path!r} has the codec {name} without the size of its elements, and the size is not known ({error}): "
            f"{leave_out(path)}"
        ) from error
    return settled(options, name, itemsize)


def _parse_sharding(document: Mapping[str, Any], path: str, stored: Coords, options: dict[str, Any]) -> ArrayDoc:
    """Parse a document with the sharding codec, down to the innermost one if they are nested."""
    chunks = _chunks(options["chunk_shape"], (1,) * len(stored), "chunk_shape")
    if any(n % c for n, c in zip(stored, chunks, strict=True)):
        raise ChainError(
            f"{path!r} has inner chunks of shape {chunks}, which do not divide its chunks of shape {stored}: {leave_out(path)}"
        )
    index = _parse_index(options, math.prod(n // c for n, c in zip(stored, chunks, strict=True)), path)
    filters, serializer, compressors = split_codecs(_codecs(options["codecs"]), path)
    shape = tuple(document["shape"])
    if name_of(serializer) != SHARDING:
        return ArrayDoc(dict(document), 3, shape, chunks, stored, filters, serializer, compressors, index)
    _refuse_around([*filters, *compressors], path)
    doc = _parse_sharding(document, path, chunks, options_of(serializer))
    assert doc.index is not None
    grid = tuple(n // c for n, c in zip(stored, chunks, strict=True))
    return dataclasses.replace(doc, stored=stored, index=NestedIndex(index, doc.index, grid, doc.inner_grid))


def _parse_index(options: Mapping[str, Any], count: int, path: str) -> ShardIndex:
    coded = _codecs(options.get("index_codecs") or INDEX_CODECS, "index_codecs")  # zarr has the same defaults
    first, *others = coded
    order = ORDERS.get(endian_of(first))
    location = options.get("index_location", "end")
    if name_of(first) != "bytes" or order is None or {*map(name_of, others)} - {"crc32c"} or location not in ENDS:
        names = ", ".join(map(name_of, coded))
        raise ChainError(
            f"{path!r} uses the sharding codec with an index of {names} ({endian_of(first)!r}) at the {location}, but only bytes "
            f"(little or big) and crc32c, at the start or the end, are supported: {leave_out(path)}"
        )
    return ShardIndex(count, location == "end", order, len(others))


def _refuse_around(codecs: list[Any], path: str) -> None:
    if codecs:
        names = ", ".join(map(name_of, codecs))
        raise ChainError(f"{path!r} has codecs around the sharding codec ({names}): {leave_out(path)}")


def leave_out(path: str) -> str:
    """Return the advice to leave an array out of a step.

    >>> leave_out("b[1]"), leave_out("")
    ("leave it out with arrays=('*', '!b[[]1]')", 'leave the step out, because there is no other array')
    """
    if not path:
        return "leave the step out, because there is no other array"
    return f"leave it out with {all_but([path])}"


def all_but(paths: Sequence[str], most: int = 3) -> str:
    """Return the option for all arrays but some, of which at most `most` are named.

    >>> all_but(["a", "b[1]"]), all_but("abcd")
    ("arrays=('*', '!a', '!b[[]1]')", "arrays=('*', '!a', '!b', '!c', ...)")
    """
    named = ", ".join(repr(f"!{escape_glob(path)}") for path in paths[:most])
    return f"arrays=('*', {named}{', ...' if len(paths) > most else ''})"


def split_codecs(codecs: list[Any], path: str) -> tuple[list[Any], Any, list[Any]]:
    """Split codecs into those before the array-to-bytes codec, that codec, and those after it."""
    for i, codec in enumerate(codecs):
        if _is_serializer(name_of(codec)):
            return codecs[:i], codec, codecs[i + 1 :]
    names = ", ".join(map(name_of, codecs))
    raise ChainError(f"{path!r} has no known codec that converts arrays to bytes ({names}): {leave_out(path)}")


def _is_serializer(name: str) -> bool:
    if name in SERIALIZERS:
        return True
    try:
        return issubclass(get_codec_class(name), ArrayBytesCodec)
    except (KeyError, ImportError, ValueError):
        return False


def data_type(document: Mapping[str, Any]) -> AnyType:
    """Return zarr's data type of an array.

    Raises
    ------
    ValueError
        If zarr does not know the type.
    """
    if document.get("zarr_format") == 3:
        return _parse_type(json.dumps(document["data_type"]), 3)
    ids = [codec["id"] for codec in (*(document.get("filters") or ()), document.get("compressor") or {"id": None})]
    codec_id = next((i for i in ids if i in OBJECT_CODECS), None)
    return _parse_type(json.dumps({"name": document["dtype"], "object_codec_id": codec_id}), 2)


@lru_cache(maxsize=1000)
def _parse_type(text: str, zarr_format: Literal[2, 3]) -> AnyType:
    """Parse the JSON of a data type; zarr tries all its types in turn, so equal types are parsed once."""
    return parse_dtype(json.loads(text), zarr_format=zarr_format)
