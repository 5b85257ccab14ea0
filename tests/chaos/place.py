"""The destination of a trial, on a local disk or in an object store, and its contents."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dask
from conformance import contents_of
from helpers_jobs import cube_at
from servers import S3Server

from chaos.work import ONE_ZIP, SOURCE, Work
from shardedstore import ShardedStore
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.ledger import FOLDER, Ledger, Record
from shardedstore.jobs.make_plan import make_plan
from shardedstore.jobs.manifest import ledger_of, read_manifest
from shardedstore.storage.blobs import open_blob
from shardedstore.storage.folders import Folder, open_folder
from shardedstore.storage.publish import is_temporary
from shardedstore.storage.urls import BESIDE, is_remote, is_zip_name

KINDS = (
    ("zips", False),
    ("copy", False),
    ("sharding", False),
    ("zips", True),
    (ONE_ZIP, False),
)  # sinks, and whether data are recompressed
NO_JOB = Ledger(open_folder("/nonexistent"), 1)


def target_name(sink: str) -> str:
    """Return the name of a result."""
    return "out.zarr.zip" if sink == ONE_ZIP else "out.zarr"


def read_all(url: str) -> bytes:
    """Return the bytes of a file or object."""
    source = open_blob(url)
    return bytes(source.read(0, source.tail(1)[1]))


@dataclass(frozen=True)
class Place:
    """The destination of a job: its URL, and whether it is one Zarr or zip with the ledger beside it."""

    url: str
    is_one_zarr: bool

    @property
    def folders(self) -> dict[str, Folder]:
        """All folders that the job writes to, by name."""
        found = {} if is_zip_name(self.url) else {"": open_folder(self.url)}
        return found | ({BESIDE: open_folder(self.url + BESIDE)} if self.is_one_zarr else {})

    @property
    def ledger(self) -> Ledger:
        """The latest job's ledger."""
        folder = open_folder(self.url + BESIDE if self.is_one_zarr else self.url)
        manifest = read_manifest(folder)
        return NO_JOB if manifest is None else ledger_of(folder, manifest)

    def records(self) -> dict[int, Record]:
        """The shards with a record of success."""
        return {number: record for number, record in self.ledger.read().items() if not record.failed}

    def contents(self) -> dict[str, bytes]:
        """All files that a reader of the result can find, and the config, but not the files of the next job."""
        found: dict[str, bytes] = {}
        with ThreadPoolExecutor(8) as pool:
            for start, folder in self.folders.items():
                private = f"{FOLDER}/", "documents/" if start else f"{FOLDER}/"
                names = [name for name, _ in folder.sizes() if not name.startswith(private)]
                found.update(zip((f"{start}/{name}" for name in names), pool.map(folder.read, names), strict=True))
        if is_zip_name(self.url):
            found["zip"] = read_all(self.url)
        config = f"{BESIDE if self.is_one_zarr else ''}/{FILE_NAME}"
        return {
            name: data.replace(self.url.encode(), b"here") if name == config else data for name, data in found.items()
        }

    def read(self) -> dict[str, bytes]:
        """The contents of the result as a Zarr."""
        return contents_of(ShardedStore.load(self.url + BESIDE if self.is_one_zarr else self.url, allow=[self.url]))

    def temporaries(self) -> list[str]:
        """Files that killed processes left on a local disk."""
        if is_remote(self.url):
            return []
        walks = (os.walk(self.url + end) for end in ("", BESIDE))
        return [
            os.path.join(parent, name)
            for walk in walks
            for parent, _, names in walk
            for name in names
            if is_temporary(name)
        ]


@dataclass(frozen=True)
class Scene:
    """Shared state of trials: a scratch folder, a source with its shards' names by number, and optionally an S3 server.

    It also has the results of undisturbed jobs (objects and contents), by sink and by whether data are recompressed.
    """

    folder: Path
    source: Path
    names: dict[int, str]
    expected: dict[tuple[str, bool], tuple[dict[str, bytes], dict[str, bytes]]]
    server: S3Server | None

    def environment(self, endpoint: str = "", **more: str) -> dict[str, str]:
        """Environment variables for the server, or for a proxy in front of it."""
        if self.server is None:
            return more
        found = self.server.environment()
        return {**found, **({"AWS_ENDPOINT_URL": endpoint} if endpoint else {}), **more}


def make_scene(folder: Path, server: S3Server | None) -> Scene:
    """Build the source, and run each kind of job once without faults, in this process."""
    source = cube_at(folder / "source.zarr")
    expected = {}
    for sink, recompress in KINDS:
        target = folder / f"undisturbed-{sink}-{recompress}" / target_name(sink)
        target.parent.mkdir()
        work = Work(str(source), str(target), sink, str(target.parent / "trace"), 0, 1 << 30, recompress)
        with dask.config.set(scheduler="synchronous"):
            work.run()
        place = Place(str(target), sink != "zips")
        expected[sink, recompress] = place.contents(), place.read()
    plan = make_plan(ShardedStore.partition(source, SOURCE.shards).config)
    names = {shard.number: shard.name for run in plan.runs for shard in run.shards()}
    return Scene(folder, source, names, expected, server)
