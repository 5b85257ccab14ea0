"""``shardedstore run``: several jobs, their table, their JSON and the exit code."""

import json
import subprocess
import sys
from pathlib import Path

import dask
import jsonschema
import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result

from shardedstore import cli
from shardedstore.callbacks.log_events import log_schema
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


@pytest.mark.parametrize("parallel", [1, 3])
def test_lines_and_events_name_the_job(jobs, parallel):
    log = jobs.parent / "log"
    done = invoke("run", jobs, "--parallel", parallel, "--log-format", "json", "--log-file", log)
    assert done.exit_code == 0, done.output
    events = [json.loads(line) for line in log.read_text().splitlines()]
    for event in events:
        jsonschema.validate(event, log_schema())
    assert {event["job"] for event in events if event["event"] == "end"} == set(NAMES)
    ends = [line.split()[1:3] for line in done.stderr.splitlines() if " after " in line]
    assert sorted(ends) == [[f"{name}:", "100%,"] for name in NAMES]
    text = invoke("run", jobs, "--parallel", parallel, "--log-format", "text")
    assert {line.split()[1] for line in text.stderr.splitlines()} == {f"{name}:" for name in NAMES}


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


def test_a_file_is_planned_with_a_line_for_each_job(jobs):
    (jobs.parent / "out" / "b" / "shardedstore.json").unlink()
    (jobs.parent / "c.zarr").rename(jobs.parent / "elsewhere")
    done = invoke("plan", jobs)
    assert done.exit_code == ExitCode.UNUSABLE
    assert [line.partition(";")[0] for line in done.stdout.splitlines()] == [
        f"{name}: nothing to do, 3 kept" for name in "ab"
    ]
    assert "error: c: " in done.stderr
    assert done.stderr.endswith(" [partition]\n")
    one = invoke("plan", jobs, "--only", "a")
    assert one.exit_code == ExitCode.DONE
    assert one.stdout.startswith("JobPlan of ToZip to")
    told = json.loads(invoke("plan", jobs, "--json").stdout)
    assert [(job["name"], job["exit_code"]) for job in told["jobs"]] == [("a", 0), ("b", 0), ("c", 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.zarr",), "plan needs a DESTINATION for 'a.zarr', or a job file"),
        (("a.zarr", "out"), "--to is missing"),
        (("jobs.toml", "--to", "zip"), "the options of its jobs stand in the file"),
        (("jobs.toml", "--html", "x.html"), "--html writes the estimate of one job: choose it with --only"),
        (("jobs.toml", "--only", "z"), "there is no job 'z': use one of a, b, c"),
    ],
)
def test_plans_that_make_no_sense(jobs, monkeypatch, arguments, message):
    monkeypatch.chdir(jobs.parent)
    done = invoke("plan", *arguments)
    assert done.exit_code == ExitCode.UNUSABLE
    assert message in done.stderr


def test_the_results_of_a_file_are_verified(jobs):
    done = invoke("verify", jobs, "--level", "exists")
    assert done.exit_code == ExitCode.DONE
    assert done.stdout.splitlines() == [f"{name}: ok: 3 shards, by names and sizes" for name in NAMES]
    next((jobs.parent / "out" / "b" / "t").iterdir()).unlink()
    told = invoke("verify", jobs, "--level", "exists", "--json")
    assert told.exit_code == ExitCode.FAILED
    assert [job["exit_code"] for job in json.loads(told.stdout)["jobs"]] == [0, 1, 0]
    assert (
        "--against, --resume, --include and --exclude are for one result"
        in invoke("verify", jobs, "--against", "x").stderr
    )


def test_the_exit_code_of_a_night_without_changes_can_be_asked_for(jobs):
    unchanged = invoke("run", jobs, "--exit-code-if-unchanged", "--json")
    assert unchanged.exit_code == json.loads(unchanged.stdout)["exit_code"] == ExitCode.UNCHANGED
    jobs.write_text("[run]\nmax_duration = '0s'\n" + jobs.read_text())
    done = invoke("run", jobs, "--keep-going", "--json")
    assert done.exit_code == ExitCode.TIME_IS_UP
    assert [job["state"] for job in json.loads(done.stdout)["jobs"]] == [
        "time is up",
        "not run after a",
        "not run after a",
    ]


def test_a_quiet_run_prints_errors_only(jobs):
    jobs.write_text(jobs.read_text().replace("{t = [4]}", '{t = [4], "none?" = "whole"}'))
    quiet = invoke("run", jobs, "--quiet")
    assert (quiet.exit_code, quiet.output) == (ExitCode.DONE, "")
    assert "note: " in invoke("run", jobs).stderr
    (jobs.parent / "b.zarr").rename(jobs.parent / "elsewhere")
    quiet = invoke("run", jobs, "--quiet", "--json")
    assert quiet.stderr.startswith("error: b: ")
    assert len(quiet.stderr.splitlines()) == len(quiet.stdout.splitlines()) == 1


def test_a_refused_source_is_reported_with_its_remedy_and_its_code(jobs):
    root = zarr.open_group(jobs.parent / "b.zarr")
    root.create_array("u", data=np.arange(2))
    del root["t"]
    jobs.write_text(jobs.read_text().replace("{t =", '{"t?" ='))
    done = invoke("run", jobs, "--only", "b", "--json")
    (row,) = json.loads(done.stdout)["jobs"]
    assert (done.exit_code, row["state"]) == (ExitCode.FAILED, "failed")
    assert row["causes"][0].endswith("add guards = {force = true} to the job for one run [guards-failed]")
    assert "'t' disappeared from the source" in done.stderr


def test_the_results_of_a_file_are_pruned(jobs):
    with dask.config.set(scheduler="synchronous"):
        zarr.open_group(jobs.parent / "a.zarr", mode="a")["t"].append(np.arange(4.0))
        plan_spec(read_job_file(jobs).jobs[0]).run()
    jobs.write_text(jobs.read_text() + '[[job]]\nname = "d"\n')
    tried = invoke("prune", jobs, "--dry-run", "--only", "a", "--only", "b")
    assert (tried.exit_code, tried.stderr) == (ExitCode.DONE, "")
    assert [line.partition(" files")[0] for line in tried.stdout.splitlines()] == ["a: 2", "b: 0"]
    done = invoke("prune", jobs, "--json")
    assert done.exit_code == ExitCode.UNUSABLE
    assert [(job["name"], job["exit_code"]) for job in json.loads(done.stdout)["jobs"]] == [
        ("a", 0),
        ("b", 0),
        ("c", 0),
        ("d", 2),
    ]
    assert "error: d: no job ever wrote to" in done.stderr
    assert "are for one DESTINATION" in invoke("prune", jobs, "--upload-rule").stderr


def test_the_state_of_jobs_that_never_ran(new):
    done = invoke("status", new, "--only", "a")
    assert (done.exit_code, done.stdout) == (ExitCode.DONE, "")
    assert done.stderr == f"note: a: no job has written to '{new.parent / 'new' / 'a'}'\n"


@pytest.fixture
def new(jobs: Path) -> Path:
    """The same file, for results that are not there."""
    jobs.write_text(jobs.read_text().replace("out/", "new/"))
    return jobs


def states(done: Result) -> list[str]:
    return [job["state"] for job in json.loads(done.stdout)["jobs"]]


def test_slices_and_their_publication(new):
    for part in ("2/2", "1/2", "1/2"):
        assert invoke("run", new, "--slice", part).exit_code == ExitCode.DONE
    assert not (new.parent / "new" / "a" / "shardedstore.json").exists()
    done = invoke("finalise", new, "--json", "--exit-code-if-unchanged")
    assert (done.exit_code, states(done)) == (ExitCode.DONE, ["done"] * 3)
    assert {job["skipped"] for job in json.loads(done.stdout)["jobs"]} == {3}
    assert (new.parent / "new" / "a" / "shardedstore.json").exists()
    unchanged = invoke("run", new, "--exit-code-if-unchanged")
    assert unchanged.exit_code == ExitCode.UNCHANGED


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--slice", "3/2"), "'3/2' is not a slice"),
        (("--slice", "1/2", "--scheduler", "tcp://a:1"), "--slice runs in this process"),
        (("--max-duration", "soon"), "max_duration='soon' is not a duration"),
    ],
)
def test_bad_options_of_a_run(options, message, new):
    done = invoke("run", new, *options)
    assert (done.exit_code, message in done.stderr) == (ExitCode.UNUSABLE, True)
    assert not (new.parent / "new").exists()


@pytest.mark.parametrize("parallel", ["1", "2"])
def test_jobs_that_have_no_time(parallel, new):
    done = invoke("run", new, "--max-duration", "0s", "--keep-going", "--parallel", parallel, "--json")
    assert done.exit_code == ExitCode.TIME_IS_UP
    assert states(done)[0] == "time is up"
    assert "the time is up before the job began" in done.stderr
