"""The results of the trials of each fault, as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from chaos.trial import Trial
from chaos.work import SHARDS


@dataclass
class Row:
    """The results of the trials of one fault. `shards` is the number of shards in these results."""

    fault: str
    tried: int = 0
    lost: int = 0
    hung: int = 0
    again: int = 0
    shards: int = 0

    def add(self, trial: Trial) -> None:
        """Count a trial."""
        self.tried += 1
        self.lost += bool(trial.lost)
        self.hung += bool(trial.hung)
        self.again += trial.again
        self.shards += SHARDS


def as_markdown(rows: Iterable[Row]) -> str:
    """Return a table.

    >>> print(as_markdown([Row("kill -9 of a worker", 40, 0, 0, 12, 960)]))
    | fault | tried | results lost or wrong | hung | shards done again |
    | --- | ---: | ---: | ---: | ---: |
    | kill -9 of a worker | 40 | 0 | 0 | 12 of 960 |
    """
    lines = [
        "| fault | tried | results lost or wrong | hung | shards done again |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.fault} | {row.tried} | {row.lost} | {row.hung} | {row.again} of {row.shards:,} |" for row in rows
    ]
    return "\n".join(lines)
