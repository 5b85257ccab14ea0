"""The examples of docs/job-files.md, and the files of ``shardedstore init``."""

import json
import re
import tomllib
from pathlib import Path

import dask
import jsonschema
import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from paths import ROOT

from shardedstore import ShardedStore, cli
from shardedstore.cli.exit_codes import ExitCode
from shardedstore.jobfiles import schema
from shardedstore.jobfiles.job import make_steps, plan_spec
from shardedstore.jobfiles.read import read_job_file

PAGE = (ROOT / "docs" / "job-files.md").read_text("utf-8")
FIRST, COMMENT, SECRET, ENTRY, CLIP = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PACKAGE = """
from dataclasses import dataclass

from shardedstore import Step


@dataclass(frozen=True)
class Clip(Step):
    low: float
    high: float

    def __call__(self, entries, shard):
        return entries
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an archive of two Zarrs."""
    monkeypatch.chdir(tmp_path)
    era5 = zarr.create_group("archive/era5.zarr")
    era5.create_array("t2m", data=np.arange(96 * 8.0).reshape(96, 8), chunks=(12, 8), dimension_names=("time", "x"))
    era5.create_array("lat", data=np.arange(8.0))
    zarr.create_group("archive/ocean.zarr", zarr_format=2).create_array("sst", data=np.arange(64.0), chunks=(8,))
    return tmp_path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments))


def test_the_jobs_of_the_page_run(folder):
    Path("jobs.toml").write_text(FIRST)
    planned = invoke("plan", "jobs.toml")
    assert planned.exit_code == 0, planned.stderr
    assert [line.partition(";")[0] for line in planned.stdout.splitlines()] == ["era5: 3 new", "ocean: 1 new"]
    with dask.config.set(scheduler="synchronous"):
        for job in read_job_file("jobs.toml").jobs:
            plan_spec(job).run()
    ran = invoke("run", "jobs.toml")
    assert ran.exit_code == 0, ran.stderr
    assert [line.split()[:2] for line in ran.stdout.splitlines()] == [
        ["job", "state"],
        ["era5", "unchanged"],
        ["ocean", "unchanged"],
    ]
    assert invoke("verify", "jobs.toml").exit_code == 0
    assert zarr.open_group(ShardedStore.load("results/ocean"), mode="r")["sst"].metadata.zarr_format == 3


def test_the_error_of_the_page(folder):
    Path("jobs.toml").write_text(FIRST.replace("retries", "x").replace("[[job]]\nname", "shard = 5\n[[job]]\nname", 1))
    (line,) = [line for line in PAGE.splitlines() if line.startswith("error: jobs.toml")]
    told = invoke("run", "jobs.toml").stderr.strip()
    assert re.sub(r":\d+:", ":8:", told) == line


def test_secrets_of_the_page_are_names(folder, monkeypatch):
    monkeypatch.setenv("BACKUP_SECRET", "hunter2")
    monkeypatch.setenv("BACKUP_KEY", "me")
    Path("jobs.toml").write_text(SECRET)
    assert "hunter2" not in repr(read_job_file("jobs.toml"))
    refused = SECRET.replace("${BACKUP_SECRET}", "hunter2")
    Path("jobs.toml").write_text(refused)
    done = invoke("run", "jobs.toml")
    assert "'secret_access_key' may be secret, and a job file holds no secrets" in done.stderr
    assert "hunter2" not in done.output


def test_own_transforms_of_the_page(folder, monkeypatch):
    site = folder / "site"
    info = site / "my_package-1.dist-info"
    info.mkdir(parents=True)
    (site / "my_package.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1\n")
    ((group, entries),) = tomllib.loads(ENTRY)["project"]["entry-points"].items()
    (info / "entry_points.txt").write_text(
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
    )
    monkeypatch.syspath_prepend(site)
    Path("jobs.toml").write_text(CLIP)
    (step,) = make_steps(read_job_file("jobs.toml").jobs[0])
    assert (type(step.low), step.low, step.high) == (float, 0.0, 330.5)
    Path("jobs.toml").write_text(CLIP.replace("low = 0", 'low = "x"'))
    assert "jobs.toml:5: the option 'low' of 'clip' is 'x'" in invoke("run", "jobs.toml").stderr


def test_a_new_file_is_valid_and_runs(folder):
    made = invoke("init", "archive/era5.zarr", "archive/ocean.zarr", "-o", "jobs.toml")
    assert made.exit_code == 0, made.stderr
    text = Path("jobs.toml").read_text()
    assert COMMENT in text
    assert "#   /t2m  array (96, 8), chunks (12, 8), 6.00 kiB" in text
    assert "# v3 = true" in text
    validator = jsonschema.Draft202012Validator(json.loads(schema.FILE.read_text()))
    validator.validate(tomllib.loads(text))
    planned = invoke("plan", "jobs.toml")
    assert planned.exit_code == 0, planned.stderr
    # The comments are examples of values: the file is also valid with them.
    with_comments = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE).replace("scheduler =", "#")
    validator.validate(tomllib.loads(with_comments))
    assert "'jobs.toml' exists" in invoke("init", "archive/era5.zarr", "-o", "jobs.toml").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "init needs a SOURCE"),
        (("a/x.zarr", "b/x.zarr"), "two sources are named 'x'"),
        (("none.zarr",), "none.zarr"),
    ],
)
def test_files_that_are_not_made(folder, arguments, message):
    done = invoke("init", *arguments)
    assert done.exit_code == ExitCode.UNUSABLE
    assert message in done.stderr


def test_the_schema_is_printed():
    assert json.loads(invoke("init", "--schema").stdout) == schema.jobs_schema()
