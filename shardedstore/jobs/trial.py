"""A trial of one shard in this process: its sizes, its seconds and its changes. Nothing is written."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import Any

from dask.utils import format_bytes

from shardedstore.errors import NoShardError
from shardedstore.jobs.job import Job
from shardedstore.jobs.shards import Plan, Run
from shardedstore.jobs.stages import Stages
from shardedstore.jobs.worker import ShardReader
from shardedstore.partition.selection import some_of
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.transforms.base.step import Step

MOST_CHANGES = 10


@dataclass(frozen=True)
class Trial:
    """One shard that went through the steps of a chain in this process, as returned by `JobPlan.try_shard`.

    Attributes
    ----------
    shard : str
        The name of the shard.
    entries, nbytes : int
        The number of entries and of stored bytes in the source.
    made_entries, made_nbytes : int
        The same after the steps of the chain.
    seconds, read_seconds, decode_seconds, encode_seconds : float
        The time that the shard took, and its parts in the source and in codecs.
    changes : tuple of str
        The first keys that were added, removed or changed, each with its sizes.
    changed : int
        The number of such keys.

    See Also
    --------
    JobPlan.try_shard : Try a shard.

    Examples
    --------
    >>> Trial("t2m[5]", 9, 4000, 9, 1000, 0.5, 0.1, 0.1, 0.3, ("c/0: 500 -> 125 bytes",), 8)
    t2m[5]: 9 -> 9 entries, 3.91 kiB -> 0.98 kiB (25%) in 0.50 s
      read 0.10 s, decode 0.10 s, encode 0.30 s
      c/0: 500 -> 125 bytes
      ... and 7 more changed keys
    """

    shard: str
    entries: int
    nbytes: int
    made_entries: int
    made_nbytes: int
    seconds: float
    read_seconds: float
    decode_seconds: float
    encode_seconds: float
    changes: tuple[str, ...]
    changed: int

    @property
    def ratio(self) -> float:
        """The stored bytes after the steps, divided by the stored bytes of the source."""
        return self.made_nbytes / self.nbytes if self.nbytes else 1.0

    def __str__(self) -> str:
        sizes = f"{format_bytes(self.nbytes)} -> {format_bytes(self.made_nbytes)} ({self.ratio:.0%})"
        seconds = (
            f"read {self.read_seconds:.2f} s, decode {self.decode_seconds:.2f} s, encode {self.encode_seconds:.2f} s"
        )
        lines = [
            f"{self.shard}: {self.entries:,} -> {self.made_entries:,} entries, {sizes} in {self.seconds:.2f} s",
            f"  {seconds}",
            *(f"  {change}" for change in self.changes),
        ]
        if self.changed > len(self.changes):
            lines.append(f"  ... and {self.changed - len(self.changes):,} more changed keys")
        return "\n".join(lines)

    __repr__ = __str__


@dataclass(frozen=True)
class _Seen(Step):
    """A step that changes nothing, and keeps the size and the checksum of each entry."""

    values: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        for entry in entries:
            self.values[entry.key] = len(entry.data), zlib.crc32(entry.data)
            yield entry


def try_shard_of(job: Job, plan: Plan, name: str) -> Trial:
    """Run one shard of a plan through the steps of its chain, and drop the result."""
    run, shard = _find(plan, name)
    before, after, stages = _Seen(), _Seen(), Stages()
    seen: Any = job.chain._replace(steps=(before, *job.chain.steps, after))
    with stages.timed():
        for _ in ShardReader(replace(job, chain=seen), run, shard, stages).entries():
            pass
    old, new = before.values, after.values
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return Trial(
        shard.name,
        len(old),
        sum(nbytes for nbytes, _ in old.values()),
        len(new),
        sum(nbytes for nbytes, _ in new.values()),
        stages.read + stages.transform + stages.write,
        stages.read,
        stages.decode,
        stages.encode,
        tuple(_change(key, old.get(key), new.get(key)) for key in changed[:MOST_CHANGES]),
        len(changed),
    )


def _change(key: str, old: tuple[int, int] | None, new: tuple[int, int] | None) -> str:
    if old is None or new is None:
        verb, there = ("removed", old) if new is None else ("added", new)
        assert there is not None
        return f"{key}: {verb}, {there[0]:,} bytes"
    return f"{key}: {old[0]:,} -> {new[0]:,} bytes"


def _find(plan: Plan, name: str) -> tuple[Run, Shard]:
    for run in plan.runs:
        if run.mounted is not None or name.startswith(run.path):
            for shard in run.shards():
                if shard.name == name:
                    return run, shard
    raise NoShardError(f"the plan has no shard {name!r}{_advice(plan, name)}")


def _advice(plan: Plan, name: str) -> str:
    runs = {"(base)" if run.mounted is not None else run.path: run for run in plan.runs}
    path = name.partition("[")[0]
    if path not in runs:
        return f": it has shards of {some_of(runs)}"
    run = runs[path]
    first, last = (next(run.cut(at, at + 1).shards()).name for at in (run.first, run.first + len(run.numbers) - 1))
    return f": {path!r} is one shard" if first == path else f": the shards of {path!r} are {first!r} to {last!r}"
