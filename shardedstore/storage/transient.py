"""Which errors may go away by themselves, and how an error is told in a line."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from obstore.exceptions import BaseError, GenericError, PermissionDeniedError, UnauthenticatedError

from shardedstore.errors import CorruptError, TemporaryError
from shardedstore.storage.remote_errors import SKEWED, explain, is_of_object_store, signs_of, status_of

T = TypeVar("T")
ATTEMPTS = 4  # at a listing, which obstore does not take up again where its answer breaks off
SOON = 10.0  # seconds; an error that comes later is one of obstore's own retries, which took long enough
FIRST_PAUSE = 0.5  # seconds before the first retry; then doubled
REFUSED = (*range(400, 408), 507)  # of HTTP: what the server will refuse again
DENIED = {
    "401", "403", "AccessDenied", "AuthenticationFailed", "AuthorizationFailure", "ExpiredToken", "InvalidAccessKey",
    "InvalidAccessKeyId", "InvalidToken", "NoCredentials", "SignatureDoesNotMatch", "TokenRefreshRequired",
}  # fmt: skip
NO_SPACE = ("no-space", "there is no space left: make room")
_DENIED_HERE = ("access-denied", "access is denied: give this user the right to it")
_DENIED_THERE = ("access-denied", "access is denied: renew or correct the credentials, or their rights")
SYSTEMIC = {  # the codes of causes that all shards meet, and the ways out, by the system's number
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: ("quota", "the quota is used up: make room, or have it raised"),
    errno.EROFS: ("read-only", "the file system can only be read: mount it for writing, or name another destination"),
    errno.EACCES: _DENIED_HERE,
    errno.EPERM: _DENIED_HERE,
}
TRANSIENT = {errno.EAGAIN, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENETDOWN, errno.EHOSTUNREACH}


def is_transient(error: BaseException) -> bool:
    """Tell whether an error, or one that it comes from, may go away by itself: the network, a time-out, a busy disk.

    What is wrong in the data does not go away, whatever it comes from.

    >>> is_transient(TimeoutError()), is_transient(ValueError()), is_transient(OSError(errno.ENOSPC, "full"))
    (True, False, False)
    """
    return not isinstance(error, CorruptError) and any(map(_is_transient, chain_of(error)))


def systemic(error: BaseException) -> str:
    """Return what to do about an error that all shards are going to meet: of access, or of room; "" for any other.

    >>> systemic(OSError(errno.ENOSPC, "full"))
    'there is no space left: make room'
    """
    return _systemic(error)[1]


def code_of(error: BaseException) -> str:
    """Return the code of an error that failed a shard, one of `errors.CODES`.

    >>> (
    ...     code_of(OSError(errno.ENOSPC, "full")),
    ...     code_of(CorruptError("bad")),
    ...     code_of(TimeoutError()),
    ...     code_of(KeyError(1)),
    ... )
    ('no-space', 'corrupt', 'temporary', 'failed')
    """
    code = _systemic(error)[0]
    if code:
        return code
    if any(isinstance(one, CorruptError) for one in chain_of(error)):
        return "corrupt"
    return "temporary" if is_transient(error) else "failed"


def _systemic(error: BaseException) -> tuple[str, str]:
    """Return the code of an error that all shards are going to meet, and the way out; two empty texts for any other."""
    return next(filter(None, map(_systemic_one, chain_of(error))), ("", ""))


def _systemic_one(error: BaseException) -> tuple[str, str] | None:
    if is_of_object_store(error) or isinstance(error, BaseError):
        signs = signs_of(error)
        if signs & SKEWED:
            return "clock-skew", "the clock of this machine differs too much from the server's: set it right"
        if isinstance(error, UnauthenticatedError | PermissionDeniedError) or signs & DENIED:
            return _DENIED_THERE
        return NO_SPACE if "507" in signs else None
    return SYSTEMIC.get(error.errno or 0) if isinstance(error, OSError) else None


def lacks_credentials(error: BaseException) -> bool:
    """Tell whether an error, or one that it comes from, is that no credentials were found."""
    return any("NoCredentials" in signs_of(one) for one in chain_of(error) if is_of_object_store(one))


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it comes from, as its traceback shows them."""
    seen = set[int]()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, TemporaryError):
        return True
    if isinstance(error, OSError) and not is_of_object_store(error):
        return isinstance(error, ConnectionError | TimeoutError) or error.errno in TRANSIENT
    return isinstance(error, GenericError | OSError) and status_of(error) not in REFUSED


def patiently(look: Callable[[], T]) -> T:
    """Return the result of a function that may be called twice, and call it again after errors that come soon and may go away."""
    begun = time.monotonic()
    for attempt in range(1, ATTEMPTS):
        try:
            return look()
        except (OSError, BaseError) as error:
            if not is_transient(error) or time.monotonic() - begun > SOON:
                raise
        time.sleep(FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1))
    return look()


def cause_of(error: BaseException) -> str:
    """Return what an error says, with its kind."""
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    text = explain(error) if is_of_object_store(error) or "<?xml" in str(error) else str(error)
    return f"{type(error).__name__}: {text}{notes}"
