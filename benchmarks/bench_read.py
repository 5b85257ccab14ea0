"""Read a whole array through a ShardedStore of zips, from a plain directory and through zarr's ZipStore.

    python -m benchmarks.bench_read

Each run opens and reads the array with zarr's default options, and then compares all values, untimed. The array is first
on a memory file system, where it is also read with zarr's fused codec pipeline (zarr 3.4), which the xarray engine uses. Then a smaller array is on an S3 server on this machine, behind a proxy that delays each request.
There, zarr's ZipStore reads through an obstore reader, which needs zarr 3.4 or newer.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import obstore
import zarr
from obstore.store import from_url
from zarr.abc.store import Store
from zarr.core import codec_pipeline
from zarr.storage import LocalStore, ZipStore

from benchmarks.harness import Target, circumstances, measure, parser, report, working_folder
from benchmarks.layouts import ARRAY, PARTITION, SmallChunks
from benchmarks.servers import delayed, new_bucket, s3_server

READER_BUFFER = 16 << 10
"""Bytes: what the obstore reader asks for at once. Its default, 1 MiB, makes it read most of the zip again for each chunk."""


FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"


@dataclass(frozen=True)
class Read:
    """Open a store and read the whole array."""

    name: str
    open: Callable[[], Store]
    expected: np.ndarray[Any, Any]
    lacks: str | None = None
    pipeline: str = zarr.config.get("codec_pipeline.path")

    def prepare(self) -> str | None:
        return self.lacks

    def run(self, source: Path, out: None) -> float:
        with zarr.config.set({"codec_pipeline.path": self.pipeline}):
            started = time.perf_counter()
            store = self.open()
            found = zarr.open_array(store, path=ARRAY, mode="r")[:]
            took = time.perf_counter() - started
        store.close()
        if not np.array_equal(found, self.expected):
            raise ValueError("what it read is not what was written")
        return took


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print the tables."""
    options = parser("bench_read", __doc__, rounds=7, shards=8, chunks=1000)
    options.add_argument("--far-chunks", type=int, default=32, help="the same for the array on S3 (%(default)s)")
    options.add_argument("--delay", type=float, default=0.05, help="seconds that a request waits (%(default)s)")
    chosen = options.parse_args(arguments)
    near = SmallChunks(shards=chosen.shards, chunks=chosen.chunks)
    far = SmallChunks(shards=chosen.shards, chunks=chosen.far_chunks)
    with working_folder(chosen, (1 << 30) + 4 * near.payload) as folder:
        print(f"{near}, local; {circumstances(chosen)}\n")
        _local(near, folder / "near", chosen.rounds)
        rounds = min(chosen.rounds, 3)
        print(f"\n{far}, from S3 with {chosen.delay * 1000:.0f} ms a request; {circumstances(chosen, rounds)}\n")
        _remote(far, folder / "far", rounds, chosen.delay)


def _local(layout: SmallChunks, folder: Path, rounds: int) -> None:
    from shardedstore import ShardedStore

    zipped, expected = _prepare(layout, folder)
    ours = Read("ShardedStore of zips", lambda: ShardedStore.load(zipped), expected)
    plain = Read("plain directory", lambda: LocalStore(folder / "source.zarr", read_only=True), expected)
    theirs = Read("zarr's ZipStore", lambda: ZipStore(folder / "one.zip", mode="r"), expected)
    lacks = None if hasattr(codec_pipeline, "FusedCodecPipeline") else "this zarr has no fused pipeline: it takes 3.4"
    fused = [replace(one, name=f"{one.name}, fused", pipeline=FUSED, lacks=lacks) for one in (ours, plain)]
    targets = [Target(ours.name, other.name, 1.0, "<= 1.0 x") for other in (plain, theirs)]
    targets.append(Target(fused[0].name, fused[1].name, 0.9, "<= 0.9 x"))
    report(*measure([ours, plain, theirs, *fused], folder, nullcontext, lambda _: None, rounds), targets)


def _remote(layout: SmallChunks, folder: Path, rounds: int, delay: float) -> None:
    from shardedstore import ShardedStore
    from shardedstore.transforms import ToZip

    _, expected = _prepare(layout, folder)
    with ExitStack() as stack:
        server = stack.enter_context(s3_server(folder / "s3"))
        place = stack.enter_context(new_bucket(server))
        endpoint = stack.enter_context(delayed(server, delay))
        with dask.config.set(scheduler="synchronous"):
            ShardedStore.partition(str(folder / "source.zarr"), shards=PARTITION).map_shards(ToZip(place.url))
        obstore.put(place.client, "one.zip", folder / "one.zip")
        client = from_url(place.url, endpoint=endpoint, client_options={"allow_http": True})

        def opened() -> Store:
            return ZipStore(obstore.open_reader(client, "one.zip", buffer_size=READER_BUFFER))  # type: ignore[arg-type]

        ours = Read(
            "ShardedStore of zips on S3",
            lambda: ShardedStore.load(place.url, storage_options={"endpoint": endpoint}),
            expected,
        )
        lacks = (
            None
            if "IO[bytes]" in str(ZipStore.__init__.__annotations__)
            else "this zarr has no such ZipStore: it takes 3.4"
        )
        theirs = Read("zarr's ZipStore over an obstore reader", opened, expected, lacks)
        targets = [Target(ours.name, theirs.name, 1 / 5, ">= 5 x faster")]
        report(*measure([ours, theirs], folder, nullcontext, lambda _: None, rounds), targets)


def _prepare(layout: SmallChunks, folder: Path) -> tuple[Path, np.ndarray[Any, Any]]:
    """Write the array as a directory, a zip and a folder of zips; return this folder and the array's values."""
    from shardedstore import ShardedStore
    from shardedstore.transforms import ToZip

    source = folder / "source.zarr"
    layout.write(source)
    with zipfile.ZipFile(folder / "one.zip", "w") as archive:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(source).as_posix())
    with dask.config.set(scheduler="synchronous"):
        ShardedStore.partition(str(source), shards=PARTITION).map_shards(ToZip(str(folder / "zips")))
    rows = [
        np.concatenate([np.frombuffer((row / str(i)).read_bytes(), "u1") for i in range(layout.chunks)])
        for row in layout.rows(source)
    ]
    return folder / "zips", np.stack(rows)


if __name__ == "__main__":
    main()
