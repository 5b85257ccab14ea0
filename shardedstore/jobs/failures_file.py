"""The file beside the ledger with a line for each shard that failed in the last run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from shardedstore.errors import ShardError
from shardedstore.jobs.ledger import FOLDER
from shardedstore.storage.folders import STORAGE_ERRORS, Folder
from shardedstore.storage.urls import join_url

NAME = f"{FOLDER}/failures.jsonl"
FIELDS = (
    "shard",
    "cause",
    "remedy",
    "code",
    "path",
    "key",
    "url",
    "error_type",
    "attempts",
)  # of `ShardError` that are read
logger = logging.getLogger("shardedstore")


def failures_url(folder: str) -> str:
    """Return the URL of the file of a destination's failures."""
    return join_url(folder, NAME)


def read_failures(folder: Folder) -> list[ShardError]:
    """Return the failures of the last run that has ended; empty if the file is missing or damaged."""
    try:
        lines = msgspec.json.Decoder(dict[str, Any]).decode_lines(folder.read(NAME))
        return [ShardError(**{name: line[name] for name in FIELDS if name in line}) for line in lines]
    except (*STORAGE_ERRORS, msgspec.MsgspecError, TypeError):
        return []


def write_failures(folder: Folder, failures: Sequence[ShardError]) -> None:
    """Write the failures of a run, or remove those of an earlier one; nothing depends on the file."""
    try:
        if failures:
            folder.write(NAME, msgspec.json.Encoder().encode_lines([error.to_dict() for error in failures]))
        elif folder.nbytes(NAME) is not None:
            folder.remove(NAME)
    except STORAGE_ERRORS as error:
        logger.warning("the failed shards can't be listed at %s: %s", failures_url(folder.url), error)
