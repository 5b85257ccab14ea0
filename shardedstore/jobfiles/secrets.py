"""Secrets in job files and command lines: files name environment variables, and reports hide values."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from shardedstore.errors import UsageError
from shardedstore.fields import may_be_secret
from shardedstore.jobfiles.variables import WHOLE, look_up
from shardedstore.storage.options import is_public, near_option

HIDDEN = "***"
_PRIVATE = re.compile(r"(?<=://)[^/@\s]*@|(?<=\S)\?\S*$")  # the user and the query of a URL


def check_storage(options: Mapping[str, Any]) -> None:
    """Check that no option of a job file is secret.

    Raises
    ------
    UsageError
        If an option may be secret and does not name an environment variable.
    """
    for key, value in options.items():
        if is_public(key) or (isinstance(value, str) and WHOLE.fullmatch(value)):
            continue
        if near := near_option(key):
            raise UsageError(f"{key!r} is not a known storage option: did you mean {near!r}?")
        raise UsageError(
            f"{key!r} may be secret, and a job file holds no secrets: name an environment variable, as in "
            f'{key} = "${{{key.upper()}}}"'
        )


def check_ping(url: str | None) -> None:
    """Check that the URL of a ping in a job file names an environment variable.

    Raises
    ------
    UsageError
        If it is a literal URL, since such a URL is a secret.
    """
    if url is not None and not WHOLE.fullmatch(url):
        raise UsageError(
            'the URL of a ping is a secret, and a job file holds no secrets: name an environment variable, as in ping = "${PING_URL}"'
        )


def resolve_storage(options: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return storage options with the values of the environment variables that they name.

    >>> resolve_storage({"region": "eu", "secret_access_key": "${KEY}"}, {"KEY": "x"})
    {'region': 'eu', 'secret_access_key': 'x'}
    """
    return {key: _resolve(value, environment) for key, value in options.items()}


def _resolve(value: Any, environment: Mapping[str, str]) -> Any:
    found = WHOLE.fullmatch(value) if isinstance(value, str) else None
    return value if found is None else look_up(found[1], environment)


def public_command(words: Sequence[str]) -> str:
    """Return a command line without secrets.

    >>> public_command(["shardedstore", "run", "jobs.toml", "--ping", "https://hc/1", "--storage", "token=x"])
    "shardedstore run jobs.toml --ping '***' --storage 'token=***'"
    >>> public_command(["shardedstore", "info", "https://me:word@host/a?sig=x"])
    'shardedstore info https://host/a'
    """
    shown: list[str] = []
    for before, word in zip(("", *words), words, strict=False):
        name, equals, _ = word.partition("=")
        if before == "--ping":
            shown.append(HIDDEN)
        elif equals and (name == "--ping" or may_be_secret(name)):
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(_PRIVATE.sub("", word))
    return shlex.join(shown)
