"""The files and the bytes of a source, counted by a listing of its keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from shardedstore.errors import DestinationError
from shardedstore.jobs.estimates.amounts import Amount
from shardedstore.jobs.estimates.arrays import ArrayEstimate
from shardedstore.jobs.prepare import whole_source
from shardedstore.jobs.shards import Plan, Run, location_of
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.publish import is_temporary
from shardedstore.stores.location import Location
from shardedstore.stores.reader import reader_of, source_of, tags_of
from shardedstore.zarr.metadata import METADATA_NAMES
from shardedstore.zarr.paths import parents

THREADS = 16


class Counted(NamedTuple):
    """The counted files of a source.

    Attributes
    ----------
    arrays : list of ArrayEstimate
        The arrays, with exact numbers of files and bytes if they could be counted.
    files, nbytes : Amount or None
        The numbers of all files and bytes of the source, with metadata; None if they can't be counted.
    """

    arrays: list[ArrayEstimate]
    files: Amount | None = None
    nbytes: Amount | None = None


def count_source(arrays: list[ArrayEstimate], plan: Plan) -> Counted:
    """List a source, and return arrays with counted files and bytes.

    A source of one component is listed once. Of a source of several components, the objects are counted, and not the
    chunks in them.

    Raises
    ------
    DestinationError
        If the source can't be listed.
    """
    source = whole_source(plan.config)
    try:
        return _count_objects(arrays, plan) if source is plan.config else _count_keys(arrays, source)
    except STORAGE_ERRORS as error:
        raise DestinationError(
            f"the files of the source can't be counted: {explain(error)}; plan without count"
        ) from error


def _count_keys(arrays: list[ArrayEstimate], source: Location) -> Counted:
    store = source.open()
    if not reader_of(store).has_tags:
        return Counted(arrays)
    start = len(source_of(store).path) + 1 if source_of(store).path else 0
    found, whole = defaultdict[str | None, list[int]](lambda: [0, 0]), [0, 0]
    array_of = _array_finder({one.path for one in arrays})
    for key, nbytes, _ in tags_of(store):
        folder, _, name = key[start:].rpartition("/")
        if not is_temporary(name):
            for counts in (whole, found[None if name in METADATA_NAMES else array_of(folder)]):
                counts[0] += 1
                counts[1] += nbytes
    objects = None if source.origin.is_folder else source.origin.measure()
    files, total = objects or whole
    return Counted([_exact(one, *found[one.path]) for one in arrays], Amount(files, "exact"), Amount(total, "exact"))


def _array_finder(paths: set[str]) -> Callable[[str], str | None]:
    """Return a function that finds the array of a folder; neighbouring keys lie in the same folder."""
    known: dict[str, str | None] = {}

    def find(folder: str) -> str | None:
        if folder not in known:
            if len(known) > THREADS:
                known.clear()
            known[folder] = next((path for path in (folder, *parents(folder)) if path in paths), None)
        return known[folder]

    return find


def _exact(array: ArrayEstimate, files: int, nbytes: int) -> ArrayEstimate:
    """Return an array with counted files; its size after the chain follows from the sampled ratio."""
    share = files / array.files.value if array.files.value else 1.0
    before, made = array.stored, array.stored_after
    if made is not None and before is not None:  # a sample may have found no chunk
        made = Amount(round(made.value * nbytes / before.value), "sampled") if before.value else None
    return replace(
        array,
        files=Amount(files, "exact"),
        stored=Amount(nbytes, "exact"),
        stored_after=made,
        files_after=min(array.files_after, round(array.files_after * share)),
    )


def _count_objects(arrays: list[ArrayEstimate], plan: Plan) -> Counted:
    """Count the objects of a source of several components."""
    locations = {location.files_url: location for run in plan.runs for location in _locations(run)}
    if None in locations:
        return Counted(arrays)
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = [size for size in pool.map(lambda location: location.measure(), locations.values()) if size is not None]
    return Counted(
        arrays,
        Amount(sum(files for files, _ in sizes), "exact"),
        Amount(sum(nbytes for _, nbytes in sizes), "exact"),
    )


def _locations(run: Run) -> Iterator[Location]:
    """Yield the locations of the objects of a run's shards; a base in the config has none."""
    if run.location.is_in_config:
        return
    for shard in run.shards():
        if run.members is None:
            yield location_of(run, shard).held
        else:
            yield from _members(run, shard.block_name, shard.members)


def _members(run: Run, block: str, names: Iterable[str]) -> Iterator[Location]:
    return (run.location.at_member(block, name).held for name in names)
