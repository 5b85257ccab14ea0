"""Compare codecs on chunks of a user's arrays: decode a sample, and encode and decode it with each codec."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import msgspec

from shardedstore.choose.codec_comparison import NOW, CodecComparison, CodecRow, total_rows
from shardedstore.codecs.array_codecs import Array, ChunkCodec, is_identical
from shardedstore.codecs.array_document import parse_array_document
from shardedstore.codecs.codec_text import array_words
from shardedstore.errors import ChainError, UsageError
from shardedstore.jobs.prepare import whole_source
from shardedstore.partition.selection import Selection, check_selection, is_meant
from shardedstore.stores.hierarchy import Node, read_nodes
from shardedstore.stores.locations import Config
from shardedstore.stores.reader import StoreReader, reader_of
from shardedstore.text import count, parse_size
from shardedstore.transforms.base.recode import Recoder
from shardedstore.transforms.base.variables import coordinates
from shardedstore.transforms.recompress import Recompress
from shardedstore.zarr.grid import Coords, index_of
from shardedstore.zarr.metadata import ArrayMeta, parse_json
from shardedstore.zarr.paths import join

MOST_ARRAYS = 32  # the largest ones are measured
MOST_PLACES = 4096  # of chunks of one array that are asked for, if most are missing
MOST_TIMES, ENOUGH_SECONDS = 3, 0.1  # a shorter measurement is repeated
FINER = 4  # times as many places in each round

Made = TypeVar("Made")


class _Sample(NamedTuple):
    """Decoded chunks of one array, with their encoded sizes and the time of decoding."""

    path: str
    node: Node
    codec: ChunkCodec
    arrays: list[Array]
    nbytes: int
    stored: int
    seconds: float


def compare_codecs(config: Config, codecs: Mapping[str, Any], sample: str | int, arrays: Selection) -> CodecComparison:
    """Measure codecs on evenly spread chunks; see `ShardedStore.compare_codecs`."""
    steps = _steps(codecs)
    limit = parse_size(sample)
    if not limit or limit < 0:
        raise UsageError(f"sample={sample!r} is not a size: write it like '64 MiB'")
    nodes = read_nodes(config)
    chosen = _chosen(nodes, arrays)
    reader = reader_of(whole_source(config).open())
    with ThreadPoolExecutor(1) as thread:  # Blosc takes several threads in the main thread, but not in workers
        rows, notes = thread.submit(_measure_all, reader, chosen, steps, limit).result()
    if not rows:
        raise UsageError(f"no array can be measured: {'; '.join(notes) or 'all chunks are missing'}")
    _check_fits(rows, steps)
    return CodecComparison((*total_rows(rows), *rows), tuple(notes))


def _steps(codecs: Mapping[str, Any]) -> dict[str, Recompress]:
    if not codecs or not hasattr(codecs, "items"):
        raise UsageError(
            f"codecs={codecs!r} names no codec: write it like {{'zstd': 'zstd', 'blosc': {{'id': 'blosc'}}}}"
        )
    if NOW in codecs:
        raise UsageError(f"{NOW!r} is the name of the current codecs: use another name")
    return {name: _step(spec) for name, spec in codecs.items()}


def _step(spec: Any) -> Recompress:
    """Return the step of a codec as `Recompress` takes it, of its keyword arguments, or of the step itself."""
    if isinstance(spec, Recompress):
        return spec
    if isinstance(spec, Mapping) and "id" not in spec and "name" not in spec:
        return Recompress(**spec)
    return Recompress(spec)


def _chosen(nodes: Mapping[str, Node], arrays: Selection) -> dict[str, Node]:
    """Return the largest selected arrays."""
    found = {path: node for path, node in nodes.items() if isinstance(node.meta, ArrayMeta)}
    coords = coordinates(nodes)
    selection = arrays if isinstance(arrays, str) else tuple(arrays)
    check_selection(selection, found, "compare_codecs", coords=coords)
    meant = {path: node for path, node in found.items() if is_meant(selection, path, coords)}
    return dict(sorted(meant.items(), key=lambda item: (-_nbytes(item[1]), item[0]))[:MOST_ARRAYS])


def _nbytes(node: Node) -> int:
    return node.meta.nbytes if isinstance(node.meta, ArrayMeta) else 0


def _measure_all(
    reader: StoreReader[Any], nodes: Mapping[str, Node], steps: Mapping[str, Recompress], limit: int
) -> tuple[list[CodecRow], list[str]]:
    whole = sum(map(_nbytes, nodes.values())) or 1
    rows, notes = list[CodecRow](), list[str]()
    for path, node in nodes.items():
        try:
            found = _sampled(reader, path, node, limit * _nbytes(node) // whole)
            if found.arrays:
                rows += _measured(found, steps)
        except Exception as error:  # noqa: BLE001 (numcodecs and zarr raise different errors)
            notes.append(f"{path!r} can't be decoded: {type(error).__name__}: {error}")
    return rows, notes


def _sampled(reader: StoreReader[Any], path: str, node: Node, limit: int) -> _Sample:
    """Return decoded chunks of an array, at least one of them if any exists."""
    name = "zarr.json" if "zarr.json" in node.documents else ".zarray"
    doc = parse_array_document(parse_json(node.documents[name], path, name), path)
    codec = ChunkCodec(doc, arrays=True)
    chunks, arrays, nbytes = list[Any](), list[Array](), 0
    for data in _stored(reader, path, node):
        for inner in [data] if doc.index is None else doc.index.split(data):
            if inner is None or (arrays and nbytes >= limit):
                continue
            array = codec.decode(inner)
            nbytes += array.nbytes if array.dtype.kind not in "OT" else memoryview(codec.decompress(inner)).nbytes
            chunks.append(inner)
            arrays.append(array)
        if nbytes >= limit:
            break
    stored, (_, seconds) = sum(memoryview(chunk).nbytes for chunk in chunks), _timed(codec.decode, chunks)
    return _Sample(path, node, codec, arrays, nbytes, stored, seconds)


def _timed(function: Callable[[Any], Made], values: Sequence[Any]) -> tuple[list[Made], float]:
    """Return the results of a function, and its time; of a short time, the least of several."""
    best = float("inf")
    for _ in range(MOST_TIMES):
        begun = time.perf_counter()
        made = [function(value) for value in values]
        best = min(best, time.perf_counter() - begun)
        if best > ENOUGH_SECONDS:
            break
    return made, best


def _stored(reader: StoreReader[Any], path: str, node: Node) -> Iterator[bytes]:
    """Yield the existing chunks of an array, evenly spread: some at first, then more between them."""
    meta = node.meta
    assert isinstance(meta, ArrayMeta)
    if meta.keys is None or meta.chunks is None:
        raise ChainError(f"{path!r} has an unknown chunk grid or chunk key encoding")
    seen, places = set[int](), 1
    while len(seen) < min(meta.chunk_count, MOST_PLACES):
        places = min(places * FINER, meta.chunk_count)
        fresh = [place for place in spread_places(meta.chunk_count, places) if place not in seen]
        seen.update(fresh)
        keys = [join(path, meta.keys.encode(_coords(place, meta))) for place in fresh]
        yield from (data for data in reader.fetch(keys) if data is not None)


def spread_places(total: int, number: int) -> list[int]:
    """Return evenly spread places below `total`; those in the middle of the whole come first.

    >>> spread_places(100, 4), spread_places(2, 2)
    ([62, 37, 87, 12], [1, 0])
    """
    found = {total * (2 * i + 1) // (2 * number) for i in range(number)}
    return sorted(found, key=lambda place: (abs(2 * place - total), place))


def _coords(place: int, meta: ArrayMeta) -> Coords:
    return index_of(place, meta.chunk_grid)


def _measured(found: _Sample, steps: Mapping[str, Recompress]) -> Iterator[CodecRow]:
    scale = _nbytes(found.node) / max(found.nbytes, 1)
    base = CodecRow(
        array=found.path,
        codec=NOW,
        codecs=array_words(found.node.documents).codecs,
        chunks=len(found.arrays),
        nbytes=found.nbytes,
        stored=found.stored,
        whole=round(found.stored * scale),
        encode_seconds=_encode(found.codec, found.arrays)[1],
        decode_seconds=found.seconds,
    )
    yield base
    for codec, step in steps.items():
        yield _row(base, codec, step, found, scale)


def _row(base: CodecRow, codec: str, step: Recompress, found: _Sample, scale: float) -> CodecRow:
    try:
        recoder = Recoder(step, found.path, found.node.documents)
        step.check_array(recoder)
        coder = ChunkCodec(recoder.new_doc, arrays=True)
        made, encode_seconds = _encode(coder, found.arrays)
        decode_seconds = _decode(coder, made, found.arrays)
    except Exception as error:  # noqa: BLE001 (numcodecs and zarr raise different errors)
        return msgspec.structs.replace(base, codec=codec, error=str(error).partition("\n")[0])
    stored = sum(map(len, made))
    return msgspec.structs.replace(
        base,
        codec=codec,
        codecs=array_words(recoder.documents).codecs,
        stored=stored,
        whole=round(stored * scale),
        encode_seconds=encode_seconds,
        decode_seconds=decode_seconds,
    )


def _encode(codec: ChunkCodec, arrays: list[Array]) -> tuple[list[bytes], float]:
    return _timed(lambda array: bytes(codec.encode(array)), arrays)


def _decode(codec: ChunkCodec, chunks: list[bytes], arrays: list[Array]) -> float:
    """Return the time of decoding, and check the values."""
    found, seconds = _timed(codec.decode, chunks)
    if not all(map(is_identical, found, arrays)):
        raise ChainError("its filters do not keep the values of this array")
    return seconds


def _check_fits(rows: list[CodecRow], steps: Mapping[str, Recompress]) -> None:
    """Refuse a codec that fits none of the arrays."""
    for codec in steps:
        errors = [row.error for row in rows if row.codec == codec]
        if all(errors):
            others = f" and {count(len(errors) - 1, 'other array')}" if len(errors) > 1 else ""
            raise ChainError(f"{codec!r} fits no array: {errors[0]}{others}; change it, or leave it out")
