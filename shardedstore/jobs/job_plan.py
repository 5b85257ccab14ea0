"""`JobPlan`: a job that was checked and can run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from shardedstore.config import document as configs
from shardedstore.errors import ChainError, ShardsFailed, UsageError
from shardedstore.jobs.callbacks import Callback, check_callbacks
from shardedstore.jobs.change_detection import LEVELS, Changed
from shardedstore.jobs.estimates.estimate import Estimate
from shardedstore.jobs.estimates.make import Wanted, make_estimate
from shardedstore.jobs.estimates.memory import shard_memory
from shardedstore.jobs.estimates.prices import Prices, read_prices
from shardedstore.jobs.estimates.sampling import SAMPLE
from shardedstore.jobs.events import Events
from shardedstore.jobs.failures_file import failures_url
from shardedstore.jobs.guards import Guards
from shardedstore.jobs.job import Job
from shardedstore.jobs.layouts.base import ResultLayout
from shardedstore.jobs.layouts.registry import choose_layout
from shardedstore.jobs.limits import Limits, share_memory
from shardedstore.jobs.make_plan import make_plan
from shardedstore.jobs.meter import Meter
from shardedstore.jobs.move.checks import as_begun, check_chain, check_move, check_scratch, check_source
from shardedstore.jobs.move.options import Move
from shardedstore.jobs.move.state import check_source_is_whole
from shardedstore.jobs.object_sizes import check_base
from shardedstore.jobs.prepare import prepare
from shardedstore.jobs.result import find_accepted
from shardedstore.jobs.run import delay_job, run_job, run_slice
from shardedstore.jobs.shards import Plan
from shardedstore.jobs.slices import check_slice
from shardedstore.jobs.source_comparison import check_moved_from
from shardedstore.jobs.stop_signal import GRACE, Duration, StopSignal
from shardedstore.jobs.summary import Summary
from shardedstore.jobs.trial import Trial, try_shard_of
from shardedstore.notices import Notice
from shardedstore.storage.attributes import ObjectAttributes
from shardedstore.storage.options import StorageOptions
from shardedstore.stores.locations import Config
from shardedstore.text import parse_size
from shardedstore.transforms.base.chain import Chain, parse_chain
from shardedstore.transforms.base.sink import Sink, StoreFunction
from shardedstore.transforms.base.step import FunctionStep, Step

if TYPE_CHECKING:
    from dask.delayed import Delayed
    from rich.console import RenderableType

    from shardedstore.callbacks.progress import Shown
    from shardedstore.store import ShardedStore

logger = logging.getLogger("shardedstore")
OnError = Literal["finish", "stop", "partial"]


class JobOptions(TypedDict, total=False):
    """The options of a job; `ShardedStore.plan` describes them."""

    on_error: OnError
    changed: Changed
    digest: bool
    retries: int
    max_failures: int
    max_base: str | int
    accept_failed: Iterable[str]
    max_missing: int
    overwrite: bool
    consolidated: bool | None
    to: str | os.PathLike[str] | None
    storage_options: StorageOptions
    move: Move | None
    guards: Guards | None
    objects: ObjectAttributes
    limits: Limits
    portable: bool
    source_moved_from: str | os.PathLike[str] | None


@dataclass(frozen=True, repr=False, eq=False)
class JobPlan:
    """A checked job, ready to run, as returned by `ShardedStore.plan`.

    Nothing is written before `run`.

    Attributes
    ----------
    chain : str
        The names of the steps and of the sink.
    destination : str or None
        The folder of the config and the ledger; None for a function whose stores are only returned.
    opened_url : str or None
        The URL that opens the result: of the config, or of one ordinary Zarr; None for a function whose stores are only
        returned.
    failures_url : str or None
        The URL of the file with a line for each shard that failed in the last run; there is no file if none failed.
    shard_count : int
        The number of shards, including the base.
    files : int
        The most files that the source can have. Missing chunks are counted, except in sparse arrays, whose chunks are listed.
    nbytes : int
        The size of the decoded data, in bytes; nominal for types of variable length.
    notices : tuple of Notice
        The warnings about the job, which are logged when it starts.

    Examples
    --------
    >>> import tempfile, dask, zarr
    >>> from shardedstore import ShardedStore
    >>> from shardedstore.transforms import ToZip
    >>> folder = tempfile.TemporaryDirectory()
    >>> array = zarr.create_array(f"{folder.name}/era5.zarr", name="t2m", shape=(4000,), chunks=(10,), dtype="f8")
    >>> array[:] = 280.0
    >>> store = ShardedStore.partition(f"{folder.name}/era5.zarr", {"t2m": (200,)})
    >>> plan = store.plan(ToZip(f"{folder.name}/zips"))
    >>> plan.chain, plan.shard_count, plan.nbytes  # the base and 20 blocks
    ('ToZip', 21, 32000)
    >>> with dask.config.set(scheduler="sync"):
    ...     new = plan.run()
    >>> new.summary.done
    21
    >>> folder.cleanup()
    """

    _plan: Plan = field(repr=False)
    _job: Job = field(repr=False)
    _overwrite: bool
    _wrap: Callable[[Config, Summary], ShardedStore]

    @property
    def chain(self) -> str:
        """The names of the steps and of the sink."""
        return ", ".join(_name(part) for part in self._job.chain.parts if part is not None)

    @property
    def destination(self) -> str | None:
        """The folder of the config and the ledger."""
        return self._job.layout.destination

    @property
    def opened_url(self) -> str | None:
        """The URL that opens the result."""
        return self._job.layout.opened_url

    @property
    def failures_url(self) -> str | None:
        """The URL of the file with a line for each shard that failed in the last run; None without a destination."""
        return None if self.destination is None else failures_url(self.destination)

    @property
    def shard_count(self) -> int:
        """The number of shards, including the base."""
        return self._plan.shard_count

    @property
    def files(self) -> int:
        """The most files that the source can have."""
        return self._plan.files

    @property
    def nbytes(self) -> int:
        """The size of the decoded data, in bytes."""
        return self._plan.nbytes

    @property
    def notices(self) -> tuple[Notice, ...]:
        """The warnings about the job."""
        return self._plan.notices

    def run(
        self,
        progress: Shown = None,
        callbacks: Iterable[Callback] = (),
        report: bool | str | os.PathLike[str] = True,
        *,
        max_duration: Duration | None = None,
        grace: Duration = GRACE,
        stop: StopSignal | None = None,
    ) -> ShardedStore:
        """Run the job on the active Dask scheduler, and return the store of the results.

        A plan can run again, and then continues from the recorded shards. It starts anew if it was made with
        ``overwrite=True`` for one ordinary Zarr, or if its chain has no stable fingerprint, for example because of a lambda.
        Before the config is written, the source's metadata is compared with the plan, and a change raises `SourceChangedError`.

        Parameters
        ----------
        progress : bool, "bar" or callable, optional
            By default, a bar on a terminal and a view in a notebook show the shards, decoded bytes, rate, time left, failures
            and workers. Elsewhere, True prints a line a minute on standard error, and ``"bar"`` shows the bar. False shows
            nothing. A function is called with the number of ended shards and the number of all shards.
        callbacks : iterable of Callback
            Objects whose methods are called at the start of the job, after each task, and at the end of the job.
        report : bool or str or path
            The place of the report of this run: beside the ledger, or a folder, or the name of an HTML file. False writes
            none. A report that can't be written does not fail the job.
        max_duration : str, float or timedelta, optional
            The time after which the job starts no new shard, such as ``"5h50m"``, or seconds.
        grace : str, float or timedelta
            The time that running shards have to finish after that. Then they are abandoned.
        stop : StopSignal, optional
            A signal that stops the job, in place of `max_duration` and `grace`; for handlers of signals and other threads.

        Returns
        -------
        ShardedStore
            A read-only store of the results. Its `summary` has the numbers of shards, entries and bytes.

        Raises
        ------
        UsageError
            If `progress` or a duration is not valid, or if the active client is asynchronous.
        JobStopped
            If the time was up before all shards had ended. It has the summary of this run; finished shards stay.
        SourceChangedError
            If the metadata of the source changed while the job ran. No config is written, and finished shards stay.
        ShardsFailed
            If shards failed, unless ``on_error="partial"`` is set or the failures were accepted. It holds one error for each
            failed shard. No config is written, and finished shards stay.

        See Also
        --------
        to_delayed : Return the job as a lazy Dask object.
        ShardedStore.verify : Compare the result with the ledger or the source.
        """
        from shardedstore.callbacks.progress import progress_callback
        from shardedstore.callbacks.report import ReportWriter, find_report
        from shardedstore.display.ipython_errors import use_table_in_ipython

        shown = progress_callback(progress)
        stop = _stop_signal(max_duration, grace, stop)
        chosen = check_callbacks(callbacks) if shown is None else [*check_callbacks(callbacks), shown]
        writer = find_report(chosen)
        if writer is None and report is not False:
            writer = ReportWriter("" if report is True else report)
            chosen.append(writer)
        try:
            with Events(chosen, self, Meter(self._plan)) as events:
                made = run_job(self._job, self._plan, self._overwrite, self._wrap, events, stop)
        except ShardsFailed as failed:
            use_table_in_ipython()
            raise failed.with_traceback(None) from failed.__cause__  # the failures have the tracebacks of the workers
        made.summary = made.summary and replace(made.summary, report=None if writer is None else writer.report)
        return made

    def run_slice(
        self,
        number: int,
        count: int,
        progress: Shown = None,
        callbacks: Iterable[Callback] = (),
        *,
        max_duration: Duration | None = None,
        grace: Duration = GRACE,
        stop: StopSignal | None = None,
    ) -> Summary:
        """Run one of `count` equal parts of the job in this process, and publish nothing.

        Processes on different machines run the parts without a Dask cluster, in any order and at the same time. A part may
        die, run twice, or overlap with another run of itself. Then `run` runs the shards that are left, and publishes the result.

        Parameters
        ----------
        number, count : int
            The number of the part, from 1, and the number of parts.
        progress : bool, "bar" or callable, optional
            As for `run`.
        callbacks : iterable of Callback
            As for `run`.
        max_duration : str, float or timedelta, optional
            As for `run`.
        grace : str, float or timedelta
            As for `run`.
        stop : StopSignal, optional
            As for `run`.

        Returns
        -------
        Summary
            The shards of the part.

        Raises
        ------
        UsageError
            If there is no such part, or if the job can't run in parts: a move, a job without a destination, with
            ``overwrite=True``, or with a chain that has no stable fingerprint.
        LockedError
            If a whole job, or a part of another job, writes to the destination.
        JobStopped
            If the time was up before all shards of the part had ended.
        ShardsFailed
            If shards of the part failed. Finished shards stay.

        See Also
        --------
        run : Run the whole job, or its remaining shards.

        Examples
        --------
        >>> import tempfile, dask, zarr
        >>> from shardedstore import ShardedStore
        >>> from shardedstore.transforms import ToZip
        >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
        ...     _ = zarr.create_array(f"{folder}/era5.zarr", name="t2m", shape=(8,), chunks=(2,), dtype="i4")
        ...     plan = ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (2,)}).plan(ToZip(f"{folder}/zips"))
        ...     parts = [plan.run_slice(number, 2).done for number in (1, 2)]
        ...     parts, plan.run().summary.skipped
        ([2, 3], 5)
        """
        from shardedstore.callbacks.progress import progress_callback

        part = check_slice(number, count)
        shown = progress_callback(progress)
        chosen = check_callbacks(callbacks) if shown is None else [*check_callbacks(callbacks), shown]
        stop = _stop_signal(max_duration, grace, stop)
        meter = Meter(self._plan, runs=part.runs(self._job, self._plan))
        with Events(chosen, self, meter, is_whole=False) as events:
            return run_slice(self._job, self._plan, self._overwrite, part, events, stop)

    def try_shard(self, name: str) -> Trial:
        """Run one shard through the steps of the chain in this process, and keep nothing.

        An exception of a step has its own traceback, so that a debugger stops at the line that raised it.

        Parameters
        ----------
        name : str
            The name of a shard, such as ``"t2m[5]"``, ``"simulation/coarse"`` or ``"(base)"``.

        Returns
        -------
        Trial
            The sizes before and after, the seconds, and the first changes.

        Raises
        ------
        NoShardError
            If the plan has no such shard.

        See Also
        --------
        run : Run all shards.

        Examples
        --------
        >>> import numpy as np
        >>> import tempfile, zarr
        >>> from shardedstore import ShardedStore
        >>> from shardedstore.transforms import Recompress, ToZip
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = zarr.create_array(
        ...         f"{folder}/a.zarr", name="t", data=np.ones(4000), chunks=(1000,), compressors=None
        ...     )
        ...     plan = ShardedStore.partition(f"{folder}/a.zarr", {"t": (2000,)}).plan(
        ...         Recompress("zstd"), ToZip(f"{folder}/zips")
        ...     )
        ...     trial = plan.try_shard("t[1]")
        >>> trial.nbytes > 8 * 2000 > 10 * trial.made_nbytes, trial.changed
        (True, 3)
        """
        return try_shard_of(self._job, self._plan, name)

    def to_delayed(self) -> Delayed:
        """Return the job as one lazy Dask object, which computes the store of the results.

        The workers of the active cluster get the secret storage options now; the object does not contain them.

        Returns
        -------
        dask.delayed.Delayed
            A lazy object. Its computation raises the errors of `run`; finished shards stay.

        See Also
        --------
        run : Run the job now, with progress.

        Examples
        --------
        >>> import tempfile, zarr
        >>> from shardedstore import ShardedStore
        >>> from shardedstore.transforms import ToZip
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = zarr.create_array(f"{folder}/era5.zarr", name="t2m", shape=(8,), chunks=(2,), dtype="i4")
        ...     lazy = ShardedStore.partition(f"{folder}/era5.zarr").plan(ToZip(f"{folder}/zips")).to_delayed()
        ...     lazy.compute(scheduler="sync").summary.done
        1
        """
        check_move(self._job.move, to_delayed=True)
        return delay_job(self._job, self._plan, self._overwrite, self._wrap)

    def estimate(
        self,
        *,
        count: bool = False,
        sample: str | int | None = SAMPLE,
        prices: Prices | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        rate: str | float | None = None,
        threads: int | None = None,
        test_write: bool = False,
    ) -> Estimate:
        """Estimate the sizes, requests, memory, time and cost of the job. Nothing is written, except by a test write.

        The ledger of an earlier run at the destination is read. With ``changed="listing"``, the source is compared with it
        by a listing; with ``changed="content"`` only if `count` is true, because that reads all of the source.

        Parameters
        ----------
        count : bool
            List the source, for exact numbers of files and bytes.
        sample : str, int or None
            The most bytes of decoded chunks that are read and passed through the chain, for the stored sizes before and
            after. None or 0 reads none.
        prices : Prices, mapping or path, optional
            A price table, or the path of a TOML file with one. Its fields are ``currency``, ``source``, ``destination`` and
            ``hour_per_thread``; those of a side are ``per_1000`` (prices of requests by kind), ``read_per_gb``,
            ``write_per_gb`` and ``month_per_gb``.
        rate : str or float, optional
            The bytes that the job writes in a second, such as ``"1.2 GiB/s"``. By default, the rate of an earlier run at the
            destination, or else of the sample.
        threads : int, optional
            The number of threads that run shards. By default, those of the active cluster.
        test_write : bool
            Write a small file to the destination, read it, and remove it.

        Returns
        -------
        Estimate
            The estimate. It can be shown as text and in a notebook.

        Raises
        ------
        UsageError
            If a size, the rate or the price table is not valid.
        DestinationError
            If the destination can't be read, or the source can't be listed.

        Examples
        --------
        >>> import tempfile, zarr
        >>> from shardedstore import ShardedStore
        >>> from shardedstore.transforms import ToZip
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     array = zarr.create_array(f"{folder}/era5.zarr", name="t2m", shape=(4000,), chunks=(10,), dtype="f8")
        ...     array[:] = 280.0
        ...     store = ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (200,)})
        ...     estimate = store.plan(ToZip(f"{folder}/zips")).estimate(count=True)
        >>> estimate.files, estimate.objects.value, estimate.states.new
        (Amount(value=402, basis='exact'), 21, 21)
        """
        wanted = Wanted(
            count,
            _parse_sample(sample),
            None if prices is None else read_prices(prices),
            None if rate is None else _parse_rate(rate),
            threads,
            test_write,
            "metadata" if self._job.changed == "content" and not count else self._job.changed,
        )
        return make_estimate(self._title, self.chain, self._job, self._plan, self._overwrite, wanted)

    def _overview(self) -> Estimate:
        """Return the estimate from the metadata and the ledger alone, which is fast and does not fail."""
        return make_estimate(self._title, self.chain, self._job, self._plan, self._overwrite, Wanted())

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-compatible values, by the metadata and the ledger alone.

        Returns
        -------
        dict
            The values of `Estimate.to_dict`. Sizes that need a sample are None; see `estimate`.
        """
        return self._overview().to_dict()

    def to_dataframe(self) -> Any:
        """Return the arrays as a pandas DataFrame, by the metadata alone; see `Estimate.to_dataframe`.

        Returns
        -------
        pandas.DataFrame
            One row for each array.

        Raises
        ------
        UsageError
            If pandas is not installed.
        """
        return self._overview().to_dataframe()

    def __str__(self) -> str:
        return str(self._overview())

    def __repr__(self) -> str:
        return repr(self._overview())

    def __rich__(self) -> RenderableType:
        return self._overview().__rich__()

    def _repr_html_(self) -> str:
        return self._overview()._repr_html_()

    @property
    def _title(self) -> str:
        to = "" if self.destination is None else f" to {self.destination!r}"
        return f"JobPlan of {self.chain}{to}"


def _parse_sample(sample: str | int | None) -> int:
    """Return the size of a sample in bytes; 0 for none."""
    nbytes = parse_size(sample or 0)
    if nbytes is None or nbytes < 0:
        raise UsageError(f"sample={sample!r} is not a size: write one like '64 MiB', or None")
    return nbytes


def _parse_rate(rate: str | float) -> float:
    """Return a rate in bytes a second."""
    found = parse_size(rate.strip().removesuffix("/s")) if isinstance(rate, str) else rate
    if not found or found < 0:
        raise UsageError(f"rate={rate!r} is not a rate: write one like '1.2 GiB/s'")
    return float(found)


def _stop_signal(max_duration: Duration | None, grace: Duration, stop: StopSignal | None) -> StopSignal:
    if stop is not None and max_duration is not None:
        raise UsageError("max_duration and stop exclude each other: give max_duration to the StopSignal")
    return stop or StopSignal(max_duration, grace)


def _name(part: object) -> str:
    function = part.func if isinstance(part, FunctionStep) else part
    own = part.name if isinstance(part, FunctionStep) else ""
    return own or getattr(function, "__name__", type(function).__name__)


def _check_empty(config: Config, chain: Chain) -> None:
    """Raise ChainError if a step may make chunks in blocks without objects."""
    names = [_name(step) for step in chain.steps if step.needs_empty]
    for path, mount in config.shards.items() if names else ():
        if mount.blocks is not None and mount.blocks.stored is not None and not mount.is_view:
            raise ChainError(
                f"{names[0]} may make chunks in blocks without chunks, and {path!r} has no objects of such blocks: divide the store anew "
                "with ShardedStore.partition(store, shards=...) and map that; or set needs_empty = False on the step's class"
            )


def plan_job(
    config: Config,
    chain: Iterable[Step | Sink | StoreFunction],
    notices: Iterable[Notice],
    wrap: Callable[[Config, Summary], ShardedStore],
    *,
    on_error: OnError,
    changed: Changed,
    digest: bool,
    retries: int,
    max_failures: int,
    max_base: str | int,
    accept_failed: Iterable[str],
    max_missing: int,
    overwrite: bool,
    consolidated: bool | None,
    to: str | os.PathLike[str] | None,
    storage_options: StorageOptions,
    move: Move | None,
    guards: Guards | None = None,
    objects: ObjectAttributes,
    limits: Limits,
    source_moved_from: str | os.PathLike[str] | None = None,
) -> JobPlan:
    """Check a job as far as possible before anything is written; see `ShardedStore.plan`."""
    parsed = parse_chain(chain)
    _check_options(on_error, changed, retries, max_failures)
    layout = choose_layout(parsed.sink, None if to is None else os.fspath(to), storage_options)
    layout.check_options(digest=digest, consolidated=consolidated)
    objects.check(layout.url)
    limits.check()
    configs.to_dict(config)  # raises if a component has no location
    config = parsed.sink.gathered(config)
    if move is not None:
        refused = {
            "overwrite": overwrite,
            "accept_failed": bool(accept_failed),
            "max_missing": bool(max_missing),
            "source_moved_from": source_moved_from is not None,
            f"changed={changed!r}": changed != LEVELS[0],
            f"on_error={on_error!r}": on_error == "partial",
        }
        config = _begin_move(move, config, layout, refused)
    moved_from = "" if source_moved_from is None else check_moved_from(os.fspath(source_moved_from), config)
    check_source_is_whole(config, None if layout.destination is None else layout.place)
    _check_empty(config, parsed)
    plan = make_plan(config, consolidated, needs_empty=parsed.needs_empty or move is not None).noted(
        [*notices, *objects.notices()]
    )
    plan = check_base(plan, max_base, is_object=layout.has_objects)
    accepted = find_accepted(plan, layout, accept_failed, max_missing)
    limit = 1 if on_error == "stop" else max_failures
    if move is not None:
        check_chain(parsed, layout, plan)
    digest = digest or move is not None
    plan, job = prepare(
        plan, parsed, layout, overwrite, retries, limit, changed, digest, move, guards, moved_from=moved_from
    )
    if move is not None:
        check_scratch(move, job, plan)
    job = replace(
        job, partial=on_error == "partial", accepted=accepted, max_missing=max_missing, objects=objects, limits=limits
    )
    return JobPlan(plan, _with_memory(job, plan), overwrite, wrap)


def _begin_move(move: Move, config: Config, layout: ResultLayout, refused: dict[str, bool]) -> Config:
    """Check the options and the source of a move, and return the config of the source as it was when the move began."""
    check_move(move, **refused)
    check_source(config)
    return as_begun(config, layout)


def _check_options(on_error: str, changed: str, retries: int, max_failures: int) -> None:
    if on_error not in ("finish", "stop", "partial"):
        raise UsageError(f"on_error={on_error!r} is not known: say 'finish', 'stop' or 'partial'")
    if type(max_failures) is not int or max_failures < 1:
        raise UsageError(f"max_failures={max_failures!r} is not a number of shards: say 1 or more")
    if type(retries) is not int or retries < 0:
        raise UsageError(f"retries={retries!r} is not a number of retries: say 0 or more")
    if changed not in LEVELS:
        raise UsageError(f"changed={changed!r} is not known: say one of {', '.join(LEVELS)}")


def _with_memory(job: Job, plan: Plan) -> Job:
    """Return a job with the memory of each shard, if its memory is limited."""
    most = job.limits.memory_nbytes
    return job if most is None else replace(job, memory=share_memory(most, plan.runs, shard_memory(job, plan)))
