"""``shardedstore run``: several jobs, their table, their JSON and the exit code."""

import json
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result

from shardedstore import cli
from shardedstore.cli.exit_codes import ExitCode
from shardedstore.jobfiles.job import plan_spec
from shardedstore.jobfiles.read import read_job_file

NAMES = ("a", "b", "c")


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """A file with three jobs, whose results are there."""
    for name in NAMES:
        root = zarr.create_group(tmp_path / f"{name}.zarr")
        root.create_array("t", data=np.arange(8.0), chunks=(2,))
    path = tmp_path / "jobs.toml"
    head = '[defaults]\nsource = "{name}.zarr"\ndestination = "out/{name}"\nto = "zip"\nshards = {t = [4]}\n'
    path.write_text(head + "".join(f'[[job]]\nname = "{name}"\n' for name in NAMES))
    with dask.config.set(scheduler="synchronous"):
        for job in read_job_file(path).jobs:
            plan_spec(job).run()
    return path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_jobs_without_changes_start_no_cluster(jobs):
    script = f"""
import sys
from shardedstore.cli import main
try:
    main(["run", {str(jobs)!r}, "--parallel", "3"])
except SystemExit as ended:
    assert not ended.code, ended.code
assert "distributed" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["job", "state", "done", "kept", "failed", "written", "time"]
    assert [line.split()[:5] for line in lines[1:]] == [[name, "unchanged", "0", "3", "0"] for name in NAMES]


def test_the_results_as_json(jobs):
    done = invoke("run", jobs, "--only", "c", "--only", "a", "--json")
    assert done.exit_code == ExitCode.DONE
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert told["digest"] == read_job_file(jobs).digest
    assert [(job["name"], job["state"], job["skipped"]) for job in told["jobs"]] == [
        ("a", "unchanged", 3),
        ("c", "unchanged", 3),
    ]


@pytest.mark.parametrize(
    ("options", "states"),
    [
        ((), ["unchanged", "can't run", "not run after b"]),
        (("--keep-going",), ["unchanged", "can't run", "unchanged"]),
        (("--keep-going", "--parallel", "3"), ["unchanged", "can't run", "unchanged"]),
    ],
)
def test_the_worst_exit_code_and_the_jobs_after_a_failure(jobs, options, states):
    (jobs.parent / "b.zarr").rename(jobs.parent / "elsewhere")
    done = invoke("run", jobs, "--json", *options)
    assert done.exit_code == ExitCode.UNUSABLE
    assert [job["state"] for job in json.loads(done.stdout)["jobs"]] == states
    assert "error: b: " in done.stderr
    assert "b.zarr" in done.stderr


def test_errors_of_the_file_stop_before_the_first_job(jobs):
    jobs.write_text(jobs.read_text() + 'retries = "no"\n')
    done = invoke("run", jobs)
    assert done.exit_code == ExitCode.UNUSABLE
    assert done.stderr == f"error: {jobs}:12: retries is text, but must be a whole number [usage]\n"
    assert done.stdout == ""
