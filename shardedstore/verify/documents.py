"""Find metadata documents of a result that make some readers see wrong values.

Decoded data are compared by the documents of one Zarr format, as zarr reads them. Readers of the other format use the other
documents, and xarray also masks values by attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import zarr
from toolz import keyfilter
from zarr.abc.store import Store

from shardedstore.codecs.migrate_document import MASKED, MISSING, array_document
from shardedstore.errors import ChainError
from shardedstore.jobs.differences import Difference
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.reader import reader_of
from shardedstore.verify.compare import Side
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta, parse_json
from shardedstore.zarr.paths import join

ARRAY_NAMES = {2: ".zarray", 3: "zarr.json"}
DROP_OTHER = "remove the documents of the wrong format; or run the job again to another destination"
MIGRATE_AGAIN = "run MigrateV3 again to another destination: versions before 0.5 wrote such documents"


def compare_documents(ours: Side, theirs: Side) -> Iterator[Difference]:
    """Yield the documents of a result that are wrong for some readers, although its decoded chunks are right."""
    yield from _second_documents(ours)
    for found in _migrated(ours, theirs):
        path, value = found.path, found.masks.get(MASKED)
        if value is not None and value != found.expected.get(MASKED):
            what = f"{path!r} has the attribute {MASKED} {value!r}, which xarray refuses or misreads in Zarr v3"
        elif found.is_filled_with_a_number and not found.masks:
            what = f"{path!r} shows missing texts as {found.expected[MISSING]!r}, as it lacks the attribute {MISSING}"
        else:
            continue
        mine, its, key = dict(found.masks), dict(found.expected), join(path, "zarr.json")
        yield Difference("attributes", what, MIGRATE_AGAIN, array=path, key=key, found=mine, expected=its)


def unmasked(ours: Side, theirs: Side) -> Iterator[str]:
    """Yield a note for each array whose missing values xarray masks in the v2 source, but not in the v3 result."""
    for path, masks, expected, is_filled_with_a_number in _migrated(ours, theirs):
        if expected and not masks and not is_filled_with_a_number:
            named = ", ".join(f"{name} {value!r}" for name, value in expected.items())
            yield f"{path!r}: xarray masks missing values in the source, but not in the result, which lacks the attribute {named}"


class Migrated(NamedTuple):
    """A v3 array with a v2 source: its attributes that control xarray's masking, and those that `MigrateV3` writes.

    `is_filled_with_a_number` is True if the source has texts with a number as fill value, as zarr 2 wrote them.
    """

    path: str
    masks: Mapping[str, Any]
    expected: Mapping[str, Any]
    is_filled_with_a_number: bool


def _migrated(ours: Side, theirs: Side) -> Iterator[Migrated]:
    old = _arrays(theirs, 2)
    for path, node in _arrays(ours, 3).items():
        try:
            made = None if path not in old else array_document(old[path].documents, path)
        except ChainError:
            continue
        if made is not None:
            masks, expected = (_masks(data, path) for data in (node.documents["zarr.json"], made.data))
            fill = parse_json(old[path].documents[".zarray"], path, ".zarray").get("fill_value")
            is_number = made.layout.document["data_type"] == "string" and isinstance(fill, int | float)
            yield Migrated(path, masks, expected, is_number)


def _masks(data: bytes, path: str) -> dict[str, Any]:
    attributes = parse_json(data, path, "zarr.json").get("attributes") or {}
    masks: dict[str, Any] = keyfilter((MASKED, MISSING).__contains__, attributes)
    return masks


def _arrays(side: Side, zarr_format: int) -> dict[str, Node]:
    nodes = side.plan.nodes.items()
    return {
        path: node for path, node in nodes if isinstance(node.meta, ArrayMeta) and node.meta.zarr_format == zarr_format
    }


def _second_documents(ours: Side) -> Iterator[Difference]:
    """Yield the arrays whose v2 and v3 documents give different values."""
    store = ours.plan.config.open()
    for zarr_format, name in ARRAY_NAMES.items():
        arrays, other = _arrays(ours, zarr_format), 5 - zarr_format
        found = reader_of(store).fetch(join(path, ARRAY_NAMES[other]) for path in arrays)
        for (path, node), data in zip(arrays.items(), found, strict=True):
            assert isinstance(node.meta, ArrayMeta)
            if data is not None and not _reads_alike(store, path, node.meta):
                what = f"{path!r} has a {ARRAY_NAMES[other]} whose values differ from those of its {name}"
                yield Difference("layout", what, DROP_OTHER, array=path, key=join(path, ARRAY_NAMES[other]))


def _reads_alike(store: Store, path: str, meta: ArrayMeta) -> bool:
    """Tell whether the documents of both formats give equal values in the first, middle and last chunk of an array."""
    return all(_is_alike(store, path, place) for place in _places(meta))


def _places(meta: ArrayMeta) -> set[Coords]:
    """Return the coordinates of the first, the middle and the last element."""
    if not all(meta.shape):
        return set()
    return {tuple(0 for _ in meta.shape), tuple(n // 2 for n in meta.shape), tuple(n - 1 for n in meta.shape)}


def _is_alike(store: Store, path: str, place: Coords) -> bool:
    found = []
    for zarr_format in (2, 3):
        try:
            array = zarr.open_array(store, path=path, mode="r", zarr_format=zarr_format)
            found.append(np.asarray(array[place]))
        except Exception as error:  # noqa: BLE001 (codecs raise errors of any type)
            found.append(np.asarray(type(error).__name__))
    one, other = found
    return one.shape == other.shape and one.astype(object).tolist() == other.astype(object).tolist()
