"""The JSON Schema of job files, generated from the specs; ``make schema`` writes it to the packaged file."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import msgspec

from shardedstore.fields import FORMAT
from shardedstore.jobfiles.cluster_spec import ClusterSpec
from shardedstore.jobfiles.registry import BUILT_IN, option_types
from shardedstore.jobfiles.spec import JobSpec, RunSpec
from shardedstore.jobfiles.variables import WHOLE
from shardedstore.storage.options import CLIENT_OPTIONS, Options, is_public
from shardedstore.transforms.base.sink import Sink

FILE = Path(__file__).parents[1] / "jobs.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
SPECS = {"job": JobSpec, "cluster": ClusterSpec, "run": RunSpec}
NEEDED = ("source", "destination", "to")  # required in each job or in the defaults


def jobs_schema() -> dict[str, Any]:
    """Return the JSON Schema of a job file for this version of the package."""
    references, components = msgspec.json.schema_components(SPECS.values())
    defs = {name: _plain(component) for name, component in sorted(components.items())}
    job = defs[JobSpec.__name__]
    del job["required"]
    steps, sinks = _transforms(is_sink=False), _transforms(is_sink=True)
    job["properties"]["to"] = {**_described(job, "to"), **sinks}
    job["properties"]["steps"] = {**_described(job, "steps"), "type": "array", "items": steps, "default": []}
    for side in ("storage", "source_storage"):
        job["properties"][side] = {**_described(job, side), **_storage()}
    job_reference, cluster, run = references
    document = {
        "$schema": DIALECT,
        "$id": f"urn:{FORMAT}:jobs:1",
        "title": "A job file of shardedstore",
        "description": "Jobs for shardedstore run, plan, status and verify; see docs/job-files.md.",
        "type": "object",
        "properties": {
            "defaults": {"description": "Values for all jobs.", **job_reference},
            "cluster": {"description": "The Dask cluster of all jobs.", **cluster},
            "run": {"description": "The options of the run.", **run},
            "job": {"type": "array", "minItems": 1, "items": job_reference},
        },
        "required": ["job"],
        "additionalProperties": False,
        "allOf": [_needed(name) for name in NEEDED],
        "$defs": defs,
    }
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document))  # lists instead of tuples
    return found


def _plain(component: dict[str, Any]) -> dict[str, Any]:
    """Return a component without the sections of its docstring."""
    if "description" in component:
        component = {**component, "description": component["description"].partition("\n\n")[0].replace("``", "`")}
    return component


def _described(job: dict[str, Any], name: str) -> dict[str, Any]:
    return {"description": job["properties"][name]["description"]}


def _needed(name: str) -> dict[str, Any]:
    """Return the schema condition that each job or the defaults must have a value."""
    has_default = {"properties": {"defaults": {"required": [name]}}, "required": ["defaults"]}
    return {"if": {"not": has_default}, "then": {"properties": {"job": {"items": {"required": [name]}}}}}


def _transforms(*, is_sink: bool) -> dict[str, Any]:
    """Return the schema of a step or a sink: a text, or a table with the options of the transform."""
    names = [name for name, kind in BUILT_IN.items() if issubclass(kind, Sink) is is_sink]
    others = {
        "type": "object",
        "description": "A transform of another package.",
        "properties": {"use": {"type": "string", "not": {"enum": list(BUILT_IN)}}},
        "required": ["use"],
    }
    text = {"type": "string", "description": "NAME or NAME:option=value,option=value", "examples": names}
    return {"anyOf": [text, *map(_transform, names), others]}


def _transform(name: str) -> dict[str, Any]:
    """Return the schema of the table of a transform."""
    types = option_types(BUILT_IN[name])
    options = {option: _option(hint) for option, (hint, _) in types.items() if option != "storage_options"}
    required = [option for option, (_, default) in types.items() if default is inspect.Parameter.empty]
    return {
        "type": "object",
        "description": (inspect.getdoc(BUILT_IN[name]) or "").partition("\n")[0],
        "properties": {"use": {"const": name}, **options},
        "required": ["use", *required],
        "additionalProperties": any(
            p.kind is p.VAR_KEYWORD for p in inspect.signature(BUILT_IN[name]).parameters.values()
        ),
    }


def _option(hint: Any) -> dict[str, Any]:
    try:
        return msgspec.json.schema(hint)
    except (TypeError, NameError):  # JSON Schema has no such type
        return {}


def _storage() -> dict[str, Any]:
    """Return the schema of storage options: public ones, and the names of variables for all others."""
    public = _plain(msgspec.json.schema_components([Options])[1][Options.__name__])["properties"]
    client = {name: {"type": ["string", "integer", "boolean"]} for name in CLIENT_OPTIONS if is_public(name)}
    return {
        "type": "object",
        "properties": {**public, **client},
        "additionalProperties": {"type": "string", "pattern": f"^{WHOLE.pattern}(?![\\s\\S])"},
    }


def jobs_schema_text() -> str:
    """Return the content of the schema file."""
    return json.dumps(jobs_schema(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(jobs_schema_text(), encoding="utf-8")
