"""Recompress large and small chunks: compare shardedstore with the bare codecs, tensorstore and dask.array.

    python -m benchmarks.bench_recompress

All subjects run in turns in one process, each with two threads, on a memory file system. The tables show processor time
below wall time, as other programs disturb it less.
"""

from __future__ import annotations

import argparse
import resource
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks.harness import (
    Subject,
    Target,
    circumstances,
    measure,
    new_folder,
    parser,
    report,
    table,
    working_folder,
)
from benchmarks.recompressing import ARRAY, BareCodecs, DaskArray, FloatChunks, Ours, Tensorstore


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print the tables."""
    options = parser("bench_recompress", __doc__, rounds=9)
    options.add_argument("--formats", type=int, nargs="*", default=[2, 3], help="Zarr formats (%(default)s)")
    options.add_argument("--shards", type=int, default=2, help="(%(default)s)")
    options.add_argument("--chunks", type=int, default=1000, help="small chunks in each shard (%(default)s)")
    options.add_argument("--large-chunks", type=int, default=64, help="large chunks in each shard (%(default)s)")
    options.add_argument("--clevel", type=int, default=5, help="the level of Blosc's zstd (%(default)s)")
    chosen = options.parse_args(arguments)
    print(circumstances(chosen))
    for zarr_format in chosen.formats:
        large = FloatChunks(chosen.shards, chosen.large_chunks, 1 << 20, zarr_format, chosen.clevel)
        ours, bare = Ours(large), BareCodecs(large)
        _show(large, [ours, bare], [Target(ours.name, bare.name, 1.15, "<= 1.15 x")], chosen)
        small = FloatChunks(chosen.shards, chosen.chunks, 16 << 10, zarr_format, chosen.clevel)
        ours, bare, copy, dask = Ours(small), BareCodecs(small), Tensorstore(small), DaskArray(small)
        targets = [
            Target(ours.name, copy.name, 1.0, "<= 1.0 x"),
            Target(ours.name, dask.name, 1 / 10, ">= 10 x faster"),
        ]
        _show(small, [ours, bare, copy, dask], targets, chosen)


def _show(
    layout: FloatChunks, subjects: Sequence[Subject[Path]], targets: Sequence[Target], options: argparse.Namespace
) -> None:
    watched = [WithProcessor(subject) for subject in subjects]
    with working_folder(options, 6 * layout.values.nbytes) as folder:
        layout.write(source := folder / "source.zarr")
        place = partial(new_folder, folder / "out")
        results = measure(watched, source, place, partial(_check, layout), options.rounds)
    print(
        f"\n{layout.shards} shards x {layout.chunks:,} chunks of {layout.chunk_bytes / 2**10:,.0f} KiB, Zarr v"
        f"{layout.zarr_format}, Blosc's lz4 to zstd, level {layout.clevel}\n"
    )
    report(*results, targets)
    print()
    rows = [(one.name, one.line(results[0], layout.count), one.line(one.processor, layout.count)) for one in watched]
    table(("microseconds a chunk", "passed", "of the processor"), rows)


@dataclass
class WithProcessor:
    """A subject, and the processor time of each of its runs in seconds."""

    subject: Subject[Path]
    processor: dict[str, list[float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The row of the table."""
        return self.subject.name

    def prepare(self) -> str | None:
        return self.subject.prepare()

    def run(self, source: Path, out: Path) -> float:
        before = resource.getrusage(resource.RUSAGE_SELF)
        took = self.subject.run(source, out)
        after = resource.getrusage(resource.RUSAGE_SELF)
        used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        self.processor.setdefault(self.name, []).append(used)
        return took

    def line(self, seconds: dict[str, list[float]], count: int) -> str:
        """The median of some times, for one chunk."""
        return f"{1e6 * statistics.median(seconds[self.name]) / count:,.1f}" if seconds.get(self.name) else "-"


def _check(layout: FloatChunks, out: Path) -> str | None:
    stores: list[Any] = [zarr.storage.ZipStore(path) for path in sorted((out / ARRAY).glob("*.zip"))]
    arrays = [zarr.open_array(store, mode="r") for store in stores or [out / ARRAY] if (out / ARRAY).exists()]
    if arrays and not np.array_equal(np.concatenate([array[...] for array in arrays]), layout.values):
        return "what it wrote does not hold the values of the source"
    return None


if __name__ == "__main__":
    main()
