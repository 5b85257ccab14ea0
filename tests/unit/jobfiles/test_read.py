"""Job files: defaults, variables, and errors that name the file and the line."""

import hashlib
from datetime import date
from pathlib import Path

import pytest

from shardedstore import UsageError
from shardedstore.jobfiles.read import JobFile, job_name, read_job_file
from shardedstore.jobfiles.secrets import resolve_storage

JOB = '[[job]]\nsource = "a"\ndestination = "b"\nto = "zip"\n'  # four lines
ENVIRONMENT = {"ROOT": "s3://bucket", "KEY": "hunter2"}


@pytest.fixture
def read(tmp_path: Path):
    def read_text(text: str | bytes, **options) -> JobFile:
        path = tmp_path / "jobs.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_job_file(path, today=date(2026, 11, 29), environment=ENVIRONMENT, **options)

    return read_text


def test_jobs_have_the_defaults_and_their_own_values(read, tmp_path):
    text = """
[cluster]
workers = 3
[defaults]
source = "{name}.zarr"
destination = "${ROOT}/{date}/{name}"
to = {use = "zip", name = "{path}.{block}.zip"}
storage = {region = "eu", secret_access_key = "${KEY}"}
retries = 5
include = ["x"]
[[job]]
name = "t"
[[job]]
name = "w"
source = "/data/w.zarr"
storage.region = "us"
retries = 0
include = ["y"]
"""
    jobs = read(text)
    first, second = jobs.jobs
    assert (first.source, first.destination) == (str(tmp_path / "t.zarr"), "s3://bucket/2026-11-29/t")
    assert first.to == {"use": "zip", "name": "{path}.{block}.zip"}
    assert first.storage == {"region": "eu", "secret_access_key": "${KEY}"}
    assert resolve_storage(first.storage, ENVIRONMENT)["secret_access_key"] == "hunter2"
    assert (second.source, second.retries, second.include) == ("/data/w.zarr", 0, ["y"])
    assert second.storage == {"region": "us", "secret_access_key": "${KEY}"}
    assert jobs.cluster.workers == 3
    assert jobs.digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert "hunter2" not in repr(jobs)


def test_jobs_are_chosen_by_name(read):
    text = JOB + JOB.replace('"b"', '"s3://x/c/"')
    assert [job_name(job) for job in read(text).jobs] == ["b", "c"]
    assert [job_name(job) for job in read(text, only=["c"]).jobs] == ["c"]
    with pytest.raises(UsageError, match=r"there is no job 'bb': did you mean 'b'\?"):
        read(text, only=["bb"])


def test_a_dollar_is_escaped(read):
    (job,) = read(JOB + 'include = ["$${ROOT}", "${ROOT}"]\n').jobs
    assert job.include == ["${ROOT}", "s3://bucket"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x = \n", 1, "Invalid value"),
        (JOB + JOB.replace("to =", "source ="), 8, "Cannot overwrite a value"),
        (b'[[job]]\nname = "\xff"\n', 2, "not text in UTF-8"),
        ("[[jobs]]\n", 1, "'jobs' is not an option here: did you mean 'job'?"),
        (JOB + "\n# a comment\nretrys = 3\n", 7, "'retrys' is not an option here: did you mean 'retries'?"),
        (JOB + "max-failures = 3\n", 5, "did you mean 'max_failures'?"),
        (JOB + 'retries = "3"\n', 5, "retries is text, but must be a whole number"),
        (JOB + "retries = -1\n", 5, "retries is -1, but must be 0 or more"),
        (JOB + 'changed = "list"\n', 5, "changed = 'list' is not known: did you mean 'listing'?"),
        (JOB + 'changed = "x"\n', 5, "use one of metadata, listing, content"),
        (JOB + "include = [\n 'a',\n 3]\n", 5, "include.1 is a whole number, but must be text"),
        (JOB.replace('to = "zip"', ""), 1, "'to' is missing: write to = ..."),
        (JOB.replace("zip", "zap"), 4, "'zap' is not an installed transform: use one of zip, "),
        (JOB.replace('"zip"', '{use = "zip", per_zi = 3}'), 4, "'zip' has no option 'per_zi'"),
        (JOB.replace('"zip"', "{per_zip = 3}"), 4, "does not name a transform: write {use = 'zip', ...}"),
        (JOB + "steps = [\n'migrate-v3',\n'zip']\n", 5, "'zip' is a sink, not a step"),
        (JOB + '[job.storage]\nregion = "eu"\nsecret_access_key = "hunter2"\n', 5, 'secret_access_key = "${SECRET_'),
        (JOB + '[job.storage]\nregon = "eu"\n', 5, "'regon' is not a known storage option: did you mean 'region'?"),
        (JOB + 'storage = {token = "${NO_TOKEN}"}\n', 5, "the environment variable 'NO_TOKEN' is not set"),
        ("[defaults]\nretries = 'x'\n" + JOB, 2, "retries is text"),
        (
            JOB + 'codec = "${NO_CODEC}"\n',
            5,
            "the environment variable 'NO_CODEC' is not set: set it, or write $${NO_CO",
        ),
        (JOB + JOB, 5, "a second job 'b': give each job its own name = ..."),
        ("[cluster]\nworkers = 0\n" + JOB, 2, "workers is 0, but must be 1 or more"),
        ("[cluster]\nworker = 1\n" + JOB, 2, "'worker' is not an option here: did you mean 'workers'?"),
    ],
)
def test_errors_name_the_line(read, tmp_path, text, line, message):
    with pytest.raises(UsageError) as caught:
        read(text)
    told = str(caught.value)
    assert told.startswith(f"{tmp_path / 'jobs.toml'}:{line}: ")
    assert message in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("path", "message"),
    [("none.toml", "can't be read: No such file"), ("empty.toml", r"no job: write a table \[\[job\]\]")],
)
def test_errors_of_a_whole_file(tmp_path, path, message):
    (tmp_path / "empty.toml").touch()
    with pytest.raises(UsageError, match=message):
        read_job_file(tmp_path / path)
