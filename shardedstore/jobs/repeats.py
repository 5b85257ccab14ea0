"""Counts of equal messages, so that a thousand equal failures are a few lines."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

MOST_CAUSES = 10_000  # that are remembered


class Repeats:
    """Counts how often a cause came, from any thread.

    >>> repeats = Repeats()
    >>> [count for count in (repeats.add("disk full") for _ in range(250)) if is_told(count)]
    [1, 10, 100]
    """

    def __init__(self) -> None:
        self._counts: OrderedDict[Hashable, int] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, cause: Hashable, number: int = 1) -> int:
        """Count a cause, and return how often it came."""
        with self._lock:
            count = self._counts.pop(cause, 0) + number
            self._counts[cause] = count
            if len(self._counts) > MOST_CAUSES:
                self._counts.popitem(last=False)
        return count


def is_told(count: int, number: int = 1) -> bool:
    """Tell whether a message is shown for the count of a cause: at 1, 10, 100 and so on.

    `number` is the number of repetitions since the count before.

    >>> is_told(1), is_told(9), is_told(12, 5)
    (True, False, True)
    """
    return len(str(count)) > len(str(count - number)) or count == number
