"""Measure the peak memory of a worker process that writes one shard of 10 GiB.

    python -m benchmarks.bench_memory

The shard's chunks are hard links to a few files, so the source needs little space. Each result needs space, and is removed
before the next one is written. Each result is written by a separate Dask worker, whose peak is read at the end (`VmHWM` of
Linux, as the `ru_maxrss` of a process starts with that of its parent). SeaweedFS is another process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

from benchmarks.harness import circumstances, new_folder, parser, table, working_folder
from benchmarks.layouts import PARTITION, LinkedChunks
from benchmarks.servers import new_bucket, s3_server

LIMIT = 400 << 20
KINDS = ("ToZip", "ToZip to S3", "CopyTo to S3", "ToShardingCodec", "ToShardingCodec to S3")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print the table."""
    options = parser("bench_memory", __doc__, rounds=1)
    options.add_argument("--gib", type=float, default=10, help="size of the shard (%(default)s)")
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what is made of it (all)")
    chosen = options.parse_args(arguments)
    layout = LinkedChunks(shards=1, chunks=int(chosen.gib * 1024))
    with ExitStack() as stack:
        folder = stack.enter_context(working_folder(chosen, 3 * layout.payload // 2 + (1 << 30)))
        print(f"{layout}; {circumstances(chosen)}\n", flush=True)
        layout.write(folder / "source.zarr")
        rows = [(kind, *_made(kind, layout, folder)) for kind in chosen.kinds for _ in range(chosen.rounds)]
    table(("what", "before", "peak", "took", "must be", "reached"), rows)


def _made(kind: str, layout: LinkedChunks, folder: Path) -> tuple[str, ...]:
    """Write one result of the shard, and return its rows of the table."""
    from shardedstore import ShardedStore

    with ExitStack() as stack:
        place: AbstractContextManager[Any] = new_folder(folder / "out")
        if kind.endswith("S3"):
            place = new_bucket(stack.enter_context(s3_server(stack.enter_context(new_folder(folder / "s3")))))
        out = stack.enter_context(place)
        url = out.url if kind.endswith("S3") else str(out / "new")
        cluster = stack.enter_context(
            LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0)
        )
        client = stack.enter_context(Client(cluster))
        (before,) = client.run(_peak).values()
        started = time.perf_counter()
        result = ShardedStore.partition(str(folder / "source.zarr"), shards=PARTITION).map_shards(_sink(kind)(url))
        took = time.perf_counter() - started
        (peak,) = client.run(_peak).values()
        if result.summary is None or result.summary.nbytes < layout.payload:
            raise RuntimeError(f"{kind} wrote less than it should have: {result.summary}")
        reached = "yes" if peak < LIMIT else "NO"
        return (f"{before >> 20} MiB", f"{peak >> 20} MiB", f"{took:.1f} s", f"< {LIMIT >> 20} MiB", reached)


def _sink(kind: str) -> Callable[[str], Any]:
    from shardedstore import transforms

    made: Callable[[str], Any] = getattr(transforms, kind.removesuffix(" to S3"))
    return made


def _peak() -> int:
    """The peak resident memory of this process in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    main()
