"""Find the results of jobs below a prefix."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from shardedstore.jobs.ledger import FOLDER
from shardedstore.jobs.manifest import read_manifest
from shardedstore.jobs.status import JobStatus, read_status
from shardedstore.storage.folders import Folder, open_folder
from shardedstore.storage.options import StorageOptions, take_options
from shardedstore.storage.urls import join_url, normalize

DEPTH = 4  # folders below the prefix
AT_ONCE = 16  # folders that are listed at a time
ZARR = frozenset({"zarr.json", ".zgroup", ".zarray", ".zmetadata"})  # a folder with one of these has no results inside


def list_jobs(
    url: str | os.PathLike[str], *, depth: int = DEPTH, storage_options: StorageOptions = None
) -> list[JobStatus]:
    """Return the states of the jobs whose results are below a prefix.

    Folders are listed one by one, and the inside of a result or of a Zarr is not listed.

    Parameters
    ----------
    url : str or path
        A folder or a URL.
    depth : int
        The number of levels of folders below it.
    storage_options : mapping or str, optional
        The options of its object store; see `ShardedStore.partition`.

    Returns
    -------
    list of JobStatus
        The states, by URL.

    See Also
    --------
    job_status : Read the state of one job.

    Examples
    --------
    >>> import tempfile, dask, zarr
    >>> from shardedstore import ShardedStore, list_jobs
    >>> from shardedstore.transforms import CopyTo, ToZip
    >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
    ...     _ = zarr.create_array(f"{folder}/era5.zarr", name="t", shape=(8,), chunks=(2,), dtype="i4")
    ...     store = ShardedStore.partition(f"{folder}/era5.zarr")
    ...     for sink in ToZip(f"{folder}/results/zips"), CopyTo(f"{folder}/results/copy.zarr"):
    ...         _ = store.map_shards(sink)
    ...     [(status.url.removeprefix(folder), status.state) for status in list_jobs(folder)]
    [('/results/copy.zarr', 'done'), ('/results/zips', 'done')]
    """
    top = normalize(url)
    options = take_options(top, storage_options)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        folders = list(_folders(open_folder(top, options), depth, pool))
        places = [open_folder(folder, options) for folder in folders]
        known = pool.map(lambda place: read_status(place, options) if read_manifest(place) else None, places)
        return sorted((status for status in known if status is not None), key=lambda status: status.url)


def _folders(top: Folder, depth: int, pool: ThreadPoolExecutor) -> Iterator[str]:
    """Yield the folders that have a ledger, level by level."""
    level = [""]
    for _ in range(depth + 1):
        below: list[str] = []
        for path, (names, folders) in zip(level, pool.map(top.listed, level), strict=True):
            if FOLDER in folders:
                yield join_url(top.url, path) if path else top.url
            if FOLDER not in folders and not ZARR & names:
                below += [f"{path}/{name}" if path else name for name in folders]
        level = below
