"""Storage options of one side of a job, the source or the destination, from profiles and prefixed environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from shardedstore.errors import UsageError
from shardedstore.storage.options import ANONYMOUS, PROFILE_NAMES, StorageOptions, option_names, scheme_of
from shardedstore.storage.urls import is_remote

Side = Literal["source", "destination"]
_PREFIXES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}
_KEYS = ("access_key_id", "secret_access_key", "session_token", "token")


def side_options(
    side: Side,
    url: str,
    storage_options: Mapping[str, Any] | str | None = None,
    profile: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> StorageOptions:
    """Return the storage options of a side: the given ones, the profile, and those of the environment.

    Variables such as ``SHARDEDSTORE_SOURCE_AWS_ACCESS_KEY_ID`` hold for one side. A given option or profile wins.

    >>> side_options("source", "s3://a/b", environ={"SHARDEDSTORE_SOURCE_AWS_REGION": "eu-west-1"})
    {'aws_region': 'eu-west-1'}

    Raises
    ------
    UsageError
        If a variable of this side is of no known provider, or if a local path has a profile.
    """
    found = _of_environment(side, environ)
    if not is_remote(url):
        if profile is not None:
            raise UsageError(f"a profile was given for {url!r}, which is a local path: leave it out")
        return storage_options or None
    if isinstance(storage_options, str):
        return storage_options
    scheme, given = scheme_of(url), dict(storage_options or {})
    if profile is not None:
        given["profile"] = profile
    names = _names(scheme, given)
    held = {name: value for name, value in found.items() if name.startswith(_PREFIXES.get(scheme, "-").lower())}
    if names & {"profile", ANONYMOUS, *_KEYS}:
        others = {"profile", *_KEYS}
        held = {name: value for name, value in held.items() if not _names(scheme, {name: value}) & others}
    held = {name: value for name, value in held.items() if not _names(scheme, {name: value}) & names}
    return {**held, **given} or None


def _names(scheme: str, options: Mapping[str, Any]) -> set[str]:
    """Return the plain names of options."""
    lower = [name.lower() for name in options]
    return {"profile" if name in PROFILE_NAMES else option_names(scheme, name)[0] for name in lower}


def _of_environment(side: Side, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the options of a side in the environment, by names in lower case with the provider's prefix."""
    prefix = f"SHARDEDSTORE_{side.upper()}_"
    found = {name.removeprefix(prefix): value for name, value in environ.items() if name.startswith(prefix) and value}
    for name in found:
        if not name.startswith(tuple(_PREFIXES.values())):
            raise UsageError(
                f"the environment variable {prefix}{name} is not known: after {prefix} write the name of a variable of AWS_, "
                "AZURE_ or GOOGLE_, such as AWS_ACCESS_KEY_ID"
            )
    return {name.lower(): value for name, value in found.items()}
