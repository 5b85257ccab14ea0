"""Pack small chunks into objects of the sharding codec: compare shardedstore with tensorstore, dask.array and zarr.

    python -m benchmarks.bench_sharding

All subjects write the same array with the same inner chunks. Only shardedstore does not decode them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks.harness import Subject, Target, circumstances, measure, new_folder, parser, report, working_folder
from benchmarks.layouts import ARRAY, CompressedChunks
from benchmarks.ours import BareTasks, OnDask, workers
from benchmarks.resharders import NEW, DaskArray, TensorStore, Zarr


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print the tables."""
    options = parser("bench_sharding", __doc__, rounds=5, shards=8, chunks=1000)
    chosen = options.parse_args(arguments)
    layout = CompressedChunks(shards=chosen.shards, chunks=chosen.chunks)

    with working_folder(chosen, 3 * layout.payload) as folder, workers() as pool:
        bare, dask = BareTasks(_to_sharding_codec, pool), OnDask(_to_sharding_codec)
        pipelines = "zarr.core.codec_pipeline"
        peers: list[Subject[Path]] = [
            TensorStore(layout),
            DaskArray(layout),
            Zarr(layout, "zarr", f"{pipelines}.BatchedCodecPipeline"),
            Zarr(layout, "zarr, its fused pipeline", f"{pipelines}.FusedCodecPipeline"),
            Zarr(layout, "zarr with zarrs", "zarrs.ZarrsCodecPipeline", "zarrs"),
        ]
        subjects: list[Subject[Path]] = [*peers, bare, dask]
        targets = [Target(dask.name, peer.name, None, "") for peer in peers]
        print(f"{layout} before compression; {circumstances(chosen)}\n")
        layout.write(source := folder / "source.zarr")
        check = partial(_check, zarr.open_array(source, path=ARRAY, mode="r"))
        results = measure(subjects, source, lambda: new_folder(folder / "out"), check, chosen.rounds)
    report(*results, targets)


def _to_sharding_codec(out: Path) -> Any:
    from shardedstore.transforms import ToShardingCodec

    return ToShardingCodec(str(out / NEW))


def _check(expected: zarr.Array[Any], out: Path) -> str | None:
    found = zarr.open_array(out / NEW, path=ARRAY, mode="r")
    if (found.chunks, found.shards) != (expected.chunks, (1, expected.shape[1])):
        return f"what it wrote has chunks of {found.chunks} in shards of {found.shards}"
    return None if np.array_equal(found[:], expected[:]) else "what it wrote is not what the source holds"


if __name__ == "__main__":
    main()
