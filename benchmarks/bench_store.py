"""Measure the overhead of a sharded store: the routing of keys, and the opening of configs.

    python -m benchmarks.bench_store

Routing is compared with the bare component, an object that returns at once; the difference is the overhead of a call.
Configs of 100 to 1,000,000 shards of one array are saved and loaded, and their first chunk is read.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from benchmarks.harness import circumstances, parser, table, working_folder

PROTOTYPE = default_buffer_prototype()
CALLS = 20_000
COUNTS = [10**n for n in range(2, 7)]


class Instant(MemoryStore):
    """A component that answers at once."""

    value: Buffer = PROTOTYPE.buffer.from_bytes(b"a chunk")

    async def get(self, *_: Any) -> Buffer:
        return self.value


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print the tables."""
    options = parser("bench_store", __doc__, rounds=9).parse_args(arguments)
    print(f"routing; {circumstances(options)}\n")
    _routing(options.rounds)
    with working_folder(options, 1 << 20) as folder:
        print("\na config\n")
        _configs(folder, options.rounds)


def _routing(rounds: int) -> None:
    bare = Instant()
    routed = _routed(bare)
    numbers = [f"{i}/{j}/{k}" for i in range(0, 1000, 20) for j in range(20) for k in range(20)]
    cases = {
        "a chunk of an array in 100 blocks": [f"climate/era5/temperature/c/{number}" for number in numbers],
        "a chunk in a group that is one shard": [f"climate/coarse/wind/c/{number}" for number in numbers],
        "a chunk in the base": [f"climate/heights/c/{number}" for number in numbers],
    }
    rows = []
    for name, keys in cases.items():
        taken = [(_seconds(bare, keys), _seconds(routed, keys)) for _ in range(rounds)]
        least = statistics.median(one for one, _ in taken) / CALLS * 1e6
        over = statistics.median(other - one for one, other in taken) / CALLS * 1e6
        rows.append((name, f"{least:.2f} us", f"{over:.2f} us", "<= 2 us"))
    table(("get", "the bare component", "over it", "must be"), rows)


def _routed(bare: Store) -> Store:
    from shardedstore.store import ShardedStore
    from shardedstore.stores.locations import Config, Mount, Opened
    from shardedstore.zarr.grid import Blocks, ChunkKeys

    blocks = Blocks((1000, 20, 20), (10,), ChunkKeys("default", "/"))
    others = {f"climate/other-{i}": Mount(Opened(bare)) for i in range(100)}
    mounts = {"climate/era5/temperature": Mount(Opened(bare), blocks), "climate/coarse": Mount(Opened(bare)), **others}
    return ShardedStore._of(Config(Opened(bare), mounts))


def _seconds(store: Store, keys: list[str]) -> float:
    async def read() -> float:
        started = time.perf_counter()
        for key in keys:
            await store.get(key, PROTOTYPE)
        return time.perf_counter() - started

    return asyncio.run(read())


def _configs(folder: Path, rounds: int) -> None:
    from shardedstore import ShardedStore

    rows = []
    for count in COUNTS:
        path = _config(folder, count)
        loads, chunks = [], []
        for _ in range(rounds):
            started = time.perf_counter()
            store = ShardedStore.load(path)
            loads.append(time.perf_counter() - started)
            sync(store.get(f"t/c/{count - 1}", PROTOTYPE))
            chunks.append(time.perf_counter() - started)
        taken = [f"{statistics.median(each) * 1000:.1f} ms" for each in (loads, chunks)]
        rows.append((f"{count:,}", f"{path.stat().st_size:,} bytes", *taken))
    table(("shards", "size (< 20 kB)", "opened (< 100 ms)", "and one chunk asked for"), rows)


def _config(folder: Path, count: int) -> Path:
    """Save the config of an array in this number of folders, of which only the last exists."""
    from shardedstore.config.document import dump
    from shardedstore.stores.locations import Config, Directory, Mount
    from shardedstore.zarr.grid import Blocks, ChunkKeys

    (folder / f"t/{count - 1}/c").mkdir(parents=True, exist_ok=True)
    (folder / f"t/{count - 1}/c/0").write_bytes(b"a chunk")
    (folder / "base").mkdir(exist_ok=True)
    blocks = Blocks((count,), (1,), ChunkKeys("default", "/"))
    config = Config(Directory(f"{folder}/base"), {"t": Mount(Directory(f"{folder}/t/{{block}}"), blocks)})
    path = folder / f"{count}.json"
    path.write_bytes(dump(config, f"{folder}"))
    return path


if __name__ == "__main__":
    main()
