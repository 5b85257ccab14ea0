"""Many requests at once, within a bound on bytes, and their results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from shardedstore.storage.limiter import READS, requests

IN_FLIGHT = 32  # for one stream; `READS` bounds those of all
BYTES_IN_FLIGHT = 64 << 20


def in_flight(get: Callable[[str], bytes | None], keys: Iterable[str]) -> Iterator[bytes | None]:
    """Call `get` for many keys at once, and yield the results in the order of the keys.

    As many wait as `BYTES_IN_FLIGHT` has room for, if they are as large as the largest so far.
    """
    waiting: deque[Future[bytes | None]] = deque()
    largest: int | None = None

    def first() -> bytes | None:
        nonlocal largest
        data = waiting.popleft().result()
        if data is not None:
            largest = max(largest or 1, len(data))
        return data

    def room() -> int:
        return 4 if largest is None else max(2, min(2 * IN_FLIGHT, BYTES_IN_FLIGHT // largest))

    with requests(READS, IN_FLIGHT) as submit:
        for key in keys:
            waiting.append(submit(get, key))
            while len(waiting) >= room():
                yield first()
        while waiting:
            yield first()
