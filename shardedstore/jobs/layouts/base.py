"""The protocol of layouts: the arrangement of a job's result at its destination."""

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
from shardedstore.jobs.lock import held, held_by_slice
from shardedstore.jobs.manifest import JobManifest, has_manifest, published_job
from shardedstore.jobs.open_destination import check_destination, open_destination
from shardedstore.jobs.preflight import find_unreadable, find_unwritable
from shardedstore.jobs.progress import Progress
from shardedstore.jobs.result_preview import ResultPreview
from shardedstore.jobs.shards import Plan, Run
from shardedstore.notices import Notice
from shardedstore.storage.folders import Folder, open_folder
from shardedstore.storage.inventory import ListedInventory
from shardedstore.storage.options import NONE, Options, StorageOptions
from shardedstore.storage.urls import is_remote, join_url, object_url
from shardedstore.stores.entries import Entry
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Config, Location, Place
from shardedstore.transforms.base.chain import Chain
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.transforms.base.sink import Present

if TYPE_CHECKING:
    from zarr.abc.store import Store

    from shardedstore.jobs.job import Job
    from shardedstore.jobs.summary import Summary


class ShardSource(Protocol):
    """The source of one shard, opened by a worker; see `shardedstore.jobs.worker.ShardReader`."""

    run: Run
    shard: Shard
    component: Store

    def entries(self) -> Entries:
        """Return the entries after the steps of the chain."""

    def look(self) -> str:
        """Return the state of the source for a record, without a call of `entries`."""

    def check(self) -> None:
        """Raise CorruptError if the source's listing has changed since it was opened."""


AGAIN = "run the same job again, and it goes on from there"


@dataclass(frozen=True)
class ResultLayout(ABC):
    """The arrangement of a job's result at its destination.

    A layout names the outputs, checks the destination, finds existing shards, publishes the result, and knows the job of a
    result.

    Parameters
    ----------
    sink : Sink or FunctionSink
        The end of the chain.
    url : str
        The URL or absolute path of the result; empty if the shards are only returned.
    options : Options
        The storage options of the destination.

    Attributes
    ----------
    key : str
        The name of the layout in sinks and in the files of jobs.
    must_grow : bool
        Whether a job continues an earlier one only if arrays and members were added or have grown.
    has_objects : bool
        Whether the sink writes each shard, including the base, as one object.
    data_show_losses : bool
        Whether a comparison of decoded data finds all losses, so that it needs no listing.
    config_names_shards : bool
        Whether the config names the objects of all shards.
    joins_shards : bool
        Whether the end of a job joins the written shards to one file.
    writes_over : bool
        Whether a changed shard replaces files of the published result while the job runs.
    """

    sink: Any
    url: str
    options: Options = NONE

    key: ClassVar[str]
    must_grow: ClassVar[bool] = False
    has_objects: ClassVar[bool] = True
    config_names_shards: ClassVar[bool] = True
    joins_shards: ClassVar[bool] = False
    writes_over: ClassVar[bool] = False
    data_show_losses: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def of(cls, sink: Any, to: str | None, storage_options: StorageOptions) -> Self:
        """Return the layout of a sink's result; only functions take `to` and its options."""

    @staticmethod
    def folder_at(url: str) -> str:
        """Return the folder of the config and the ledger of a result at a URL."""
        return url

    @property
    def folder(self) -> str:
        """The folder of the config and the ledger."""
        return self.folder_at(self.url)

    @property
    def place(self) -> Folder:
        """The folder of the config and the ledger, opened."""
        return open_folder(self.folder, self.options)

    @property
    def is_remote(self) -> bool:
        """Whether the destination is an object store."""
        return is_remote(self.url)

    @property
    def written_urls(self) -> list[str]:
        """The folders that workers write to."""
        return [self.folder, self.url]

    @property
    def destination(self) -> str | None:
        """The folder of the config and the ledger, as shown to users; None if there is none."""
        return self.folder

    @property
    def opened_url(self) -> str | None:
        """The URL that opens the result; None if only the returned store opens it."""
        return join_url(self.folder, FILE_NAME)

    @property
    def again(self) -> str:
        """The end of the message about failed shards: how to continue the job."""
        return f": {AGAIN}"

    # Before the job

    def check_options(self, *, digest: bool, consolidated: bool | None) -> None:  # noqa: B027 (most layouts take all)
        """Raise ChainError for options of a job that the layout does not support."""

    def check(self, plan: Plan) -> None:
        """Refuse a destination that can't hold the result; nothing is written.

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
        """Raise UsageError if the result can't have holes."""

    def notices(self, nodes: Mapping[str, Node]) -> Iterable[Notice]:
        """Return warnings about effects of the layout on the metadata after the steps."""
        return ()

    @abstractmethod
    def preview(self, plan: Plan, chain: Chain) -> ResultPreview:
        """Return a preview of the result, for the file of the job."""

    def find(self, wanted: JobManifest, overwrite: bool) -> JobManifest | None:
        """Return the job at the destination to continue; None for a new job; see `check_destination`."""
        return check_destination(self.place, wanted, overwrite)

    def open(self, wanted: JobManifest, overwrite: bool) -> JobManifest:
        """Prepare the destination for writing, and return the job there; see `open_destination`."""
        return open_destination(self.place, wanted, overwrite)

    def published(self) -> JobManifest | None:
        """Return the job of the published result; None if there is none."""
        return published_job(self.place)

    def ledger(self, generation: int, nonce: str) -> Ledger:
        """Return the ledger of a job."""
        return Ledger(self.place, generation, nonce)

    def mend(self, job: Job, plan: Plan) -> int:
        """Mark the shards with losses that only a full listing shows, and return their number."""
        return 0

    # While it runs

    def held(self, numbers: Callable[[], Progress]) -> AbstractContextManager[threading.Event]:
        """Hold the lock of the destination; see `shardedstore.jobs.lock.held`."""
        return held(self.place, numbers)

    def held_by_slice(
        self, job: str, part: str, numbers: Callable[[], Progress]
    ) -> AbstractContextManager[threading.Event]:
        """Hold the lock for a slice; see `shardedstore.jobs.lock.held_by_slice`."""
        return held_by_slice(self.place, job, part, numbers)

    def find_missing(self, generation: int, sources: Iterable[Place]) -> str | None:
        """Return the reason why this process can't do the job; None if it can."""
        return find_unreadable(sources) or find_unwritable(self.folder, self.options, generation)

    def has_manifest(self, ledger: Ledger) -> bool:
        """Tell whether the destination still belongs to the job."""
        return has_manifest(ledger)

    @abstractmethod
    def write(self, source: ShardSource, job: Job, generation: int) -> Record:
        """Write a shard under its name of a generation, and return its record.

        Generation 0 stands for the job's own. After an exception, no reader finds an incomplete shard.
        """

    def location_of_record(self, run: Run, record: Record, job: Job) -> Location:
        """Return the location of a run's published shards, of the generation of a record.

        Raises
        ------
        NotImplementedError
            If shards can't be opened one by one before the job ends.
        """
        raise NotImplementedError(type(self).__name__)

    def returned(self, record: Record) -> dict[int, Record]:
        """Return the records to send with the summary of a task because no ledger keeps them."""
        return {}

    def inventory(self) -> Present | None:
        """Return a listing of the destination; None if looking up each shard is fast."""
        if not self.is_remote:
            return None
        place = self.place
        return ListedInventory((object_url(place.url, name), nbytes) for name, nbytes in place.sizes())

    @abstractmethod
    def present(self, run: Run, records: Mapping[int, Record], job: Job, present: Present) -> Iterator[int]:
        """Yield the numbers of a run's shards that are recorded as done and still there.

        A run may have a million shards.
        """

    # At its end

    def records(self, ledger: Ledger, outcome: Summary) -> dict[int, Record]:
        """Return the records of all shards, by number."""
        return ledger.read()

    @abstractmethod
    def publish(self, job: Job, plan: Plan, records: Mapping[int, Record]) -> Config:
        """Write the files that open the result as one store, the config last, and return the config."""

    # For a finished result

    @classmethod
    @abstractmethod
    def find_job(cls, config: Config) -> ResultJob | None:
        """Return the job that made a result of this layout; None if its folder has no job."""

    @classmethod
    def as_made(cls, config: Config, job: ResultJob) -> Config:  # noqa: ARG003 (other layouts use it)
        """Return a result divided into the shards of its job.

        Raises
        ------
        UsageError
            If the ledger does not have the division.
        ShardedStoreError
            If the metadata can't be read.
        """
        return config

    @classmethod
    @abstractmethod
    def compare_listing(
        cls, config: Config, job: ResultJob | None, seen: Callable[[str], None]
    ) -> Iterator[Difference]:
        """Yield the differences between a result and its ledger that a listing shows.

        `seen` is called with lines of text that contain all sizes, for a digest of the listing.
        """

    @classmethod
    @abstractmethod
    def stored(cls, entries: Entries, run: Run, shard: Shard) -> Iterator[tuple[str, Entry]]:
        """Yield the entries that the digest of a shard covers, with their keys in the digest."""

    @staticmethod
    def leaves_unknown(manifest: JobManifest, *, finished: bool) -> bool:  # noqa: ARG004 (other layouts use it)
        """Tell whether a replaced job may have left files that its job file does not name; see `prune`."""
        return not manifest.preview.config


def refuse_to(sink: Any, to: str | None) -> None:
    """Raise ChainError if a destination is given for a sink, which has its own."""
    if to is not None:
        raise ChainError(f"to= is for a function alone: {type(sink).__name__} has a destination of its own")
