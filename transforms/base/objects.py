"""Write many files or objects below one folder, several at a time; each appears when it is complete."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future

import obstore

from shardedstore.storage.attributes import current_attributes
from shardedstore.storage.blobs import object_store
from shardedstore.storage.options import Options
from shardedstore.storage.outputs import writev_all
from shardedstore.storage.publish import make_folder, published, synced_file_system
from shardedstore.storage.request_metrics import request
from shardedstore.storage.requests import MOST, WRITES, requests
from shardedstore.storage.throttle import spend
from shardedstore.storage.urls import is_remote
from shardedstore.stores.entries import Data

BYTES_IN_FLIGHT = 64 << 20
LARGEST_PUT = 64 << 20  # bytes; larger objects are uploaded in parts
Item = tuple[str, Data]


def write_objects(url: str, options: Options, items: Iterable[Item]) -> None:
    """Write values under their keys below a folder, and replace existing ones.

    When this function returns, all values are stored, and synced on a local disk. After an exception, some values are
    stored and the others are not.
    """
    if not is_remote(url):
        make_folder(url)
        with synced_file_system(url):
            for key, data in items:
                spend(0, memoryview(data).nbytes)
                with published(os.path.join(url, key), sync=False) as descriptor:
                    writev_all(descriptor)([data])
        return
    attributes = current_attributes()
    store, how = object_store(url, options, more=attributes.client_options()), attributes.put_options()

    def put(item: Item) -> None:
        key, data = item
        nbytes = memoryview(data).nbytes
        with request("PUT", nbytes):
            obstore.put(store, key, data, use_multipart=nbytes > LARGEST_PUT, **how)

    _at_once(put, items)


def _at_once(put: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Call a function for all items, several at a time, with a limit on the bytes in flight."""
    waiting: deque[tuple[Future[None], int]] = deque()
    total = 0
    with requests(WRITES, MOST) as submit:
        for item in items:
            nbytes = memoryview(item[1]).nbytes
            while waiting and (len(waiting) >= 2 * MOST or total + nbytes > BYTES_IN_FLIGHT):
                future, gone = waiting.popleft()
                future.result()
                total -= gone
            waiting.append((submit(put, item), nbytes))
            total += nbytes
        for future, _ in waiting:
            future.result()
