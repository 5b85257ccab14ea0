"""Find arrays that a chain of equal values, such as `Recompress`, has made larger."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from shardedstore.codecs.array_document import all_but
from shardedstore.jobs.shards import Plan
from shardedstore.jobs.summary import ShardEnd
from shardedstore.notices import Notice
from shardedstore.transforms.base.chain import Chain

LARGER = 1.02  # growth of the stored size from which a notice names an array
LEAST = 1 << 20  # bytes of growth below which no array is named


class Growth:
    """Adds up the stored bytes before and after the steps, by mounted array or group.

    Parameters
    ----------
    plan : Plan
        The shards.
    chain : Chain
        The chain. Only chains whose steps keep all values are watched.
    """

    def __init__(self, plan: Plan, chain: Chain) -> None:
        self._is_watched = bool(chain.steps) and all(step.keeps_values for step in chain.steps)
        self._per_entry = chain.sink.bytes_per_entry
        self._firsts = [run.number for run in plan.runs]
        self._paths = [None if run.mounted is not None else run.path for run in plan.runs]
        self._before, self._after = [0] * len(self._paths), [0] * len(self._paths)

    def add(self, shards: Iterable[ShardEnd]) -> None:
        """Add shards that were made."""
        if not self._is_watched:
            return
        for shard in shards:
            if not shard.code:
                row = bisect_right(self._firsts, shard.number) - 1
                self._before[row] += shard.source_nbytes
                self._after[row] += shard.nbytes - self._per_entry * shard.entries

    def notices(self) -> Iterator[Notice]:
        """Yield a notice of the arrays that have grown."""
        grown = {
            path: after / before - 1
            for path, before, after in zip(self._paths, self._before, self._after, strict=True)
            if before and after > LARGER * before and after - before > LEAST
        }
        paths = tuple(path for path in grown if path is not None)
        if paths:
            most = max(grown[path] for path in paths)
            yield Notice(f"larger than before, by up to {most:.0%}; leave them out with {all_but(paths)}", paths)
        if None in grown:
            yield Notice(f"the arrays in the base are larger than before, by {grown[None]:.0%}; name them in arrays=")
