"""What the words of the command line stand for."""

from __future__ import annotations

import re
from typing import Any

from shardedstore.chain import Step
from shardedstore.cli.registry import make_step
from shardedstore.components.kinds import may_be_secret
from shardedstore.dividing.patterns import parse_size
from shardedstore.errors import UsageError
from shardedstore.storage.access import ANONYMOUS, is_public, near_option, public_names


def parse_shards(options: tuple[str, ...]) -> Any:
    """Return what the options for `shards` stand for.

    >>> parse_shards(()), parse_shards(("t=time:720", "w_*=720,-1", "s/*=whole", "9 MiB"))
    ('1 GiB', {'t': {'time': 720}, 'w_*': (720, -1), 's/*': 'whole', '*': '9 MiB'})
    """
    rules: dict[str, Any] = {}
    for option in options:
        path, equals, rule = option.rpartition("=")
        if not equals and parse_size(rule) is None:
            raise UsageError(f"--shards {option!r} is no size like '512 MiB': for a path say '{option}=whole', for one")
        if (path or "*") in rules:
            raise UsageError(f"--shards says twice how to divide {path or 'what is left'!r}: leave one of them out")
        rules[path or "*"] = _parse_rule(rule, option)
    return rules or "1 GiB"


def _parse_rule(text: str, option: str) -> Any:
    try:
        if ":" in text:
            return {name.strip(): int(count) for name, _, count in (part.rpartition(":") for part in text.split(","))}
        if "," in text:
            return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--shards {option!r} can't be read: after the path write =whole, ='512 MiB', =720,-1,-1 or =time:720"
        ) from None
    return text


def parse_storage(options: tuple[str, ...]) -> Any:
    """Return storage options; None for none.

    >>> parse_storage(("endpoint=http://127.0.0.1:9000", "region=us-east-1"))
    {'endpoint': 'http://127.0.0.1:9000', 'region': 'us-east-1'}
    """
    if not options:
        return None
    parsed: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals and key != ANONYMOUS:
            raise UsageError(f"--storage {key!r} is no option: write it as KEY=VALUE, like region=us-east-1")
        if not is_public(key):
            raise UsageError(f"--storage {key} {_why_not(key)}")
        parsed[key] = {"true": True, "false": False}.get(value, value) if equals else True
    return parsed


def make_steps(v3: bool, steps: tuple[str, ...], codec: str | None) -> list[Step]:
    """Return the steps that the options ask for, in their order.

    >>> make_steps(True, (), "zstd:level=5")
    [MigrateV3(), Recompress('zstd', level=5)]
    """
    name, _, options = (codec or "").partition(":")
    recompress = f"recompress:codec={name}" + (f",{options}" if options else "")
    return [make_step(text) for text in (*(["migrate-v3"] if v3 else []), *steps, *([recompress] if codec else []))]


def _why_not(key: str) -> str:
    """Return why an option of a store can't be given on the command line."""
    if may_be_secret(key) or re.search("key|sas|account|client|tenant|role|authority", key.lower()):
        return "may be secret, and a command line is seen by others: give it to the environment instead"
    if near := near_option(key):
        return f"is no option that is known: did you mean {near}?"
    return f"is no option that is known: there are {', '.join(public_names())}; others are given to the environment"
