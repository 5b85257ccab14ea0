"""The object store server of the tests on loopback, for the benchmarks."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

import obstore
from obstore.store import ObjectStore

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from faultproxy import FaultProxy, Rule
from servers import S3Server, seaweedfs

__all__ = ["FaultProxy", "Place", "S3Server", "delayed", "new_bucket", "s3_server"]
_NUMBERS = count()


class Place(NamedTuple):
    """A folder in a bucket: its URL, and the server or proxy for requests."""

    url: str
    endpoint: str
    client: ObjectStore
    """Goes to the server."""


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A server with its data in a folder; this process and its children have the credentials."""
    with seaweedfs(folder) as server:
        os.environ.update(server.environment())
        yield server


@contextmanager
def new_bucket(server: S3Server) -> Iterator[Place]:
    """A folder in a new bucket, which is removed with its volumes, so that all runs see an equal server."""
    name = f"bench-{next(_NUMBERS)}"
    server.make_bucket(name)
    url, client = server.folder(name, "out")
    obstore.put(client, "first", b"the first object of a bucket makes the server allot room")
    obstore.delete(client, "first")
    try:
        yield Place(url, server.endpoint, client)
    finally:
        root = server.folder(name).client
        obstore.delete(root, [found["path"] for batch in obstore.list(root) for found in batch])
        with urlopen(Request(obstore.sign(root, "DELETE", "", timedelta(minutes=1)), method="DELETE"), timeout=60):
            pass


@contextmanager
def delayed(server: S3Server, seconds: float) -> Iterator[str]:
    """A proxy in a separate process that delays each request; yields its endpoint."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_delay, args=(server.endpoint, seconds, there))
    process.start()
    try:
        yield here.recv()
    finally:
        here.send("end")
        process.join()


def _delay(endpoint: str, seconds: float, connection: Connection) -> None:
    with FaultProxy(endpoint, Rule("", "delay", seconds)) as proxy:
        connection.send(proxy.url)
        connection.recv()
