"""The state of a job, read from its destination on any machine, while it runs or after it ended.

The lock's heartbeat has the numbers of a running job, so two small files are enough for the state of a job of any size. The ledger is
read only if the job died, or if it holds no lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from shardedstore.config.document import from_dict
from shardedstore.errors import ConfigError
from shardedstore.jobs import lock
from shardedstore.jobs.last_run import read_last_run
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.lock import Holder, last_holder, seems_to_live, slice_holders
from shardedstore.jobs.manifest import JobManifest, ledger_of, read_manifest
from shardedstore.jobs.partial import find_job_folder, is_finished, read_config, read_unfinished
from shardedstore.jobs.progress import Running
from shardedstore.jobs.report import CauseReport
from shardedstore.jobs.shards import shard_runs
from shardedstore.storage.folders import Folder
from shardedstore.storage.options import Options, StorageOptions, take_options
from shardedstore.storage.urls import BESIDE, normalize

State = Literal["running", "stalled", "done", "failed", "stopped", "died", "unfinished"]
ENDINGS = ("KeyboardInterrupt", "Interrupted", "SystemExit", "JobStopped")


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the last job at a destination.

    Attributes
    ----------
    url : str
        The destination.
    state : str
        ``"running"``; ``"stalled"``, if it runs but no shard has ended for long; ``"done"``; ``"failed"``, if shards failed
        or an error ended it; ``"stopped"``, by a signal or a time limit; ``"died"``, if it ended without a word;
        ``"unfinished"``, if that is not known because it held no lock, as a lazy job.
    chain : str
        The names of the steps and of the sink.
    total, done, failed, left : int
        The number of shards, of those that are done, that failed in the last run, and of the others.
    rate : float or None
        The decoded bytes a second; None if the job does not run, or is not known.
    seconds_left : float or None
        The time left by `rate`.
    decoded_nbytes, total_decoded_nbytes : int or None
        The decoded bytes of the shards that have ended, and of all; None if they are read from the ledger.
    holder : str
        The user, host and process that hold the lock, or held it last; empty if there was no lock.
    since : str
        The time when they took it.
    seconds : float or None
        The time that the last run has taken.
    last_event : str
        The time when a shard ended last; empty if none has.
    idle_seconds : float or None
        The time since then, by one clock.
    heartbeat : str
        The time of the last heartbeat by the holder's clock; empty if there was none.
    oldest : Running or None
        The shard that has been running for the longest time.
    workers, running : int
        The number of workers that ended a task lately, and of shards that were handed out.
    retries, throttled : int
        The number of attempts that were repeated, and of requests that a busy server refused.
    error : str
        The class of the error that ended the job.
    message : str
        The message of this error, from the report.
    causes : tuple of CauseReport
        The failures by cause: of the last run, or else of the records of slices.
    failures_url, report_url : str or None
        The file with a line for each failed shard, and the report of the last run as HTML, beside the ledger.

    See Also
    --------
    job_status : Read the state of a job.

    Examples
    --------
    >>> status = JobStatus(url="s3://bucket/out", state="died", total=10, done=7, left=3)
    >>> status.is_alarm
    True
    """

    url: str
    state: State
    chain: str = ""
    total: int = 0
    done: int = 0
    failed: int = 0
    left: int = 0
    rate: float | None = None
    seconds_left: float | None = None
    decoded_nbytes: int | None = None
    total_decoded_nbytes: int | None = None
    holder: str = ""
    since: str = ""
    seconds: float | None = None
    last_event: str = ""
    idle_seconds: float | None = None
    heartbeat: str = ""
    oldest: Running | None = None
    workers: int = 0
    running: int = 0
    retries: int = 0
    throttled: int = 0
    error: str = ""
    message: str = ""
    causes: tuple[CauseReport, ...] = ()
    failures_url: str | None = None
    report_url: str | None = None

    @property
    def is_alarm(self) -> bool:
        """Whether somebody should look at the job: it failed, died or stalled."""
        return self.state in ("failed", "died", "stalled")

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON-compatible values.

        Returns
        -------
        dict
            The attributes by name.
        """
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def job_status(url: str | os.PathLike[str], *, storage_options: StorageOptions = None) -> JobStatus:
    """Return the state of the last job at a destination.

    It reads the lock and the job's file. The ledger is read if the job died, or held no lock.

    Parameters
    ----------
    url : str or path
        The destination of the job.
    storage_options : mapping or str, optional
        The options of its object store; see `ShardedStore.partition`.

    Returns
    -------
    JobStatus
        The state.

    Raises
    ------
    ConfigError
        If there is no job at the URL.

    See Also
    --------
    list_jobs : Find all jobs below a prefix.

    Examples
    --------
    >>> import tempfile, dask, zarr
    >>> from shardedstore import ShardedStore, job_status
    >>> from shardedstore.transforms import ToZip
    >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
    ...     _ = zarr.create_array(f"{folder}/era5.zarr", name="t", shape=(8,), chunks=(2,), dtype="i4")
    ...     _ = ShardedStore.partition(f"{folder}/era5.zarr", {"t": (4,)}).map_shards(ToZip(f"{folder}/zips"))
    ...     status = job_status(f"{folder}/zips")
    >>> status.state, status.done, status.left
    ('done', 3, 0)
    """
    folder = normalize(url)
    options = take_options(folder, storage_options)
    place = find_job_folder(folder, options)
    if place is None:
        raise ConfigError(f"no job has written to {folder!r}: name the destination of a job")
    return read_status(place, options)


def read_status(place: Folder, options: Options) -> JobStatus:
    """Return the state of the last job in the folder of a ledger."""
    manifest = read_manifest(place)
    assert manifest is not None
    holder, lives = _find_holder(place)
    known = JobStatus(
        url=place.url.removesuffix(BESIDE),
        state="unfinished",
        chain=", ".join(name for name, _ in manifest.described),
        **_of_holder(holder),
    )
    if holder is not None and holder.progress is not None and (lives or (holder.free and holder.ended)):
        status = _from_heartbeat(known, holder, lives)
        return status if lives else _with_last_run(status, place, manifest)
    slices = [one for one in slice_holders(place) if seems_to_live(one)]
    if slices:
        known = msgspec.structs.replace(known, **{**_of_holder(slices[0]), "error": "", "workers": len(slices)})
    return _from_ledger(known, place, options, manifest, holder, lives or bool(slices))


def _find_holder(place: Folder) -> tuple[Holder | None, bool]:
    """Return the last holder of the lock, and whether it lives.

    If the clocks of the two machines differ, its heartbeat is watched.
    """
    holder = last_holder(place)
    if holder is None:
        return None, False
    lives = seems_to_live(holder)
    until = time.monotonic() + lock.RENEWAL + 2 * lock.LOOK
    while lives is None and time.monotonic() < until:
        time.sleep(lock.LOOK)
        now = last_holder(place)
        if now is None or now.nonce != holder.nonce or now.count != holder.count:
            return now, now is not None and not now.free
    return holder, bool(lives)


def _of_holder(holder: Holder | None) -> dict[str, Any]:
    if holder is None:
        return {}
    part = f"slice {holder.part} of " if holder.part else ""
    return {
        "holder": f"{part}{holder.who} on {holder.host} (process {holder.process})",
        "since": holder.since,
        "heartbeat": _time(holder.at),
        "error": holder.ended,
    }


def _from_heartbeat(known: JobStatus, holder: Holder, lives: bool) -> JobStatus:
    """Return the state of a job that runs, or that ended with an error."""
    now = holder.progress
    assert now is not None
    late = max(0.0, time.time() - holder.at) if lives else 0.0
    state: State = "stopped" if holder.ended in ENDINGS else "failed"
    if lives:
        state = "stalled" if now.stalled else "running"
    return msgspec.structs.replace(
        known,
        state=state,
        total=now.total,
        done=now.done + now.skipped,
        failed=now.failed,
        left=now.left,
        rate=now.rate if lives else None,
        seconds_left=now.seconds_left if lives else None,
        decoded_nbytes=now.decoded_nbytes,
        total_decoded_nbytes=now.total_decoded_nbytes,
        seconds=now.seconds + late,
        last_event=_time(holder.at - now.idle_seconds) if now.ended else "",
        idle_seconds=now.idle_seconds + late if lives else None,
        oldest=now.oldest if lives else None,
        workers=now.workers if lives else 0,
        running=now.running if lives else 0,
        retries=now.retries,
        throttled=now.throttled,
    )


def _from_ledger(
    known: JobStatus, place: Folder, options: Options, manifest: JobManifest, holder: Holder | None, lives: bool
) -> JobStatus:
    """Return the state of a job that is done, that died, or that holds no lock."""
    records = ledger_of(place, manifest).read()
    total = _total(manifest)
    done = sum(record.is_done for record in records.values())
    failed = sum(bool(record.failed) for record in records.values())
    last = max((record.begun + record.seconds for record in records.values() if record.begun), default=0.0)
    if _is_done(place, options, manifest):
        state: State = "done"
    elif lives:
        state = "running"
    elif holder is not None and not holder.free:
        state = "died"
    else:
        state = "failed" if failed and done + failed == total else "unfinished"
    status = msgspec.structs.replace(
        known,
        state=state,
        total=total,
        done=done,
        failed=failed,
        left=max(0, total - done - failed),
        seconds=_seconds(records.values(), holder),
        last_event=_time(last),
    )
    return _with_last_run(status, place, manifest, records)


def _with_last_run(
    status: JobStatus, place: Folder, manifest: JobManifest, records: Mapping[int, Record] | None = None
) -> JobStatus:
    """Return a status with the causes of the failures and the places of the files, if the last run failed."""
    if not (status.failed or status.error) or status.state == "running":
        return status
    last = read_last_run(place, manifest, status.since, has_failures=bool(status.failed), records=records)
    return msgspec.structs.replace(status, **msgspec.structs.asdict(last))


def _is_done(place: Folder, options: Options, manifest: JobManifest) -> bool:
    config = read_config(place, options)
    if config is None:
        return False
    return ledger_of(place, manifest).is_compacted() or is_finished(
        place, manifest, read_unfinished(place, manifest, options), config
    )


def _total(manifest: JobManifest) -> int:
    return sum(run.stop - run.first for run in shard_runs(from_dict(manifest.config))) if manifest.config else 0


def _seconds(records: Any, holder: Holder | None) -> float | None:
    """Return the time that the last run took; None if it is not known."""
    if holder is not None and holder.progress is not None:
        return holder.progress.seconds
    times: list[Record] = [record for record in records if record.begun]
    first = min((record.begun for record in times), default=None)
    return None if first is None else max(record.begun + record.seconds for record in times) - first


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else ""
