"""Places inside zips, by a path after the zip's own, as the URL pipelines of Zarr's ZEP 8 have it."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote

from shardedstore.errors import UsageError
from shardedstore.mounts import check_path

_INSIDE = re.compile(r"((?:(?!\|zip:).)+)\|zip:([^|]*)(?:\|zarr[23]?:/?)?", re.DOTALL)


def split_inside(url: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the zip, and the path of the folder in it, that a path or a URL leads to; the path is empty without one.

    Raises
    ------
    UsageError
        For what follows a zip and is no path of a folder in it.

    Examples
    --------
    >>> split_inside("/data/x.zip|zip:a%20b/x.zarr/"), split_inside("s3://bucket/x.zip")
    (('/data/x.zip', 'a b/x.zarr'), ('s3://bucket/x.zip', ''))
    """
    text = os.fspath(url)
    if "|zip:" not in text:
        return text, ""
    found = _INSIDE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} leads on from what is in a zip: name one folder of it, like 'x.zip|zip:path/'")
    path = unquote(found[2]).strip("/")
    return found[1], path and check_path(path, "the folder in a zip")


def join_inside(url: str, path: str) -> str:
    """Return what `split_inside` splits.

    >>> join_inside("/data/x.zip", "a b/x.zarr"), join_inside("/data/x.zip", "")
    ('/data/x.zip|zip:a%20b/x.zarr/', '/data/x.zip')
    """
    return f"{url}|zip:{quote(path)}/" if path else url
