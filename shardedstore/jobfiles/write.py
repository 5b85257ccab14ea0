"""Write a job as TOML."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import date, time
from typing import Any

import msgspec

from shardedstore.jobfiles.cluster_spec import ClusterSpec
from shardedstore.jobfiles.paths import in_folder
from shardedstore.jobfiles.spec import JobSpec, RunSpec
from shardedstore.jobfiles.variables import VARIABLE

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(job: JobSpec, cluster: ClusterSpec, run: RunSpec) -> str:
    """Return the job file of one job, with absolute paths; default values are omitted.

    >>> job = JobSpec(source="/a", destination="s3://b", to="zip", shards={"t/*": {"time": 720}}, include=["t"])
    >>> print(to_toml(job, ClusterSpec(workers=2), RunSpec()))
    [cluster]
    workers = 2
    <BLANKLINE>
    [[job]]
    source = "/a"
    destination = "s3://b"
    to = "zip"
    shards = {"t/*" = {time = 720}}
    include = ["t"]
    """
    tables = {"[cluster]": cluster, "[run]": run, "[[job]]": job}
    values = {title: in_folder(msgspec.to_builtins(spec), type(spec), os.getcwd()) for title, spec in tables.items()}
    return "\n\n".join("\n".join([title, *_lines(table)]) for title, table in values.items() if table)


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if key == "ping":  # the URL is a secret
            yield 'ping = "${PING_URL}"'
        else:
            yield f"{key_text(key)} = {value_text(value)}"


def key_text(key: str) -> str:
    """Return a key of a table."""
    return key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def value_text(value: Any) -> str:
    r"""Return a value in one line; a dollar sign that would start a variable is escaped.

    >>> print(value_text(["a", True, 1.5, {"b": "${X} \t"}]))
    ["a", true, 1.5, {b = "$${X} \t"}]
    """
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(VARIABLE.sub(lambda found: f"${found[0]}", value), ensure_ascii=False)
        case Mapping():
            return f"{{{', '.join(_lines(value))}}}"
        case list() | tuple():
            return f"[{', '.join(map(value_text, value))}]"
        case date() | time():
            return value.isoformat()
        case _:
            return str(value)
