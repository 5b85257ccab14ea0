"""The end of a move: delete the rest of the source when the result is complete."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby

from toolz import partition_all
from zarr.abc.store import Store

from shardedstore.config.document import from_dict
from shardedstore.errors import DestinationError
from shardedstore.fields import MOVING
from shardedstore.jobs.ledger import Ledger
from shardedstore.jobs.lock import held
from shardedstore.jobs.manifest import ledger_of
from shardedstore.jobs.move.state import latest_move, write_state
from shardedstore.jobs.partial import find_job_folder, read_config
from shardedstore.notices import Notice
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Folder, open_folder
from shardedstore.storage.options import StorageOptions, take_options
from shardedstore.storage.urls import is_remote, normalize
from shardedstore.stores.hierarchy import Node, read_nodes
from shardedstore.stores.http_index import ROOTS
from shardedstore.stores.locations import Config, Location, Place
from shardedstore.stores.no_zarr import is_zarr
from shardedstore.stores.reader import reader_of, tags_of
from shardedstore.zarr.metadata import (
    CONSOLIDATED_V2,
    DOCUMENTS,
    ArrayMeta,
    drop_consolidated,
    dump_json,
    parse_json,
    parse_node,
)

logger = logging.getLogger("shardedstore")
AT_ONCE = 1000  # keys that are compared at a time
LEFT = (
    "the source has keys that are missing or different in the result: they stay, with the documents of the source. "
    "Check these keys, remove them, and run the same command again"
)


def end_move(ledger: Ledger, source: Location, config: Config, *, is_exact: bool) -> tuple[Notice, ...]:
    """Delete the rest of the source after the config is published; return a notice of the remaining keys.

    `is_exact` tells that the documents of the result equal those of the source.

    Raises
    ------
    DestinationError
        If shards are left that were not moved, or if the rest can't be deleted.
    """
    left = sum(record.moved != "deleted" for record in ledger.read().values())
    if left:
        raise DestinationError(
            f"{left:,} shards of {source.show()} are not moved, so the rest of the source was not deleted: run the same command again"
        )
    write_state(ledger, source, "rest")
    return delete_rest(ledger, source, config, is_exact=is_exact)


def delete_rest(ledger: Ledger, source: Location, config: Config, *, is_exact: bool) -> tuple[Notice, ...]:
    """Delete the rest of a source: first files that the result also has, then the documents, from the root down."""
    folder = _folder(source)
    try:
        names = _names(source, folder)
        others = [name for name in names if name != MOVING]
        kept = tuple(_not_in(config, source.open(), others, is_exact=is_exact))
        if kept:
            notice = Notice(LEFT, kept)
            logger.warning("%s", notice)
            return (notice,)
        documents = [name for name in names if name.rpartition("/")[2] in DOCUMENTS]
        folder.remove_all([name for name in names if name != MOVING and name not in set(documents)])
        for _, level in groupby(sorted(documents, key=_turn), key=_depth):
            folder.remove_all(list(level))
        folder.remove_empty({name.rpartition("/")[0] for name in names})
        folder.remove(MOVING)
        if source.shared_groups:
            _remove_folders(folder, [path for path in read_nodes(config) if path not in source.shared_groups])
        else:
            _remove_folders(folder, [""])
            _remove_root(folder)
        write_state(ledger, source, "ended")
    except STORAGE_ERRORS as error:
        raise DestinationError(
            f"the result at {ledger.folder.url!r} is complete, but the rest of {source.show()} could not be deleted: {explain(error)}; run the same "
            "command again"
        ) from error
    return ()


def _folder(source: Location) -> Folder:
    place = source.whole
    assert isinstance(place, Place)
    return open_folder(place.url, place.options)


def _names(source: Location, folder: Folder) -> list[str]:
    """Return the keys of a source that a move deletes; of a part, no files in groups with other members."""
    if not source.shared_groups:
        return [os.path.normpath(name) for name, _ in folder.sizes()]
    keys = (key for key, _, _ in tags_of(source.open()))
    return [key for key in keys if key.rpartition("/")[0] not in source.shared_groups]


def _depth(name: str) -> int:
    return name.count("/")


def _turn(name: str) -> tuple[int, int]:
    """Return the sort key of a document.

    Documents that make the source a Zarr are deleted first, so that nobody opens the source any more.
    """
    order, last = (*ROOTS, CONSOLIDATED_V2), name.rpartition("/")[2]
    return _depth(name), order.index(last) if last in order else len(order)


def _remove_folders(folder: Folder, paths: Iterable[str]) -> None:
    """Remove empty folders at and below some paths on a local disk."""
    for path in paths if not is_remote(folder.url) else ():
        walk = os.walk(os.path.join(folder.url, path))
        folder.remove_empty(os.path.relpath(parent, folder.url) for parent, _, _ in walk)


def _remove_root(folder: Folder) -> None:
    """Remove the folder of a source on a local disk."""
    if not is_remote(folder.url):
        with suppress(OSError):  # files that are not part of the Zarr, or a link to the folder
            os.rmdir(folder.url)


def _not_in(result: Config, source: Store, names: list[str], *, is_exact: bool) -> Iterator[str]:
    """Yield the keys of a source that are missing or different in a result.

    If `is_exact` is False, steps have changed the documents of the result. Then a document is only compared by the kind and
    the shape of its node.
    """
    nodes = {} if is_exact else read_nodes(result)
    for some in partition_all(AT_ONCE, names):
        sides = zip(some, reader_of(source).fetch(some), reader_of(result.open()).fetch(some), strict=True)
        yield from (
            name for name, mine, its in sides if not (_is_equal(name, mine, its) or _has_node(name, mine, nodes))
        )


def _is_equal(name: str, mine: bytes | None, its: bytes | None) -> bool:
    """Check that a key is missing in the source or has equal bytes in the result; consolidated metadata is not
    compared.
    """
    path, _, last = name.rpartition("/")
    if mine is None or mine == its or last == CONSOLIDATED_V2:
        return True
    if its is None or last != "zarr.json":
        return False
    one, other = (dump_json(parse_json(drop_consolidated(data, path) or data, path, last)) for data in (mine, its))
    return one == other


def _has_node(name: str, mine: bytes | None, nodes: Mapping[str, Node]) -> bool:
    """Check that the result has the node of a document, with the same shape."""
    path, _, last = name.rpartition("/")
    if mine is None or last not in DOCUMENTS or path not in nodes:
        return False
    meta, found = parse_node({last: mine}, path), nodes[path].meta
    return not isinstance(meta, ArrayMeta) or (isinstance(found, ArrayMeta) and found.shape == meta.shape)


def finish_move(
    destination: str | os.PathLike[str], storage_options: StorageOptions = None, source: str | None = None
) -> str | None:
    """Delete the rest of the source after a complete move; `source` is its expected location.

    Returns
    -------
    str or None
        The name of the moved source; None if the destination has no such move, or if shards are not moved yet.
    """
    url = normalize(destination)
    options = take_options(url, storage_options)
    place = find_job_folder(url, options)
    found = None if place is None else latest_move(place)
    if place is None or found is None or found[1].state == "shards":
        return None
    manifest, state = found
    config, base = read_config(place, options), from_dict(manifest.config).base
    whole = base.whole
    if not isinstance(whole, Place) or (source is not None and normalize(source) != whole.url):
        return None
    if state.state == "rest" and config is not None:
        with held(place):
            left = delete_rest(ledger_of(place, manifest), base, config, is_exact=manifest.preview.mixes == "blocks")
        return None if left else state.source
    return None if _is_there(base, whole) else state.source


def _is_there(base: Location, whole: Place) -> bool:
    """Tell whether a source is there again after its move."""
    return bool(_names(base, _folder(base))) if base.shared_groups else is_zarr(whole.url, whole.options)
