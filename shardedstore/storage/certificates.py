"""Certificates of authorities that clients trust, given as PEM or by the path of a file."""

from __future__ import annotations

import os
from functools import lru_cache

from shardedstore.errors import UsageError


class Certificates(bytes):
    """Certificates from a file in the PEM format; the repr is short, as clients are cached by it."""

    path: str

    def __repr__(self) -> str:
        return f"Certificates({self.path!r}, {hash(self)})"


def read_certificates(value: str | bytes) -> str | bytes:
    """Return certificates in the PEM format, given as such or by the path of a file.

    Raises
    ------
    UsageError
        If the file can't be read, or has no certificate.
    """
    text = value.encode() if isinstance(value, str) else value
    if b"-----BEGIN" in text:
        return value
    path = os.path.expanduser(text.decode())
    try:
        return _read(path, os.stat(path).st_mtime_ns)
    except OSError as error:
        raise UsageError(f"the certificates at {path!r} can't be read: {error.strerror}") from None


@lru_cache(maxsize=8)
def _read(path: str, _modified: int) -> Certificates:
    with open(path, "rb") as file:
        data = Certificates(file.read())
    if data.find(b"-----BEGIN CERTIFICATE") < 0:
        raise UsageError(f"{path!r} holds no certificate in the PEM format")
    data.path = path
    return data
