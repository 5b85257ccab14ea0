"""Show the records of a job's shards in a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dask.utils import format_bytes

from shardedstore.display.html import Html, html_code, html_frame, html_table
from shardedstore.text import count, shown

if TYPE_CHECKING:
    from shardedstore.jobs.records import Records, ShardRecord

HEADS = ("shard", ">entries", ">stored", ">seconds", ">attempts", "worker")
FAILED = (*HEADS[:1], "cause", *HEADS[3:])
MOST_CAUSE = 300  # characters


def records_view(records: Records, url: str) -> Html:
    """Return the HTML of records: the failed shards first, and then a table of the others."""
    failed = [record for record in records if not record.done]
    done = len(records) - len(failed)
    return html_frame(
        f"{count(len(records), 'record')} of shards",
        [f"at {url}", *([f"{len(failed):,} failed"] if failed else [])],
        html_table(FAILED, (_failed(record) for record in failed), len(failed)) if failed else Html(""),
        html_table(HEADS, _done(records), done) if done else Html(""),
    )


def _failed(record: ShardRecord) -> Sequence[str]:
    return html_code(record.shard), shown(record.cause, MOST_CAUSE), *_end(record)


def _done(records: Records) -> Iterator[Sequence[str]]:
    for record in records:
        if record.done:
            yield html_code(record.shard), f"{record.entries:,}", format_bytes(record.nbytes), *_end(record)


def _end(record: ShardRecord) -> Sequence[str]:
    return f"{record.seconds:,.3f}", f"{record.attempts:,}", html_code(record.worker)
