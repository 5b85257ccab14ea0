"""The events of a job's log: one JSON object a line. ``make schema`` writes their JSON Schema."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shardedstore.jobs.progress import Progress

FILE = Path(__file__).parents[1] / "log.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
State = Literal["done", "holes", "failed", "stopped", "error"]
Time = Annotated[str, Meta(description="The time of the event, in UTC.", extra_json_schema={"format": "date-time"})]


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    time: Time
    job: Annotated[str, Meta(description="The name of the job; empty if it has none.")] = ""


class Start(_Event, frozen=True, kw_only=True, tag_field="event", tag="start"):
    """The job starts."""

    version: Annotated[str, Meta(description="The version of shardedstore.")]
    chain: Annotated[str, Meta(description="The names of the steps and of the sink.")]
    destination: Annotated[str | None, Meta(description="The folder of the config and the ledger.")]
    total: Annotated[int, Meta(description="The number of shards.")]
    decoded_nbytes: Annotated[int, Meta(description="The size of the decoded data, in bytes.")]
    notices: Annotated[list[str], Meta(description="The warnings about the job.")]


class ShardBatch(_Event, frozen=True, kw_only=True, tag_field="event", tag="shards"):
    """A task has ended: a batch of shards. The first event has the shards of earlier runs, and no worker."""

    worker: Annotated[str, Meta(description="The host and the process of the worker.")]
    done: Annotated[int, Meta(description="The number of shards that the task made.")]
    skipped: Annotated[int, Meta(description="The number of shards that were done before.")]
    failed: Annotated[int, Meta(description="The number of shards that failed.")]
    entries: Annotated[int, Meta(description="The number of entries that were written.")]
    nbytes: Annotated[int, Meta(description="The number of stored bytes that were written.")]
    decoded_nbytes: Annotated[int, Meta(description="The decoded bytes of the shards that have ended.")]
    seconds: Annotated[float, Meta(description="The time that the task took.")]


class Retry(_Event, frozen=True, kw_only=True, tag_field="event", tag="retry"):
    """A shard has ended after more than one attempt."""

    shard: Annotated[str, Meta(description="The name of the shard.")]
    attempts: Annotated[int, Meta(description="The number of attempts.")]
    cause: Annotated[str, Meta(description="The cause of the last attempt that failed.")]
    worker: Annotated[str, Meta(description="The host and the process of the worker.")]


class Throttle(_Event, frozen=True, kw_only=True, tag_field="event", tag="throttle"):
    """A busy server refused requests, which were repeated."""

    requests: Annotated[int, Meta(description="The number of refused requests of a task.")]
    worker: Annotated[str, Meta(description="The host and the process of the worker.")]


class Failure(_Event, frozen=True, kw_only=True, tag_field="event", tag="failure"):
    """Shards have failed for one cause. The event comes at the first failure of a cause, the tenth, the hundredth, and so on."""

    code: Annotated[str, Meta(description="The kind of the cause; see docs/errors.md.")]
    cause: Annotated[str, Meta(description="The type and the message of the exception.")]
    count: Annotated[int, Meta(description="The number of shards that have failed for this cause.")]
    shard: Annotated[str, Meta(description="The name of the last shard that failed for it.")]
    key: Annotated[str | None, Meta(description="The key in the source, if it is known.")]
    url: Annotated[str | None, Meta(description="The URL of the shard's source, if it has one.")]
    attempts: Annotated[int, Meta(description="The number of attempts.")]
    worker: Annotated[str, Meta(description="The host and the process of the worker.")]


class Numbers(_Event, frozen=True, kw_only=True, tag_field="event", tag="progress"):
    """The numbers of the job, once a minute."""

    progress: Progress


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """The shards that failed for one cause."""

    code: Annotated[str, Meta(description="The kind of the cause; see docs/errors.md.")]
    cause: Annotated[str, Meta(description="The type and the message of the exception.")]
    count: Annotated[int, Meta(description="The number of shards.")]
    shards: Annotated[list[str], Meta(description="The names of the first shards.")]


class End(_Event, frozen=True, kw_only=True, tag_field="event", tag="end"):
    """The job has ended: the last line of a log, and the line of ``--json``."""

    state: Annotated[
        State,
        Meta(
            description="done: all shards. holes: done with accepted failures. failed: shards failed. stopped: by a signal or the time limit. error: the job can't run."
        ),
    ]
    message: Annotated[str, Meta(description="The error; empty if there is none.")] = ""
    error: Annotated[str | None, Meta(description="The class of the error.")] = None
    exit_code: Annotated[int | None, Meta(description="The exit code of the command; null in the log of a job.")] = None
    destination: Annotated[str | None, Meta(description="The folder of the config and the ledger.")] = None
    opened_url: Annotated[str | None, Meta(description="The URL that opens the result; null if it is unfinished.")] = (
        None
    )
    progress: Annotated[Progress | None, Meta(description="The last numbers; null if the job did not start.")] = None
    causes: Annotated[list[Cause], Meta(description="The causes of failures.")] = []
    failures_url: Annotated[str | None, Meta(description="The file with a line for each failed shard.")] = None
    report_url: Annotated[
        str | None, Meta(description="The HTML file of the report; null in the log of a job, or without a report.")
    ] = None


LogEvent = Start | ShardBatch | Retry | Throttle | Failure | Numbers | End


def timestamp() -> str:
    """Return the current time in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def log_schema() -> dict[str, Any]:
    """Return the JSON Schema of a line of the log."""
    (line,), components = msgspec.json.schema_components([LogEvent])
    return {
        "$schema": DIALECT,
        "$id": "urn:shardedstore:log:1",
        "title": "A line of the log of a shardedstore job",
        **line,
        "$defs": {name: _summarised(one) for name, one in sorted(components.items())},
    }


def _summarised(component: dict[str, Any]) -> dict[str, Any]:
    """Return a component with the first paragraph of its description."""
    return {**component, "description": component["description"].partition("\n\n")[0].replace("``", "`")}


def log_schema_text() -> str:
    """Return the content of the schema file."""
    return json.dumps(log_schema(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(log_schema_text(), encoding="utf-8")
