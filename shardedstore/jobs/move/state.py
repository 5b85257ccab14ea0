"""The state of a move: a file at the destination, and a marker in the source that names the destination."""

from __future__ import annotations

import re
import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal

import msgspec

from shardedstore.errors import DestinationError, PartitionError
from shardedstore.fields import MOVING
from shardedstore.jobs.ledger import FOLDER, Ledger
from shardedstore.jobs.manifest import JobManifest, generations, read_generation, read_manifest
from shardedstore.jobs.move.lease import WAIT
from shardedstore.jobs.open_destination import unlike_source
from shardedstore.jobs.preflight import places_of
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Folder, open_folder
from shardedstore.storage.publish import TEMPORARY
from shardedstore.stores.locations import Config, Location, Place

_NAME = re.compile(r"move-\d+\.json")


class MoveState(msgspec.Struct, frozen=True):
    """The state of a move: `rest` begins when the config is published, and `ended` when the source is deleted.

    `nonce` is the nonce of the job, and `source` is the name of its source.
    """

    nonce: str
    source: str
    state: Literal["shards", "rest", "ended"] = "shards"
    begun: str = ""


class Marker(msgspec.Struct, frozen=True):
    """The content of the marker in a source: the destination of its move, and the nonce of the job."""

    destination: str
    nonce: str


def is_state(name: str) -> bool:
    """Tell whether a file below `FOLDER` has the name of a state."""
    return _NAME.fullmatch(name) is not None


def _name(generation: int) -> str:
    return f"{FOLDER}/move-{generation}.json"


def read_state(place: Folder, manifest: JobManifest) -> MoveState | None:
    """Return the state of the move of a job; None if it moves nothing."""
    try:
        found = msgspec.json.decode(place.read(_name(manifest.generation)), type=MoveState)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DestinationError(
            f"{_name(manifest.generation)!r} in {place.url!r} can't be read ({error}), so it is unknown which chunks of the source are "
            "deleted: restore it from a copy"
        ) from None
    return found if found.nonce == manifest.nonce else None


def latest_move(place: Folder) -> tuple[JobManifest, MoveState] | None:
    """Return the last job at a destination that is a move, and its state."""
    if not any(map(is_state, place.names(FOLDER))):
        return None
    for number in reversed(generations(place)):
        manifest = read_generation(place, number)
        if (state := read_state(place, manifest)) is not None:
            return manifest, state
    return None


def write_state(ledger: Ledger, source: Location, state: Literal["shards", "rest", "ended"]) -> None:
    """Write the state of a job's move; it is durable when this function returns."""
    before = read_state(ledger.folder, read_generation(ledger.folder, ledger.generation))
    begun = datetime.now(UTC).isoformat(timespec="seconds") if before is None else before.begun
    found = MoveState(ledger.nonce, source.show(), state, begun)
    ledger.folder.write(_name(ledger.generation), msgspec.json.encode(found))


def check_destination_of_move(place: Folder, wanted: JobManifest, *, is_move: bool) -> None:
    """Refuse a job at the destination of another move.

    Raises
    ------
    DestinationError
        If the move belongs to another job, has ended, or began with other metadata of the source.
    """
    try:
        found = latest_move(place)
    except STORAGE_ERRORS as error:
        raise DestinationError(f"the destination {place.url!r} can't be used: {explain(error)}") from error
    if found is None:
        return
    manifest, state = found
    where = f"the destination {place.url!r}"
    if state.state == "ended":
        raise DestinationError(
            f"{where} holds the result of a finished move of {state.source}, and the location of the source now holds another "
            "source: name another destination"
        )
    if not wanted.is_of(manifest):
        why = unlike_source(manifest, wanted)
        raise DestinationError(
            f"{where} holds a part of {state.source}, whose chunks are being moved there, and this is another job, or the source's metadata "
            f"changed since{f' ({why})' if why else ''}: restore the metadata, run the same command to the end, and then convert the new data"
        )
    if not is_move:
        raise DestinationError(
            f"{where} holds a part of {state.source}, whose chunks are being moved there: continue with move= (--move)"
        )


def read_marker(place: Folder) -> Marker | None:
    """Return the marker in a source; None if it is not being moved."""
    with suppress(FileNotFoundError, NotADirectoryError, msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(place.read(MOVING), type=Marker)
    return None


def check_source_is_whole(config: Config, destination: Folder | None) -> None:
    """Refuse a source if another job has moved some of its chunks.

    Raises
    ------
    PartitionError
        If a folder of the source has the marker of another destination.
    """
    for place in places_of(location for _, location in config.locations()):
        marker = _marker_at(place)
        if marker is not None and not _is_own(marker, destination):
            raise PartitionError(
                f"{place.show()} is being moved to {marker.destination!r}, and its moved chunks would be read as fill values here: "
                f"ShardedStore.load({marker.destination!r}, partial=True, allow=[...]) opens both as one"
            )


def _marker_at(place: Place) -> Marker | None:
    if not place.is_folder or place.undeletable is not None:
        return None
    try:
        return read_marker(open_folder(place.url, place.options))
    except STORAGE_ERRORS:  # an unreadable folder raises an error when it is needed
        return None


def _is_own(marker: Marker, destination: Folder | None) -> bool:
    manifest = None if destination is None else read_manifest(destination)
    return manifest is not None and manifest.nonce == marker.nonce


def begin_move(ledger: Ledger, source: Place, *, is_new: bool) -> None:
    """Write the state and the marker, after a check that the source can be written to and deleted from.

    If the job is not new, workers of an earlier run without move may still read. They see the marker while this
    function waits.

    Raises
    ------
    DestinationError
        If the source is read-only; nothing was deleted.
    """
    folder = open_folder(source.url, source.options)
    probe = f"{TEMPORARY}move-0-{secrets.token_hex(4)}.tmp"
    try:
        has_begun = read_marker(folder) is not None
        folder.write(probe, b"")
        folder.remove(probe)
        write_state(ledger, source, "shards")
        folder.write(MOVING, msgspec.json.encode(Marker(ledger.folder.url, ledger.nonce)))
        if not (is_new or has_begun):
            time.sleep(WAIT)
    except STORAGE_ERRORS as error:
        raise DestinationError(
            f"{source.show()} can't be moved, as it can't be written to and deleted from: {explain(error)}; nothing was deleted"
        ) from error
