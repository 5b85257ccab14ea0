"""Profiles of AWS, as the AWS command line keeps them in ``~/.aws/credentials`` and ``~/.aws/config``.

Keys that stand in these files are read here. For single sign-on, assumed roles and other programs, botocore gets the
credentials, and renews them.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from shardedstore.errors import UsageError

if TYPE_CHECKING:
    from obstore.store import S3Credential

TTL = timedelta(minutes=10)  # botocore renews credentials at least ten minutes before they expire
_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_OF_BOTOCORE = (  # settings that mean that credentials come from elsewhere
    "sso_session", "sso_start_url", "sso_account_id", "role_arn", "source_profile", "credential_source",
    "credential_process", "web_identity_token_file", "login_session",
)  # fmt: skip
_ELSEWHERE = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
DEFAULT = "default"


@dataclass(frozen=True)
class Credentials:
    """Keys of a profile at one time. The repr shows no secrets.

    Attributes
    ----------
    source : str
        The origin of the keys, for messages.
    values : tuple of (str, str)
        The access key, the secret key and perhaps a token, by obstore's names.
    until : datetime or None
        The time until which they are valid; None without a limit.
    """

    source: str
    values: tuple[tuple[str, str], ...]
    until: datetime | None = None

    def __call__(self) -> S3Credential:
        """Return the keys for obstore."""
        found: Any = {"token": None, **dict(self.values), "expires_at": self.until}
        return found  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"Credentials({self.source!r})"


@dataclass(frozen=True)
class Profile:
    """A profile of AWS by its name.

    Its call returns the keys that are valid now, so that obstore can use it as a credential provider.
    """

    name: str

    def snapshot(self) -> Credentials:
        """Return the keys that are valid now, for other processes.

        Raises
        ------
        UsageError
            If there is no such profile, if it has no credentials, or if botocore is needed and not installed.
        """
        source, settings = f"profile {self.name}", self.settings
        if all(key in settings for key in _KEYS[:2]) and not any(name in settings for name in _OF_BOTOCORE):
            has_token = bool(settings.get(_KEYS[2]))
            until = datetime.now(UTC) + TTL if has_token else None  # other programs renew keys with tokens in the files
            names = ("access_key_id", "secret_access_key", "token")
            values = {name: settings[key] for name, key in zip(names, _KEYS, strict=True) if settings.get(key)}
        else:
            values, until = _by_botocore(self.name), datetime.now(UTC) + TTL
        return Credentials(source, tuple(values.items()), until)

    def __call__(self) -> S3Credential:
        """Return the keys for obstore; see `snapshot`."""
        return self.snapshot()()

    @property
    def settings(self) -> Mapping[str, str]:
        """The settings of the profile in both files."""
        found = _profiles()
        if self.name not in found:
            known = ", ".join(sorted(found)) or "none"
            raise UsageError(
                f"there is no AWS profile {self.name!r} in {' or '.join(_paths())}: its profiles are: {known}"
            )
        return found[self.name]

    @property
    def ca_bundle(self) -> str | None:
        """The path of the certificates that the profile trusts."""
        return self.settings.get("ca_bundle")

    @property
    def public(self) -> dict[str, str]:
        """The region and the endpoint of the profile, by obstore's names."""
        settings = self.settings
        found = {"region": settings.get("region"), "endpoint": _endpoint(settings)}
        return {name: value for name, value in found.items() if value}


def environment_profile() -> Profile | None:
    """Return the profile that AWS tools would use in this environment; None if they would use something else.

    Keys in the environment win over a profile, and ``AWS_PROFILE`` wins over web identities and containers.
    """
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return None
    name = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    if name:
        return Profile(name)
    if any(os.environ.get(variable) for variable in _ELSEWHERE):
        return None
    settings = _profiles().get(DEFAULT, {})
    return Profile(DEFAULT) if any(name in settings for name in (*_KEYS[:1], *_OF_BOTOCORE)) else None


def _paths() -> tuple[str, str]:
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    config = os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    return os.path.expanduser(credentials), os.path.expanduser(config)


def _profiles() -> dict[str, dict[str, str]]:
    """Return the settings of all profiles by name; keys in the file of credentials win."""
    credentials, config = _paths()
    found = dict[str, dict[str, str]]()
    for section, settings in _sections(config).items():
        kind, _, name = section.partition(" ")
        if section == DEFAULT or (kind == "profile" and name):
            found.setdefault((name or section).strip().strip("\"'"), {}).update(settings)
    for name, settings in _sections(credentials).items():
        found.setdefault(name, {}).update(settings)
    return found


def _sections(path: str) -> Mapping[str, Mapping[str, str]]:
    try:
        return _parse(path, os.stat(path).st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        return {}


@lru_cache(maxsize=8)
def _parse(path: str, _modified: int) -> Mapping[str, Mapping[str, str]]:
    parser = configparser.RawConfigParser(default_section="")
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        number = getattr(error, "lineno", None)
        line = "" if number is None else f", line {number}"
        raise UsageError(f"{path!r} is not a valid file of AWS profiles ({type(error).__name__}{line})") from None
    return {section: dict(parser[section]) for section in parser.sections()}


def _endpoint(settings: Mapping[str, str]) -> str | None:
    """Return the endpoint of S3 for a profile, from its section of services or its own."""
    services = _sections(_paths()[1]).get(f"services {settings.get('services', '')}", {})
    nested = re.search(r"(?m)^\s*endpoint_url\s*=\s*(\S+)", services.get("s3", ""))
    return nested[1] if nested else settings.get("endpoint_url")


@lru_cache(maxsize=8)
def _session(name: str, _paths: tuple[str, str]) -> Any:
    """Return botocore's object that keeps the credentials of a profile fresh."""
    try:
        import botocore.session
    except ImportError:
        raise UsageError(
            f"the AWS profile {name!r} gets its credentials by single sign-on, a role or another program, which needs "
            "botocore: install shardedstore[aws]"
        ) from None
    return botocore.session.Session(profile=name).get_credentials()


def _by_botocore(name: str) -> dict[str, str]:
    """Return the keys of a profile that needs single sign-on, a role or another program."""
    if not any(setting in Profile(name).settings for setting in _OF_BOTOCORE):
        raise UsageError(
            f"the AWS profile {name!r} has no credentials in {' or '.join(_paths())}: run aws configure --profile {name}"
        )
    try:
        keys = _session(name, _paths()).get_frozen_credentials()
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"the AWS profile {name!r} gives no credentials ({type(error).__name__}: {error}): check it in "
            f"{_paths()[1]}; if it uses single sign-on, run aws sso login --profile {name}"
        ) from error
    values = {"access_key_id": keys.access_key, "secret_access_key": keys.secret_key, "token": keys.token}
    return {name: value for name, value in values.items() if value}
