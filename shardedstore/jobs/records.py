"""The records of a job's shards, for users."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from shardedstore.config.document import from_dict
from shardedstore.errors import UsageError
from shardedstore.jobs.layouts.result_job import ResultJob
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.manifest import ledger_of
from shardedstore.jobs.records_report import ShardRecord, report_of_records
from shardedstore.jobs.report import Report
from shardedstore.jobs.shards import shard_runs
from shardedstore.transforms.base.shard import Shard

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]


class Records:
    """The records of the shards that a job has tried, in the order of their numbers.

    Iterating yields a `ShardRecord` for each shard.

    Parameters
    ----------
    job : ResultJob
        The job of a result, with its ledger.

    See Also
    --------
    ShardedStore.records : Returns this object.

    Examples
    --------
    >>> import tempfile, dask, zarr
    >>> from shardedstore import ShardedStore
    >>> from shardedstore.transforms import ToZip
    >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
    ...     array = zarr.create_array(f"{folder}/source.zarr", name="t", shape=(8,), chunks=(2,), dtype="i4")
    ...     array[:] = 1
    ...     store = ShardedStore.partition(f"{folder}/source.zarr", {"t": (4,)})  # a base and two blocks
    ...     records = store.map_shards(ToZip(f"{folder}/zips")).records()
    >>> [(record.shard, record.entries, record.done) for record in records]
    [('(base)', 2, True), ('t[0]', 3, True), ('t[1]', 3, True)]
    """

    def __init__(self, job: ResultJob) -> None:
        self._job = job
        self._records = ledger_of(job.folder, job.made).read()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[ShardRecord]:
        for run in shard_runs(from_dict(self._job.made.config)):
            for shard in run.shards():
                record = self._records.get(shard.number)
                if record is not None:
                    yield _shard_record(shard, record, self._job.made.generation)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the records as JSON-compatible values.

        Returns
        -------
        list of dict
            The attributes of each record by name.
        """
        return [msgspec.structs.asdict(record) for record in self]

    def to_dataframe(self) -> pd.DataFrame:
        """Return the records as a table of pandas, with the names of the shards as its index.

        Returns
        -------
        pandas.DataFrame
            One row for each shard, and one column for each attribute. The column `begun` has times in UTC.

        Raises
        ------
        UsageError
            If pandas is not installed.

        Examples
        --------
        >>> import tempfile, dask, zarr
        >>> from shardedstore import ShardedStore
        >>> from shardedstore.transforms import ToZip
        >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
        ...     _ = zarr.create_array(f"{folder}/source.zarr", name="t", shape=(8,), chunks=(2,), dtype="i4")
        ...     store = ShardedStore.partition(f"{folder}/source.zarr", {"t": (4,)})
        ...     table = store.map_shards(ToZip(f"{folder}/zips")).records().to_dataframe()
        >>> table.groupby("path").size().to_dict()
        {'': 1, 't': 2}
        """
        try:
            import pandas as pd
        except ImportError:
            raise UsageError(
                "to_dataframe() needs pandas, which is not installed: pip install pandas, or use to_dicts()"
            ) from None
        names = ShardRecord.__struct_fields__
        rows = list(map(msgspec.structs.astuple, self))
        table = pd.DataFrame.from_records(rows, columns=list(names))
        table["begun"] = pd.to_datetime(table["begun"].where(table["begun"] > 0), unit="s", utc=True)
        return table.set_index("shard")

    def to_report(self) -> Report:
        """Return the records as a report: sizes by array, the slowest shards, and the shards of each worker over time.

        Returns
        -------
        Report
            The numbers that the ledger has. Those of one run, such as stages and requests, are in `ShardedStore.report`.
        """
        return report_of_records(self)

    def __repr__(self) -> str:
        from shardedstore.display.records import records_lines

        return "\n".join(records_lines(self, self._job.folder.url))

    def _repr_html_(self) -> str:
        from shardedstore.display.records import records_to_html

        return records_to_html(self, self._job.folder.url)


def _shard_record(shard: Shard, record: Record, generation: int) -> ShardRecord:
    return ShardRecord(
        shard.name,
        shard.path,
        shard.block_name,
        shard.number,
        record.is_done,
        record.failed or ("damaged or lost" if record.marked else ""),
        record.entries,
        record.nbytes,
        record.source_entries,
        record.source_nbytes,
        record.seconds,
        record.attempts,
        record.begun,
        record.worker,
        record.generation or generation,
    )
