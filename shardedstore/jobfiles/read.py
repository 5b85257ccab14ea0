"""Read a job file: TOML with ``[[job]]``, ``[defaults]``, ``[cluster]`` and ``[run]``."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from shardedstore.errors import UsageError
from shardedstore.jobfiles.cluster_spec import ClusterSpec
from shardedstore.jobfiles.job import transforms_of
from shardedstore.jobfiles.lines import Key, find_line
from shardedstore.jobfiles.paths import in_folder
from shardedstore.jobfiles.problems import explain_invalid, suggestion
from shardedstore.jobfiles.secrets import check_ping, check_storage
from shardedstore.jobfiles.spec import JobSpec, RunSpec
from shardedstore.jobfiles.variables import expand, words_of

Spec = TypeVar("Spec", bound=msgspec.Struct)
STORAGE = ("storage", "source_storage")
NAMES_KEPT = (*STORAGE, "ping")  # tables whose values may be secret


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tables of a job file."""

    cluster: dict[str, Any] = {}
    run: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    job: list[dict[str, Any]] = []


class JobFile(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs of a file, with their cluster and the options of the run."""

    path: str
    digest: str
    jobs: tuple[JobSpec, ...]
    cluster: ClusterSpec
    run: RunSpec


def read_job_file(
    path: str | os.PathLike[str],
    *,
    today: date | None = None,
    environment: Mapping[str, str] = os.environ,
    only: Sequence[str] = (),
) -> JobFile:
    """Read and check all jobs of a file.

    Parameters
    ----------
    path : str or path
        The file.
    today : date, optional
        The date of ``{date}``; by default the local date.
    environment : mapping of str to str
        The values of ``${VAR}``.
    only : sequence of str
        The names of the jobs to return; by default all jobs.

    Raises
    ------
    UsageError
        If the file is not valid. The message begins with the file and the line.
    """
    data = _read(path)
    reader = _Reader(os.fspath(path), _decode(path, data), today or date.today(), environment)  # noqa: DTZ011 (the date of cron)
    jobs = reader.jobs()
    return JobFile(
        path=reader.path,
        digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
        jobs=_chosen(jobs, only, reader.path),
        cluster=reader.table("cluster", ClusterSpec),
        run=reader.table("run", RunSpec),
    )


class _Reader:
    """The text of a job file, and its tables."""

    def __init__(self, path: str, text: str, today: date, environment: Mapping[str, str]) -> None:
        self.path, self.text, self.today, self.environment = path, text, today, environment
        try:
            self.raw = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", str(error))
            line = int(found[1]) if found and found[1] else text.count("\n") + 1
            raise UsageError(f"{path}:{line}: {str(error)[: found.start() if found else None]}") from error
        self.document = self.convert(self.raw, Document, ())

    def jobs(self) -> tuple[JobSpec, ...]:
        """Return all jobs with the defaults."""
        if not self.document.job:
            raise UsageError(f"{self.path}: no job: write a table [[job]] with source, destination and to")
        jobs = tuple(self.job(number) for number in range(len(self.document.job)))
        for number, job in enumerate(jobs):
            if job_name(job) in map(job_name, jobs[:number]):
                line = find_line(self.text, ("job", number, "name"))
                raise UsageError(
                    f"{self.path}:{line}: a second job {job_name(job)!r}: give each job its own name = ..."
                )
        return jobs

    def job(self, number: int) -> JobSpec:
        """Return a job of the file, with the defaults."""
        own, path = self.document.job[number], ("job", number)
        merged = _merge(self.document.defaults, own)
        name = merged.get("name")
        values = self.expanded(merged, path, name if isinstance(name, str) else None)
        spec = self.convert(values, JobSpec, path)
        for field in STORAGE:
            with self.located((*path, field)):
                check_storage(getattr(spec, field))
        with self.located((*path, "ping")):
            check_ping(spec.ping)
        for place, make in transforms_of(spec, self.environment):
            with self.located((*path, *place)):
                make()
        return spec

    def table(self, name: str, spec: type[Spec]) -> Spec:
        """Return another table of the file, such as `[run]`."""
        return self.convert(self.expanded(getattr(self.document, name), (name,)), spec, (name,))

    def expanded(self, values: dict[str, Any], path: tuple[Key, ...], name: str | None = None) -> dict[str, Any]:
        """Return values with replaced variables; secret values keep the names of their variables."""
        words = words_of(name, self.today)
        done = {}
        for key, value in values.items():
            with self.located((*path, key)):
                done[key] = expand(value, self.environment, words, keep_names=key in NAMES_KEPT)
        return done

    def convert(self, values: dict[str, Any], spec: type[Spec], path: tuple[Key, ...]) -> Spec:
        """Return the spec of a table, or raise an error that names the line."""
        try:
            return msgspec.convert(in_folder(values, spec, os.path.dirname(os.path.abspath(self.path))), spec)
        except msgspec.ValidationError as error:
            problem = explain_invalid(error, spec, values)
            raise UsageError(f"{self.where((*path, *problem.path))}: {problem.text}") from error

    @contextmanager
    def located(self, path: tuple[Key, ...]) -> Iterator[None]:
        """Add the file and the line to an error."""
        try:
            yield
        except UsageError as error:
            raise UsageError(f"{self.where(path)}: {error}") from error

    def where(self, path: tuple[Key, ...]) -> str:
        """Return the file and the line of a value, which may come from the defaults."""
        default = ("defaults", *path[2:])
        if path[:1] == ("job",) and len(path) > 2 and path[2] not in self.document.job[int(path[1])]:
            path = default if path[2] in self.document.defaults else path
        return f"{self.path}:{find_line(self.text, path)}"


def job_name(job: JobSpec) -> str:
    """Return the name of a job: its own, or the last part of its destination."""
    return job.name or job.destination.rstrip("/").rpartition("/")[2]


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{os.fspath(path)}: the job file can't be read: {error.strerror}") from error


def _decode(path: str | os.PathLike[str], data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{os.fspath(path)}:{line}: the file is not text in UTF-8") from error


def _merge(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the values of a job with the defaults; groups and storage options are merged key by key."""
    merged = {**defaults, **own}
    for name in (*STORAGE, *_groups(JobSpec)):
        both = defaults.get(name), own.get(name)
        if isinstance(both[0], dict) and isinstance(both[1], dict):
            merged[name] = {**both[0], **both[1]}
    return merged


def _groups(spec: type) -> list[str]:
    """Return the names of the fields that hold a struct."""
    hints = get_type_hints(spec)
    return [
        name
        for name in hints
        if any(
            isinstance(kind, type) and issubclass(kind, msgspec.Struct)
            for kind in (hints[name], *get_args(hints[name]))
        )
    ]


def _chosen(jobs: tuple[JobSpec, ...], only: Sequence[str], path: str) -> tuple[JobSpec, ...]:
    names = [job_name(job) for job in jobs]
    for name in only:
        if name not in names:
            raise UsageError(f"{path}: there is no job {name!r}{suggestion(name, names)}")
    return tuple(job for job in jobs if not only or job_name(job) in only)
