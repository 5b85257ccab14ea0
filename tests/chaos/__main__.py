"""``python -m chaos --runs 200 --seed 1``: run all trials and print a table. The exit code is 1 if data was lost."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path

import servers

from chaos import processes
from chaos.faults import all_faults
from chaos.place import make_scene
from chaos.report import Row, as_markdown

MOST_LOG = 20_000  # shown characters of a log


def main() -> int:
    """Run the trials of the command line."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="how often processes are killed")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000), help="what everything is drawn from")
    parser.add_argument("--jobs", type=int, default=3, help="trials at a time")
    parser.add_argument("--only", default="", help="run the trials whose names hold this")
    parser.add_argument("--verbose", action="store_true", help="tell what happened in each trial")
    parser.add_argument("--folder", help="where scratch folders are made")
    given = parser.parse_args()
    print(f"seed {given.seed}: run it again with --seed {given.seed}", flush=True)
    begun = time.monotonic()
    rows: dict[str, Row] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-", dir=given.folder)))
        server = stack.enter_context(servers.seaweedfs(folder / "seaweedfs"))
        processes.prepare()
        os.environ.update(server.environment())
        scene = make_scene(folder / "trials", server)
        pool = stack.enter_context(ThreadPoolExecutor(given.jobs))
        trials = [trial for trial in all_faults(given.seed, given.runs) if given.only in trial.seed]
        for fault, *_ in trials:
            rows.setdefault(fault, Row(fault))
        futures = {pool.submit(run, scene): (fault, name) for fault, name, run in trials}
        for future in as_completed(futures):
            fault, name = futures[future]
            try:
                trial = future.result()
            except Exception:  # noqa: BLE001 (a trial that can't be made is not the end of the others)
                traceback.print_exc()
                print(f"{name}: {fault}: the trial itself failed", flush=True)
                rows[fault].tried += 1
                rows[fault].lost += 1
                continue
            rows[fault].add(trial)
            if trial.lost or trial.hung or given.verbose:
                print(f"{name}: {fault}: {', '.join(trial.story)}; {trial.again} again; lost: {trial.lost}", flush=True)
            if (trial.lost or trial.hung) and given.verbose:
                print(trial.log[-MOST_LOG:], flush=True)
    print(f"\n{as_markdown(rows.values())}\n\nseed {given.seed}, {time.monotonic() - begun:.0f} s")
    return 1 if any(row.lost or row.hung for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
