"""Options of a job from the texts of a command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from shardedstore.errors import UsageError
from shardedstore.fields import may_be_secret
from shardedstore.partition.shard_sizes import DEFAULT_SIZE
from shardedstore.storage.options import ANONYMOUS, PROFILE_NAMES, is_public, near_option, public_names
from shardedstore.text import parse_size


def only_one(sinks: Sequence[str]) -> str:
    """Return the one sink of a chain.

    >>> only_one(["zip"])
    'zip'
    """
    if len(sinks) > 1:
        raise UsageError(f"a chain has one sink, but --to was given {' and '.join(sinks)}: run two commands")
    return sinks[0]


def parse_shard_options(options: Sequence[str]) -> Any:
    """Return the value of `shards` for the --shards options.

    >>> parse_shard_options(()), parse_shard_options(("t=time:720", "w_*=720,-1", "s/*=whole", "9 MiB"))
    ('1 GiB', {'t': {'time': 720}, 'w_*': [720, -1], 's/*': 'whole', '*': '9 MiB'})
    """
    rules: dict[str, Any] = {}
    for option in options:
        path, equals, rule = option.rpartition("=")
        if not equals and parse_size(rule) is None:
            raise UsageError(
                f"--shards {option!r} is not a size like '512 MiB': for a path, use '{option}=whole' or another rule"
            )
        if (path or "*") in rules:
            raise UsageError(f"--shards divides {path or '*'!r} twice: leave one of them out")
        rules[path or "*"] = _parse_rule(rule, option)
    return rules or DEFAULT_SIZE


def _parse_rule(text: str, option: str) -> Any:
    try:
        if ":" in text:
            return {name.strip(): int(count) for name, _, count in (part.rpartition(":") for part in text.split(","))}
        if "," in text:
            return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--shards {option!r} is not a rule: after the path write =whole, ='512 MiB', =720,-1,-1 or =time:720"
        ) from None
    return text


def parse_storage(options: Sequence[str]) -> Any:
    """Return storage options as a mapping; None if there are none.

    >>> parse_storage(("endpoint=http://127.0.0.1:9000", "region=us-east-1"))
    {'endpoint': 'http://127.0.0.1:9000', 'region': 'us-east-1'}
    """
    if not options:
        return None
    parsed: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals and key != ANONYMOUS:
            raise UsageError(f"--storage {key!r} has no value: write it as KEY=VALUE, like region=us-east-1")
        if not is_public(key):
            raise UsageError(f"--storage {key} {_why_not(key)}")
        parsed[key] = {"true": True, "false": False}.get(value, value) if equals else True
    return parsed


def _why_not(key: str) -> str:
    """Return the reason to refuse a storage option on the command line."""
    if may_be_secret(key) or re.search("key|sas|account|client|tenant|role|authority", key.lower()):
        return "may be secret, but other users can see a command line: set it in the environment instead"
    if key.lower() in PROFILE_NAMES:
        return "has its own option: use --profile or --source-profile"
    if near := near_option(key):
        return f"is not a known option: did you mean {near}?"
    return f"is not a known option: use one of {', '.join(public_names())}; set other options in the environment"
