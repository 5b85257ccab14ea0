"""A user's program, which mypy and pyright check without a cast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dask.delayed import Delayed

from shardedstore import JobPlan, ShardedStore
from shardedstore.abc import Entries, Shard, Step
from shardedstore.transforms import CopyTo, Recompress, ToShardingCodec, ToZip


@dataclass(frozen=True)
class Same(Step):
    """Change nothing."""

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        """Yield the entries of a shard."""
        yield from entries


def convert(source: Path, folder: Path) -> tuple[int, Delayed]:
    """Convert a Zarr in several ways, and return the number of finished shards and a lazy job."""
    store = ShardedStore.partition(source, {"t": (2,), "*": "512 MiB"})
    plan: JobPlan = store.plan(Same(), Recompress("zstd", level=5), ToZip(folder / "planned"), retries=1)
    made: ShardedStore = plan.run(progress=True)
    again: ShardedStore = made.map_shards(ToZip(folder / "again"), progress=lambda ended, total: None)
    copy: ShardedStore = again.map_shards(CopyTo(folder / "copy.zarr"), on_error="stop")
    lazy: Delayed = copy.map_shards(ToShardingCodec(folder / "sharded.zarr"), compute=False)
    assert made.summary is not None
    return made.summary.done, lazy
