"""Secret options that this process holds for URLs, such as credentials; they are in no graph and no file.

A plugin of the workers passes them on. The options given last for a URL are used.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from shardedstore.storage.profiles import Profile
from shardedstore.storage.urls import is_within

if TYPE_CHECKING:
    from obstore.store import S3Credential

PROVIDER = "credential_provider"  # the option of obstore for a function that returns keys
Key = tuple[str, str | None]  # the URL and its server
Grants = dict[Key, dict[str, Any]]
_held: dict[Key, dict[str, dict[str, Any]]] = {}  # by URL and server, then by holder
_lock = threading.Lock()


def grant(grants: Grants, holder: str = "") -> None:
    """Hold options for URLs in this process.

    The options given last are used. A holder's earlier options for a URL are replaced.
    """
    with _lock:
        for key, rest in grants.items():
            holders = _held.setdefault(key, {})
            holders.pop(holder, None)
            holders[holder] = rest


def revoke(holder: str) -> None:
    """Forget the options of a holder. Options of others for the same URLs are kept."""
    with _lock:
        for key in list(_held):
            _held[key].pop(holder, None)
            if not _held[key]:
                del _held[key]


def _last(holders: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return holders[next(reversed(holders))]


def granted(urls: Iterable[str]) -> Grants:
    """Return the options held for some URLs, for a worker's plugin; of a profile, the keys that are valid now."""
    places = list(urls)
    with _lock:
        found = {key: dict(_last(held)) for key, held in _held.items() if any(is_within(url, key[0]) for url in places)}
    for rest in found.values():
        if isinstance(rest.get(PROVIDER), Profile):
            rest[PROVIDER] = rest[PROVIDER].snapshot()
    return found


def expires(grants: Grants) -> bool:
    """Tell whether some keys are valid for a limited time, so that they must be given again."""
    return any(getattr(rest.get(PROVIDER), "until", None) is not None for rest in grants.values())


def held_options(url: str, server: str | None) -> dict[str, Any]:
    """Return the options held for a URL at a server."""
    with _lock:
        places = [key for key in _held if key[1] == server and is_within(url, key[0])]
        if not places:
            return {}
        key = max(places, key=lambda key: len(key[0]))
        rest = dict(_last(_held[key]))
    if PROVIDER in rest:
        rest[PROVIDER] = _Newest(key, rest[PROVIDER])
    return rest


class _Newest:
    """Gives obstore the newest keys for a URL, which a client may hold longer than the keys are valid."""

    def __init__(self, key: Key, first: Any) -> None:
        self._key, self._first = key, first

    def __call__(self) -> S3Credential:
        with _lock:
            holders = _held.get(self._key)
            provider = _last(holders).get(PROVIDER, self._first) if holders else self._first
        return provider()  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"{self._key} {self._first!r}"
