"""All that a worker does for a segment of shards: read, transform, write, record. It knows no Dask."""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import msgspec
from toolz import pipe
from zarr.abc.store import Store

from shardedstore.access import NONE, Options
from shardedstore.blobs import nbytes_of
from shardedstore.chain import Chain, NbytesOf, Shard, Written
from shardedstore.entries import read_entries
from shardedstore.errors import ShardError
from shardedstore.folders import STORAGE_ERRORS, Folder, open_folder
from shardedstore.generations import versioned
from shardedstore.grid import block_name
from shardedstore.ledger import Ledger, Record
from shardedstore.locations import Location, Opened, ViewOf, locate, open_block, open_location, require_location, url_of
from shardedstore.outcome import Outcome
from shardedstore.plan import Run, Segment
from shardedstore.preflight import find_missing, places_of
from shardedstore.transient import FIRST_PAUSE, cause_of, is_transient
from shardedstore.urls import is_remote, join_url, normalize, quote_name
from shardedstore.views import Remainder

logger = logging.getLogger("shardedstore")
MOST_FAILURES = 1000


@dataclass(frozen=True)
class Job:
    """What every task needs to know: small, and without open stores or credentials.

    `folder` is where the ledger stands, and None for a function whose results are only returned.
    """

    chain: Chain
    folder: str | None
    generation: int = 1
    retries: int = 2
    options: Options = NONE
    max_failures: int = MOST_FAILURES

    @property
    def place(self) -> Folder:
        """The folder that config and ledger stand in."""
        assert self.folder is not None
        return open_folder(self.folder, self.options)

    def url(self, shard: Shard) -> str:
        """Return where a shard goes."""
        template = self.template(shard.path, shard.is_base, shard.block is not None)
        return template.replace("{block}", block_name(shard.block))

    def template(self, path: str, is_base: bool, blocked: bool) -> str:
        """Return the URL of a mount's shards, in which ``{block}`` stands for a block's index."""
        assert self.chain.sink is not None
        assert self.folder is not None
        if self.chain.sink.is_one_zarr:
            return normalize(self.chain.sink.url)
        name = versioned(self.chain.sink.target(None if is_base else path, blocked), self.generation)
        return join_url(self.folder, quote_name(name) if is_remote(self.folder) else name)

    def is_there(self, shard: Shard, record: Record, sizes: Mapping[str, int] | None = None) -> bool:
        """Tell whether what a record says was written still stands.

        `sizes` are those of what stands at the destination, by URL, where that was listed.
        """
        if self.chain.sink is None:
            url = None if record.location is None else url_of(record.location)
            return record.location is not None and (url is None or is_remote(url) or os.path.exists(url))
        look: NbytesOf = partial(nbytes_of, options=self.options) if sizes is None else sizes.get
        return self.chain.sink.is_there(self.url(shard), record.nbytes, look)

    def done(
        self, runs: Iterable[Run], records: Mapping[int, Record], sizes: Mapping[str, int] | None = None
    ) -> frozenset[int]:
        """Return the numbers of the shards that are recorded, and still there."""
        if not records:
            return frozenset()
        shards = (numbered for run in runs for numbered in run.shards())
        return frozenset(n for n, shard in shards if n in records and self.is_there(shard, records[n], sizes))

    def find_missing(self, locations: Iterable[Location]) -> str | None:
        """Return what keeps this process from doing the job; see `preflight.find_missing`."""
        return find_missing(self.folder, self.options, self.generation, places_of(locations))

    def listed(self) -> dict[str, int] | None:
        """Return the sizes of what stands at the destination by URL, for `is_there`: where asking for each would be slow."""
        if self.folder is None or not is_remote(self.folder):
            return None
        return {join_url(self.folder, quote_name(name)): nbytes for name, nbytes in self.place.sizes()}


def run_segment(job: Job, segment: Segment) -> Outcome:
    """Do the shards of a segment that its records do not name yet. A shard that fails is told, never raised."""
    missing = job.find_missing(run.location for run in segment.runs)
    if missing is not None:
        return Outcome.failed(segment, missing)
    if job.folder is None:
        return Outcome.total(_do_shards(job, segment, None))
    ledger = Ledger(job.place, job.generation)
    try:
        done = job.done(segment.runs, ledger.read_segment(segment.number))
        left = segment.without(done) if done else segment
        if not left.runs:
            return Outcome(skipped=len(done))
        with ledger.writer(segment.number) as append:
            return Outcome.total([Outcome(skipped=len(done)), *_do_shards(job, left, append)])
    except STORAGE_ERRORS as error:
        return Outcome.failed(segment, f"its record can't be kept at the destination: {cause_of(error)}")


def _do_shards(job: Job, segment: Segment, append: Callable[[Record], None] | None) -> Iterator[Outcome]:
    sources: dict[Location, Opened] = {}
    failed, worker = 0, f"{socket.gethostname()}:{os.getpid()}"
    for run in segment.runs:
        opened = _opened(run, sources)
        for number, shard in run.shards():
            begun = time.monotonic()
            made, attempts = _try_shard(job, run, opened, shard)
            if isinstance(made, ShardError):
                yield Outcome(failures=(made,), retries=attempts - 1)
                failed += 1
                if failed >= job.max_failures:
                    return
                continue
            if append is not None:
                seconds = round(time.monotonic() - begun, 3)
                append(
                    Record(
                        number,
                        made.entries,
                        made.nbytes,
                        made.digest,
                        made.location,
                        made.names,
                        seconds,
                        attempts,
                        worker,
                    )
                )
            found = {} if made.location is None else {number: made.location}
            yield Outcome(1, 0, made.entries, made.nbytes, locations=found, retries=attempts - 1)


def _opened(run: Run, sources: dict[Location, Opened]) -> Run:
    """Return a run whose source is open, so that the directory of a zip is read once for all shards of a segment."""
    if not isinstance(run.location, ViewOf):
        return run
    source = run.location.source
    if source not in sources:
        sources[source] = Opened(open_location(source))
    return msgspec.structs.replace(run, location=ViewOf(sources[source], run.location.path))


def _try_shard(job: Job, run: Run, opened: Run, shard: Shard) -> tuple[Written | ShardError, int]:
    """Run one shard, and again after an error that may pass, then with the source opened anew; tell the attempts."""
    for attempt in range(job.retries + 1):
        try:
            return run_shard(job, run if attempt else opened, shard), attempt + 1
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # SystemExit, and the panics of libraries in Rust, are no reason to end a worker
            logger.warning("shard %s failed, attempt %d: %s", shard.name, attempt + 1, cause_of(error), exc_info=True)
            if attempt == job.retries or not is_transient(error):
                return ShardError(shard.name, cause_of(error)), attempt + 1
            time.sleep(FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1))
    raise AssertionError("unreachable")


def run_shard(job: Job, run: Run, shard: Shard) -> Written:
    """Run one shard through the chain; an exception leaves nothing under its final name."""
    component = open_component(run, shard)
    if job.chain.function is not None:
        made = job.chain.function(component, shard.path, block_name(shard.block) or None)
        location = require_location(locate(made), "what the function returned")
        made.close()
        return Written(0, 0, "", location)
    assert job.chain.sink is not None
    entries = pipe(
        read_entries(component, shard.blocks, shard.block, run.consolidated),
        *(lambda stream, step=step: step(stream, shard) for step in job.chain.steps),
    )
    return job.chain.sink.write(entries, shard, job.url(shard))


def open_component(run: Run, shard: Shard) -> Store:
    """Open the component of a shard; of the base, what is not mounted."""
    if run.mounted is not None:
        return Remainder(open_location(run.location), run.mounted)
    if shard.blocks is None or shard.block is None:
        return open_location(run.location)
    exception = run.exceptions.get(block_name(shard.block))
    return open_block(run.location, shard.blocks, shard.block) if exception is None else open_location(exception)
