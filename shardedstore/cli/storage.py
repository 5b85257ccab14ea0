"""The options of commands that reach an object store: ``--storage`` and ``--profile``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from shardedstore.jobfiles.parse import parse_storage
from shardedstore.storage.sides import Side, side_options

Command = TypeVar("Command", bound=Callable[..., Any])


def storage_params(what: str, prefix: str = "") -> Callable[[Command], Command]:
    """Add the options for the object store of an argument, such as ``"RESULT"``, to a command.

    With the prefix ``"source-"`` they are ``--source-storage`` and ``--source-profile``.
    """

    def add(command: Command) -> Command:
        profile = f"The AWS profile for {what}. The default is the environment's."
        command = click.option(f"--{prefix}profile", metavar="NAME", help=profile)(command)
        storage = f"Set an option of the object store of {what}; see convert."
        return click.option(f"--{prefix}storage", multiple=True, metavar="KEY=VALUE", help=storage)(command)

    return add


def parse_side(side: Side, url: str, storage: Sequence[str], profile: str | None) -> Any:
    """Return the storage options of a side from the command line and the environment."""
    return side_options(side, url, parse_storage(storage), profile)
