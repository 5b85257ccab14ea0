"""How much a run tries: a few random examples, and a few cases of large tables; ``make test-all`` and ``make fuzz`` try all."""

import os
from collections.abc import Iterable
from random import Random
from typing import TypeVar

TIMES = int(os.environ.get("SHARDEDSTORE_FUZZ", "1"))
Case = TypeVar("Case")


def examples(count: int) -> int:
    """Return the number of random examples of this run."""
    return count * TIMES


def some(few: int, cases: Iterable[Case]) -> list[Case]:
    """Return a few of many cases, the first and the last among them if there are two, or all.

    The choice is the same in each run and in each process, as pytest-xdist requires.
    """
    every = list(cases)
    if TIMES > 1 or len(every) <= few:
        return every
    if few == 1:
        return every[:1]
    chosen = Random(few).sample(range(1, len(every) - 1), few - 2)
    return [every[index] for index in (0, *sorted(chosen), len(every) - 1)]
