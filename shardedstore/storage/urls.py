"""Local paths and URLs of object stores, in the normal form that locations use."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from urllib.parse import quote, unquote, urlsplit

from shardedstore.errors import UsageError

BESIDE = ".shardedstore"  # suffix of the folder beside an ordinary Zarr that holds its config and ledger
_SAFE = "/{}~!$&'()*+,;=:@"
_NOT_CARRIED = re.compile(
    r"[%#?\\{}\x00-\x1f\x7f]|!(?=[0-9A-F]{2})"
)  # characters that differ between a URL and a file name
MISREAD = re.compile(r"[#\\\x00-\x1f\x7f]")  # clients cut the URL at these, drop them or read them as a slash
_CONTROLS = "".join(map(chr, (*range(32), 127)))
SCHEMES = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https")
_ALIASES = {"s3a": "s3", "adl": "az", "azure": "az", "abfs": "az", "abfss": "az"}


def is_remote(url: str) -> bool:
    """Tell whether a URL leads to an object store.

    >>> is_remote("s3://bucket/a.zarr"), is_remote("/data/a.zarr"), is_remote("file:///data/a.zarr")
    (True, False, False)
    """
    scheme = _scheme(url)
    return scheme is not None and scheme != "file"


def is_zip_name(url: str) -> bool:
    """Tell whether a path or URL names a zip, by its ending.

    >>> is_zip_name("s3://bucket/era5.zarr.zip"), is_zip_name("image.OZX"), is_zip_name("s3://bucket/zips/")
    (True, True, False)
    """
    return url.lower().endswith((".zip", ".ozx"))


def is_within(url: str, place: str) -> bool:
    """Tell whether a URL equals `place` or lies below it.

    >>> is_within("s3://bucket/a/b", "s3://bucket/a"), is_within("/data/ab", "/data/a")
    (True, False)
    """
    return f"{url}/".startswith(f"{place.rstrip('/')}/")


def real_url(url: str) -> str:
    """Return one form for all paths or URLs that lead to the same place.

    Symbolic links of a local path are resolved. Aliases of URL schemes are replaced, and quoted characters are unquoted.

    >>> real_url("s3a://bucket/my%20cube.zarr")
    's3://bucket/my cube.zarr'
    """
    if not is_remote(url):
        return os.path.realpath(url)
    scheme, _, place = url.partition("://")
    return f"{_ALIASES.get(scheme.lower(), scheme.lower())}://{unquote(place)}"


def url_with_scheme(url: str) -> str:
    """Return a URL, also for a local path.

    >>> url_with_scheme("/data/a b.zip"), url_with_scheme("s3://bucket/a.zip")
    ('file:///data/a%20b.zip', 's3://bucket/a.zip')
    """
    return url if is_remote(url) else f"file://{quote_name(url)}"


def join_url(folder: str, name: str) -> str:
    """Return the URL of a name in a folder; the folder's own URL if the name is empty.

    >>> join_url("s3://bucket", "a/0.zip"), join_url("/out", "")
    ('s3://bucket/a/0.zip', '/out')
    """
    return f"{folder.rstrip('/')}/{name}" if name else folder


def quote_name(name: str) -> str:
    """Quote a name for the URL of an object.

    >>> quote_name("a b/100%/{block}.zip")
    'a%20b/100%25/{block}.zip'
    """
    return quote(name, safe=_SAFE)


def carried_name(name: str) -> str:
    r"""Return a file name that needs no quoting in a URL.

    Characters that differ between URLs, disks and object stores are replaced by ``!`` and two hexadecimal digits.
    Different names stay different.

    >>> carried_name("temp #1/100%"), carried_name("température/a+b")
    ('temp !231/100!25', 'température/a+b')
    >>> carried_name("a!25")  # differs from carried_name("a%")
    'a!2125'
    """
    return _NOT_CARRIED.sub(lambda found: f"!{ord(found[0]):02X}", name)


def plain_url(url: str) -> str:
    """Return the unquoted form of a relative URL if it has the same meaning, else the URL.

    >>> plain_url("temp%C3%A9rature/a%20b.zip"), plain_url("100%25/{block}.zip")
    ('température/a b.zip', '100%25/{block}.zip')
    """
    plain = unquote(url)
    return plain if quote_name(plain) == url and not re.search(r"[%#?\\\x00-\x1f\x7f]", plain) else url


def quoted_url(url: str) -> str:
    """Quote a relative URL, except for characters that may have another meaning.

    >>> quoted_url("température/a b%20.zip"), quoted_url("a?b#c")
    ('temp%C3%A9rature/a%20b%20.zip', 'a?b#c')
    """
    return quote(url, safe=_SAFE + "%?#\\" + _CONTROLS)


def object_url(folder: str, name: str) -> str:
    """Return the URL of a file or object from its folder and its unquoted name.

    >>> object_url("s3://bucket", "a b/0.zip"), object_url("/out", "a b/0.zip")
    ('s3://bucket/a%20b/0.zip', '/out/a b/0.zip')
    """
    return join_url(folder, quote_name(name) if is_remote(folder) else name)


def fill_url(url: str, **values: str) -> str:
    """Replace the placeholders in braces of a URL by names.

    >>> fill_url("s3://bucket/{block}/{name}.zarr", block="0", name="a b"), fill_url("/in/{name}.zarr", name="a b")
    ('s3://bucket/0/a%20b.zarr', '/in/a b.zarr')
    """
    quoted = quote_name if is_remote(url) else str
    return re.sub("{(" + "|".join(values) + ")}", lambda found: quoted(values[found[1]]), url)


def unquote_name(name: str, url: str) -> str:
    """Return the name for the last part of a URL; parts of local paths are not unquoted.

    >>> unquote_name("a%20b", "s3://bucket/a%20b"), unquote_name("a%20b", "/a%20b")
    ('a b', 'a%20b')
    """
    return unquote(name) if is_remote(url) else name


def similar_path(url: str) -> str:
    """Return the end of a message about a local path that does not exist: a similar name beside it, if there is one."""
    folder, name = os.path.split(url)
    if is_remote(url) or os.path.lexists(url) or not os.path.isdir(folder):
        return ""
    found = get_close_matches(name, os.listdir(folder), 1)
    return f"; did you mean {os.path.join(folder, found[0])!r}?" if found else ""


def _scheme(url: str) -> str | None:
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    return match[1].lower() if match else None


def unreadable(url: str) -> str | None:
    r"""Return the first character of a URL or path that no name can contain.

    >>> unreadable("/data/a\0b"), unreadable("/data/ä")
    ('\x00', None)
    """
    if "\0" in url:
        return "\0"
    try:
        url.encode() if is_remote(url) else os.fsencode(url)
    except UnicodeEncodeError as error:
        return url[error.start]
    return None


_FORMAT = re.compile(r"\|zarr[23]?:/?([^|]*)\Z")  # the last stage of a URL pipeline


def normalize(url: str | os.PathLike[str]) -> str:
    """Return an absolute local path, or a URL without a trailing slash.

    A URL pipeline of Zarr's ZEP 8 may end with the format of the Zarr and a path in it.

    >>> normalize("file:///data/my%20cube.zarr/"), normalize("S3://bucket/era5.zarr/")
    ('/data/my cube.zarr', 's3://bucket/era5.zarr')
    >>> normalize("s3://bucket/era5.zarr/|zarr3:winds/u")
    's3://bucket/era5.zarr/winds/u'

    Raises
    ------
    UsageError
        For an unknown scheme, credentials in the URL, and characters that clients drop or misread.
    """
    text = os.fspath(url)
    if (found := _FORMAT.search(text)) is not None:
        text = f"{text[: found.start()].rstrip('/')}/{found[1]}"
    scheme = _scheme(text)
    if scheme is None:
        if not text:
            raise UsageError("an empty path was given: name a folder, a zip or a URL")
        return os.path.abspath(os.path.expanduser(text))
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise UsageError(f"{text.rpartition('@')[2]!r} is not a URL: {error}") from None
    if found := MISREAD.search(text):
        raise UsageError(f"the URL {_public(text)!r} has {found[0]!r}: write {quote(found[0])} if it is part of a name")
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise UsageError(
                f"the URL {_public(text)!r} names a file on another machine: write file:/// and the path on this machine"
            )
        if "?" in text:
            raise UsageError(f"the URL {text!r} has '?': write %3F if it is part of a name")
        return os.path.abspath(unquote(parts.path))
    if scheme not in SCHEMES:
        raise UsageError(f"unknown URL scheme {scheme}:// in {_public(text)!r}: use one of {', '.join(SCHEMES)}")
    user, at, _ = parts.netloc.rpartition("@")
    if (at and (scheme not in ("abfs", "abfss") or ":" in user)) or parts.query:
        raise UsageError(f"the URL {_public(text)!r} holds credentials: pass them in environment variables instead")
    if any(part in (".", "..") for part in unquote(urlsplit(text).path).split("/")):
        raise UsageError(f"the URL {_public(text)!r} has a segment '.' or '..': write it without that segment")
    return (scheme + text[len(scheme) :]).rstrip("/")


def _public(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
