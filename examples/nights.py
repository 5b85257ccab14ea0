"""Play two weeks of nightly runs: sources grow and change, and disks, servers, credentials and processes fail.

Each night checks the exit code of ``shardedstore run``, the JSON of its last line, the number of shards that were made, the
values of the new result, and the values that readers of earlier results still read. Run it by hand::

    python examples/nights.py [--folder nights] [--datasets 10]
    python examples/nights.py --url s3://bucket/nights        # with AWS_ENDPOINT_URL and credentials in the environment

The night of the full disk needs root on Linux, because it mounts a small memory file system.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from nights_operator import Operator, Skipped
from nights_world import DATASETS, Dataset

Number = Callable[[Dataset], int]


def first_conversion(operator: Operator) -> None:
    """Convert all datasets: three blocks of the array, the group, and the base."""
    operator.run(code=0, done=5, kept=0)


def nothing_new(operator: Operator) -> None:
    """Change nothing."""
    operator.run(code=3, done=0, kept=5)


def appended_steps(operator: Operator) -> None:
    """Append steps: the last block, the new block and the base are made."""
    operator.change("grow")
    operator.run(code=0, done=3, kept=3)


def fix_in_place(operator: Operator) -> None:
    """Write a chunk again: its block is made, where the job looks at chunks."""
    operator.change("fix")
    operator.run(
        code=lambda dataset: 0 if dataset.finds_fixes else 3,
        done=lambda dataset: 1 if dataset.finds_fixes else 0,
        kept=lambda dataset: 5 if dataset.finds_fixes else 6,
    )


def new_variable(operator: Operator) -> None:
    """Add a variable of two blocks."""
    operator.change("add")
    operator.run(code=0, done=3, kept=5)


def renamed_variable(operator: Operator) -> None:
    """Rename a variable: a guard refuses it, until the operator agrees; one ordinary Zarr needs a new destination."""
    operator.change("rename")
    operator.run(code=lambda dataset: 2 if dataset.is_one_zarr else 1, done=0, kept=0)
    operator.renew_one_zarrs()
    operator.run(
        code=0,
        done=lambda dataset: 8 if dataset.is_one_zarr else 3,
        kept=lambda dataset: 0 if dataset.is_one_zarr else 5,
        guards={"force": True},
    )


def rechunked_axis(operator: Operator) -> None:
    """Write the array with other chunks: all of its blocks are made, and one ordinary Zarr needs a new destination."""
    operator.change("rechunk")
    operator.run(
        code=lambda dataset: 2 if dataset.is_one_zarr else 0,
        done=lambda dataset: 0 if dataset.is_one_zarr else 5,
        kept=lambda dataset: 0 if dataset.is_one_zarr else 3,
    )
    operator.renew_one_zarrs()
    operator.run(code=0, done=8, kept=0, only=lambda dataset: dataset.is_one_zarr)


def corrupt_chunk(operator: Operator) -> None:
    """Damage a new chunk: its block fails in all jobs that decode, and is made when the chunk is mended."""
    operator.change("grow")
    with contextlib.ExitStack() as damages:
        for source in operator.sources.values():
            damages.enter_context(source.damaged())
        operator.run(
            code=lambda dataset: 1 if dataset.decodes else 0,
            done=lambda dataset: 2 if dataset.decodes else 3,
            kept=6,
            failed=lambda dataset: 1 if dataset.decodes else 0,
            is_intact=False,
        )
    operator.run(code=0, done=1, kept=8)


def full_disk(operator: Operator) -> None:
    """Fill the disk of the results, and free it: only missing shards are made."""
    operator.change("grow")
    with operator.disk.filled():
        rows = operator.run(code=None, done=None, kept=None, failed=None)
        assert {row["exit_code"] for row in rows} <= {1, 5}, rows
        assert all("no-space" in cause or "No space" in cause for row in rows for cause in row["causes"]), rows
    made = {row["name"]: row["done"] for row in rows}
    operator.run(code=0, done=lambda dataset: 3 - made[dataset.name], kept=lambda dataset: 7 + made[dataset.name])


def server_away(operator: Operator) -> None:
    """Stop a server, and start it again."""
    operator.change("grow")
    _without(operator, operator.server_away(), code=5, kept=8)


def expired_credentials(operator: Operator) -> None:
    """Let a server refuse the credentials, and renew them."""
    operator.change("grow")
    _without(operator, operator.credentials_expired(), code=2, kept=9)


def _without(operator: Operator, fault: contextlib.AbstractContextManager[None], code: int, kept: int) -> None:
    with fault:
        operator.run(
            code=lambda dataset: code if operator.is_remote(dataset) else 0,
            done=lambda dataset: 0 if operator.is_remote(dataset) else 3,
            kept=lambda dataset: 0 if operator.is_remote(dataset) else kept,
            is_readable=not operator.url,
            parallel=len(operator.datasets),  # each of them waits for the server
        )
    operator.run(code=0, done=3, kept=kept, only=operator.is_remote)


def killed_run(operator: Operator) -> None:
    """Kill the command of one job after its first shard, and run all jobs again."""
    operator.change("grow")
    killed = operator.datasets[0]
    with operator.slow_run(killed) as process:
        process.kill()
        process.wait()
        state = operator.status(killed)["state"]
        assert state == "died", state
    rows = operator.run(code=0, done=None, kept=None)
    for row in rows:
        assert row["done"] + row["skipped"] == 13, row
        assert row["done"] == 3 or (row["name"] == killed.name and row["done"] < 3), row


def two_runs_at_once(operator: Operator) -> None:
    """Start a second run of a job while the first one runs: it is refused, and the first one ends."""
    operator.change("grow")
    busy = operator.datasets[0]
    with operator.paused_run(busy, exit_code=0, done=3, skipped=11):
        operator.run(
            code=lambda dataset: 5 if dataset is busy else 0,
            done=lambda dataset: 0 if dataset is busy else 3,
            kept=lambda dataset: 0 if dataset is busy else 11,
        )
    operator.run(code=3, done=0, kept=14)


def retention(operator: Operator) -> None:
    """Remove the objects that the last two results do not need; their readers are not disturbed."""
    removed = sum(operator.prune(dataset, keep_last=2) for dataset in operator.datasets)
    operator.runs.append(f"{removed} objects pruned")
    operator.run(code=3, done=0, kept=14)


NIGHTS: tuple[Callable[[Operator], None], ...] = (
    first_conversion,
    nothing_new,
    appended_steps,
    fix_in_place,
    new_variable,
    renamed_variable,
    rechunked_axis,
    corrupt_chunk,
    full_disk,
    server_away,
    expired_credentials,
    killed_run,
    two_runs_at_once,
    retention,
)


class Night(NamedTuple):
    """The result of a night that went as expected."""

    name: str
    seconds: float
    runs: list[str]

    def __str__(self) -> str:
        return f"{self.name:<20} {self.seconds:6.1f} s  {'; '.join(self.runs)}"


def play(folder: Path, datasets: int = len(DATASETS), url: str | None = None) -> list[Night]:
    """Play all nights, and print a line for each; an AssertionError ends the play."""
    with Operator.hired(folder, DATASETS[:datasets], url) as operator:
        return [_play_one(operator, night) for night in NIGHTS]


def _play_one(operator: Operator, night: Callable[[Operator], None]) -> Night:
    started, operator.runs = time.perf_counter(), []
    try:
        night(operator)
    except Skipped as skipped:
        operator.runs = [f"skipped: {skipped}"]
        operator.run(code=None, done=None, kept=None)  # the later nights expect its change
    played = Night(night.__name__.replace("_", " "), time.perf_counter() - started, operator.runs)
    print(played, flush=True)
    return played


def main() -> None:
    """Play all nights."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--folder", type=Path, help="an empty or new folder for all files (default: a temporary one)")
    parser.add_argument("--datasets", type=int, default=len(DATASETS), help=f"how many (default: {len(DATASETS)})")
    parser.add_argument("--url", help="an empty prefix of a bucket for sources and results, such as s3://bucket/nights")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        nights = play(options.folder or Path(temporary, "nights"), options.datasets, options.url)
    print(f"{len(nights)} nights went as expected, in {sum(night.seconds for night in nights):.0f} s")


if __name__ == "__main__":
    main()
