"""The state of an unfinished job in an opened store, as a whole and by path."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Any

from shardedstore.jobs.shards import Run
from shardedstore.storage.folders import Folder

PARTS = 60


@dataclass(frozen=True)
class PathState:
    """The shards of an unfinished job at one path.

    Attributes
    ----------
    path : str or None
        The path of the array or group; None for the base.
    done, total : int
        The number of shards that are done, and of all.
    missing : str
        The name of the first shard that is not done; empty if all are done.
    parts : tuple of float
        The share of done shards in parts of equal size, in the order of the shards; at most `PARTS` parts.
    """

    path: str | None
    done: int
    total: int
    missing: str = ""
    parts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Partial:
    """The state of an unfinished job in an opened store.

    Attributes
    ----------
    shown : int
        The number of shards that the store shows from the result.
    done, total : int
        The number of shards that are done, and of all.
    reason : str
        The reason to show the other shards from the source.
    paths : tuple of PathState
        The shards by path.
    folder : Folder or None
        The folder of the job, with its ledger.
    """

    shown: int
    done: int
    total: int
    reason: str
    paths: tuple[PathState, ...] = ()
    folder: Folder | None = field(default=None, repr=False, compare=False)

    @property
    def unfinished(self) -> tuple[PathState, ...]:
        """The paths with shards that are not done."""
        return tuple(path for path in self.paths if path.done < path.total)

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON-compatible values."""
        paths = [{**vars(path), "parts": list(path.parts)} for path in self.paths]
        return {name: value for name, value in vars(self).items() if name != "folder"} | {"paths": paths}

    def __str__(self) -> str:
        rest = f", and the rest from the source: {self.reason}" if self.shown < self.total else ""
        if self.shown < self.done:
            verb = "is shown from its" if self.shown == 1 else "are shown from their"
            return f"{self.done:,} of {self.total:,} shards are done; {self.shown:,} of them {verb} new place{rest}"
        return f"{self.shown:,} of {self.total:,} shards are shown from their new place{rest}"

    def __repr__(self) -> str:
        from shardedstore.display.partial import partial_lines

        return "\n".join(partial_lines(self))

    def _repr_html_(self) -> str:
        from shardedstore.display.partial import partial_to_html

        return partial_to_html(self)


def path_states(runs: Iterable[Run], done: Container[int]) -> tuple[PathState, ...]:
    """Return the state of each run, given the numbers of the shards that are done."""
    return tuple(_state(run, done) for run in runs)


def _state(run: Run, done: Container[int]) -> PathState:
    flags = [number in done for number in run.numbers]
    size = -(-len(flags) // PARTS)
    first = next((i for i, is_done in enumerate(flags) if not is_done), None)
    return PathState(
        None if run.mounted is not None else run.path,
        sum(flags),
        len(flags),
        "" if first is None else next(run.cut(run.first + first, run.first + first + 1).shards()).name,
        tuple(_share(flags[i : i + size]) for i in range(0, len(flags), size)),
    )


def _share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)
