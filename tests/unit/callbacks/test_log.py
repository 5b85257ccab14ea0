"""The log of a job, as JSON lines and as text."""

import json
import re
from contextlib import suppress

import dask
import jsonschema
import msgspec
import pytest
from helpers_jobs import Fail, FailFirst, blocks_at

from shardedstore import ShardsFailed, Summary, UsageError
from shardedstore.abc import JobEnd, JobLog, Progress, Step
from shardedstore.callbacks.log_events import FILE, log_schema, log_schema_text
from shardedstore.transforms import ToZip

BLOCKS = 30


@pytest.fixture
def store(tmp_path):
    return blocks_at(tmp_path / "source.zarr", BLOCKS)


@pytest.fixture(autouse=True)
def sync():
    with dask.config.set(scheduler="sync"):
        yield


class FailBlocks(Step):
    """Fails for each block."""

    def __call__(self, entries, shard):
        if shard.block is not None:
            raise ValueError(f"{shard.name} is broken")
        return entries


def run(store, tmp_path, *steps, format="json", **options):  # noqa: A002
    file = tmp_path / "job.log"
    log = JobLog(file, format)
    with suppress(ShardsFailed):
        store.map_shards(*steps, ToZip(tmp_path / "out"), callbacks=[log], **options)
    return file.read_text().splitlines()


def events(lines):
    found = [json.loads(line) for line in lines]
    for event in found:
        jsonschema.validate(event, log_schema())
    return found


def test_a_job_without_trouble(store, tmp_path):
    start, *tasks, end = events(run(store, tmp_path))
    assert (start["event"], start["total"], start["chain"], start["destination"]) == (
        "start",
        BLOCKS + 1,
        "ToZip",
        str(tmp_path / "out"),
    )
    assert {event["event"] for event in tasks} == {"shards"}
    assert sum(event["done"] for event in tasks) == BLOCKS + 1
    assert (end["event"], end["state"], end["progress"]["done"], end["causes"]) == ("end", "done", BLOCKS + 1, [])
    assert end["opened_url"] == str(tmp_path / "out" / "shardedstore.json")
    assert not (tmp_path / "out/.shardedstore/failures.jsonl").exists()


def test_equal_failures_are_a_few_events_and_a_file_with_all(store, tmp_path):
    found = events(run(store, tmp_path, FailBlocks()))
    first, second = (event["count"] for event in found if event["event"] == "failure")
    assert first == 1
    assert 10 <= second <= BLOCKS
    end = found[-1]
    assert (end["state"], end["error"], end["opened_url"]) == ("failed", "ShardsFailed", None)
    assert [(cause["count"], cause["shards"][0]) for cause in end["causes"]] == [(BLOCKS, "a[0]")]
    with open(end["failures_url"]) as file:
        assert [json.loads(line)["shard"] for line in file] == [f"a[{i}]" for i in range(BLOCKS)]


def test_the_file_of_failures_goes_with_the_next_run_that_has_none(store, tmp_path):
    end = events(run(store, tmp_path, Fail("a[2]", str(tmp_path / "mended"))))[-1]
    (tmp_path / "mended").touch()
    *_, last = events(run(store, tmp_path, Fail("a[2]", str(tmp_path / "mended"))))
    assert (end["state"], last["state"], last["progress"]["skipped"]) == ("failed", "done", BLOCKS)
    assert not (tmp_path / "out/.shardedstore/failures.jsonl").exists()


def test_a_retry_is_reported_with_its_cause(store, tmp_path):
    found = events(run(store, tmp_path, FailFirst("a[3]", str(tmp_path / "tries"), 1)))
    (retry,) = (event for event in found if event["event"] == "retry")
    assert (retry["shard"], retry["attempts"]) == ("a[3]", 2)
    assert "Input/output error" in retry["cause"]


def test_text(store, tmp_path):
    lines = run(store, tmp_path, FailBlocks(), format="text")
    told = [line.partition(" ")[2] for line in lines]
    assert told[0].startswith("start: FailBlocks, ToZip to ")
    assert told[1] == "error: a[0] failed: ValueError: a[0] is broken"
    assert re.fullmatch(r"error: (a\[\d+\]) failed: ValueError: \1 is broken \(([12]\d|30) shards so far\)", told[2])
    assert told[3].startswith("end: failed after 0 s: 1 of 31 shards done, 30 failed, ")
    assert len(told) == 4


@pytest.mark.parametrize("format", ["json", "text"])
def test_the_numbers_come_once_a_minute(format, tmp_path, store):  # noqa: A002
    now = 0.0
    log = JobLog(tmp_path / "log", format, clock=lambda: now)
    log.on_job_start(store.plan(ToZip(tmp_path / "out")))
    for _ in range(150):
        log.on_progress(Progress(total=8, done=2))
        now += 1
    log.on_job_end(JobEnd(Summary(), Progress(total=8)))
    lines = (tmp_path / "log").read_text().splitlines()[1:-1]
    assert len(lines) == 2
    shown = msgspec.json.decode(lines[0])["progress"]["done"] if format == "json" else lines[0].partition(" ")[2]
    assert shown == (2 if format == "json" else "25%, 2 of 8 shards")


def test_a_log_without_a_file_goes_to_standard_error(store, tmp_path, capsys):
    store.map_shards(ToZip(tmp_path / "out"), callbacks=[JobLog()])
    shown = capsys.readouterr()
    assert (events(shown.err.splitlines())[-1]["state"], shown.out) == ("done", "")


def test_lines_are_appended(store, tmp_path):
    first = len(run(store, tmp_path))
    assert len(run(store, tmp_path)) > first


def test_a_file_that_can_not_be_written_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UsageError, match=r"the log '.*none/job.log' can't be written: No such file or directory"):
        JobLog(tmp_path / "none/job.log")


def test_the_packaged_schema_is_that_of_the_code():
    assert FILE.read_text() == log_schema_text(), "run: make schema"
    jsonschema.Draft202012Validator.check_schema(log_schema())
