"""HTTP/1.1 connections, heads and bodies in their raw form, for forwarding."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from typing import BinaryIO, NamedTuple

PIECE = 1 << 16  # bytes


class Connection:
    """One end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self.stream = sock.makefile("rb", PIECE)
        self.send = sock.sendall

    def has_ended(self) -> bool:
        """Tell whether the other side has closed an idle connection."""
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True

    def wait_for_end(self) -> None:
        self._socket.recv(1, socket.MSG_PEEK)

    def reset_when_closed(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def shut(self) -> None:
        """Wake the reading thread."""
        with suppress(OSError):  # it is shut already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.stream.close()
        self._socket.close()


class Head(NamedTuple):
    """The head of a request or an answer."""

    raw: bytes
    words: list[str]
    fields: dict[str, str]

    @classmethod
    def read(cls, stream: BinaryIO) -> Head | None:
        """Read a head; None if the other side has closed."""
        lines = []
        while (line := stream.readline(PIECE)) != b"\r\n":
            if not line:
                return None
            lines.append(line)
        first, *rest = (line.decode("latin-1").strip() for line in lines)
        fields = (line.partition(":") for line in rest)
        return cls(b"".join([*lines, b"\r\n"]), first.split(" "), {k.lower(): v.strip() for k, _, v in fields})

    @property
    def status(self) -> int:
        return int(self.words[1])

    def body(self, stream: BinaryIO, otherwise: float) -> Iterator[bytes]:
        """Yield the raw body; it has `otherwise` bytes if the head does not give its length."""
        if "chunked" in self.fields.get("transfer-encoding", ""):
            size = -1
            while size:
                line = stream.readline()
                size = int(line.partition(b";")[0] or b"0", 16)
                chunk = stream.read(size + 2)
                if len(chunk) < size + 2:
                    raise ConnectionResetError
                yield line + chunk
            return
        left = int(self.fields["content-length"]) if "content-length" in self.fields else otherwise
        while left and (piece := stream.read1(int(min(left, PIECE)))):
            left -= len(piece)
            yield piece
        if 0 < left < inf:
            raise ConnectionResetError
