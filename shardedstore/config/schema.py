"""The JSON Schema of the config, generated from the code; ``make schema`` writes it to the packaged file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from shardedstore.config.document import VERSION
from shardedstore.fields import FORMAT, INDEX
from shardedstore.stores.locations import AnyLocation, Config, Mount

FILE = Path(__file__).parents[1] / "config.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_HAS = {name: {"required": [name], "properties": {name: {"type": "object"}}} for name in ("blocks", "members")}
_OF_MOUNTS = {  # conditions that involve several fields
    "not": {"allOf": [_HAS["blocks"], _HAS["members"]]},
    "if": _HAS["blocks"],
    "then": {"properties": {"exceptions": {"propertyNames": {"pattern": INDEX}}}},
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a config file for this version of the package."""
    (location, config), components = msgspec.json.schema_components([AnyLocation, Config])
    document = components[config["$ref"].rpartition("/")[2]]
    components[Mount.__name__] |= _OF_MOUNTS
    defs = {name: _named(_described(component), location) for name, component in sorted(components.items())}
    defs["Location"] = location
    fields = {name: field for name, field in _named(document, location)["properties"].items() if name != "kind"}
    for shards in (fields["shards"], defs[Config.__name__]["properties"]["shards"]):
        shards["properties"] = {"": {**shards["additionalProperties"], "anyOf": list(_HAS.values())}}
    return {
        "$schema": DIALECT,
        "$id": f"urn:{FORMAT}:config:{VERSION}",
        "title": f"The config of a sharded store, version {VERSION}",
        "description": document["description"],
        "type": "object",
        "properties": {"format": {"const": FORMAT}, "version": {"const": VERSION}, **fields},
        "required": ["format", "version", "base"],
        "additionalProperties": False,
        "$defs": defs,
    }


def _described(component: dict[str, Any]) -> dict[str, Any]:
    """Return a component with the summary of its class's docstring as its description."""
    if "description" not in component:
        return component
    summary = component["description"].partition("\n\n")[0]
    return {**component, "description": summary.replace("``", "`")}


def _named(value: Any, location: Any) -> Any:
    """Replace copies of the table of all kinds by references to it."""
    if isinstance(value, dict):
        described = {"description": value["description"]} if "description" in value else {}
        if value == {**described, **location}:
            return {**described, "$ref": "#/$defs/Location"}
        return {name: _named(item, location) for name, item in value.items()}
    return [_named(item, location) for item in value] if isinstance(value, list) else value


def text() -> str:
    """Return the content of the schema file."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
