"""References in Kerchunk's JSON format, of version 0 and 1.

The format is described in https://fsspec.github.io/kerchunk/spec.html. Templates are names in double braces; generated references
and other expressions of Jinja are refused.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Annotated

import msgspec
from msgspec import Meta
from obstore.exceptions import BaseError

from shardedstore.errors import CorruptError, UsageError
from shardedstore.fields import Url
from shardedstore.storage.blobs import nbytes_of, open_blob
from shardedstore.storage.options import NONE, Options, StorageOptions, take_options
from shardedstore.stores.references import ReferencePlace, ReferenceSet, version_of
from shardedstore.stores.targets import Reference, consented, is_consent_settled
from shardedstore.zarr.paths import check_key

HEAD = 1 << 16  # bytes that are searched for signs of references
_SIGNS = re.compile(rb'"refs"\s*:|"(?:[^"\\]*/)?(?:\.zgroup|\.zarray|\.zattrs|zarr\.json)"\s*:')
_TEMPLATE = re.compile(r"{{\s*([A-Za-z_]\w*)\s*}}")
_ROOTS = ("zarr.json", ".zgroup", ".zarray")


class Kerchunk(ReferencePlace, frozen=True, tag="kerchunk", omit_defaults=True, repr_omit_defaults=True):
    """A JSON file of references to the chunks of a Zarr, in Kerchunk's format."""

    url: Annotated[Url, Meta(description="The path or URL; inside the folder of the config it is relative to it.")]
    options: Annotated[Options, Meta(description="The public options of the object stores.")] = NONE

    def load(self) -> ReferenceSet:
        # docstring inherited
        return load_references(self.url, self.options)


class JSONReferences:
    """The references of one document.

    Parameters
    ----------
    url : str
        The URL of the document, for messages.
    values : mapping of str to msgspec.Raw
        The entries, which are decoded when they are needed.
    templates : mapping of str to str
        The texts of the templates by name.
    """

    def __init__(self, url: str, values: Mapping[str, msgspec.Raw], templates: Mapping[str, str]) -> None:
        self.url, self._values, self._templates = url, values, templates
        self._names = sorted(values)

    def names(self, prefix: str) -> Sequence[str]:
        # docstring inherited
        first = bisect_left(self._names, prefix)
        return self._names[first : bisect_left(self._names, f"{prefix}\U0010ffff") if prefix else None]

    def find(self, key: str) -> Reference | bytes | None:
        # docstring inherited
        raw = self._values.get(key)
        if raw is None:
            return None
        match msgspec.json.decode(raw):
            case str(text):
                return self._inline(key, text)
            case [str(url)]:
                return Reference(self._filled(key, url))
            case [str(url), int(start), int(nbytes)] if start >= 0 and nbytes >= 0:
                return Reference(self._filled(key, url), start, nbytes)
            case dict():
                return bytes(raw)
        raise self._damaged(key, "is neither text nor [url], nor [url, offset, length]")

    def targets(self) -> Iterator[str]:
        """Yield the targets of all references."""
        for key in self._names:
            found = self.find(key)
            if isinstance(found, Reference):
                yield found.target

    def _inline(self, key: str, text: str) -> bytes:
        if not text.startswith("base64:"):
            return text.encode()
        try:
            return base64.b64decode(text.removeprefix("base64:"), validate=True)
        except binascii.Error as error:
            raise self._damaged(key, f"is not valid base64 ({error})") from None

    def _filled(self, key: str, url: str) -> str:
        if "{{" not in url:
            return url
        filled = _TEMPLATE.sub(lambda found: self._templates.get(found[1], found[0]), url)
        if "{{" in filled or "{%" in filled:
            raise self._damaged(
                key,
                f"has the template {url!r}, which is unknown or an expression: write the references without templates",
            )
        return filled

    def _damaged(self, key: str, why: str) -> CorruptError:
        return CorruptError(f"{self.url!r}: the reference {key!r} {why}")


def load_references(url: str, options: Options) -> JSONReferences:
    """Read a document, or take it from the cache of this process if it has not changed.

    Raises
    ------
    CorruptError
        If it holds no references, or generated ones.
    """
    found = _load(url, options, version_of(url, options))
    if found is None:
        raise CorruptError(f"{url!r} holds no references by Kerchunk: is it the right file?")
    return found


@lru_cache(maxsize=4)
def _load(url: str, options: Options, _version: object) -> JSONReferences | None:
    nbytes = nbytes_of(url, options) or 0
    return parse_references(url, bytes(open_blob(url, options).read(0, nbytes)))


def parse_references(url: str, data: bytes) -> JSONReferences | None:
    """Return the references of a document; None if it is another one.

    Raises
    ------
    CorruptError
        If the references are generated by expressions, or if a key is not valid.
    """
    try:
        document = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        refs, templates = document, dict[str, str]()
        if "refs" in document:
            refs = msgspec.json.decode(document["refs"], type=dict[str, msgspec.Raw])
            templates = msgspec.json.decode(document.get("templates", b"{}"), type=dict[str, str])
    except (msgspec.DecodeError, RecursionError):
        return None
    if not any(key.rpartition("/")[2] in _ROOTS for key in refs) and "refs" not in document:
        return None
    if "gen" in document and bytes(document["gen"]).strip() not in (b"[]", b"null"):
        raise CorruptError(
            f"{url!r} has generated references ('gen'), which are not supported: load it with fsspec, and write its references in full"
        )
    try:
        for key in refs:
            check_key(key)
    except UsageError as error:
        raise CorruptError(f"{url!r} has an invalid reference: {error}") from None
    return JSONReferences(url, refs, templates)


def locate_kerchunk(url: str, storage_options: StorageOptions) -> Kerchunk | None:
    """Return the location of a JSON file of references; None for any other file.

    A user who names a local document consents to the places that it names. A remote one needs the storage option ``allow``.

    Raises
    ------
    UsageError
        If the storage options can't be used.
    """
    if not url.endswith(".json") or os.path.isdir(url):
        return None
    is_settled = is_consent_settled(url, storage_options)
    options = take_options(url, storage_options) if is_settled else NONE
    found = _sniffed(url, options)
    if found is None:
        return None
    return Kerchunk(url, options if is_settled else consented(url, storage_options, found.targets(), url))


def _sniffed(url: str, options: Options) -> JSONReferences | None:
    with suppress(OSError, BaseError):
        nbytes = nbytes_of(url, options) or 0
        if nbytes and _SIGNS.search(bytes(open_blob(url, options).read(0, min(nbytes, HEAD)))):
            return _load(url, options, version_of(url, options))
    return None
