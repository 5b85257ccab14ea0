"""The data and the subjects of `bench_recompress`; all run in this process with two threads.

Each subject reads chunks with Blosc's lz4, and stores them with Blosc's zstd.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc

THREADS = 2
ARRAY = "data"
PARTITION = {ARRAY: (1, -1)}
"""The `shards=` that makes a shard of each row of the array's chunk grid."""


@dataclass(frozen=True)
class FloatChunks:
    """One array of float32 with similar neighbours, and a shard for each row of its chunk grid."""

    shards: int
    chunks: int
    """In each shard."""
    chunk_bytes: int
    zarr_format: int
    clevel: int = 5
    """Of what is written."""
    seed: int = 0

    @cached_property
    def values(self) -> np.ndarray[Any, Any]:
        """The decoded data."""
        steps = np.random.default_rng(self.seed).normal(size=(self.shards, self.chunks * self.chunk_bytes // 4))
        return steps.cumsum(axis=1).astype("f4").round(3)

    @property
    def shape(self) -> list[int]:
        """The array's shape."""
        return [self.shards, self.chunks * self.chunk_bytes // 4]

    @property
    def count(self) -> int:
        """The number of chunks."""
        return self.shards * self.chunks

    def encoded(self) -> list[bytes]:
        """All chunks as stored in the source."""
        codec = Blosc("lz4", 5, Blosc.SHUFFLE)
        return [codec.encode(chunk) for row in self.values for chunk in row.reshape(self.chunks, -1)]

    def write(self, root: Path) -> None:
        """Write an ordinary Zarr at `root`, which must be new: a group with the array in it."""
        group = {"zarr_format": self.zarr_format, **({"node_type": "group"} if self.zarr_format == 3 else {})}
        name, keys = ("zarr.json", "c/{}/{}") if self.zarr_format == 3 else (".zarray", "{}.{}")
        (root / ARRAY).mkdir(parents=True)
        (root / ("zarr.json" if self.zarr_format == 3 else ".zgroup")).write_text(json.dumps(group))
        (root / ARRAY / name).write_text(json.dumps(self.document("lz4", 5)))
        for number, data in enumerate(self.encoded()):
            path = root / ARRAY / keys.format(*divmod(number, self.chunks))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def document(self, cname: str, clevel: int) -> dict[str, Any]:
        """The metadata of the array with Blosc."""
        chunks = [1, self.chunk_bytes // 4]
        blosc = {"cname": cname, "clevel": clevel, "blocksize": 0}
        if self.zarr_format == 2:
            codec = {"id": "blosc", "shuffle": 1, **blosc}
            rest = {"shape": self.shape, "chunks": chunks, "dtype": "<f4", "fill_value": 0, "order": "C"}
            return {"zarr_format": 2, "compressor": codec, "filters": None, **rest}
        codec = {"name": "blosc", "configuration": {"shuffle": "shuffle", "typesize": 4, **blosc}}
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": self.shape,
            "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, codec],
            "attributes": {},
        }


@dataclass
class BareCodecs:
    """Only the calls of Blosc, in threads and on data in memory: the lower limit for any program."""

    layout: FloatChunks
    name: str = f"bare codecs, {THREADS} threads, in memory"

    def prepare(self) -> str | None:
        self.data = self.layout.encoded()
        return None

    def run(self, source: Path, out: Path) -> float:
        old, new = (
            Blosc("lz4", 5, Blosc.SHUFFLE, typesize=4),
            Blosc("zstd", self.layout.clevel, Blosc.SHUFFLE, typesize=4),
        )
        size = max(1, (256 << 10) // self.layout.chunk_bytes)
        parts = [self.data[start : start + size] for start in range(0, len(self.data), size)]
        started = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            made = list(pool.map(lambda part: [new.encode(old.decode(data)) for data in part], parts))
        took = time.perf_counter() - started
        del made
        return took


@dataclass(frozen=True)
class Ours:
    """The function that a worker runs for some shards, including records, but without Dask and planning."""

    layout: FloatChunks
    name: str = f"shardedstore, one task, {THREADS} threads"

    def prepare(self) -> str | None:
        return None

    def run(self, source: Path, out: Path) -> float:
        from shardedstore.jobs.executors.local import SerialExecutor
        from shardedstore.jobs.layouts.registry import choose_layout
        from shardedstore.jobs.make_plan import make_plan
        from shardedstore.jobs.prepare import manifest_of, prepare
        from shardedstore.jobs.start import start
        from shardedstore.jobs.summary import Summary
        from shardedstore.jobs.worker import run_segment
        from shardedstore.partition.partition import divide
        from shardedstore.stores.locations import Directory
        from shardedstore.transforms import Recompress, ToZip
        from shardedstore.transforms.base.chain import parse_chain

        step = Recompress("blosc", cname="zstd", clevel=self.layout.clevel, shuffle="shuffle", threads=THREADS)
        chain = parse_chain([step, ToZip(str(out))])
        plan = make_plan(divide(Directory(str(source)), PARTITION))
        plan, job = prepare(plan, chain, choose_layout(chain.sink), overwrite=False, retries=0)
        job = start(job, plan, manifest_of(plan, job), overwrite=False, executor=SerialExecutor())
        started = time.perf_counter()
        outcome = Summary.total(run_segment(job, segment) for segment in plan.segments())
        took = time.perf_counter() - started
        if outcome.failures:
            raise ExceptionGroup("the tasks failed", outcome.failures)
        return took


@dataclass(frozen=True)
class Tensorstore:
    """tensorstore (C++) copies the array into a new one, into a folder of chunk files."""

    layout: FloatChunks
    name: str = f"tensorstore, {THREADS} threads"

    def prepare(self) -> str | None:
        try:
            import tensorstore  # noqa: F401
        except ImportError:
            return "it is not installed: pip install tensorstore"
        return None

    def run(self, source: Path, out: Path) -> float:
        import tensorstore

        limit = {"limit": THREADS}
        context = tensorstore.Context({"data_copy_concurrency": limit, "file_io_concurrency": limit})
        driver = "zarr3" if self.layout.zarr_format == 3 else "zarr"
        metadata = {k: v for k, v in self.layout.document("zstd", self.layout.clevel).items() if k != "attributes"}
        started = time.perf_counter()
        old, new = (
            tensorstore.open(
                {"driver": driver, "kvstore": f"file://{path / ARRAY}/", **options}, context=context
            ).result()
            for path, options in ((source, {"open": True}), (out, {"metadata": metadata, "create": True}))
        )
        new.write(old).result()
        return time.perf_counter() - started


@dataclass(frozen=True)
class DaskArray:
    """`dask.array.from_zarr` and `store` on the threaded scheduler, with one task for each chunk."""

    layout: FloatChunks
    name: str = f"dask.array, {THREADS} threads"

    def prepare(self) -> str | None:
        return None

    def run(self, source: Path, out: Path) -> float:
        import dask.array

        (out / ARRAY).mkdir()
        name = "zarr.json" if self.layout.zarr_format == 3 else ".zarray"
        (out / ARRAY / name).write_text(json.dumps(self.layout.document("zstd", self.layout.clevel)))
        started = time.perf_counter()
        target = zarr.open_array(out / ARRAY, mode="r+")
        array = dask.array.from_zarr(str(source / ARRAY))
        dask.array.store(array, target, lock=False, scheduler="threads", num_workers=THREADS)
        return time.perf_counter() - started
