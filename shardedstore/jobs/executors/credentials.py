"""Secret options of object stores on the workers of a cluster."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from distributed import Worker, WorkerPlugin

from shardedstore.errors import UsageError
from shardedstore.storage.grants import Grants, expires, grant, granted, revoke

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("shardedstore")
RENEW_SECONDS = 240.0  # keys are valid for at least ten minutes when they are given
JOIN_SECONDS = 10.0


class CredentialsPlugin(WorkerPlugin):
    """Gives secret options of this process to all workers, including later ones.

    Its repr shows no secrets.
    """

    def __init__(self, name: str, grants: Grants) -> None:
        self.name, self._grants = name, grants

    def setup(self, worker: Worker) -> None:
        """Hold the options in the worker's process."""
        grant(self._grants, self.name)

    def teardown(self, worker: Worker) -> None:
        """Forget the options; options of other jobs' plugins stay."""
        revoke(self.name)


@contextmanager
def credentials_on(client: Client, urls: Iterable[str]) -> Iterator[None]:
    """Give the secret options for some URLs to all workers of a cluster until the block ends.

    Workers that join later get them too.

    Raises
    ------
    UsageError
        If the client is asynchronous.
    """
    _check_synchronous(client)
    given = _Given(client, list(urls))
    try:
        yield
    finally:
        given.take_back()


class _Given:
    """Credentials on the workers of a cluster; keys that expire are given again while they are in use."""

    def __init__(self, client: Client, urls: list[str]) -> None:
        self._client, self._urls = client, urls
        self._ended = threading.Event()
        grants = granted(urls)
        self._name = _register(client, grants) if grants else None
        self._thread = threading.Thread(target=self._renew, name="shardedstore-credentials", daemon=True)
        if expires(grants):
            self._thread.start()

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                before, self._name = self._name, _register(self._client, granted(self._urls))
                _unregister(self._client, before)  # workers hold the new keys already
            except Exception as error:  # noqa: BLE001 (the job goes on with the keys that it has)
                logger.warning("the credentials of the workers could not be renewed: %s", error)

    def take_back(self) -> None:
        """Make the workers forget the credentials."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(JOIN_SECONDS)
        _unregister(self._client, self._name)


def _register(client: Client, grants: Grants) -> str:
    name = f"shardedstore-{secrets.token_hex(4)}"
    client.register_plugin(CredentialsPlugin(name, grants))
    return name


def _unregister(client: Client, name: str | None) -> None:
    if name is not None:
        with suppress(Exception):  # if the cluster is gone, its workers are too
            client.unregister_worker_plugin(name)  # type: ignore[no-untyped-call]


def give_credentials(client: Client, urls: Iterable[str]) -> str | None:
    """Give secret options to the workers of a cluster, and return the plugin's name.

    Returns None if there are no secret options for these URLs.

    Raises
    ------
    UsageError
        If there are secret options, and the client is asynchronous.
    """
    grants = granted(urls)
    if not grants:
        return None
    _check_synchronous(client)
    return _register(client, grants)


def _check_synchronous(client: Client) -> None:
    if client.asynchronous:
        raise UsageError("credentials can't be given by an asynchronous client: make one with asynchronous=False")
