"""The JSON Schema of job files, and job files from command lines."""

import json
import tomllib
from pathlib import Path

import jsonschema
import msgspec
import pytest
import zarr
from click.testing import CliRunner

from shardedstore import cli
from shardedstore.jobfiles import schema
from shardedstore.jobfiles.read import read_job_file

JOB = {"source": "a", "destination": "b", "to": "zip"}


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    document = json.loads(schema.FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


def test_the_packaged_file_is_that_of_the_code():
    assert schema.FILE.read_text() == schema.jobs_schema_text(), "run make schema"


@pytest.mark.parametrize(
    "document",
    [
        {"job": [JOB]},
        {"defaults": {"to": "zip", "source": "x"}, "job": [{"destination": "b"}]},
        {"job": [{**JOB, "to": {"use": "zip", "per_zip": 9}}], "cluster": {"workers": 2}, "run": {}},
        {"job": [{**JOB, "steps": ["migrate-v3", {"use": "recompress", "codec": "zstd", "level": 5}]}]},
        {"job": [{**JOB, "steps": [{"use": "mine", "anything": [1]}], "shards": {"t": {"time": 5}, "u": [5, -1]}}]},
        {"job": [{**JOB, "storage": {"region": "eu", "allow_http": True, "secret_access_key": "${KEY}"}}]},
    ],
)
def test_valid_files(validator, document):
    validator.validate(document)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "'job' is a required property"),
        ({"job": [{"source": "a", "destination": "b"}]}, "'to' is a required property"),
        ({"job": [{**JOB, "retrys": 1}]}, "'retrys' was unexpected"),
        ({"job": [{**JOB, "retries": -1}]}, "less than the minimum"),
        ({"job": [{**JOB, "to": {"use": "zip", "per_zi": 9}}]}, "not valid under any"),
        ({"job": [{**JOB, "storage": {"secret_access_key": "hunter2"}}]}, "does not match"),
    ],
)
def test_files_that_are_not_valid(validator, document, message):
    with pytest.raises(jsonschema.ValidationError, match=message):
        validator.validate(document)


def test_the_job_file_of_a_command_is_that_command(tmp_path, monkeypatch, validator):
    monkeypatch.chdir(tmp_path)
    command = ["convert", "a.zarr", "s3://bucket/b", "--to", "zip:per_zip=9", "--v3", "--codec", "zstd:level=5"]
    options = [
        "--shards",
        "t/*=time:720",
        "--shards",
        "u=720,-1",
        "--shards",
        "1 GiB",
        "--include",
        "é[*]",
        "--retries",
        "7",
    ]
    more = [
        "--no-consolidated",
        "--storage",
        "region=eu",
        "--storage",
        "allow_http=true",
        "--workers",
        "3",
        "--step",
        "migrate-ome",
    ]
    printed = CliRunner().invoke(cli.main, [*command, *options, *more, "--print-job"])
    assert printed.exit_code == 0, printed.stderr
    Path("jobs.toml").write_text(printed.stdout)
    validator.validate(tomllib.loads(printed.stdout))
    jobs = read_job_file("jobs.toml")
    (job,) = jobs.jobs
    assert msgspec.to_builtins(job) == {
        "source": str(tmp_path / "a.zarr"),
        "destination": "s3://bucket/b",
        "to": "zip:per_zip=9",
        "v3": True,
        "steps": ["migrate-ome"],
        "codec": "zstd:level=5",
        "shards": {"t/*": {"time": 720}, "u": [720, -1], "*": "1 GiB"},
        "include": ["é[*]"],
        "retries": 7,
        "consolidated": False,
        "storage": {"region": "eu", "allow_http": True},
    }
    assert jobs.cluster.workers == 3


def test_init_writes_the_schema_that_its_job_file_names(tmp_path):
    zarr.create_array(tmp_path / "era5.zarr", name="t", shape=(8,), chunks=(2,), dtype="i4")
    jobs = tmp_path / "jobs.toml"
    done = CliRunner().invoke(cli.main, ["init", str(tmp_path / "era5.zarr"), "-o", str(jobs)])
    assert done.exit_code == 0, done.output
    name = jobs.read_text().splitlines()[0].removeprefix("#:schema ")
    named = json.loads((jobs.parent / name).read_text())
    jsonschema.validate(tomllib.loads(jobs.read_text()), named)
    printed = CliRunner().invoke(cli.main, ["init", str(tmp_path / "era5.zarr")]).stdout
    assert "#:schema" not in printed
