"""The protocol of layouts: how the result of a job lies at its destination."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self
from urllib.parse import urlsplit

from shardedstore.errors import ChainError, DestinationError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.destination import check_apart
from shardedstore.jobs.differences import Difference
from shardedstore.jobs.layouts.result_job import ResultJob
from shardedstore.jobs.ledger import Ledger, Record
from shardedstore.jobs.lock import held
from shardedstore.jobs.preflight import find_unreadable, find_unwritable
from shardedstore.jobs.result_preview import Planned
from shardedstore.jobs.shards import Plan, Run
from shardedstore.jobs.versions import Identity, check_destination, open_destination, stands
from shardedstore.notices import Notice
from shardedstore.storage.folders import Folder, open_folder
from shardedstore.storage.inventory import ListedInventory
from shardedstore.storage.options import NONE, Options, StorageOptions
from shardedstore.storage.urls import is_remote, join_url, object_url
from shardedstore.stores.entries import Entry
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Config, Place
from shardedstore.transforms.base.chain import Chain, Entries, Present, Shard

if TYPE_CHECKING:
    from zarr.abc.store import Store

    from shardedstore.jobs.summary import Summary
    from shardedstore.jobs.worker import Job


class ShardSource(Protocol):
    """The source of one shard, opened by a worker; see `shardedstore.jobs.worker.ShardReader`."""

    run: Run
    shard: Shard
    component: Store

    def entries(self) -> Entries:
        """Return the entries, as the steps of the chain leave them."""

    def look(self) -> str:
        """Return what a record says of the source, without the entries."""

    def check(self) -> None:
        """Raise CorruptError when the source is not what it was at first."""


@dataclass(frozen=True)
class ResultLayout(ABC):
    """How a job's result lies at its destination: names, checks, what is there, how the end is published, what is pruned.

    Parameters
    ----------
    sink : Sink or FunctionSink
        The end of the chain.
    url : str
        Where the shards go; empty where they are only returned.
    options : Options
        How the destination is reached.

    Attributes
    ----------
    key : str
        How sinks and the files of jobs name the layout.
    must_grow : bool
        Whether a job goes on from an earlier one only where arrays and members were added or have grown.
    has_objects : bool
        Whether each shard, also the base, is an object that the sink writes.
    data_show_losses : bool
        Whether a comparison of decoded data finds all that is lost, so that it needs no listing.
    config_names_shards : bool
        Whether the config names the objects of all shards.
    """

    sink: Any
    url: str
    options: Options = NONE

    key: ClassVar[str]
    must_grow: ClassVar[bool] = False
    has_objects: ClassVar[bool] = True
    config_names_shards: ClassVar[bool] = True
    data_show_losses: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def of(cls, sink: Any, to: str | None, storage_options: StorageOptions) -> Self:
        """Return the layout of what a sink writes; `to` and its options are for a function alone."""

    @staticmethod
    def folder_at(url: str) -> str:
        """Return the folder that config and ledger stand in, for a result at a URL."""
        return url

    @property
    def folder(self) -> str:
        """The folder that config and ledger stand in."""
        return self.folder_at(self.url)

    @property
    def place(self) -> Folder:
        """The folder that config and ledger stand in, opened."""
        return open_folder(self.folder, self.options)

    @property
    def is_remote(self) -> bool:
        """Whether shards go to an object store."""
        return is_remote(self.url)

    @property
    def written_urls(self) -> list[str]:
        """The folders that workers write to."""
        return [self.folder, self.url]

    @property
    def destination(self) -> str | None:
        """The folder that config and ledger stand in, as users see it; None where there is none."""
        return self.folder

    @property
    def opened_url(self) -> str | None:
        """The URL that opens the result; None where only the returned store does."""
        return join_url(self.folder, FILE_NAME)

    @property
    def again(self) -> str:
        """What the message of failed shards ends with: how the job goes on."""
        return ": call map_shards with the same arguments again, and it goes on from there"

    # Before the job

    def check_options(self, *, digest: bool, consolidated: bool | None) -> None:  # noqa: B027 (most layouts take all)
        """Raise ChainError for options of a job that the layout can't follow."""

    def check(self, plan: Plan) -> None:
        """Refuse a destination that can't hold the result, before anything is written.

        Raises
        ------
        ChainError, DestinationError
        """
        if "{block}" in self.url:
            raise DestinationError(
                f"the destination {self.url!r} has {{block}} in its name, which stands for an index: rename it"
            )
        if urlsplit(self.url).scheme in ("http", "https"):
            raise DestinationError(
                f"{self.url!r} is a web server, which can only be read: name a folder, s3://, gs:// or az://"
            )
        check_apart(self.url, plan.config)

    def check_holes(self) -> None:  # noqa: B027 (a folder of shards can have them)
        """Raise UsageError where the result can't have holes."""

    def notices(self, nodes: Mapping[str, Node]) -> Iterable[Notice]:
        """Return warnings about what the layout makes of the metadata that the steps leave."""
        return ()

    @abstractmethod
    def planned(self, plan: Plan, chain: Chain) -> Planned:
        """Return what the job is going to make, for the file of the job."""

    def find(self, wanted: Identity, overwrite: bool) -> Identity | None:
        """Return the job at the destination to go on with, None for a new one; see `check_destination`."""
        return check_destination(self.place, wanted, overwrite)

    def open(self, wanted: Identity, overwrite: bool) -> Identity:
        """Make the destination ready to be written to, and return the job there; see `open_destination`."""
        return open_destination(self.place, wanted, overwrite)

    def ledger(self, generation: int, nonce: str) -> Ledger:
        """Return the records of a job."""
        return Ledger(self.place, generation, nonce)

    def mend(self, job: Job, plan: Plan) -> int:
        """Mark the shards of which something is gone that only a listing of all tells, and return their number."""
        return 0

    # While it runs

    def held(self) -> AbstractContextManager[threading.Event]:
        """Hold the lock of the destination; see `shardedstore.jobs.lock.held`."""
        return held(self.place)

    def find_missing(self, generation: int, sources: Iterable[Place]) -> str | None:
        """Return what keeps this process from doing the job; None where nothing does."""
        return find_unreadable(sources) or find_unwritable(self.folder, self.options, generation)

    def stands(self, ledger: Ledger) -> bool:
        """Tell whether the destination is still the job's own."""
        return stands(ledger)

    @abstractmethod
    def write(self, source: ShardSource, job: Job, generation: int) -> Record:
        """Write a shard under the name of a generation, 0 for the job's own, and return what was written."""

    def returned(self, record: Record) -> dict[int, Record]:
        """Return the records that travel back with the outcome of a task, as no ledger keeps them."""
        return {}

    def inventory(self) -> Present | None:
        """Return what stands at the destination, where asking for each shard would be slow."""
        if not self.is_remote:
            return None
        place = self.place
        return ListedInventory((object_url(place.url, name), nbytes) for name, nbytes in place.sizes())

    @abstractmethod
    def present(self, run: Run, records: Mapping[int, Record], job: Job, present: Present) -> Iterator[int]:
        """Yield the numbers of a run's shards that are recorded as done and still there; there may be a million."""

    # At its end

    def records(self, ledger: Ledger, outcome: Summary) -> dict[int, Record]:
        """Return the records of all shards."""
        return ledger.read()

    @abstractmethod
    def publish(self, job: Job, plan: Plan, records: Mapping[int, Record]) -> Config:
        """Write what makes the result open as one, the config last, and return it."""

    # Of a result that is there

    @classmethod
    @abstractmethod
    def find_job(cls, config: Config) -> ResultJob | None:
        """Return the job that made a result of this layout; None where its folder has none."""

    @classmethod
    def as_made(cls, config: Config, job: ResultJob) -> Config:  # noqa: ARG003 (of other layouts)
        """Return a result, divided into the shards that its job made.

        Raises
        ------
        UsageError
            Where the ledger does not tell.
        ShardedStoreError
            Where the metadata can't be read.
        """
        return config

    @classmethod
    @abstractmethod
    def compare_listing(
        cls, config: Config, job: ResultJob | None, seen: Callable[[str], None]
    ) -> Iterator[Difference]:
        """Yield the differences of a result from its ledger that a listing shows; `seen` is told of all sizes."""

    @classmethod
    @abstractmethod
    def stored(cls, entries: Entries, run: Run, shard: Shard) -> Iterator[tuple[str, Entry]]:
        """Yield the entries that the digest of a shard counts, with their keys there."""

    @staticmethod
    def leaves_unknown(identity: Identity, *, finished: bool) -> bool:  # noqa: ARG004 (of other layouts)
        """Tell whether a replaced job may have left files that its own file does not name; see `prune`."""
        return not identity.planned.config


def refuse_to(sink: Any, to: str | None) -> None:
    """Refuse a destination for a sink, which has one of its own."""
    if to is not None:
        raise ChainError(f"to= is for a function alone: {type(sink).__name__} has a destination of its own")
