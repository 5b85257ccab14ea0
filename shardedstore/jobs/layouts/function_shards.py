"""Stores returned by a function, as in shardedstore 0.3.1; each shard's record has its location."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from shardedstore.errors import ChainError, UsageError
from shardedstore.jobs.layouts.base import ShardSource
from shardedstore.jobs.layouts.shard_folder import ShardFolder
from shardedstore.jobs.ledger import Ledger, NoLedger, Record
from shardedstore.jobs.manifest import JobManifest
from shardedstore.jobs.preflight import find_unreadable
from shardedstore.jobs.progress import Progress
from shardedstore.jobs.result_preview import ResultPreview, members_at
from shardedstore.jobs.shards import Plan, Run
from shardedstore.notices import Notice
from shardedstore.storage.options import StorageOptions, take_options
from shardedstore.storage.urls import is_remote, normalize
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Config, Location, Mount, Place, require_location, url_of
from shardedstore.stores.recognise import locate
from shardedstore.transforms.base.chain import Chain
from shardedstore.transforms.base.sink import Present

if TYPE_CHECKING:
    from shardedstore.jobs.job import Job
    from shardedstore.jobs.summary import Summary


class FunctionShards(ShardFolder):
    """A folder with the config and the ledger of stores returned by a function."""

    key: ClassVar[str] = "function"
    has_objects: ClassVar[bool] = False

    @classmethod
    def of(cls, sink: Any, to: str | None, storage_options: StorageOptions) -> FunctionShards:
        # docstring inherited
        if to is None:
            return ReturnedShards(sink, "")
        url = normalize(to)
        return FunctionShards(sink, url, take_options(url, storage_options))

    def check_options(self, *, digest: bool, consolidated: bool | None) -> None:
        # docstring inherited
        if digest:
            raise ChainError("digest= is for a chain that ends in a sink: a function writes its stores itself")
        if consolidated is not None:
            raise ChainError(
                "consolidated= is for a chain that ends in a sink: a function's stores stay as it made them"
            )

    def check_names(self, plan: Plan) -> None:
        """Check nothing: the function names its stores itself."""

    def check_holes(self) -> None:
        # docstring inherited
        raise UsageError(
            "accept_failed= and max_missing= are for a chain that ends in a sink: a function returns what it made"
        )

    def notices(self, nodes: Mapping[str, Node]) -> Iterable[Notice]:
        # docstring inherited
        return ()

    def preview(self, plan: Plan, chain: Chain) -> ResultPreview:
        # docstring inherited
        return ResultPreview("arrays")

    def write(self, source: ShardSource, job: Job, generation: int) -> Record:
        # docstring inherited
        shard, looked = source.shard, source.look()
        within = "" if shard.bundle is None and shard.members else shard.block_name
        made = self.sink.func(source.component, shard.path, within or None)
        location = require_location(locate(made), "the store that the function returned")
        made.close()
        source.check()
        return Record(0, 0, "", location, shard=shard.number, source=looked)

    def present(self, run: Run, records: Mapping[int, Record], job: Job, present: Present) -> Iterator[int]:
        # docstring inherited
        return (number for number in run.numbers if number in records and _is_located(records[number]))

    def mount(self, job: Job, run: Run, records: Mapping[int, Record]) -> Mount:
        # docstring inherited
        located = {shard.block_name: _given(records[shard.number].location) for shard in run.shards()}
        if run.division is None:
            return Mount(located[""])
        exceptions = {name: members_at(location, run.members) for name, location in located.items()}
        return Mount(next(iter(exceptions.values())), run.blocks, exceptions, run.members)


class ReturnedShards(FunctionShards):
    """Stores returned by a function without a destination; the summary of each task holds its records."""

    @property
    def destination(self) -> str | None:
        # docstring inherited
        return None

    @property
    def opened_url(self) -> str | None:
        # docstring inherited
        return None

    @property
    def written_urls(self) -> list[str]:
        # docstring inherited
        return []

    @property
    def again(self) -> str:
        # docstring inherited
        return ""

    def check(self, plan: Plan) -> None:
        # docstring inherited
        return

    def find(self, wanted: JobManifest, overwrite: bool) -> JobManifest | None:
        # docstring inherited
        return None

    def open(self, wanted: JobManifest, overwrite: bool) -> JobManifest:
        # docstring inherited
        return wanted

    def published(self) -> JobManifest | None:
        # docstring inherited
        return None

    def ledger(self, generation: int, nonce: str) -> NoLedger:
        # docstring inherited
        return NoLedger(self.place, generation)

    def held(self, numbers: Callable[[], Progress]) -> nullcontext[threading.Event]:
        # docstring inherited
        return nullcontext(threading.Event())

    def find_missing(self, generation: int, sources: Iterable[Place]) -> str | None:
        # docstring inherited
        return find_unreadable(sources)

    def has_manifest(self, ledger: Ledger) -> bool:
        # docstring inherited
        return True

    def returned(self, record: Record) -> dict[int, Record]:
        # docstring inherited
        return {record.shard: record}

    def present(self, run: Run, records: Mapping[int, Record], job: Job, present: Present) -> Iterator[int]:
        # docstring inherited
        return (number for number in run.numbers if number in records)

    def records(self, ledger: Ledger, outcome: Summary) -> dict[int, Record]:
        # docstring inherited
        return outcome.records

    def publish(self, job: Job, plan: Plan, records: Mapping[int, Record]) -> Config:
        # docstring inherited
        config, _ = self.mounted(job, plan, records)
        return config


def _given(location: Location | None) -> Location:
    assert location is not None
    return location


def _is_located(record: Record) -> bool:
    """Tell whether a returned store still exists; only local paths are checked."""
    if record.location is None or not record.is_done:
        return False
    url = url_of(record.location)
    return url is None or is_remote(url) or os.path.exists(url)
