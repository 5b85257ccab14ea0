"""TLS in front of a server: connections are decrypted and passed on, with a certificate of an authority of our own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from threading import Thread
from urllib.parse import urlsplit

import trustme


def authority(folder: Path, name: str) -> tuple[trustme.CA, Path]:
    """Make an authority, and write its certificate into a folder as PEM."""
    made = trustme.CA(organization_name=name)
    path = folder / f"{name}.pem"
    made.cert_pem.write_to_path(str(path))
    return made, path


@contextmanager
def tls_front(url: str, issuer: trustme.CA) -> Iterator[str]:
    """Yield the https:// URL of a server on loopback that passes all bytes to and from the server at `url`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert("127.0.0.1").configure_cert(context)
    target = urlsplit(url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection(target.hostname, target.port)
        with suppress(ConnectionError):
            await asyncio.gather(_pass(reader, behind[1]), _pass(behind[0], writer))

    stop, started = asyncio.Event(), Queue[tuple[asyncio.AbstractEventLoop, int]]()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        started.put((asyncio.get_running_loop(), server.sockets[0].getsockname()[1]))
        await stop.wait()
        server.close()  # open connections end with the loop

    thread = Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    loop, port = started.get(timeout=20)
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
