"""The secret options of object stores that the workers of a cluster hold while they need them."""

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
    """Gives every worker, also a later one, the secret options that this process holds; its repr shows nothing."""

    def __init__(self, name: str, grants: Grants) -> None:
        self.name, self._grants = name, grants

    def setup(self, worker: Worker) -> None:
        """Hold the options in the worker's process."""
        grant(self._grants, self.name)

    def teardown(self, worker: Worker) -> None:
        """Forget the options, and none that another job's plugin holds."""
        revoke(self.name)


@contextmanager
def credentials_on(client: Client, urls: Iterable[str]) -> Iterator[None]:
    """Let the workers of a cluster hold the secret options for some URLs until the block ends, also later workers.

    Raises
    ------
    UsageError
        For an asynchronous client.
    """
    _check_synchronous(client)
    name = give_credentials(client, urls)
    try:
        yield
    finally:
        if name is not None:
            with suppress(Exception):  # a cluster that is gone has forgotten them
                client.unregister_worker_plugin(name)  # type: ignore[no-untyped-call]


def give_credentials(client: Client, urls: Iterable[str]) -> str | None:
    """Give the workers of a cluster the secret options for some URLs, and return the plugin's name; None for no options.

    Raises
    ------
    UsageError
        For an asynchronous client.
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
