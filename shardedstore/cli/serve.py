"""``shardedstore serve``."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import click

from shardedstore.cli.common import tell, user_errors
from shardedstore.cli.storage import parse_side, storage_params
from shardedstore.errors import UsageError
from shardedstore.jobfiles.open import open_any

LOOPBACK = "127.0.0.1"


@click.command()
@click.argument("what", metavar="PATH")
@click.option("--host", default=LOOPBACK, show_default=True, help="The address to listen on; 0.0.0.0 is every network.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port.  [default: 8000, or a free one]")
@click.option(
    "--cors",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of this origin read, such as https://viewer.example.org, or * for any. May be repeated.",
)
@storage_params("PATH")
def serve(
    what: str, *, host: str, port: int | None, cors: tuple[str, ...], storage: tuple[str, ...], profile: str | None
) -> None:
    """Serve a Zarr, a zip or a config over HTTP.

    It is read-only, and runs until Ctrl-C or SIGTERM, which end it with exit code 0. Viewers and libraries such as neuroglancer, zarrita.js, xarray and GDAL open the printed URL as one Zarr. There is no access
    control: anybody who reaches the address reads everything.

    \\b
    Example:
      shardedstore serve era5-zips --cors https://neuroglancer-demo.appspot.com
    """  # noqa: D301 (click reads the backspace)
    with user_errors(what):
        library = _library()
        store, _ = open_any(what, parse_side("destination", what, storage, profile))
        app = library.store_app(store, cors_options={"allow_origins": list(cors)} if cors else None)
        app.add_middleware(_WithTotals, store=store)
        app.add_middleware(_WithTags)
        try:
            server = library.serve_background(
                app, host=host, port=port or "auto", uvicorn_options={"log_level": "warning"}
            )
        except (OSError, RuntimeError) as error:
            raise UsageError(f"can't listen on {host}, port {port or 'any'}: {error}") from error
        with server, _ended_by_sigterm(), contextlib.suppress(KeyboardInterrupt):
            tell(f"{server.url}/")
            threading.Event().wait()


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, so that open requests end first."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _WithTotals:
    """Middleware that gives answers of ranges the size of the whole value, which clients of obstore need."""

    def __init__(self, app: Any, store: Any) -> None:
        self.app, self.store = app, store

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_total(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] == 206:
                size = await self.store.getsize(scope["path"].lstrip("/"))
                fields = [
                    (name, value.replace(b"/*", b"/%d" % size) if name == b"content-range" else value)
                    for name, value in message["headers"]
                ]
                message = {**message, "headers": fields}
            await send(message)

        await self.app(scope, receive, send_with_total)


class _WithTags:
    """Middleware that gives whole values an ETag, and sends a value that the client has already without its bytes."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        known = dict(scope.get("headers", ())).get(b"if-none-match", b"").split(b",")
        start: dict[str, Any] = {}

        async def send_with_tag(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                start.update(message)  # its fields depend on the body, which comes next
                return
            if start and not message.get("more_body"):
                tag = b'"%s"' % hashlib.blake2b(message.get("body", b""), digest_size=12).hexdigest().encode()
                fields = [*start["headers"], (b"etag", tag), (b"cache-control", b"no-cache")]
                if tag in (one.strip() for one in known):
                    start["status"], message = 304, {**message, "body": b""}
                    fields = [(name, value) for name, value in fields if name != b"content-length"]
                start["headers"] = fields
            if start:
                await send({**start})
                start.clear()
            await send(message)

        await self.app(scope, receive, send_with_tag if scope.get("method") == "GET" else send)


def _library() -> Any:
    try:
        import zarr_http_server
    except ImportError as error:
        raise UsageError(
            "serve needs zarr-http-server, which is not installed: pip install 'shardedstore[serve]'; it needs Python 3.12"
        ) from error
    return zarr_http_server
