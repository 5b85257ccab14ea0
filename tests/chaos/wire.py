"""A connection between a worker and its scheduler that can be cut: messages are then lost silently."""

from __future__ import annotations

import selectors
import socket
from threading import Event, Thread
from typing import Self
from urllib.parse import urlsplit


class Wire:
    """A proxy for connections to an address, until `cut` is set; it listens at `address` in its `with` block."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._target = parts.hostname, parts.port
        self._ended = Event()
        self.cut = Event()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = Thread(target=self._pass_on, name="wire")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _pass_on(self) -> None:
        ends: dict[socket.socket, socket.socket] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._ended.is_set():
                if self.cut.is_set():
                    self._ended.wait(0.1)
                    continue
                for one in [key.fileobj for key, _ in selector.select(0.05)]:
                    if one is self._listener:
                        near, far = self._listener.accept()[0], socket.create_connection(self._target)
                        ends |= {near: far, far: near}
                        for end in near, far:
                            selector.register(end, selectors.EVENT_READ)
                    elif one in ends and not _carry(one, ends[one]):
                        for end in (one, ends[one]):
                            selector.unregister(end)
                            del ends[end]
                            end.close()
        for one in self._listener, *ends:
            one.close()


def _carry(one: socket.socket, other: socket.socket) -> bool:
    """Forward data from one end; return whether there may be more."""
    try:
        data = one.recv(1 << 16)
        other.sendall(data)
    except OSError:
        return False
    return bool(data)
