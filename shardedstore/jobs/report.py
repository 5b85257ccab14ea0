"""The report of one run of a job: numbers of bounded size, and the files that hold them beside the ledger."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from shardedstore.errors import ShardError, UsageError, by_frequency
from shardedstore.jobs.ledger import FOLDER
from shardedstore.storage.request_metrics import RequestSum

if TYPE_CHECKING:
    from shardedstore.storage.folders import Folder

VERSION = 1
State = Literal["done", "unchanged", "holes", "partial", "failed", "stopped"]
MOST_REPORTS = 100  # that `prune` keeps
MOST_CAUSES = 50
MOST_NAMES = 8  # shards for each cause
MOST_TRACEBACKS = 5
MOST_TEXT = 1000  # characters of a message
_NAME = re.compile(r"report-([0-9]+)\.(?:json|html)")


class ArrayReport(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The shards of one mounted array or group, or of several small ones together.

    Attributes
    ----------
    path : str or None
        The path; None for the base.
    others : int
        The number of arrays and groups in this row beside the first.
    shards, done : int
        The number of all shards, and of those that are done, in this run or before.
    files : int
        The most files that the source can have.
    decoded_nbytes : int
        The size of the decoded data of all shards, in bytes.
    source_nbytes : int
        The stored bytes in the source, of the shards that are done; 0 if it was not measured.
    nbytes, entries : int
        The stored bytes and the entries in the result, of the shards that are done.
    seconds : float
        The time that the shards of this run took in their workers.

    Examples
    --------
    >>> ArrayReport(path="t2m", shards=4, done=2, files=400, decoded_nbytes=4000, nbytes=500).ratio
    4.0
    """

    path: str | None
    others: int = 0
    shards: int
    done: int = 0
    files: int = 0
    decoded_nbytes: int = 0
    source_nbytes: int = 0
    nbytes: int = 0
    entries: int = 0
    seconds: float = 0.0

    @property
    def ratio(self) -> float | None:
        """The decoded bytes for each stored byte of the result; None if nothing is stored."""
        return self._ratio(self.nbytes)

    @property
    def source_ratio(self) -> float | None:
        """The decoded bytes for each stored byte of the source; None if the source was not measured."""
        return self._ratio(self.source_nbytes)

    def _ratio(self, nbytes: int) -> float | None:
        return self.decoded_nbytes * self.done / max(1, self.shards) / nbytes if nbytes else None


class ShardReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One shard that was slow, or that was tried again.

    Attributes
    ----------
    shard : str
        The name of the shard.
    seconds : float
        The time that it took, with all attempts.
    worker : str
        The host and the process of the worker.
    nbytes : int
        The stored bytes that were written.
    attempts : int
        The number of attempts.
    cause : str
        The cause of the last attempt that was repeated.
    read_seconds, transform_seconds, write_seconds : float
        The time in the source, the steps and the sink, in the last attempt.
    """

    shard: str
    seconds: float
    worker: str = ""
    nbytes: int = 0
    attempts: int = 1
    cause: str = ""
    read_seconds: float = 0.0
    transform_seconds: float = 0.0
    write_seconds: float = 0.0


class CauseReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """Failed shards of one cause.

    Attributes
    ----------
    code : str
        The code of the failure, as in `ShardError`.
    cause : str
        The message of the first failure.
    count : int
        The number of failed shards.
    shards : tuple of str
        The names of the first ones.
    remedy : str
        The way out, if the cause affects all shards.
    key, url : str or None
        The key in the source, and the source, of the first failure.
    attempts : int
        The attempts at the first one.
    traceback : str
        The worker's traceback of the first failure.
    """

    code: str
    cause: str
    count: int
    shards: tuple[str, ...] = ()
    remedy: str = ""
    key: str | None = None
    url: str | None = None
    attempts: int = 0
    traceback: str = ""


class Span(msgspec.Struct, frozen=True, omit_defaults=True):
    """The time of one shard in a worker, from the start of the run.

    Attributes
    ----------
    worker : str
        The host and the process of the worker.
    begun, seconds : float
        The start and the duration, in seconds.
    shard : str
        The name of the shard.
    failed : bool
        Whether it failed.
    """

    worker: str
    begun: float
    seconds: float
    shard: str
    failed: bool = False


class Timeline(msgspec.Struct, frozen=True, omit_defaults=True):
    """The run in parts of equal duration.

    Attributes
    ----------
    seconds : float
        The duration of a part.
    shards, failed, throttled, nbytes : list of int
        The shards that ended, those that failed, the refused requests, and the written bytes, in each part.
    busy : dict of str to list of float
        The seconds in tasks by worker, in each part; several threads of a worker add up.
    others : int
        The number of workers in the last row of `busy` beside the first of them.
    spans : list of Span
        The time of each shard; empty for a run of many shards.
    """

    seconds: float
    shards: list[int] = []
    failed: list[int] = []
    throttled: list[int] = []
    nbytes: list[int] = []
    busy: dict[str, list[float]] = {}
    others: int = 0
    spans: list[Span] = []


class Report(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The report of one run of a job.

    Its size does not depend on the number of shards. It holds no secrets. `ShardedStore.report` reads it.

    Attributes
    ----------
    version : int
        The version of the format of the file.
    number : int
        The number of the run at the destination; 0 if the report has no file with a number.
    state : str
        ``"done"``, ``"unchanged"`` if nothing was to do, ``"holes"`` for accepted failures, ``"partial"``, ``"failed"``
        or ``"stopped"``.
    error, code : str
        The error that ended the run, and the code of its first failure.
    chain : str
        The names of the steps and of the sink.
    steps : list
        The name and the options of each step and of the sink.
    source, destination, opened_url : str or None
        The source, the folder of the ledger, and the URL that opens the result.
    generation : int
        The number of the job at the destination.
    command : str
        The command line without secrets; empty for the Python API.
    job_file : str
        The digest of the job file; empty without a job file.
    versions : dict of str to str
        The versions of Python and of the packages.
    host : str
        The name of the machine that ran the job.
    options : dict of str to str
        The options of the job, as text.
    begun, ended : str
        The times in UTC, in the form of ISO 8601.
    seconds : float
        The duration of the run.
    total, done, skipped, failed : int
        The number of shards: of all, and of those that this run made, that were done before, and that failed.
    retries, throttled : int
        The number of repeated attempts, and of requests that a busy server refused.
    again : dict of str to int
        The number of shards that were made again, by the reason.
    files, decoded_nbytes : int
        The most files of the source, and the size of its decoded data in bytes.
    source_nbytes, entries, nbytes : int
        The stored bytes of the source, and the entries and stored bytes of the result, of the shards that are done.
    arrays : tuple of ArrayReport
        The sizes by array: the largest ones, and the others together in the last row.
    stages : dict of str to float
        The seconds of the workers by stage: ``read``, ``decode``, ``steps``, ``encode``, ``write`` and ``other``.
    requests : dict of str to RequestSum
        The requests to object stores and web servers, by kind.
    throttled_seconds : float
        The time in which requests of the tasks waited, as a server was too busy or a limit of the job was reached.
    slowest, retried : tuple of ShardReport
        The slowest shards, and shards that were tried again.
    failures : tuple of CauseReport
        The failed shards by cause.
    workers : int
        The number of worker processes.
    timeline : Timeline
        The run over time.
    notices : tuple of str
        The warnings about the job.

    Examples
    --------
    >>> import tempfile, dask, zarr
    >>> from shardedstore import ShardedStore
    >>> from shardedstore.transforms import ToZip
    >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
    ...     array = zarr.create_array(f"{folder}/source.zarr", name="t", shape=(8,), chunks=(2,), dtype="i4")
    ...     array[:] = 1
    ...     store = ShardedStore.partition(f"{folder}/source.zarr", {"t": (4,)})  # a base and two blocks
    ...     report = store.map_shards(ToZip(f"{folder}/zips")).report()
    >>> report.number, report.state, report.total, [row.path for row in report.arrays]
    (1, 'done', 3, [None, 't'])
    """

    version: int = VERSION
    number: int = 0
    state: State = "done"
    error: str = ""
    code: str = ""
    chain: str = ""
    steps: list[tuple[str, dict[str, str]]] = []
    source: str | None = None
    destination: str | None = None
    opened_url: str | None = None
    generation: int = 0
    command: str = ""
    job_file: str = ""
    versions: dict[str, str] = {}
    host: str = ""
    options: dict[str, str] = {}
    begun: str = ""
    ended: str = ""
    seconds: float = 0.0
    total: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    retries: int = 0
    throttled: int = 0
    again: dict[str, int] = {}
    files: int = 0
    decoded_nbytes: int = 0
    source_nbytes: int = 0
    entries: int = 0
    nbytes: int = 0
    arrays: tuple[ArrayReport, ...] = ()
    stages: dict[str, float] = {}
    requests: dict[str, RequestSum] = {}
    throttled_seconds: float = 0.0
    slowest: tuple[ShardReport, ...] = ()
    retried: tuple[ShardReport, ...] = ()
    failures: tuple[CauseReport, ...] = ()
    workers: int = 0
    timeline: Timeline = Timeline(1.0)
    notices: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-compatible values.

        Returns
        -------
        dict
            The attributes by name, without those that have their default.

        Examples
        --------
        >>> Report(total=8, done=8, seconds=1.5).to_dict()
        {'seconds': 1.5, 'total': 8, 'done': 8}
        """
        made: dict[str, Any] = msgspec.to_builtins(self)
        return made

    def to_json(self) -> bytes:
        """Return the JSON document of the report, as in the file beside the ledger.

        Returns
        -------
        bytes
            The document in UTF-8.

        Examples
        --------
        >>> print(Report(total=8, done=8).to_json().decode())
        {
         "total": 8,
         "done": 8
        }
        """
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    def to_html(self) -> str:
        """Return the report as a whole HTML document, which loads nothing from elsewhere.

        Returns
        -------
        str
            The document, as in the file beside the ledger.

        Examples
        --------
        >>> Report(chain="ToZip", total=8, done=8).to_html().startswith("<!DOCTYPE html>")
        True
        """
        from shardedstore.display.report import report_page

        return report_page(self)

    def __str__(self) -> str:
        from shardedstore.display.report import report_lines

        return "\n".join(report_lines(self))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from shardedstore.display.report import report_view

        return report_view(self)


def parse_report(data: bytes, name: str) -> Report:
    """Decode the file of a report.

    Raises
    ------
    UsageError
        If it is no report, or one of a newer version.
    """
    try:
        return msgspec.json.decode(data, type=Report)
    except msgspec.DecodeError as error:
        raise UsageError(f"{name!r} is not a report of this version of shardedstore: {error}") from None


def cause_reports(failures: Iterable[ShardError]) -> tuple[CauseReport, ...]:
    """Group failures by cause, the most frequent first; only the first causes have a traceback.

    >>> found = cause_reports(ShardError(f"t[{i}]", f"OSError: 't[{i}]' is bad") for i in range(9))
    >>> [(cause.count, cause.shards[:2]) for cause in found]
    [(9, ('t[0]', 't[1]'))]
    """
    groups = by_frequency(failures)
    return tuple(_cause(some, i < MOST_TRACEBACKS) for i, some in enumerate(groups[:MOST_CAUSES]))


def _cause(errors: list[ShardError], has_traceback: bool) -> CauseReport:
    first = errors[0]
    return CauseReport(
        first.code,
        first.cause[:MOST_TEXT],
        len(errors),
        tuple(error.shard for error in errors[:MOST_NAMES]),
        first.remedy,
        first.key,
        first.url,
        first.attempts,
        first.traceback if has_traceback else "",
    )


def html_name(path: str, number: int) -> str:
    """Return the name of the HTML file of a report in a folder.

    >>> html_name(".shardedstore", 2)
    '.shardedstore/report-2.html'
    """
    return f"{path}/report-{number}.html" if path else f"report-{number}.html"


def report_names(names: Iterable[str]) -> dict[int, list[str]]:
    """Return the files of reports among the names of files, by the number of the report.

    >>> report_names(["report-2.html", "job-1.json", "report-2.json", "report-x.json"])
    {2: ['report-2.html', 'report-2.json']}
    """
    found: dict[int, list[str]] = {}
    for name in names:
        if match := _NAME.fullmatch(name):
            found.setdefault(int(match[1]), []).append(name)
    return found


def read_report(folder: Folder, number: int | None = None) -> Report:
    """Read a report beside a ledger: the last one, or the one of a number.

    Raises
    ------
    UsageError
        If there is no such report.
    """
    names = report_names(folder.names(FOLDER))
    numbers = sorted(number for number, some in names.items() if f"report-{number}.json" in some)
    if number is None and numbers:
        number = numbers[-1]
    if number not in numbers:
        there = f"there are {numbers[0]} to {numbers[-1]}" if numbers else "no run has left one"
        asked = "no report" if number is None else f"no report {number}"
        raise UsageError(f"{folder.url!r} has {asked}: {there}")
    name = f"{FOLDER}/report-{number}.json"
    return parse_report(folder.read(name), name)


def old_reports(folder: Folder, names: Iterable[str]) -> list[str]:
    """Return the files of all reports but the newest `MOST_REPORTS`, given the names of all files at a destination.

    A file counts only if its JSON document is a report.
    """
    known = (name.removeprefix(f"{FOLDER}/") for name in names if name.startswith(f"{FOLDER}/"))
    found = report_names(known)
    return [
        f"{FOLDER}/{name}"
        for number in sorted(found)[:-MOST_REPORTS]
        if _is_report(folder, number)
        for name in found[number]
    ]


def _is_report(folder: Folder, number: int) -> bool:
    name = f"{FOLDER}/report-{number}.json"
    try:
        return parse_report(folder.read(name), name).number == number
    except (UsageError, FileNotFoundError):
        return False
