"""``shardedstore suggest``."""

from __future__ import annotations

import json

import click

from shardedstore.cli.common import tell, tell_table, user_errors
from shardedstore.cli.storage import parse_side, storage_params
from shardedstore.display.suggestion import suggestion_to_rich, suggestion_to_text
from shardedstore.errors import UsageError
from shardedstore.jobfiles.open import open_any
from shardedstore.jobfiles.write import key_text, value_text

TARGETS = {"zip": "zip", "sharding-codec": "sharding"}


def parse_access(texts: tuple[str, ...]) -> list[dict[str, str | int]]:
    """Return access patterns of a command line.

    >>> parse_access(("time=series", "lat=100,lon=100"))
    [{'time': 'series'}, {'lat': 100, 'lon': 100}]
    """
    return [dict(_extent(part, text) for part in text.split(",")) for text in texts]


def _extent(part: str, text: str) -> tuple[str, str | int]:
    name, found, value = part.rpartition("=")
    if not found or not name or not value:
        raise UsageError(f"--access {text!r} is not an access: write it like time=series, time=step or lat=100,lon=100")
    return name.strip(), int(value) if value.isdecimal() else value.strip()


access_option = click.option(
    "--access",
    multiple=True,
    metavar="DIM=WAY,...",
    help="A way to read: time=series, time=step, or a number of elements as in lat=100,lon=100. May be repeated.",
)


@click.command()
@click.argument("what", metavar="PATH")
@click.option("--to", "target", type=click.Choice(list(TARGETS)), default="zip", show_default=True, help="The result.")
@click.option(
    "--size", default="512 MiB", show_default=True, metavar="SIZE", help="The largest decoded size of a shard."
)
@access_option
@click.option("--json", "as_json", is_flag=True, help="Print the suggestion as JSON.")
@storage_params("PATH")
def suggest(
    what: str,
    *,
    target: str,
    size: str,
    access: tuple[str, ...],
    as_json: bool,
    storage: tuple[str, ...],
    profile: str | None,
) -> None:
    """Suggest the shards of a Zarr.

    PATH is a path or a URL of a Zarr, a zip or a config. Only metadata is read. The last line is the rule for a job file.

    \b
    Examples:
      shardedstore suggest era5.zarr --access time=series
      shardedstore suggest era5.zarr --to sharding-codec --size "128 MiB" --access time=step
    """  # noqa: D301 (click reads the backspace)
    with user_errors(what):
        store, _ = open_any(what, parse_side("destination", what, storage, profile))
        found = store.suggest(target=TARGETS[target], size=size, access=parse_access(access) or None)  # type: ignore[arg-type]
        if as_json:
            tell(json.dumps(found.to_dict(), indent=2))
            return
        tell_table(suggestion_to_rich(found), [suggestion_to_text(found)])
        rules = ", ".join(f"{key_text(path)} = {value_text(rule)}" for path, rule in found.items())
        tell(f"\nshards = {{{rules}}}")
