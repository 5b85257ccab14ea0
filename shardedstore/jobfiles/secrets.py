"""Storage options of a job file, which names secrets by environment variables only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from shardedstore.errors import UsageError
from shardedstore.jobfiles.variables import WHOLE, look_up
from shardedstore.storage.options import is_public, near_option


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


def resolve_storage(options: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return storage options with the values of the environment variables that they name.

    >>> resolve_storage({"region": "eu", "secret_access_key": "${KEY}"}, {"KEY": "x"})
    {'region': 'eu', 'secret_access_key': 'x'}
    """
    return {key: _resolve(value, environment) for key, value in options.items()}


def _resolve(value: Any, environment: Mapping[str, str]) -> Any:
    found = WHOLE.fullmatch(value) if isinstance(value, str) else None
    return value if found is None else look_up(found[1], environment)
