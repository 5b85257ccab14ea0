"""`check`: find damage in any Zarr, on the active Dask scheduler."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

import numpy as np
from toolz import partition_all
from zarr.abc.store import Store

from shardedstore.checks import consolidated, documents  # noqa: F401 (they register their checks)
from shardedstore.checks.contents import CheckedNode, Documents, arrays_in, parse_contents, read_documents
from shardedstore.checks.finding import CODES, Finding, few, in_order
from shardedstore.checks.listing import Listing, StoredChunks, missing_chunks
from shardedstore.checks.objects import UNREADABLE, Checked, ObjectTask, check_objects, open_plain, per_task
from shardedstore.checks.open import AnyZarr, check_exists, config_at, name_of_zarr
from shardedstore.checks.registry import check_metadata
from shardedstore.checks.report import ArrayCheck, CheckReport
from shardedstore.checks.zips import check_zip
from shardedstore.config.document import dump
from shardedstore.errors import PartitionError, UsageError
from shardedstore.jobs.executors.active import active_executor
from shardedstore.jobs.executors.base import TaskList
from shardedstore.jobs.preflight import source_urls
from shardedstore.jobs.shards import object_at, shard_runs
from shardedstore.storage.errors import explain, is_transient
from shardedstore.storage.folders import open_folder
from shardedstore.storage.options import Options, StorageOptions
from shardedstore.storage.urls import normalize
from shardedstore.stores.hierarchy import walk
from shardedstore.stores.locations import Config, Location, Place
from shardedstore.stores.no_zarr import instead
from shardedstore.stores.reader import StoreReader, reader_of
from shardedstore.text import parse_size
from shardedstore.verify.journal import Journal, run_journaled
from shardedstore.zarr.metadata import CONSOLIDATED_V2, DOCUMENTS, GroupMeta
from shardedstore.zarr.paths import join
from shardedstore.zarr.refusal import is_refusal

BLOCKING = {"unknown-codec", "unsafe-codec", "unknown-type", "unknown-grid", "fill-value", "huge-chunk", "metadata"}
MOST_GUESSED = 10**8  # possible chunks of an array in a store that can't be listed
ZIPS_PER_TASK = 64
MAX_CHUNK = "4 GiB"
AGAIN = "another folder as resume= (--resume) checks them again"


def check(
    what: AnyZarr,
    *,
    quick: bool = False,
    max_missing: float | None = None,
    ignore: Iterable[str] = (),
    max_chunk: int | str = MAX_CHUNK,
    resume: str | os.PathLike[str] | None = None,
    storage_options: StorageOptions = None,
) -> CheckReport:
    """Find damage in a Zarr of any writer, on the active Dask scheduler.

    Documents, the listing and zips are checked first, and then every chunk is read and decoded. Nothing is written to the Zarr, and
    damage raises no exception. A Zarr of an unknown person is safe to check: no code in it runs, and no chunk takes more memory
    than its metadata allows.

    Parameters
    ----------
    what : ShardedStore, Store, str or path
        A Zarr, a zip, a config or a store.
    quick : bool
        Check only the documents and the listing, and read no chunks.
    max_missing : float, optional
        The most missing chunks of an array that are no damage: a number, or below 1 a share of its chunks. By default, missing
        chunks are only counted, as they read as the fill value.
    ignore : iterable of str
        Kinds of damage to leave out, such as ``"stray-key"``.
    max_chunk : int or str
        The largest decoded size of a chunk, in bytes or as text. Arrays with larger chunks are not decoded.
    resume : str or path, optional
        A folder that keeps the checked parts until the end, so that the same call can resume after an interruption.
    storage_options : mapping or str, optional
        Options of the object store; see `ShardedStore.partition`.

    Returns
    -------
    CheckReport
        The damage, and the next step for each kind. ``ok`` tells that there is none.

    Raises
    ------
    PartitionError
        If the path does not exist, or there is no Zarr.
    UsageError
        If an option is not valid.

    See Also
    --------
    diff : Compare the structures of two Zarrs.

    Examples
    --------
    >>> import pathlib, tempfile, dask, zarr
    >>> from shardedstore import check
    >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
    ...     array = zarr.create_array(f"{folder}/a.zarr", name="t", shape=(4,), chunks=(2,), dtype="f4")
    ...     array[:] = 1
    ...     _ = pathlib.Path(f"{folder}/a.zarr/t/c/1").write_bytes(b"damage")
    ...     report = check(f"{folder}/a.zarr")
    >>> report.ok, [(finding.code, finding.key) for finding in report.findings]
    (False, [('undecodable-chunk', 't/c/1')])
    """
    ignored = frozenset([ignore] if isinstance(ignore, str) else ignore)
    if unknown := sorted(ignored - CODES.keys()):
        raise UsageError(f"ignore names {unknown[0]!r}, which is no kind of damage: use one of {', '.join(CODES)}")
    nbytes = parse_size(max_chunk)
    if not nbytes:
        raise UsageError(f"max_chunk={max_chunk!r} is not a size: write it like '4 GiB'")
    config = config_at(what, storage_options)
    if not config.shards:
        check_exists(config.base)
    run = _Run(config, name_of_zarr(what, config), max_missing, nbytes)
    return run.report("quick" if quick else "full", None if resume is None else os.fspath(resume), ignored)


class _Run:
    """One check."""

    def __init__(self, config: Config, name: str, max_missing: float | None, max_chunk: int) -> None:
        self.config, self.name, self.max_missing, self.max_chunk = config, name, max_missing, max_chunk
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.bad_zips: set[str] = set()
        self.nodes: dict[str, CheckedNode] = {}
        self.stored: dict[str, StoredChunks] = {}
        self.is_listed = False
        self.totals: dict[str, Checked] = {}

    def report(self, level: str, resume: str | None, ignored: frozenset[str]) -> CheckReport:
        self._check_zips()
        if self.config.shards or not self.bad_zips:
            self._read(open_plain(self.config), resume is not None)
            self.findings += check_metadata(self.nodes, self.max_chunk)
            if level == "full":
                self._decode(resume)
            self._count_missing()
        kept = tuple(sorted(few(f for f in self.findings if f.code not in ignored), key=in_order))
        groups = sum(isinstance(node.meta, GroupMeta) for node in self.nodes.values())
        counts: Counter[str | None] = Counter()
        for finding in kept:
            counts[finding.array] += finding.count
        arrays = tuple(self._array(node, counts[node.path]) for node in arrays_in(self.nodes))
        return CheckReport(
            self.name, level, kept, tuple(sorted(arrays, key=attrgetter("path"))), groups, tuple(self.notes)
        )

    def _check_zips(self) -> None:
        tasks = [*partition_all(ZIPS_PER_TASK, _zips_of(self.config))]
        if not tasks:
            return
        for some, found in active_executor().map_unordered(
            _check_zips, TaskList("check zips", tasks), source_urls(self.config)
        ):
            if isinstance(found, BaseException):
                self.findings.append(Finding("unread", f"{some[0][0]!r} can't be read: {explain(found)}"))
                continue
            self.findings += (finding for _, finding in found)
            self.bad_zips.update(url for url, finding in found if finding.code in ("zip-directory", "unread"))

    def _read(self, store: Store, has_digests: bool) -> None:
        """Read the documents and the listing; again if the listing has further documents."""
        reader = reader_of(store)
        known, asked = self._fetch(reader, _expected(store)), set[str]()
        while True:
            self.nodes = parse_contents(known)
            listing = Listing(self.nodes, _ranges(self.nodes), has_digests)
            if reader.guesses:
                self.notes.append(
                    "the store can't be listed: stray files are not seen, and missing chunks only by the full level"
                )
                break
            try:
                listing.read(reader)
            except UNREADABLE as error:
                if is_transient(error):
                    raise
                if not self.bad_zips:
                    self.findings.append(Finding("listing", explain(error)))
                break
            unexpected = [key for key in listing.unexpected if key not in asked]
            if not unexpected:
                self.is_listed = True
                break
            asked.update(unexpected)  # a document that can't be read is asked for once
            known |= self._fetch(reader, unexpected)
        if not any(map(_defines_something, self.nodes.values())):
            unlisted = [finding.what for finding in self.findings if finding.code == "listing"]
            if unlisted and not self.config.shards:
                raise PartitionError(f"{self.config.base.show()} can't be read: {unlisted[0]}")
            if not self.findings:
                raise PartitionError(f"{self.config.base.show()} {instead(self.config.base)}")
        self.stored = listing.chunks
        self.findings += listing.findings()
        if self.is_listed and not reader.has_tags:
            self.notes.append("the listing has no sizes: only the full level sees chunks without bytes")

    def _fetch(self, reader: StoreReader[Any], keys: Iterable[str]) -> Documents:
        try:
            found, findings = read_documents(reader, keys)
        except UNREADABLE as error:
            if is_transient(error):
                raise
            found, findings = {}, [] if self.bad_zips else [Finding("unread", explain(error))]
        self.findings += findings
        return found

    def _decode(self, resume: str | None) -> None:
        blocked = {finding.array for finding in self.findings if finding.code in BLOCKING}
        nodes = [node for node in arrays_in(self.nodes) if node.doc is not None and node.path not in blocked]
        run = secrets.token_hex(8)
        tasks = [task for node in nodes for task in self._tasks(node, run)]
        folder = None if resume is None else open_folder(normalize(resume))
        identity = () if resume is None else ("check", dump(self.config, None).decode(), str(self.max_chunk))
        with Journal(folder, identity, must_keep=True, again=AGAIN) as journal:
            for task, found in _each(tasks, journal, self.config):
                total = self.totals.setdefault(task.path, Checked())
                self.findings += (f for f in found.findings if not any(url in f.what for url in self.bad_zips))
                total.objects, total.nbytes = total.objects + found.objects, total.nbytes + found.nbytes
                total.chunks, total.missing = total.chunks + found.chunks, total.missing + found.missing
            journal.is_whole = not any(finding.code == "unread" for finding in self.findings)
            self.notes += journal.notes

    def _tasks(self, node: CheckedNode, run: str) -> Iterator[ObjectTask]:
        meta = node.array
        assert meta is not None
        size, document = per_task(meta), {**node.document, "attributes": {}}
        token = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
        if self.is_listed:
            stored = self.stored[node.path]
            ranges = _listed_ranges(stored, size)
        elif meta.chunk_count > MOST_GUESSED:
            self.findings.append(
                Finding(
                    "huge-chunk",
                    f"{node.path!r} has {meta.chunk_count:,} possible chunks, too many for a store that can't be listed",
                    node.path,
                )
            )
            return
        else:
            ranges = (
                (first // size, range(first, min(first + size, meta.chunk_count)), 0)
                for first in range(0, meta.chunk_count, size)
            )
        for number, places, digest in ranges:
            key = f"{node.path} {number} {len(places)} {digest:x} {token}"
            yield ObjectTask(self.config, node.path, meta, document, places, self.max_chunk, key, run)

    def _count_missing(self) -> None:
        for node in arrays_in(self.nodes):
            missing = self._missing(node)
            if missing is not None:
                self.findings += missing_chunks(node, missing, self.max_missing)

    def _missing(self, node: CheckedNode) -> int | None:
        meta = node.array
        if meta is None or meta.chunks is None or meta.keys is None:
            return None
        if self.is_listed:
            stored = self.stored[node.path]
            return meta.chunk_count - len(stored.places) - stored.empty
        return self.totals[node.path].missing if node.path in self.totals else None

    def _array(self, node: CheckedNode, findings: int) -> ArrayCheck:
        assert node.array is not None
        stored, total = self.stored.get(node.path), self.totals.get(node.path)
        objects = (
            len(stored.places) if self.is_listed and stored is not None else None if total is None else total.objects
        )
        nbytes = stored.nbytes if stored is not None and stored.nbytes else None if total is None else total.nbytes
        chunks = 0 if total is None else total.chunks
        return ArrayCheck(node.path, node.array.shape, objects, self._missing(node), nbytes, chunks, findings)


def _defines_something(node: CheckedNode) -> bool:
    return any(name != CONSOLIDATED_V2 and not is_refusal(data) for name, data in node.documents.items())


def _expected(store: Store) -> Iterator[str]:
    """Return the keys of the documents that a walk finds, or of the root's if a damaged document stops the walk."""
    found = dict.fromkeys(DOCUMENTS)
    try:
        for path, node in walk(store, may_be_implicit=True).items():
            names = [*node.documents, *([CONSOLIDATED_V2] if getattr(node.meta, "consolidated", False) else [])]
            found |= dict.fromkeys(join(path, name) for name in names)
    except UNREADABLE as error:
        if is_transient(error):
            raise
    return iter(found)


def _ranges(nodes: dict[str, CheckedNode]) -> dict[str, int]:
    return {node.path: per_task(node.array) for node in arrays_in(nodes) if node.array is not None}


def _listed_ranges(stored: StoredChunks, size: int) -> Iterator[tuple[int, Any, int]]:
    """Yield the number, the stored objects and the digest of each range of an array's grid."""
    places = np.sort(np.frombuffer(stored.places, "u8")) if stored.places else np.empty(0, "u8")
    edges = np.flatnonzero(np.diff(places // size)) + 1
    for part in np.split(places, edges):
        if len(part):
            first, last = int(part[0]), int(part[-1])
            dense = last - first + 1 == len(part)
            number = first // size
            yield number, range(first, last + 1) if dense else part, stored.ranges.get(number, 0)


def _each(tasks: list[ObjectTask], journal: Journal, config: Config) -> Iterator[tuple[ObjectTask, Checked]]:
    """Yield tasks with their results: first journaled tasks, then the others."""
    results = run_journaled(
        "check", check_objects, tasks, attrgetter("key"), Checked, Checked.is_right, journal, source_urls(config)
    )
    for task, found in results:
        if isinstance(found, BaseException):
            yield task, Checked([Finding("unread", f"{task.key}: {type(found).__name__}: {found}", task.path)])
        else:
            yield task, found


def _zips_of(config: Config) -> Iterator[tuple[str, Options]]:
    """Yield the URLs and options of all zips of a store."""
    known: dict[str, Options] = {}
    for location in _objects_of(config):
        place = location.origin.view[0]
        if isinstance(place, Place) and place.is_file and place.hole is None:
            known.setdefault(place.url, place.options)
    return iter(known.items())


def _objects_of(config: Config) -> Iterator[Location]:
    yield config.base
    for run in shard_runs(config)[1:]:
        yield from (object_at(run, shard) for shard in run.shards())
    if config.consolidated is not None:
        yield config.consolidated


def _check_zips(zips: list[tuple[str, Options]]) -> list[tuple[str, Finding]]:
    found: list[tuple[str, Finding]] = []
    for url, options in zips:
        try:
            found += ((url, finding) for finding in check_zip(url, options))
        except FileNotFoundError:
            found.append((url, Finding("zip-directory", f"{url!r} is not there")))
        except UNREADABLE as error:
            found.append((url, Finding("unread", f"{url!r} can't be read: {explain(error)}")))
    return found
