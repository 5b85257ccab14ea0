"""Secret options of object stores on the workers of a cluster."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from distributed import Worker, WorkerPlugin

from shardedstore.errors import UsageError
from shardedstore.storage.options import Grants, grant, granted, revoke

if TYPE_CHECKING:
    from distributed import Client


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
    name = give_credentials(client, urls)
    try:
        yield
    finally:
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
    name = f"shardedstore-{secrets.token_hex(4)}"
    client.register_plugin(CredentialsPlugin(name, grants))
    return name


def _check_synchronous(client: Client) -> None:
    if client.asynchronous:
        raise UsageError("credentials can't be given by an asynchronous client: make one with asynchronous=False")
