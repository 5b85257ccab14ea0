"""A table of the results of several jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from dask.utils import format_bytes, format_time

from shardedstore.jobs.progress import Progress

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("job", "state", "done", "kept", "failed", "written", "time")


@dataclass(frozen=True)
class JobRow:
    """The result of one job."""

    name: str
    destination: str
    state: str
    exit_code: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    causes: tuple[str, ...] = ()
    failures_url: str | None = None
    report_url: str | None = None

    @classmethod
    def of(
        cls,
        name: str,
        destination: str,
        exit_code: int,
        progress: Progress | None,
        causes: Sequence[str],
        seconds: float,
        *,
        is_unchanged: bool,
    ) -> Self:
        """Return the row of a job that has ended; it has no numbers if the job could not start."""
        names = () if progress is None else ("done", "skipped", "failed", "nbytes")
        numbers = {name: getattr(progress, name) for name in names}
        state = _state(exit_code, is_unchanged)
        return cls(name, destination, state, exit_code, **numbers, seconds=seconds, causes=tuple(causes))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values."""
        return {**asdict(self), "causes": list(self.causes), "seconds": round(self.seconds, 3)}

    def cells(self) -> tuple[str, ...]:
        """Return the texts of the columns."""
        numbers = (f"{number:,}" for number in (self.done, self.skipped, self.failed))
        seconds = format_time(self.seconds) if self.seconds else ""  # empty for a job that was not run
        return self.name, self.state, *numbers, format_bytes(self.nbytes), seconds


def _state(exit_code: int, is_unchanged: bool) -> str:
    names = {1: "failed", 2: "can't run", 3: "unchanged", 4: "holes", 5: "try again", 10: "time is up", 130: "stopped"}
    if exit_code == 0:
        return "unchanged" if is_unchanged else "done"
    return names.get(exit_code, "stopped")


def jobs_table(rows: Sequence[JobRow]) -> Table:
    """Return a table for a terminal."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if number < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row.cells(), style={0: None, 3: None, 4: "yellow"}.get(row.exit_code, "red"))
    return table


def jobs_lines(rows: Sequence[JobRow]) -> list[str]:
    """Return the table as aligned lines."""
    cells = [COLUMNS, *(row.cells() for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
