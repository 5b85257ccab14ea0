"""Names that not every file system can hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from toolz import groupby

from shardedstore.errors import ChainError
from shardedstore.notices import Notice
from shardedstore.storage.urls import is_remote

_DEVICES = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(?:\.|\Z)")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_REFUSED = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]\Z')


def name_notices(paths: Iterable[str]) -> Iterator[Notice]:
    """Yield the notices of the paths that Windows and network drives can't hold, or not beside one another.

    >>> for notice in name_notices(["a/b", "a/aux.x", "a:b", "T", "t"]):
    ...     print(notice)
    Windows and SMB can't hold these names: 'a/aux.x', 'a:b'
    Windows and macOS take these names for one: 'T', 't'
    """
    paths = list(paths)
    if refused := tuple(path for path in paths if not is_portable(path)):
        yield Notice("Windows and SMB can't hold these names", refused)
    alike = [some for some in groupby(str.casefold, paths).values() if len(some) > 1]
    if alike:
        yield Notice("Windows and macOS take these names for one", tuple(path for some in alike for path in some))


def is_portable(path: str) -> bool:
    """Tell whether Windows can hold the names in a path.

    >>> [is_portable(path) for path in ("a/b", "con", "a/nul.txt", "confer", "a./b", "a?", ".a")]
    [True, False, False, True, False, False, True]
    """
    return not any(_DEVICES.match(name) or _REFUSED.search(name) for name in path.split("/"))


def check_carried(paths: Iterable[str], url: str) -> None:
    """Refuse names that the client of an object store can't write, where each file is an object there.

    Raises
    ------
    ChainError
        Naming the first.
    """
    bad = next((path for path in paths if _CONTROLS.search(path)), None) if is_remote(url) else None
    if bad is not None:
        raise ChainError(
            f"{bad!r} has control characters, with which no object of {url!r} can be named: use ToZip, or leave it out with "
            "exclude="
        )
