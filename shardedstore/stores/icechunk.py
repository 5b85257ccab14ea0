"""Icechunk repositories: one snapshot of a branch or a tag, read with the package icechunk.

A repository may hold virtual chunks, which lie in other files. They need the same consent as `shardedstore.stores.targets` describes.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from functools import cache, cached_property
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import quote, unquote

from msgspec import Meta
from zarr.abc.store import ByteRequest, Store

from shardedstore.errors import CorruptError, UsageError
from shardedstore.fields import Url
from shardedstore.storage.grants import held_options
from shardedstore.storage.options import NONE, Options, StorageOptions, scheme_of, take_options
from shardedstore.storage.urls import is_remote, is_within, normalize, quote_name, url_with_scheme
from shardedstore.stores.locate import locate_store
from shardedstore.stores.location import Location, Place
from shardedstore.stores.targets import consented, is_consent_settled, keys_of, root_of, target_url
from shardedstore.stores.view import view_of
from shardedstore.zarr.paths import check_path
from shardedstore.zarr.readonly import PROTOTYPE, ReadOnlyStore

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer, BufferPrototype

STAGE = "|icechunk:"
_PIPELINE = re.compile(r"([^|]+)\|icechunk:(?:@([^/|]+)/?)?([^|]*)(?:\|zarr3?:/?([^|]*))?", re.DOTALL)
_CHANGED = re.compile(r"object owning the virtual chunk has changed \((.*?)\)")
_MISSING = re.compile(r"fetching virtual reference.*?(NoSuchKey|not found|NotFound|No such file)", re.DOTALL)
_DENIED = re.compile("AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|Forbidden")
_KEYS = ("access_key_id", "secret_access_key", "session_token")


class Icechunk(Place, frozen=True, tag="icechunk", omit_defaults=True, repr_omit_defaults=True):
    """One snapshot of an Icechunk repository."""

    url: Annotated[Url, Meta(description="The path or URL; inside the folder of the config it is relative to it.")]
    ref: Annotated[str, Meta(description="The version: branch.NAME, tag.NAME, or the identifier of a snapshot.")]
    snapshot: Annotated[str, Meta(description="The identifier of the snapshot that the version led to.")]
    options: Annotated[Options, Meta(description="The public options of the object stores.")] = NONE

    def open(self, *, read_only: bool = True) -> Store:
        # docstring inherited
        return IcechunkReadStore(self)

    def show(self) -> str:
        # docstring inherited
        return repr(f"{self.url}{STAGE}@{self.ref}")

    @property
    def pipeline(self) -> str:
        # docstring inherited
        return f"{url_with_scheme(self.url)}/{STAGE}@{quote(self.ref)}/"

    @property
    def proofs(self) -> list[str]:
        # docstring inherited
        import_icechunk()
        return []

    @property
    def undeletable(self) -> str | None:
        # docstring inherited
        return f"{self.show()} is a snapshot, which does not change"

    def is_same(self, other: Location) -> bool:
        """Tell whether another location is the same version; a branch moves on to other snapshots."""
        return isinstance(other, Icechunk) and (self.url, self.ref) == (other.url, other.ref)


class IcechunkReadStore(ReadOnlyStore):
    """One snapshot of an Icechunk repository as a read-only zarr store; it is opened at the first request.

    Parameters
    ----------
    location : Icechunk
        The location, with the identifier of the snapshot.
    """

    def __init__(self, location: Icechunk) -> None:
        super().__init__()
        self.location = location

    @cached_property
    def _session(self) -> Any:
        place = self.location
        repository = open_repository(place.url, place.options)
        try:
            return repository.readonly_session(snapshot_id=place.snapshot)
        except import_icechunk().IcechunkError as error:
            raise _not_opened(place.show(), error) from None

    async def get(
        self, key: str, prototype: BufferPrototype = PROTOTYPE, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        try:
            found: Buffer | None = await self._session.store.get(key, prototype, byte_range)
        except import_icechunk().IcechunkError as error:
            self._explain(key, error)
            raise
        return found

    def _explain(self, key: str, error: Exception) -> None:
        """Raise a clear error for a virtual chunk that nobody has consented to read, or whose file is missing or was replaced."""
        text = str(error)
        if "virtual" in text and "authoriz" in text:
            refused = refused_prefixes(self.location.url, self.location.options)
            raise UsageError(
                f"{self.location.show()} has {key!r} as a reference to another place: if that is right, give the storage option "
                f"allow={','.join(refused)!r}"
            ) from error
        if (found := _CHANGED.search(text)) is not None:
            raise CorruptError(
                f"{self.location.show()}: {key!r} leads to an object that was replaced ({unquote(found[1])!r}): restore it, or make the "
                "references again"
            ) from error
        if (found := _MISSING.search(text)) is not None:
            raise CorruptError(
                f"{self.location.show()}: {key!r} leads to an object that is missing ({found[1]}): restore it, or make the "
                "references again"
            ) from error

    async def exists(self, key: str) -> bool:
        # docstring inherited
        return bool(await self._session.store.exists(key))

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self._session.store.list():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self._session.store.list_prefix(prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        async for name in self._session.store.list_dir(prefix.rstrip("/")):
            yield name

    def __reduce__(self) -> tuple[type[IcechunkReadStore], tuple[Icechunk]]:
        return IcechunkReadStore, (self.location,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IcechunkReadStore) and self.location == other.location

    def __repr__(self) -> str:
        return f"IcechunkReadStore({self.location.show()})"


@locate_store.register
def _(store: IcechunkReadStore) -> Location:
    return store.location


class Version(NamedTuple):
    """A parsed URL pipeline: the URL of the repository, the version, and the path of a node."""

    url: str
    ref: str
    path: str


def split_pipeline(text: str) -> Version:
    """Split a URL pipeline of ZEP 8 into its parts; the default version is the branch ``main``.

    >>> split_pipeline("s3://bucket/repo/|icechunk:@tag.v1/winds/")
    Version(url='s3://bucket/repo', ref='tag.v1', path='winds')

    Raises
    ------
    UsageError
        If it has another form.
    """
    found = _PIPELINE.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{text!r} is not a version of an Icechunk repository: write URL|icechunk:@branch.NAME/, @tag.NAME/ or @SNAPSHOT/ and a path"
        )
    url, ref, *paths = found.groups()
    path = "/".join(filter(None, (unquote(part or "").strip("/") for part in paths)))
    return Version(normalize(url), unquote(ref or "branch.main"), path and check_path(path, "the path in a repository"))


def locate_icechunk(text: str, storage_options: StorageOptions) -> Location:
    """Return the location of a version that a user names, with the identifier of its present snapshot.

    A user who names a local repository consents to the places of its virtual chunks. A remote one needs the option ``allow``.

    Raises
    ------
    UsageError
        If icechunk is not installed, or if the repository or the version can't be opened.
    """
    version = split_pipeline(text)
    options = _options(version.url, storage_options)
    repository = open_repository(version.url, options)
    kind, _, name = version.ref.partition(".")
    which = {"branch": {"branch": name}, "tag": {"tag": name}}.get(kind, {"snapshot_id": version.ref})
    try:
        snapshot = repository.readonly_session(**which).snapshot_id
    except import_icechunk().IcechunkError as error:
        raise _not_opened(repr(text), error) from None
    return view_of(Icechunk(version.url, version.ref, snapshot, options), version.path)


def _options(url: str, storage_options: Any) -> Options:
    if is_consent_settled(url, storage_options):
        return take_options(url, storage_options)
    return consented(url, storage_options, _containers(url, NONE), _inside(url))


def import_icechunk() -> Any:
    """Return the module icechunk, or raise UsageError if it is not installed."""
    try:
        import icechunk
    except ImportError as error:
        raise UsageError("this needs icechunk, which is not installed: pip install 'shardedstore[export]'") from error
    return icechunk


def open_repository(url: str, options: Options) -> Any:
    """Open a repository; virtual chunks are readable at the places that the options allow.

    Raises
    ------
    UsageError
        If there is no repository, or if its kind of storage is not supported.
    """
    icechunk = import_icechunk()
    storage = _storage(url, options)
    try:
        config = icechunk.Repository.fetch_config(storage) or icechunk.RepositoryConfig.default()
        prefixes = [prefix for prefix in _containers(url, options) if _is_allowed(prefix, url, options)]
        if is_remote(url) or options.endpoint:  # its author must not choose the server that gets the credentials
            for prefix in prefixes:
                _replace_server(config, prefix, options)
        targets = {prefix: target_url(prefix, _inside(url)) for prefix in prefixes}
        access = {prefix: _credentials(keys_of(target, url, options), options) for prefix, target in targets.items()}
        authorized = icechunk.containers_credentials(access)
        return icechunk.Repository.open(storage, config=config, authorize_virtual_chunk_access=authorized)
    except icechunk.IcechunkError as error:
        raise _not_opened(repr(url), error) from None


def refused_prefixes(url: str, options: Options) -> list[str]:
    """Return the prefixes of virtual chunks that may not be read."""
    return [prefix for prefix in _containers(url, options) if not _is_allowed(prefix, url, options)]


def _containers(url: str, options: Options) -> list[str]:
    icechunk = import_icechunk()
    try:
        config = icechunk.Repository.fetch_config(_storage(url, options))
    except icechunk.IcechunkError as error:
        raise _not_opened(repr(url), error) from None
    return sorted((config and config.virtual_chunk_containers) or {})


def _is_allowed(prefix: str, url: str, options: Options) -> bool:
    try:
        target = target_url(prefix, _inside(url))
    except UsageError:
        return False
    return any(is_within(target, place) for place in (root_of(_inside(url)), *options.allow))


def _inside(url: str) -> str:
    """Return the URL of a document in a repository, from whose place the consent follows."""
    return f"{url}/repo"


def _replace_server(config: Any, prefix: str, options: Options) -> None:
    icechunk = import_icechunk()
    container = config.virtual_chunk_containers[prefix]
    if prefix.startswith("s3://"):
        store = icechunk.s3_store(s3_compatible=options.endpoint is not None, **client_options(options))
        config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, store, container.name))


def client_options(options: Options) -> dict[str, Any]:
    """Return the options of a client of S3 by Icechunk's names."""
    return {
        "region": options.region,
        "endpoint_url": options.endpoint,
        "allow_http": options.allow_http,
        "force_path_style": options.endpoint is not None and not options.virtual_hosted_style_request,
    }


def _storage(url: str, options: Options) -> Any:
    icechunk = import_icechunk()
    if not is_remote(url):
        quiet_icechunk()
        return icechunk.local_filesystem_storage(url)
    scheme, (bucket, _, prefix) = scheme_of(url), unquote(url.partition("://")[2]).partition("/")
    if scheme == "s3":
        return icechunk.s3_storage(bucket=bucket, prefix=prefix, **_s3_keys(url, options), **client_options(options))
    if scheme == "https":
        return icechunk.http_storage(url)
    if scheme == "gs":
        is_anonymous = options.anonymous or None
        return icechunk.gcs_storage(bucket=bucket, prefix=prefix, anonymous=is_anonymous, from_env=not is_anonymous)
    raise UsageError(
        f"no Icechunk repository can be opened at {quote_name(url)!r}: give a folder, or an s3://, gs:// or https:// URL"
    )


@cache
def quiet_icechunk() -> None:
    """Let Icechunk print errors only, unless its variable ICECHUNK_LOG asks for more; it warns of each local folder."""
    if "ICECHUNK_LOG" not in os.environ:
        import_icechunk().set_logs_filter("error")


def _s3_keys(url: str, options: Options) -> dict[str, Any]:
    if options.anonymous:
        return {"anonymous": True}
    held = held_options(url, options.server)
    found = {name: held[key] for key in held for name in _KEYS if key.lower().removeprefix("aws_") == name}
    return found or {"from_env": True}


def _credentials(url: str, options: Options) -> Any:
    from icechunk import credentials

    if not is_remote(url):
        return credentials.LocalFileSystemAccess
    match scheme_of(url), options.anonymous:
        case "s3", True:
            return credentials.s3_anonymous_credentials()
        case "s3", _:
            keys = _s3_keys(url, options)
            is_given = "access_key_id" in keys
            return credentials.s3_static_credentials(**keys) if is_given else credentials.s3_from_env_credentials()
        case "gs", True:
            return credentials.gcs_anonymous_credentials()
        case "gs", _:
            return credentials.gcs_from_env_credentials()
        case "az", _:
            return credentials.azure_from_env_credentials()
    return credentials.HttpAccess


def _not_opened(what: str, error: Exception) -> UsageError:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    way = "check the URL and the name"
    if _DENIED.search(text):
        way = "check the credentials and their permissions"
    return UsageError(f"{what} can't be opened as a version of an Icechunk repository: {text}: {way}")
