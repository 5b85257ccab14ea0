"""What the writers of archives and objects have in common: buffers, gathered and written many at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pickle import PickleBuffer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

BATCH_BYTES, BATCH_PARTS = 1 << 18, 512  # that wait before they are written
_COPIED = 1 << 16
_IOV_MAX = os.sysconf("SC_IOV_MAX")


def flat(data: Buffer) -> bytes | memoryview:
    r"""Return the bytes of a buffer, whatever the shape and type of its items.

    What is small is copied, so that it can wait while its owner goes on; a view of what is large must be written at once.

    >>> import numpy as np
    >>> flat(np.array([[1, 2]], "<u2")), flat(np.zeros((256, 256), "u1"))
    (b'\x01\x00\x02\x00', <memory at ...>)
    """
    view = PickleBuffer(data).raw()
    return bytes(view) if len(view) < _COPIED else view


def writev_all(fd: int) -> Callable[[list[Buffer]], None]:
    """Return a function that writes lists of buffers to a file descriptor, all of them or with an exception."""

    def write(parts: list[Buffer]) -> None:
        views = [memoryview(part) for part in parts]
        done = 0
        while done < len(views):
            written = os.writev(fd, views[done : done + _IOV_MAX])
            while done < len(views) and written >= len(views[done]):
                written -= len(views[done])
                done += 1
            if written:
                views[done] = views[done][written:]

    return write
