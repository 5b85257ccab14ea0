"""Guards: checks of a changed source before a new result replaces the published one.

The plan checks the metadata. The share of missing chunks is checked when all shards are done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from shardedstore.config.document import from_dict
from shardedstore.errors import GuardsFailed, UsageError, Violation
from shardedstore.jobs.array_states import change_notices, find_drifted, find_gone, find_renamed, find_shrunk
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.manifest import JobManifest, ledger_of
from shardedstore.jobs.shards import Plan, Run, shard_runs
from shardedstore.jobs.source_comparison import lost_members
from shardedstore.notices import Notice, node_name
from shardedstore.stores.members import MountIndex
from shardedstore.zarr.metadata import ArrayMeta

if TYPE_CHECKING:
    from shardedstore.jobs.job import Job

IN_FILES = {"option": None}  # options of job files, but not of the command line


class Guards(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Checks of a changed source before a new result replaces the published one.

    A guard compares the source with the recorded source of the published result at the same destination. Guards pass if
    there is no published result. A failed guard raises `GuardsFailed`, and the published result stays unchanged.

    Parameters
    ----------
    shrink : bool
        Refuse a source in which an array shrank along a dimension.
    disappear : bool
        Refuse a source in which an array or a member of a collection disappeared or was renamed.
    dtype : bool
        Refuse another data type of an array in the result.
    codec : bool
        Refuse other codecs of an array in the result. A job with another chain, which `overwrite=True` allows, may write
        other codecs.
    missing : float
        The largest allowed rise of the share of missing chunks in a shard group. The share is a fraction of the group's
        chunks from 0 to 1, so 1 allows everything.
    missing_now : float
        The same for the shards that this run makes, compared with all shards of the published result. It finds appended
        time steps without uploaded chunks. The default, 1, allows everything, because zarr does not write chunks that
        hold only fill values.
    force : bool
        Replace the published result although guards fail. The failures become notices.

    Examples
    --------
    >>> import tempfile, dask, zarr
    >>> from shardedstore import Guards, GuardsFailed, ShardedStore
    >>> from shardedstore.transforms import ToZip
    >>> folder = tempfile.TemporaryDirectory()
    >>> root = zarr.create_group(f"{folder.name}/era5.zarr")
    >>> for name in ("t2m", "tp"):
    ...     _ = root.create_array(name, shape=(8,), chunks=(2,), dtype="f4")
    >>> def convert(**options):
    ...     with dask.config.set(scheduler="sync"):
    ...         store = ShardedStore.partition(f"{folder.name}/era5.zarr")
    ...         return store.map_shards(ToZip(f"{folder.name}/zips"), **options)
    >>> _ = convert()
    >>> del root["tp"]
    >>> try:
    ...     convert()
    ... except GuardsFailed as failed:
    ...     print(failed.violations[0].code, failed.violations[0].path)
    array-disappeared tp
    >>> sorted(zarr.open_group(convert(guards=Guards(disappear=False))))
    ['t2m']
    >>> folder.cleanup()
    """

    shrink: Annotated[bool, Meta(description="Refuse a source in which an array shrank.", extra=IN_FILES)] = True
    disappear: Annotated[
        bool, Meta(description="Refuse a source in which an array disappeared or was renamed.", extra=IN_FILES)
    ] = True
    dtype: Annotated[bool, Meta(description="Refuse another data type of an array.", extra=IN_FILES)] = True
    codec: Annotated[bool, Meta(description="Refuse other codecs of an array.", extra=IN_FILES)] = True
    missing: Annotated[
        float,
        Meta(ge=0, le=1, description="The largest allowed rise of the share of missing chunks.", extra=IN_FILES),
    ] = 0.1
    missing_now: Annotated[
        float,
        Meta(ge=0, le=1, description="The same for the shards that this run makes; 1 allows all.", extra=IN_FILES),
    ] = 1.0
    force: Annotated[
        bool,
        Meta(
            description="Replace the result although the source lost data, types or codecs changed, or many chunks are missing."
        ),
    ] = False

    def __post_init__(self) -> None:
        for name in ("missing", "missing_now"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}={getattr(self, name)!r} is not a share: write a number from 0 to 1")


def check_guards(guards: Guards, url: str, before: JobManifest | None, now: JobManifest) -> list[Notice]:
    """Compare a source with the source of the published result, and return notices.

    Parameters
    ----------
    guards : Guards
        The checks.
    url : str
        The destination.
    before : JobManifest or None
        The job of the published result; None if there is none.
    now : JobManifest
        The job to run.

    Raises
    ------
    GuardsFailed
        If a guard refuses the source. Nothing was written.
    """
    if before is None or before.source == now.source or not _is_comparable(before, now):
        return []
    violations = tuple(_violations(guards, before, now))
    if violations and not guards.force:
        raise GuardsFailed(url, violations)
    forced = [Notice(f"{violation.text}; the published result is replaced, as requested") for violation in violations]
    return [*forced, *change_notices(before.arrays, now.arrays)]


def _is_comparable(before: JobManifest, now: JobManifest) -> bool:
    """Check that two jobs have the same source. Jobs of version 0.4 recorded no states of arrays."""
    return bool(before.places and before.config) and from_dict(now.config).base.is_same(now.source_of(before).base)


def _violations(guards: Guards, before: JobManifest, now: JobManifest) -> Iterator[Violation]:
    old, new = before.arrays, now.arrays
    if guards.disappear:
        yield from find_gone(old, new, find_renamed(old, new))
        for path, names in lost_members(now.source_of(before), from_dict(now.config)).items():
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            text = f"the member {names[0]!r}{more} of {node_name(path)} disappeared from the source"
            yield Violation("array-disappeared", text, path)
    if guards.shrink:
        yield from find_shrunk(old, new)
    if guards.dtype:
        yield from find_drifted(old, new, "dtype", "dtype-changed")
    if guards.codec and before.chain == now.chain:
        yield from find_drifted(old, new, "codecs", "codec-changed")


class ChunkCount(NamedTuple):
    """The number of chunks that were found, and the number of places for chunks."""

    found: int = 0
    places: int = 0

    @property
    def missing(self) -> float:
        """The share of missing chunks."""
        return 1 - self.found / self.places if self.places else 0.0

    @property
    def share(self) -> str:
        """The share of missing chunks as text."""
        return f"{100 * self.missing:.3g}%"

    def __str__(self) -> str:
        return f"{self.places - self.found:,} of {self.places:,}"


def check_missing_chunks(job: Job, plan: Plan, records: Mapping[int, Record]) -> None:
    """Compare the shares of missing chunks with the published result.

    If a mount is refused, this job marks the shards that it made there, and the next run makes them again.

    Raises
    ------
    GuardsFailed
        If a share rose beyond the limit of its guard. No config was written.
    """
    guards = job.guards
    if guards.force:
        return
    places = places_of_mounts(plan)
    now = dict(_counted(plan.runs, places, records))
    made = dict(_counted(plan.runs, places, _made_now(job, records), is_part=True))
    limits = [(now, guards.missing, ""), (made, guards.missing_now, " in the shards of this run")]
    if not any(chunks.missing > limit for counts, limit, _ in limits for chunks in counts.values()):
        return  # a share can't have risen beyond its limit, so that the earlier ledger need not be read
    before = job.layout.published()
    if before is None or before.generation == job.generation or not before.config:
        return
    earlier, old = from_dict(before.config), ledger_of(job.layout.place, before).read()
    shares = dict(_counted(shard_runs(earlier), before.places, old))
    violations = [violation for counts, limit, where in limits for violation in _risen(shares, counts, limit, where)]
    if violations:
        paths = {violation.path for violation in violations}
        numbers = {number for run in plan.runs if run.path in paths for number in run.numbers}
        job.ledger.mark(frozenset(numbers & _made_now(job, records).keys()))
        raise GuardsFailed(job.layout.folder, tuple(violations))


def _made_now(job: Job, records: Mapping[int, Record]) -> dict[int, Record]:
    return {number: record for number, record in records.items() if record.generation in (0, job.generation)}


Shares = Mapping[str | None, ChunkCount]  # by the path of the mount; None for the base


def _risen(shares: Shares, now: Shares, limit: float, where: str) -> Iterator[Violation]:
    for path, chunks in now.items():
        before = shares.get(path)
        if before is not None and limit < 1 and chunks.missing - before.missing > limit:
            name = "the base" if path is None else node_name(path)
            text = (
                f"{chunks.share} of the chunks of {name} are missing{where} ({chunks}), and {before.share} in the published "
                f"result ({before}): the limit is a rise of {limit:.0%}"
            )
            yield Violation("chunks-missing", text, path or "")


def _counted(
    runs: Iterable[Run], places: Mapping[str, int], records: Mapping[int, Record], *, is_part: bool = False
) -> Iterator[tuple[str | None, ChunkCount]]:
    """Yield the chunks of each mount by its path, and of the base.

    Mounts with a shard whose chunks were not counted are left out. With `is_part`, the places of the shards in `records` count.
    """
    for run in runs:
        numbers = [number for number in run.numbers if number in records] if is_part else run.numbers
        counts = [records[number].chunks if number in records else None for number in numbers]
        total = _places(run, places, numbers if is_part else None)
        if total is not None and None not in counts:
            yield (
                None if run.mounted is not None else run.path,
                ChunkCount(sum(count for count in counts if count is not None), total),
            )


def _places(run: Run, places: Mapping[str, int], numbers: Iterable[int] | None) -> int | None:
    if run.blocks is None:
        return places.get(run.path)
    if numbers is None:
        return math.prod(run.blocks.chunk_grid)
    blocks, first = run.blocks, run.number
    return sum(math.prod(blocks.local_grid(blocks.index(number - first))) for number in numbers)


def places_of_mounts(plan: Plan) -> dict[str, int]:
    """Return the numbers of places for chunks in the base (``""``) and in undivided mounts, by path."""
    divisions = {path: mount.division for path, mount in plan.config.shards.items()}
    index, divided = MountIndex(divisions), {path for path, division in divisions.items() if division is not None}
    found = dict.fromkeys(["", *(path for path in divisions if path not in divided)], 0)
    for path, node in plan.nodes.items():
        mount = index.find(path) or ""
        if isinstance(node.meta, ArrayMeta) and not node.is_sample and mount in found and path not in divided:
            found[mount] += node.meta.chunk_count
    return found


def parse_guards(guards: Any) -> Guards:
    """Return the guards of a job; None means the defaults.

    Raises
    ------
    UsageError
        If the value is not an instance of `Guards`.
    """
    if guards is None:
        return Guards()
    if not isinstance(guards, Guards):
        raise UsageError(f"guards={guards!r} is not an instance of Guards: write it as guards=Guards(force=True)")
    return guards
