"""The arguments of obstore's clients: from options, held secrets, and the environment's profile and certificates."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from shardedstore.storage.certificates import read_certificates
from shardedstore.storage.grants import PROVIDER, held_options
from shardedstore.storage.obstore_version import has_obstore
from shardedstore.storage.options import CLIENT_OPTIONS, Options, option_names, scheme_of
from shardedstore.storage.profiles import Credentials, environment_profile

_VARIABLES: dict[str, tuple[str, ...]] = {
    "endpoint": ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
}
_ENVIRONMENT = ("AWS_", "AZURE_", "GOOGLE_")


def keywords(url: str, options: Options) -> dict[str, Any]:
    """Return the arguments of obstore's `from_url` for a URL: public options, and those held for its server."""
    rest = held_options(url, options.server)
    if scheme_of(url) == "s3" and not options.anonymous:
        options, rest = _with_aws(options, rest)
    public = options.keywords()
    named = {"allow_http": True} if url.startswith("http://") else {}
    client = {**named, **public.pop("client_options", {}), **rest.pop("client_options", {})}
    if client:  # obstore then ignores the environment's options of the client
        client = {**_of_environment(), **client}
    return {**public, **rest, **({"client_options": client} if client else {})}


def _with_aws(options: Options, rest: dict[str, Any]) -> tuple[Options, dict[str, Any]]:
    """Add the profile and the certificates of the environment to the options of S3."""
    client = dict(rest.get("client_options", {}))
    bundle = os.environ.get("AWS_CA_BUNDLE")
    names = {option_names("s3", name)[0]: name for name in rest}
    if "access_key_id" in names and not names.keys() & {"session_token", "token"} and _has_token():
        keys = {name: rest.pop(names[name]) for name in ("access_key_id", "secret_access_key") if name in names}
        rest[PROVIDER] = Credentials(f"keys {hash(tuple(keys.values()))}", tuple(keys.items()))
    elif PROVIDER not in names and "access_key_id" not in names and (profile := environment_profile()) is not None:
        rest[PROVIDER] = profile
        unset = [name for name in _VARIABLES if getattr(options, name) is None and _of_variables(name) is None]
        public = {name: value for name, value in profile.public.items() if name in unset}
        options, bundle = msgspec.structs.replace(options, **public), bundle or profile.ca_bundle
    is_plain = (options.endpoint or _of_variables("endpoint") or "").startswith("http://")
    if bundle and has_obstore(0, 12) and not is_plain and "root_certificate" not in client:
        client["root_certificate"] = read_certificates(bundle)
    return options, {**rest, **({"client_options": client} if client else {})}


def _has_token() -> bool:
    """Tell whether the environment has a token, which obstore would send with other keys."""
    return bool(os.environ.get("AWS_SESSION_TOKEN") or os.environ.get("AWS_TOKEN"))


def _of_variables(name: str) -> str | None:
    return next(filter(None, map(os.environ.get, _VARIABLES[name])), None)


def with_environment(options: Options) -> Options:
    """Return the options of S3 with the server and the region of the environment, for clients that do not read these variables."""
    found = {name: getattr(options, name) or _of_variables(name) for name in _VARIABLES}
    return msgspec.structs.replace(options, **found)


def _of_environment() -> dict[str, str]:
    """Return the client's options from environment variables."""
    found = ((name, os.environ.get(prefix + name.upper())) for prefix in _ENVIRONMENT for name in CLIENT_OPTIONS)
    return {name: value for name, value in found if value}
