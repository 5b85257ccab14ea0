"""How many random examples a test tries: few in each run, and more for an hour with ``make fuzz``."""

import os

TIMES = int(os.environ.get("SHARDEDSTORE_FUZZ", "1"))


def examples(count: int) -> int:
    return count * TIMES
