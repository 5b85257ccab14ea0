"""Other programs that pack an array's chunks into objects of the sharding codec, with equal chunks and codecs.

All of them decode every chunk and encode it again. Each writes one object at a time for each row of the chunk grid, as
writers that share an object must wait for each other.
"""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import ZstdCodec

from benchmarks.layouts import ARRAY, CompressedChunks

NEW = "new.zarr"
"""What each writes in the folder that it is given."""


def _codec(layout: CompressedChunks) -> dict[str, Any]:
    """The parameters of the new array for zarr."""
    length = layout.chunk_bytes // 4
    return {
        "chunks": (1, length),
        "shards": (1, length * layout.chunks),
        "compressors": ZstdCodec(level=layout.level),
    }


@dataclass(frozen=True)
class Zarr:
    """zarr with one of its codec pipelines: `from_array`, one shard at a time."""

    layout: CompressedChunks
    name: str
    pipeline: str
    package: str = "zarr"

    def prepare(self) -> str | None:
        if importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed: pip install {self.package}"
        module, _, name = self.pipeline.rpartition(".")
        return None if hasattr(importlib.import_module(module), name) else f"this zarr has no {name}"

    def run(self, source: Path, out: Path) -> float:
        with zarr.config.set({"codec_pipeline.path": self.pipeline}):
            started = time.perf_counter()
            data = zarr.open_array(source, path=ARRAY, mode="r")
            zarr.from_array(str(out / NEW), name=ARRAY, data=data, **_codec(self.layout))
            return time.perf_counter() - started


@dataclass(frozen=True)
class DaskArray:
    """`dask.array` on the active cluster: load one block for each shard, and store them in an array with shards."""

    layout: CompressedChunks
    name: str = "dask.array load and store, 2 workers"

    def prepare(self) -> str | None:
        return None

    def run(self, source: Path, out: Path) -> float:
        import dask.array as da

        started = time.perf_counter()
        data = zarr.open_array(source, path=ARRAY, mode="r")
        codec = _codec(self.layout)
        new = zarr.create_array(str(out / NEW), name=ARRAY, shape=data.shape, dtype=data.dtype, **codec)
        da.store(da.from_array(data, chunks=codec["shards"]), new, lock=False)
        return time.perf_counter() - started


@dataclass(frozen=True)
class TensorStore:
    """tensorstore's copy from one array to another, in one transaction: without it, objects are written again and again."""

    layout: CompressedChunks
    name: str = "tensorstore copy"

    def prepare(self) -> str | None:
        return (
            None if importlib.util.find_spec("tensorstore") else "tensorstore is not installed: pip install tensorstore"
        )

    def run(self, source: Path, out: Path) -> float:
        import tensorstore

        def opened(path: Path) -> Any:
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
            return tensorstore.open(spec, open=True).result()

        started = time.perf_counter()
        data = opened(source / ARRAY)
        codec = _codec(self.layout)
        zarr.create_array(str(out / NEW), name=ARRAY, shape=data.shape, dtype=data.dtype.numpy_dtype, **codec)
        with tensorstore.Transaction() as transaction:
            opened(out / NEW / ARRAY).with_transaction(transaction).write(data).result()
        return time.perf_counter() - started
