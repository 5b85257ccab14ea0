"""Which errors may go away by themselves, and how an error is told in a line."""

from __future__ import annotations

import errno

from obstore.exceptions import GenericError

from shardedstore.remote_errors import explain, is_of_object_store, status_of

FIRST_PAUSE = 0.5  # seconds before the first retry; then doubled
REFUSED = range(400, 408)  # of HTTP: what the server will refuse again
TRANSIENT = {errno.EAGAIN, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENETDOWN, errno.EHOSTUNREACH}


def is_transient(error: BaseException) -> bool:
    """Tell whether an error may go away by itself: the network, a time-out, a busy disk; not what is wrong in the data.

    >>> is_transient(TimeoutError()), is_transient(ValueError()), is_transient(OSError(errno.ENOSPC, "full"))
    (True, False, False)
    """
    if isinstance(error, OSError):
        return isinstance(error, ConnectionError | TimeoutError) or error.errno in TRANSIENT
    return isinstance(error, GenericError) and status_of(error) not in REFUSED


def cause_of(error: BaseException) -> str:
    """Return what an error says, with its kind."""
    return f"{type(error).__name__}: {explain(error) if is_of_object_store(error) else error}"
