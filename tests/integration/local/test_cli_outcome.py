"""The log, the quiet mode and the JSON line of ``shardedstore convert``."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from shardedstore import cli
from shardedstore.callbacks.log_events import log_schema

pytestmark = pytest.mark.cluster


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.zarr"
    zarr.create_array(path, name="t", data=np.arange(80.0), chunks=(10,), zarr_format=2)
    return path


def convert(source: Path, *options: object):
    arguments = [
        "convert",
        source,
        source.parent / "out",
        "--to",
        "zip",
        "--shards",
        "t=20",
        "--workers",
        "1",
        *options,
    ]
    return CliRunner().invoke(cli.main, list(map(str, arguments)), catch_exceptions=False)


def last_line(result) -> dict:
    end = json.loads(result.stdout.splitlines()[-1])
    jsonschema.validate(end, log_schema())
    assert end["exit_code"] == result.exit_code
    return end


def test_quiet_json_and_a_log_file(source: Path) -> None:
    log = source.parent / "job.log"
    result = convert(source, "--quiet", "--json", "--log-format", "json", "--log-file", log)
    end = last_line(result)
    assert (result.exit_code, len(result.stdout.splitlines()), result.stderr) == (0, 1, "")
    assert (end["state"], end["progress"]["done"], end["progress"]["total"]) == ("done", 9, 9)
    assert end["opened_url"] == str(source.parent / "out" / "shardedstore.json")
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert (events[0], events[-1]) == ("start", "end")


def test_failed_shards(source: Path) -> None:
    for chunk in range(8):
        (source / "t" / str(chunk)).write_bytes(b"damaged")
    result = convert(source, "--json", "--codec", "zlib", "--log-format", "text")
    end = last_line(result)
    assert (result.exit_code, end["state"], end["error"]) == (1, "failed", "ShardsFailed")
    assert sum(cause["count"] for cause in end["causes"]) == end["progress"]["failed"] == 8
    assert result.stderr.splitlines()[-2:] == [
        f"note: failed shards: {end['failures_url']}",
        f"note: report: {end['report_url']}",
    ]
    assert "<!DOCTYPE html>" in Path(end["report_url"]).read_text()
    assert end["message"].endswith("run the same job again, and it goes on from there")
    assert "run the same command again to resume" in result.stderr
    with open(end["failures_url"]) as file:
        assert sorted(json.loads(line)["shard"] for line in file) == [f"t[{i}]" for i in range(8)]
    assert " end: failed after " in result.stderr


def test_a_job_that_is_refused(source: Path) -> None:
    for options, error in ((["--codec", "none-such"], "ChainError"), (["--log-file", source / "no/log"], "UsageError")):
        end = last_line(convert(source, "--json", *options))
        assert (end["state"], end["error"], end["exit_code"], end["progress"]) == ("error", error, 2, None)
        assert end["message"]
