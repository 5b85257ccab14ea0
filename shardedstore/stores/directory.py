"""Folders with a file or object for each key: on a local disk, in an object store, or on a web server."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar

import obstore
import obstore.store as obs
from msgspec import Meta
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, ObjectStore

from shardedstore.fields import Url
from shardedstore.storage.blobs import object_store
from shardedstore.storage.folders import open_folder
from shardedstore.storage.options import NONE, SCHEMES, Options, has_fsspec_names, take_options
from shardedstore.storage.urls import (
    is_remote,
    join_url,
    normalize,
    object_url,
    quote_name,
    unquote_name,
    url_with_scheme,
)
from shardedstore.stores.http import HTTPReadStore
from shardedstore.stores.http_index import ROOTS
from shardedstore.stores.layers import Layer
from shardedstore.stores.local import LocalReader
from shardedstore.stores.locate import locate_store
from shardedstore.stores.location import Location, Opened, Place
from shardedstore.stores.objects import ObjectFolder
from shardedstore.stores.ranges import Range, ranges_of
from shardedstore.stores.reader import reader_of
from shardedstore.stores.veiled import VEILED_ROOTS
from shardedstore.stores.view import ViewOf, view_of


class Directory(Place, frozen=True, tag="directory", omit_defaults=True, repr_omit_defaults=True):
    """A folder with a file for each key: a local path, a prefix in an object store, or a URL of a web server."""

    is_folder: ClassVar[bool] = True

    url: Annotated[Url, Meta(description="The path or URL; inside the folder of the config it is relative to it.")]
    options: Annotated[Options, Meta(description="The public options of the object store.")] = NONE

    @property
    def is_web(self) -> bool:
        """Whether the folder is on a web server, which can't be listed or written to."""
        return self.url.startswith(("http://", "https://"))

    def open(self, *, read_only: bool = True) -> Store:
        # docstring inherited
        if self.is_web:
            return HTTPReadStore(self.url, self.options)
        if is_remote(self.url):
            return ObjectFolder(object_store(self.url, self.options), read_only=read_only)
        return LocalStore(self.url, read_only=read_only)

    @property
    def pipeline(self) -> str:
        # docstring inherited
        return f"{url_with_scheme(self.url)}/"

    def layers(self, path: str) -> Iterator[Layer]:
        # docstring inherited
        yield Layer(view_of(self, path).pipeline, self.options)

    @property
    def files_url(self) -> str | None:
        # docstring inherited
        return None if self.is_web else self.url

    def measure(self) -> tuple[int, int] | None:
        # docstring inherited
        if self.is_web:
            return 0, 0
        sizes = [nbytes for _, nbytes in open_folder(self.url, self.options).sizes()]
        return (len(sizes), sum(sizes)) if sizes else None

    @property
    def undeletable(self) -> str | None:
        # docstring inherited
        if self.is_web:
            return f"{self.show()} is on a web server, which can only be read"
        return f"{self.show()} is read without credentials, as public data" if self.options.anonymous else None

    @property
    def written_to(self) -> object:
        # docstring inherited
        return self.url

    @property
    def proofs(self) -> list[str]:
        # docstring inherited
        return [join_url(self.url, name) for name in (*ROOTS, *VEILED_ROOTS)]

    def check_there(self) -> None:
        # docstring inherited
        if is_remote(self.url) and not self.is_web:
            next(iter(obstore.list(object_store(self.url, self.options), chunk_size=1)), None)

    def beside_others(self) -> Location:
        # docstring inherited
        if not is_remote(self.url) or self.is_web:
            return self
        folder, _, name = self.url.rpartition("/")
        return ViewOf(Directory(folder, self.options), unquote_name(name, folder))


reader_of.register(LocalStore, LocalReader)


@locate_store.register
def _(store: LocalStore) -> Location:
    return Directory(normalize(store.root))


@locate_store.register
def _(store: HTTPReadStore) -> Location:
    return Directory(store.url, store.options)


@locate_store.register(ObjectStore)
def _(store: ObjectStore[Any]) -> Location:
    return _of_obstore(store.store) or Opened(store)


@locate_store.register
def _(store: FsspecStore) -> Location:
    return _of_fsspec(store.fs, store.path) or Opened(store)


_BUCKETS: dict[type[Any], tuple[str, str]] = {  # the scheme, and the option that names the bucket
    obs.S3Store: ("s3", "bucket"),
    obs.GCSStore: ("gs", "bucket"),
    obs.AzureStore: ("az", "container_name"),
}

_ASIDE = ("client_options", "retry_config", "credential_provider")


def _of_obstore(client: Any) -> Location | None:
    if isinstance(client, obs.LocalStore):
        return Directory(normalize(client.prefix or "/"))
    if isinstance(client, obs.HTTPStore):
        return _directory(normalize(client.url), _aside(client))
    for kind, (scheme, bucket) in _BUCKETS.items():
        if isinstance(client, kind):
            options = {**client.config, **_aside(client)}
            url = join_url(f"{scheme}://{options.pop(bucket)}", quote_name(client.prefix or ""))
            return _directory(url, options)
    return None


def _aside(client: Any) -> dict[str, Any]:
    found = {name: getattr(client, name, None) for name in _ASIDE}
    return {name: value for name, value in found.items() if value}


def _directory(url: str, options: Mapping[str, Any]) -> Directory:
    url = normalize(url)
    return Directory(url, take_options(url, options))


def _of_fsspec(system: Any, path: str) -> Location | None:
    inner = getattr(system, "sync_fs", system)
    protocol = inner.protocol if isinstance(inner.protocol, str) else inner.protocol[0]
    if protocol in ("file", "local"):
        return Directory(normalize(path))
    scheme = SCHEMES.get(protocol, protocol)
    if not has_fsspec_names(scheme, inner.storage_options):
        return None
    url = path if scheme == "https" else f"{scheme}://{quote_name(path.strip('/'))}"
    return _directory(url, inner.storage_options)


@ranges_of.register
def _(store: LocalStore, keys: Iterable[str]) -> Iterator[Range]:
    root = os.fspath(store.root)
    return (Range(path, 0, os.stat(path).st_size) for path in map(f"{root}/".__add__, keys))


@ranges_of.register(ObjectStore)
def _(store: ObjectStore[Any], keys: Iterable[str]) -> Iterator[Range]:
    folder = locate_store(store)
    if not isinstance(folder, Directory):
        return ranges_of.dispatch(Store)(store, keys)
    wanted = list(keys)
    sizes = {key: nbytes for key, nbytes, _ in reader_of(store).tags(wanted)}
    return (Range(object_url(folder.url, key), 0, sizes[key]) for key in wanted)
