"""Targets of references: the files and objects that hold the bytes, and the consent to read them.

Data from elsewhere must not make this process read local files or other servers. References may lead to the folder of a local
document, or to the bucket or server of a remote one. All other places need the storage option ``allow``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from obstore.exceptions import BaseError

from shardedstore.errors import CorruptError, UsageError
from shardedstore.storage.blobs import ByteSource, nbytes_of, open_blob
from shardedstore.storage.errors import status_of
from shardedstore.storage.grants import held_options
from shardedstore.storage.options import ALLOW, NONE, Options, StorageOptions, scheme_of, take_options
from shardedstore.storage.urls import is_remote, is_within, normalize, quote_name, quoted_url

MOST_OPEN = 64  # files that one store holds open


class Reference(NamedTuple):
    """One reference.

    Attributes
    ----------
    target : str
        The URL in the document.
    start : int
        The first byte.
    nbytes : int or None
        The number of bytes; None for all.
    """

    target: str
    start: int = 0
    nbytes: int | None = None


def root_of(url: str) -> str:
    """Return the place that references in a document may lead to.

    >>> root_of("s3://bucket/references/a.json"), root_of("/data/a.json")
    ('s3://bucket', '/data')
    """
    if not is_remote(url):
        return url.rpartition("/")[0] or "/"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def target_url(target: str, document: str) -> str:
    """Return the normalized URL of a target; relative ones start from the folder of the document.

    Names in object stores and local names are not quoted, as in fsspec.

    >>> target_url("s3://bucket/a b.nc", "/data/a.json"), target_url("b/c.nc", "/data/a.json")
    ('s3://bucket/a%20b.nc', '/data/b/c.nc')

    Raises
    ------
    UsageError
        For an invalid or unknown URL.
    """
    scheme, separator, rest = target.partition("://")
    if not separator:
        folder = "" if target.startswith("/") else f"{document.rpartition('/')[0]}/"
        return normalize(folder + (quote_name(target) if is_remote(folder) else target))
    if scheme.lower() in ("file", "local"):
        return normalize(f"file://{quote(rest)}")
    if scheme_of(f"{scheme.lower()}://") == "https":
        return normalize(quoted_url(target))
    return normalize(f"{scheme}://{quote_name(rest)}")


class Targets:
    """Reads the targets of the references of one document.

    Parameters
    ----------
    document : str
        The URL of the document, which messages name.
    options : Options
        The public options, with the allowed places.
    """

    def __init__(self, document: str, options: Options) -> None:
        self.document, self.options = document, options
        self._places = (root_of(document), *options.allow)
        self._urls: dict[str, str] = {}
        self._open: dict[str, ByteSource] = {}
        self._lock = Lock()

    def url(self, target: str) -> str:
        """Return the URL of a target.

        Raises
        ------
        UsageError
            If the URL is invalid, or if it lies elsewhere and nobody has consented.
        """
        found = self._urls.get(target)
        if found is None:
            found = self._urls[target] = self._checked(target)
        return found

    def _checked(self, target: str) -> str:
        try:
            url = target_url(target, self.document)
        except UsageError as error:
            raise UsageError(f"{self.document!r} has a reference that can't be followed: {error}") from None
        if not any(is_within(url, place) for place in self._places):
            raise UsageError(
                f"{self.document!r} has references to {url!r}, which is at another place: if that is right, give the storage "
                f"option allow={root_of(url)!r} for it, or a folder that contains it"
            )
        return url

    def options_of(self, url: str) -> Options:
        """Return the public options of a target: those of the document for object stores, and none for web servers."""
        if not is_remote(url) or scheme_of(url) == "https":
            return NONE
        return self.options

    def read(self, key: str, reference: Reference, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes of a reference, or a part of them.

        Raises
        ------
        CorruptError
            If the target is missing, or shorter than the reference.
        UsageError
            If nobody has consented to read the target.
        """
        url = self.url(reference.target)
        try:
            nbytes = self.nbytes(reference)
            stop = nbytes if stop is None else min(stop, nbytes)
            data = (
                bytes(self._source(url).read(reference.start + start, reference.start + stop)) if stop > start else b""
            )
        except (OSError, BaseError) as error:
            if not isinstance(error, FileNotFoundError) and status_of(error) not in (404, 416):
                raise
            raise CorruptError(
                f"{self.document!r}: {key!r} leads to {url!r}, which is missing or too short: restore it, or make the references again"
            ) from error
        if len(data) != max(0, stop - start):
            raise CorruptError(
                f"{self.document!r}: {key!r} leads to bytes {reference.start} to {reference.start + nbytes} of {url!r}, which ends "
                "earlier: has it been replaced? Make the references again"
            )
        return data

    def nbytes(self, reference: Reference) -> int:
        """Return the number of bytes of a reference; of a whole file, its size.

        Raises
        ------
        FileNotFoundError
            If the whole file is missing.
        """
        if reference.nbytes is not None:
            return reference.nbytes
        url = self.url(reference.target)
        nbytes = nbytes_of(url, self.options_of(url), keys_of(url, self.document, self.options))
        if nbytes is None:
            raise FileNotFoundError(url)
        return nbytes - reference.start

    def _source(self, url: str) -> ByteSource:
        with self._lock:
            source = self._open.pop(url, None)
            if source is None:
                source = open_blob(url, self.options_of(url), keys_of(url, self.document, self.options))
            self._open[url] = source
            while len(self._open) > MOST_OPEN:
                del self._open[next(iter(self._open))]
            return source


def keys_of(url: str, document: str, options: Options) -> str:
    """Return the URL whose credentials read a target: the document's for its own bucket, unless the target has some."""
    is_own = is_remote(document) and is_within(url, root_of(document))
    return document if is_own and not held_options(url, options.server) else url


def roots_elsewhere(targets: Iterable[str], document: str) -> tuple[str, ...]:
    """Return the places outside the document's own that targets lead to: ``/`` for local files; invalid targets are skipped."""
    own, found = root_of(document), dict[str, None]()
    for target in dict.fromkeys(targets):
        try:
            url = target_url(target, document)
        except UsageError:
            continue
        if not is_within(url, own):
            found["/" if not is_remote(url) else root_of(url)] = None
    return tuple(sorted(found))


def is_consent_settled(url: str, storage_options: StorageOptions) -> bool:
    """Tell whether the consent for a document is settled without its targets: it is remote, or the options name the places."""
    names_places = isinstance(storage_options, Mapping) and ALLOW in storage_options
    return is_remote(url) or isinstance(storage_options, Options) or names_places


def consented(url: str, storage_options: Any, targets: Iterable[str], document: str) -> Options:
    """Return the public options of a local document that a user names: with its consent to the places of its targets."""
    given = {"anonymous": True} if isinstance(storage_options, str) else dict(storage_options or {})
    places = roots_elsewhere(targets, document)
    return take_options(url, {**given, ALLOW: places}) if places or given else NONE
