"""Specs of TensorStore: one JSON document for each array, by which TensorStore opens all shards as one array.

The formats are described in https://google.github.io/tensorstore/driver/stack/ and https://google.github.io/tensorstore/kvstore/zip/.
"""

from __future__ import annotations

import math
import os
from typing import Any, Literal
from urllib.parse import unquote

import msgspec
import numpy as np
import zarr

from shardedstore.codecs.readers import find_obstacles
from shardedstore.errors import DestinationError, UsageError
from shardedstore.storage.client_keywords import with_environment
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, open_folder
from shardedstore.storage.options import NONE, Options, StorageOptions, take_options
from shardedstore.storage.urls import normalize
from shardedstore.stores.hierarchy import Node, walk
from shardedstore.stores.layers import Layer
from shardedstore.stores.routing import RoutedStore
from shardedstore.zarr.metadata import ArrayMeta

Spec = dict[str, Any]
DRIVERS = {2: "zarr", 3: "zarr3"}
SCHEMES = ("file://", "s3://", "gs://", "http://", "https://")
ROOT = "array"  # the name of the file of an array at the root


def write_specs(
    store: RoutedStore, url: str | os.PathLike[str] | None = None, storage_options: StorageOptions = None
) -> dict[str, Spec]:
    """Return the specs of all arrays by path, and write each to a JSON file if a folder is given."""
    place = None if url is None else normalize(url)
    options = NONE if place is None else take_options(place, storage_options)
    specs = specs_of(store)
    if place is not None:
        folder = open_folder(place, options)
        for path, spec in specs.items():
            try:
                folder.write(f"{path or ROOT}.json", msgspec.json.format(msgspec.json.encode(spec), indent=1))
            except STORAGE_ERRORS as error:
                raise DestinationError(
                    f"the spec of {path!r} can't be written in {place!r}: {explain(error)}"
                ) from error
    return specs


def specs_of(store: RoutedStore) -> dict[str, Spec]:
    """Return the spec of each array, by path. No chunk is read.

    Raises
    ------
    UsageError
        If TensorStore can't read an array, or if an array is in no ordinary Zarr.
    HoleError
        If a shard is a hole.
    """
    arrays = {path: node for path, node in walk(store).items() if isinstance(node.meta, ArrayMeta)}
    _check_readable(arrays)
    return {
        path: _Array(store, path, node.meta).spec() for path, node in arrays.items() if isinstance(node.meta, ArrayMeta)
    }


def _check_readable(arrays: dict[str, Node]) -> None:
    lacks = {
        path: str(obstacle)
        for path, node in arrays.items()
        for obstacle in find_obstacles(node.documents)
        if obstacle.reader.name.startswith("tensorstore")
    }
    if lacks:
        path, obstacle = next(iter(lacks.items()))
        others = f", and {len(lacks) - 1:,} more arrays" if len(lacks) > 1 else ""
        raise UsageError(
            f"TensorStore can't read {path or 'the array'!r} ({obstacle}){others}: convert the source with --portable or MakePortable, "
            "or export a part, ShardedStore.partition(result, [], exclude=...)"
        )


class _Array:
    """One array of a store, and its spec."""

    def __init__(self, store: RoutedStore, path: str, meta: ArrayMeta) -> None:
        self.store, self.path, self.meta = store, path, meta
        if meta.chunks is None:
            raise UsageError(
                f"TensorStore can't read {path!r}: its chunk grid is not regular. Leave it out of the result"
            )
        self.chunks, self.grid = meta.chunks, meta.chunk_grid

    def spec(self) -> Spec:
        """Return one Zarr, or the stack of all layers."""
        layers = list(self.store.config.layers(self.path))
        if len(layers) == 1 and layers[0].box is None:
            return self._stored(layers[0])
        filled = [] if self._is_covered(layers) else [self._fill()]
        specs = [{**self._stored(layer), **self._transform(layer)} for layer in layers]
        return {"driver": "stack", "dtype": self._dtype().name, "layers": [*filled, *specs]}

    def _stored(self, layer: Layer) -> Spec:
        return {"driver": DRIVERS[self.meta.zarr_format], "kvstore": kvstore(layer)}

    def _is_covered(self, layers: list[Layer]) -> bool:
        """Tell whether each chunk is in a layer; otherwise its layers are blocks that do not overlap."""
        sizes = (self.grid if layer.box is None else tuple(map(len, layer.box)) for layer in layers)
        return sum(map(math.prod, sizes)) >= math.prod(self.grid)

    def _transform(self, layer: Layer) -> Spec:
        """Return the transform from the elements of the array to the elements of a layer."""
        box = layer.box or tuple(map(range, self.grid))
        origin = layer.origin or (0,) * len(box)
        offsets = [(o - r.start) * c for o, r, c in zip(origin, box, self.chunks, strict=True)]
        ends = zip(box, self.chunks, self.meta.shape, strict=True)
        output = [{"input_dimension": i, **({"offset": offset} if offset else {})} for i, offset in enumerate(offsets)]
        return {
            "transform": {
                "input_inclusive_min": [r.start * c for r, c in zip(box, self.chunks, strict=True)],
                "input_exclusive_max": [min(r.stop * c, n) for r, c, n in ends],
                **self._labels(),
                "output": output,
            }
        }

    def _labels(self) -> Spec:
        names = self.meta.dimension_names or ()
        return {"input_labels": list(names)} if names and None not in names and len(set(names)) == len(names) else {}

    def _open(self) -> zarr.Array[Any]:
        zarr_format: Literal[2, 3] = 3 if self.meta.zarr_format == 3 else 2
        return zarr.open_array(self.store, path=self.path, mode="r", zarr_format=zarr_format)

    def _dtype(self) -> np.dtype[Any]:
        dtype = np.dtype(self._open().dtype)
        if dtype.kind not in "biufc":
            raise UsageError(
                f"a stack of TensorStore can't have the type {dtype} of {self.path!r}: leave it out of the result"
            )
        return dtype

    def _fill(self) -> Spec:
        """Return a layer of the fill value, for the blocks that are not stored."""
        value, dtype = self._open().fill_value, self._dtype()
        transform = {
            "input_inclusive_min": [0] * len(self.grid),
            "input_exclusive_max": list(self.meta.shape),
            **self._labels(),
        }
        number = np.asarray(0 if value is None else value, dtype)
        if dtype.kind == "c":
            if number.imag:
                raise UsageError(
                    f"a stack of TensorStore can't have the fill value {number} of {self.path!r}: leave it out"
                )
            real = "float32" if dtype.itemsize == 8 else "float64"
            base = {
                "driver": "array",
                "dtype": real,
                "array": _json(number.real),
                "transform": {**transform, "output": []},
            }
            return {"driver": "cast", "dtype": dtype.name, "base": base}
        return {
            "driver": "array",
            "dtype": dtype.name,
            "array": _json(number),
            "transform": {**transform, "output": []},
        }


def _json(number: np.ndarray[Any, Any]) -> bool | int | float | str:
    """Return an element as JSON has it in specs.

    >>> _json(np.asarray(1.5)), _json(np.asarray(-np.inf)), _json(np.asarray(np.nan))
    (1.5, '-Infinity', 'NaN')
    """
    value: bool | int | float = number.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def kvstore(layer: Layer) -> str | Spec:
    """Return the key-value store of a layer: its URL, or JSON if the object store has options.

    >>> kvstore(Layer("file:///a%20b.zip|zip:t/", NONE))
    'file:///a%20b.zip|zip:t/'
    """
    if not layer.url.startswith(SCHEMES):
        raise UsageError(f"TensorStore can't read {layer.url!r}: it reads file, s3, gs, http and https URLs")
    if not layer.url.startswith("s3://"):
        return layer.url
    options = with_environment(layer.options)
    if options == NONE:
        return layer.url
    first, *adapters = layer.url.split("|")
    found = _bucket(first, options)
    for adapter in adapters:
        driver, _, path = adapter.partition(":")
        found = {"driver": driver, "base": found, "path": unquote(path)}
    return found


def _bucket(url: str, options: Options) -> Spec:
    bucket, _, path = url.removeprefix("s3://").partition("/")
    found = {
        "endpoint": options.endpoint,
        "aws_region": options.region or ("us-east-1" if options.endpoint else None),
        "requester_pays": options.request_payer,
        "aws_credentials": {"type": "anonymous"} if options.anonymous else None,
    }
    return {
        "driver": "s3",
        "bucket": bucket,
        "path": unquote(path),
        **{key: value for key, value in found.items() if value},
    }
