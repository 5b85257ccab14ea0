"""The table of layouts, by the key in a sink and in the file of a job."""

from __future__ import annotations

from shardedstore.errors import ChainError
from shardedstore.jobs.layouts.base import ResultLayout
from shardedstore.jobs.layouts.function_shards import FunctionShards
from shardedstore.jobs.layouts.result_job import ResultJob, known_records, read_job
from shardedstore.jobs.layouts.shard_folder import ShardFolder
from shardedstore.jobs.layouts.single_zarr import SingleZarr
from shardedstore.jobs.layouts.single_zip import SingleZip
from shardedstore.jobs.manifest import JobManifest
from shardedstore.storage.folders import Folder
from shardedstore.storage.options import StorageOptions
from shardedstore.stores.locations import Config
from shardedstore.transforms.base.sink import FunctionSink, Sink

LAYOUTS: dict[str, type[ResultLayout]] = {
    layout.key: layout for layout in (SingleZarr, SingleZip, ShardFolder, FunctionShards)
}


def choose_layout(
    sink: Sink | FunctionSink, to: str | None = None, storage_options: StorageOptions = None
) -> ResultLayout:
    """Return the layout of a job's result.

    Parameters
    ----------
    sink : Sink or FunctionSink
        The end of the chain.
    to : str, optional
        The destination of the config of a function's stores.
    storage_options : mapping or str, optional
        The storage options of `to`.

    Raises
    ------
    ChainError
        If `to` is given for a sink, which has its own destination, or if the sink's layout is not known.
    """
    found = LAYOUTS.get(sink.layout)
    if found is None:
        raise ChainError(f"{type(sink).__name__} has the layout {sink.layout!r}: say one of {', '.join(LAYOUTS)}")
    return found.of(sink, to, storage_options)


def find_result_job(config: Config) -> ResultJob | None:
    """Return the job that made a result; None if its ledger is not found."""
    return next((job for layout in LAYOUTS.values() if (job := layout.find_job(config)) is not None), None)


def job_in(folder: Folder) -> ResultJob | None:
    """Return the latest job of a folder, which may be unfinished; None if there is none."""
    made = read_job(folder)
    return None if made is None else ResultJob(layout_of(made), folder, made, known_records(folder, made))


def layout_of(manifest: JobManifest) -> type[ResultLayout]:
    """Return the layout of a job's result.

    The job files of version 0.4 name no layout; `must_grow` marks one ordinary Zarr there.
    """
    key = manifest.layout or (SingleZarr if manifest.must_grow else ShardFolder).key
    return LAYOUTS[key]
