"""Options of object stores: the public ones are part of locations, and all others are held by processes.

Public options (such as an endpoint or a region) are written to locations as `Options`. All others, such as credentials,
are held by this process for the URLs that they were given for; see `grants`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from shardedstore.errors import UsageError
from shardedstore.fields import HostPart
from shardedstore.storage.certificates import read_certificates
from shardedstore.storage.grants import PROVIDER, grant
from shardedstore.storage.profiles import Profile
from shardedstore.storage.urls import BESIDE, MISREAD, is_remote, normalize

ANONYMOUS = "anonymous"
ALLOW = "allow"  # the option for places that references lead to
EMULATOR = "http://127.0.0.1:10000"  # default address of Azure's emulator
CLIENT_OPTIONS = (  # options of obstore's HTTP client, for all kinds of stores
    "allow_http", "allow_invalid_certificates", "connect_timeout", "default_content_type", "default_headers",
    "http1_only", "http2_keep_alive_interval", "http2_keep_alive_timeout", "http2_keep_alive_while_idle", "http2_only",
    "pool_idle_timeout", "pool_max_idle_per_host", "proxy_ca_certificate", "proxy_excludes", "proxy_url",
    "randomize_addresses", "read_timeout", "root_certificate", "timeout", "user_agent",
)  # fmt: skip
_SECRET_CLIENT = ("default_headers",)
_PREFIXES = ("aws_", "azure_storage_", "azure_", "google_")
_OTHER_NAMES = {  # alternative names in obstore
    "endpoint_url": "endpoint",
    "default_region": "region",
    "storage_account_name": "account_name",
    "endpoint_url_s3": "endpoint",
    "skip_signature": ANONYMOUS,
    "ca_bundle": "root_certificate",
}
PROFILE_NAMES = ("profile", "aws_profile")
FSSPEC_NAMES: dict[
    str, dict[str, str]
] = {  # names of s3fs, gcsfs, adlfs and fsspec's HTTP, and obstore's names for them
    "s3": {
        "anon": ANONYMOUS,
        "endpoint_url": "endpoint",
        "region_name": "region",
        "key": "access_key_id",
        "secret": "secret_access_key",
        "token": "session_token",
        "requester_pays": "request_payer",
    },
    "gs": {"anon": ANONYMOUS},
    "az": {
        "anon": ANONYMOUS,
        "account_name": "account_name",
        "account_key": "account_key",
        "sas_token": "sas_key",
    },
    "https": {"anon": ANONYMOUS},
}
SCHEMES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az", "http": "https"}
ANONYMOUS_TOKEN = "anon"  # a token of gcsfs
_NEUTRAL = {  # options of fsspec that do not affect requests
    "asynchronous",
    "batch_size",
    "default_block_size",
    "default_cache_type",
    "default_fill_cache",
    "listings_expiry_time",
    "loop",
    "max_paths",
    "skip_instance_cache",
    "use_listings_cache",
}


class Options(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, repr_omit_defaults=True):
    """The public options of an object store, by obstore's names."""

    endpoint: Annotated[str | None, Meta(description="The URL of the server.")] = None
    region: Annotated[HostPart | None, Meta(description="The region of the bucket.")] = None
    account_name: Annotated[HostPart | None, Meta(description="The name of the account, for Azure.")] = None
    anonymous: Annotated[bool, Meta(description="Whether requests are made without credentials.")] = False
    allow_http: Annotated[bool, Meta(description="Whether requests may go over HTTP without TLS.")] = False
    virtual_hosted_style_request: Annotated[
        bool | None, Meta(description="Whether the name of the bucket stands in the name of the host, for S3.")
    ] = None
    request_payer: Annotated[bool | None, Meta(description="Whether the requester pays for requests, for S3.")] = None
    use_emulator: Annotated[bool | None, Meta(description="Whether the server is the emulator of Azure.")] = None
    allow: Annotated[
        tuple[str, ...],
        Meta(description="Other places that references in the data may lead to: folders, buckets and servers."),
    ] = ()

    def __post_init__(self) -> None:
        endpoint = urlsplit(self.endpoint or "")
        if "@" in endpoint.netloc or endpoint.query:
            raise ValueError("the endpoint holds credentials: give them as separate options")
        if self.endpoint is not None and (
            not self.endpoint.startswith(("http://", "https://"))
            or not endpoint.hostname
            or MISREAD.search(self.endpoint)
        ):
            raise ValueError("the endpoint is not the URL of a server, such as https://objects.example.org")

    @property
    def server(self) -> str | None:
        """The URL of the server, or None for the default service of the URL.

        Credentials are held for one server.

        >>> Options(account_name="mine").server
        'https://mine.blob.core.windows.net'
        """
        if self.use_emulator:
            return EMULATOR
        if self.endpoint is None and self.account_name is not None:
            return f"https://{self.account_name}.blob.core.windows.net"
        return self.endpoint and self.endpoint.rstrip("/")

    def keywords(self) -> dict[str, Any]:
        """Return the options as keyword arguments of obstore's `from_url`.

        >>> Options(endpoint="http://127.0.0.1:9000", anonymous=True).keywords()
        {'endpoint': 'http://127.0.0.1:9000', 'skip_signature': True, 'client_options': {'allow_http': True}}
        """
        found = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
        found.pop("allow_http")
        found.pop("allow")
        if found.pop("anonymous"):
            found["skip_signature"] = True
        if self.allow_http or (self.endpoint or "").startswith("http://"):
            found["client_options"] = {"allow_http": True}
        return found


NONE = Options()
StorageOptions = Mapping[str, Any] | Options | str | None


msgspec.json.Decoder(Options)  # prepared here: msgspec crashes when two threads prepare a type at the same time


def take_options(url: str, storage_options: StorageOptions) -> Options:
    """Return the public options of a URL, and hold the others for all URLs below it.

    Raises
    ------
    UsageError
        For options of a local path, and for invalid options.

    Examples
    --------
    >>> take_options("s3://open-data", "anonymous")
    Options(anonymous=True)
    """
    if isinstance(storage_options, Options):
        return storage_options
    if not storage_options:
        return NONE
    if isinstance(storage_options, Mapping) and ALLOW in storage_options:
        return _take_with_allowed(url, storage_options)
    if not is_remote(url):
        raise UsageError(f"storage_options were given for {url!r}, which is a local path: leave them out")
    if isinstance(storage_options, str):
        if storage_options != ANONYMOUS:
            raise UsageError(f"storage_options for {url!r} must be a mapping, or the word {ANONYMOUS!r}")
        return Options(anonymous=True)
    given, profile = _without_profile(url, storage_options)
    public, rest = _split(url, given)
    if profile is not None:
        profile.snapshot()  # raises if it has no credentials
        public, rest = {**profile.public, **public}, {**rest, PROVIDER: profile}
        if profile.ca_bundle and "root_certificate" not in rest.get("client_options", {}):
            rest.setdefault("client_options", {})["root_certificate"] = read_certificates(profile.ca_bundle)
    try:
        options = msgspec.convert(public, Options, strict=False)  # obstore's stores have "true" for True
    except msgspec.ValidationError as error:
        raise UsageError(f"storage_options for {url!r} can't be used: {error}") from None
    if rest:
        grant({(url, options.server): rest, (url + BESIDE, options.server): rest})
    return options


def _take_with_allowed(url: str, storage_options: Mapping[str, Any]) -> Options:
    """Return public options with the places that references may lead to; the options hold for these places too.

    >>> _take_with_allowed("/data/era5.json", {"allow": "s3://open-data", "anonymous": True})
    Options(anonymous=True, allow=('s3://open-data',))
    """
    given = {name: value for name, value in storage_options.items() if name != ALLOW}
    value = storage_options[ALLOW]
    places = tuple(map(normalize, value.split(",") if isinstance(value, str) else value))
    stores = [place for place in (url, *places) if is_remote(place) and scheme_of(place) != "https"]
    taken = [take_options(place, given) for place in ([url] if is_remote(url) else []) + stores if given]
    return msgspec.structs.replace(taken[0] if taken else NONE, allow=places)


def _without_profile(url: str, storage_options: Mapping[str, Any]) -> tuple[dict[str, Any], Profile | None]:
    """Return the other options, and the profile of AWS that they name."""
    given = {name: value for name, value in storage_options.items() if name.lower() not in PROFILE_NAMES}
    names = {value for name, value in storage_options.items() if name.lower() in PROFILE_NAMES and value is not None}
    if not names:
        return given, None
    if scheme_of(url) != "s3":
        raise UsageError(f"storage_options for {url!r} name a profile, which is for s3:// only: leave it out")
    keys = {option_names("s3", name.lower())[0]: name for name in given}
    if len(names) > 1 or (second := keys.get("access_key_id")) is not None:
        other = "another profile" if len(names) > 1 else f"also {second!r}"
        raise UsageError(f"storage_options for {url!r} name the profile {min(names)!r}, and {other}: leave one out")
    return given, Profile(names.pop())


def _split(url: str, storage_options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the public options and the others, by obstore's names."""
    public: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, (given, value) in _by_obstore_names(url, storage_options).items():
        if name == "client_options":
            client = dict(value)
            if "allow_http" in client:
                public["allow_http"] = client.pop("allow_http")
            if client:
                rest.setdefault("client_options", {}).update(client)
        elif name in Options.__struct_fields__:
            public[name] = value.rstrip("/") if name == "endpoint" and isinstance(value, str) else value
        elif name in CLIENT_OPTIONS:
            rest.setdefault("client_options", {})[name] = _client_value(name, value)
        else:
            rest[given] = value
    return public, rest


def _by_obstore_names(url: str, storage_options: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Return options by obstore's names, each with the name that obstore gets and its value."""
    found: dict[str, tuple[str, Any]] = {}
    names: dict[str, str] = {}
    for given, value in fsspec_options(scheme_of(url), storage_options):
        name, passed = option_names(scheme_of(url), given.lower())
        if name in found and found[name][1] != value:
            raise UsageError(
                f"storage_options for {url!r} give {name} twice, with different values, as {names[name]!r} and {given!r}: leave one out"
            )
        found[name], names[name] = (passed, value), given
    return found


def fsspec_options(scheme: str, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield options with fsspec's nested ones flattened, without options that do not affect requests.

    >>> list(fsspec_options("s3", {"client_kwargs": {"endpoint_url": "https://a"}, "asynchronous": True}))
    [('endpoint_url', 'https://a')]
    """
    for name, value in given.items():
        if scheme == "s3" and name == "client_kwargs" and isinstance(value, Mapping):
            yield from value.items()
        elif scheme == "gs" and (name, value) == ("token", ANONYMOUS_TOKEN):
            yield ANONYMOUS, True
        elif name not in _NEUTRAL and value is not None:
            yield name, value


def has_fsspec_names(scheme: str, given: Mapping[str, Any]) -> bool:
    """Tell whether all options of an fsspec file system have names in obstore.

    >>> has_fsspec_names("s3", {"key": "a"}), has_fsspec_names("s3", {"s3_additional_kwargs": {}})
    (True, False)
    """
    names = {name for name, _ in fsspec_options(scheme, given)}
    return scheme in FSSPEC_NAMES and names <= {ANONYMOUS, *FSSPEC_NAMES[scheme]}


def scheme_of(url: str) -> str:
    """Return the scheme of a URL, of aliases the main one.

    >>> scheme_of("s3a://bucket/a"), scheme_of("/data/a")
    ('s3', '')
    """
    scheme = urlsplit(url).scheme
    return SCHEMES.get(scheme, scheme)


def option_names(scheme: str, given: str) -> tuple[str, str]:
    """Return an option's name without the provider's prefix, and the name that obstore gets.

    >>> option_names("s3", "aws_default_region"), option_names("s3", "key"), option_names("az", "azure_client_id")
    (('region', 'region'), ('access_key_id', 'access_key_id'), ('client_id', 'azure_client_id'))
    """
    plain = given.removeprefix(next(filter(given.startswith, _PREFIXES), ""))
    name = _OTHER_NAMES.get(plain, plain)
    name = FSSPEC_NAMES.get(scheme, {}).get(name, name)
    return name, given if name == plain else name


def _client_value(name: str, value: Any) -> Any:
    """Return a value in obstore's form, with durations as text and certificates as PEM."""
    if name == "root_certificate":
        return read_certificates(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value}s" if is_number and name.endswith("timeout") else value


def near_option(name: str) -> str:
    """Return the public option with the most similar name, or an empty string.

    >>> near_option("endpont"), near_option("AWS_REGIN"), near_option("secret_access_key")
    ('endpoint', 'region', '')
    """
    known = [*public_names(), *_OTHER_NAMES]
    plain = name.lower()
    plain = next((plain.removeprefix(prefix) for prefix in _PREFIXES if plain.startswith(prefix)), plain)
    return next(iter(get_close_matches(plain, known, 1, 0.75)), "")


def public_names() -> list[str]:
    """Return the names of the public options."""
    return sorted({*Options.__struct_fields__, *CLIENT_OPTIONS} - set(_SECRET_CLIENT))


def is_public(name: str) -> bool:
    """Tell whether an option is public.

    >>> is_public("aws_endpoint_url"), is_public("secret_access_key")
    (True, False)
    """
    return any(option_names(scheme, name.lower())[0] in public_names() for scheme in FSSPEC_NAMES)
