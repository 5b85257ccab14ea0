"""`Estimate`: the sizes, requests, time and cost of a job, from its plan and the state of its destination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from shardedstore.jobs.estimates.amounts import Amount, bare_value
from shardedstore.jobs.estimates.arrays import ArrayEstimate
from shardedstore.jobs.estimates.free_space import Space, WriteTest
from shardedstore.jobs.estimates.portability import Portability
from shardedstore.jobs.estimates.prices import Cost
from shardedstore.jobs.estimates.request_counts import Requests
from shardedstore.jobs.estimates.shard_states import ShardStates
from shardedstore.notices import Notice
from shardedstore.zarr.grid import Coords

if TYPE_CHECKING:
    from rich.console import RenderableType

RateBasis = Literal["given", "recorded", "sampled"]


@dataclass(frozen=True)
class MountEstimate:
    """The shards of a group or an array of a job, or of the base.

    Attributes
    ----------
    path : str or None
        The path; None for the base.
    shard_count : int
        The number of shards.
    left : int
        The number of shards to make.
    grid : tuple of int or None
        The grid of blocks, if an array is divided.
    files : int
        The most files in the source.
    nbytes : int
        The size of the decoded data, in bytes.
    objects : int
        The number of objects or files after the chain.
    memory : int
        The most bytes that a shard takes in a worker.
    """

    path: str | None
    shard_count: int
    left: int
    grid: Coords | None
    files: int
    nbytes: int
    objects: int
    memory: int


@dataclass(frozen=True, repr=False, eq=False)
class Estimate:
    """The sizes, requests, time and cost of a job, as returned by `JobPlan.estimate`.

    Numbers of bytes and files have a basis: ``"exact"`` was counted, ``"sampled"`` follows from a sample of chunks,
    ``"assumed"`` treats a part as unchanged, and ``"most"`` is an upper limit from the metadata.

    Attributes
    ----------
    title : str
        The chain and the destination.
    chain : str
        The names of the steps and of the sink.
    destination : str or None
        The folder of the config and the ledger; None for a function whose stores are only returned.
    shard_count : int
        The number of shards, including the base.
    states : ShardStates
        The numbers of shards that are new, changed, lost, gone and kept.
    overwritten : int
        The number of shards that are written over existing files of the same names.
    files, stored : Amount and Amount or None
        The number of files and the stored bytes of the source.
    objects, stored_after : Amount and Amount or None
        The number of files or objects and the stored bytes of the whole result.
    read, written : Amount or None
        The stored bytes that this run reads and writes.
    nbytes : int
        The size of the decoded data of the source, in bytes.
    requests_to_source, requests_to_destination : dict of str to int
        The requests to object stores by kind, without retries. They are estimates.
    memory : int
        The most bytes that a thread of a worker needs for a shard, beside Python and its libraries.
    memory_path : str or None
        The path of the group or array with that shard; None for the base.
    tasks : int
        The least number of tasks.
    is_move : bool
        Whether the job deletes its source shard by shard, so that it needs little room.
    is_joined : bool
        Whether the job joins its shards to one file at the end, so that the result needs its own size of free space once more.
    threads : int
        The number of threads of the cluster, for the time.
    rate : float or None
        The bytes that the job writes in a second; None if the rate is not known.
    rate_basis : "given", "recorded", "sampled" or None
        The source of the rate: the user, the records of an earlier run, or the sample.
    cost : Cost or None
        The cost by the user's prices.
    space : Space or None
        The free space at a local destination.
    write_test : WriteTest or None
        The result of the test write; None without a test write.
    warnings : tuple of str
        The warnings that follow from the estimate.
    notices : tuple of Notice
        The warnings of the plan.
    arrays : tuple of ArrayEstimate
        The arrays, with their data types, codecs and sizes before and after.
    portability : Portability
        The readers of the arrays after the chain, with the tested versions and the obstacles.
    mounts : tuple of MountEstimate
        The base, and the groups and arrays that shards hold.

    See Also
    --------
    JobPlan.estimate : Make an estimate.

    Examples
    --------
    >>> import tempfile, zarr
    >>> from shardedstore import ShardedStore
    >>> from shardedstore.transforms import Recompress, ToZip
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     array = zarr.create_array(f"{folder}/era5.zarr", name="t2m", shape=(4000,), chunks=(1000,), dtype="f8")
    ...     array[:] = range(4000)
    ...     store = ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (2000,)})
    ...     estimate = store.plan(Recompress("gzip", level=9), ToZip(f"{folder}/zips")).estimate()
    >>> estimate.left, estimate.arrays[0].codecs, estimate.arrays[0].codecs_after
    (3, 'zstd(0)', 'gzip(9)')
    >>> estimate.stored.basis, estimate.requests_to_destination
    ('sampled', {})
    """

    title: str
    chain: str
    destination: str | None
    shard_count: int
    states: ShardStates
    overwritten: int
    files: Amount
    objects: Amount
    stored: Amount | None
    stored_after: Amount | None
    read: Amount | None
    written: Amount | None
    nbytes: int
    requests_to_source: Requests
    requests_to_destination: Requests
    memory: int
    memory_path: str | None
    tasks: int
    is_move: bool
    is_joined: bool
    threads: int
    rate: float | None
    rate_basis: RateBasis | None
    cost: Cost | None
    space: Space | None
    write_test: WriteTest | None
    warnings: tuple[str, ...]
    notices: tuple[Notice, ...]
    arrays: tuple[ArrayEstimate, ...]
    mounts: tuple[MountEstimate, ...]
    portability: Portability

    @property
    def left(self) -> int:
        """The number of shards that this run makes."""
        return self.shard_count - len(self.states.kept)

    @property
    def share(self) -> float:
        """The share of the source's files that this run reads."""
        files = sum(mount.files for mount in self.mounts)
        return sum(mount.files * mount.left / mount.shard_count for mount in self.mounts) / max(files, 1)

    @property
    def seconds(self) -> float | None:
        """The time of the run: the bytes to write divided by `rate`; None if one of them is not known."""
        return None if self.rate is None or self.written is None else self.written.value / self.rate

    @property
    def needed(self) -> int | None:
        """The bytes of free space that this run needs at its end; None if they are not known."""
        if self.written is None or not self.is_joined:
            return None if self.written is None else self.written.value
        return self.written.value and self.written.value + (self.stored_after or self.written).value

    @property
    def is_enough(self) -> bool | None:
        """Whether the free space is enough for the output of this run; None if that is not known, as for a move."""
        if self.space is None or self.is_move:
            return None
        inodes = self.space.files is None or self._objects_left <= self.space.files
        return (self.needed <= self.space.nbytes and inodes) if self.needed is not None else None if inodes else False

    @property
    def _objects_left(self) -> int:
        return sum(-(-mount.objects * mount.left // mount.shard_count) for mount in self.mounts)

    @property
    def headline(self) -> str:
        """The estimate in one line."""
        from shardedstore.display import plan as view

        return view.plan_headline(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON-compatible values.

        Returns
        -------
        dict
            The attributes, with ``"headline"``, ``"left"``, ``"seconds"`` and ``"is_enough"``. An amount is a dict of its
            ``value`` and its ``basis``.
        """
        found = {
            name: getattr(self, name)
            for name in vars(self)
            if name not in ("states", "arrays", "mounts", "notices", "portability")
        }
        derived = {name: getattr(self, name) for name in ("headline", "left", "seconds", "is_enough")}
        return {
            **{name: _plain(value) for name, value in (found | derived).items()},
            "states": {**vars(self.states), "kept": len(self.states.kept)},
            "notices": [str(notice) for notice in self.notices],
            "mounts": [_plain(vars(mount)) for mount in self.mounts],
            "arrays": [array.to_dict() for array in self.arrays],
            "portability": self.portability.to_dict(),
        }

    def to_dataframe(self) -> Any:
        """Return the arrays as a pandas DataFrame, with one row for each array.

        Returns
        -------
        pandas.DataFrame
            The columns are the keys of ``to_dict()["arrays"]``. An amount is its number, and has a column more that ends in
            ``_basis`` and tells whether it is exact.

        Raises
        ------
        UsageError
            If pandas is not installed.
        """
        from shardedstore.display.tables import to_frame

        return to_frame(map(_flat, self.arrays), "path")

    def __str__(self) -> str:
        from shardedstore.display import plan as view

        return view.plan_to_text(self)

    def __repr__(self) -> str:
        from shardedstore.display import plan as view

        return view.plan_to_text(self, view.FEW)

    def __rich__(self) -> RenderableType:
        from shardedstore.display import plan as view

        return view.plan_to_rich(self)

    def _repr_html_(self) -> str:
        from shardedstore.display import plan as view

        return view.plan_to_html(self)


def _flat(array: ArrayEstimate) -> dict[str, Any]:
    """Return the values of an array by column."""
    values = vars(array)
    bases = {f"{name}_basis": value.basis for name, value in values.items() if isinstance(value, Amount)}
    return {**{name: bare_value(value) for name, value in values.items()}, **bases}


def _plain(value: Any) -> Any:
    """Return a value of an estimate as JSON-compatible values."""
    if isinstance(value, Amount | Space | WriteTest):
        return value._asdict()
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value) | ({"once": value.once} if isinstance(value, Cost) else {})
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return list(value) if isinstance(value, tuple) else value
