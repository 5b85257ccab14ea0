"""The report of a run: its files, its numbers, and its views."""

import re
from html.parser import HTMLParser
from pathlib import Path

import dask
import msgspec
import pytest
import zarr
from helpers_jobs import Fail, FailFirst, blocks_at

from shardedstore import Report, ShardedStore, ShardError, ShardsFailed, Summary, UsageError
from shardedstore.abc import JobEnd, Progress, ShardEnd, TaskEnd
from shardedstore.callbacks.report import ReportWriter
from shardedstore.transforms import Recompress, ToZip

SHARDS = 7
VOID = {"meta", "br"}


@pytest.fixture(autouse=True)
def sync():
    with dask.config.set(scheduler="sync"):
        yield


@pytest.fixture
def store(tmp_path):
    return blocks_at(tmp_path / "source.zarr", SHARDS - 1)


def files_of(zips: Path) -> list[str]:
    return sorted(path.name for path in (zips / ".shardedstore").glob("report-*"))


def read(path: Path) -> Report:
    return msgspec.json.decode(path.read_bytes(), type=Report)


class Balance(HTMLParser):
    """Checks that tags are closed in order, and collects the names of attributes that load something."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.loads, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def check_page(page: str) -> str:
    found = Balance(page)
    assert (found.open, found.loads) == ([], [])
    assert "<script" not in page
    return "".join(found.text)


def test_every_run_leaves_a_report(store, tmp_path):
    zips = tmp_path / "zips"
    new = store.map_shards(Recompress("gzip"), ToZip(zips))
    store.map_shards(Recompress("gzip"), ToZip(zips))
    assert files_of(zips) == ["report-1.html", "report-1.json", "report-2.html", "report-2.json"]
    first, second = new.report(1), new.report()
    assert (first.state, first.done, first.skipped, first.number) == ("done", SHARDS, 0, 1)
    assert (second.state, second.done, second.skipped, second.number) == ("unchanged", 0, SHARDS, 2)
    assert first.source == str(tmp_path / "source.zarr")
    assert [name for name, _ in first.steps] == ["Recompress", "ToZip"]
    for report in (first, second):
        assert sum(row.done for row in report.arrays) == SHARDS
        assert report.nbytes == sum(path.stat().st_size for path in zips.rglob("*.zip"))
        read = sum(record.source_nbytes for record in new.records())
        assert report.source_nbytes == read > 0
        assert report.decoded_nbytes == store.plan(Recompress("gzip"), ToZip(zips)).nbytes
    assert len(first.timeline.spans) == len({span.shard for span in first.timeline.spans}) == SHARDS
    assert first.stages.keys() <= {"read", "decode", "steps", "encode", "write", "throttled", "other"}
    assert first.stages["encode"] > 0
    assert sum(first.timeline.shards) == SHARDS
    assert "7 made" in str(first)
    assert "Report 1 of Recompress, ToZip: done" in check_page((zips / ".shardedstore" / "report-1.html").read_text())
    with pytest.raises(UsageError, match="no report 9: there are 1 to 2"):
        new.report(9)


@pytest.mark.parametrize("chosen", ["folder", "file", False])
def test_a_report_elsewhere(store, tmp_path, chosen):
    logs = tmp_path / "logs"
    place = {"folder": logs, "file": logs / "nightly.html", False: False}[chosen]
    new = store.map_shards(ToZip(tmp_path / "zips"), report=place)
    assert files_of(tmp_path / "zips") == []
    names = sorted(path.name for path in logs.glob("*"))
    expected = {
        "folder": ["report-1.html", "report-1.json"],
        "file": ["nightly.html", "nightly.json"],
        False: [],
    }
    assert names == expected[chosen]
    with pytest.raises(UsageError, match="no run has left one"):
        new.report()


def test_failed_shards_by_cause(store, tmp_path):
    zips = tmp_path / "zips"
    with pytest.raises(ShardsFailed):
        store.map_shards(Fail("a[2]"), ToZip(zips))
    report = read(zips / ".shardedstore" / "report-1.json")
    assert (report.state, report.failed, report.done, report.code) == ("failed", 1, SHARDS - 1, "failed")
    (cause,) = report.failures
    assert (cause.count, cause.shards) == (1, ("a[2]",))
    assert "taste" in cause.cause
    assert "ValueError" in cause.traceback
    page = check_page((zips / ".shardedstore" / "report-1.html").read_text())
    assert "1 failed shard, 1 cause" in page
    with pytest.raises(ShardsFailed):
        store.map_shards(Fail("a[2]"), ToZip(zips))
    assert read(zips / ".shardedstore" / "report-2.json").again == {"failed": 1}


def test_repeated_attempts_have_a_cause(store, tmp_path):
    new = store.map_shards(FailFirst("a[2]", str(tmp_path / "attempts"), 1), ToZip(tmp_path / "zips"))
    (retried,) = new.report().retried
    assert (retried.shard, retried.attempts) == ("a[2]", 2)
    assert "Input/output error" in retried.cause


@pytest.mark.parametrize("reason", ["lost", "marked", "changed"])
def test_what_was_made_again(store, tmp_path, reason):
    zips = tmp_path / "zips"
    new = store.map_shards(ToZip(zips), changed="content")
    if reason == "changed":
        zarr.open_array(tmp_path / "source.zarr" / "a", mode="r+")[:1] = 99
    else:
        (zips / "a" / "3.zarr.zip").unlink()
    if reason == "marked":
        new.verify(level="exists", mark=True)
    report = store.map_shards(ToZip(zips), changed="content").report()
    assert (report.again, report.done) == ({reason: 1}, 1)


def test_a_report_that_cannot_be_written_fails_no_job(store, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    new = store.map_shards(ToZip(tmp_path / "zips"), report=tmp_path / "file" / "logs")
    assert new.summary.done == SHARDS
    assert "the report of this run can't be written" in caplog.text


def test_names_are_escaped(tmp_path):
    group = zarr.open_group(tmp_path / "source.zarr", mode="w")
    group.create_array("<script>x", shape=(4,), chunks=(2,), dtype="i4")[:] = 1
    store = ShardedStore.partition(tmp_path / "source.zarr", {"<script>x": (2,)})
    report = store.map_shards(ToZip(tmp_path / "zips")).report()
    check_page(report.to_html())
    Balance(report._repr_html_())


def test_the_size_is_bounded(store, tmp_path):
    plan = store.plan(ToZip(tmp_path / "zips"))
    writer = ReportWriter(tmp_path / "big.html")
    writer.on_job_start(plan)
    many, per_task = 100_000, 200
    for first in range(0, many, per_task):
        failures = tuple(ShardError(f"t[{first}]", f"ValueError: t[{first}] is bad") for _ in range(first % 400 == 0))
        ends = tuple(
            ShardEnd(
                f"t[{number}]",
                number % SHARDS,
                begun=1e9 + number,
                seconds=0.5,
                attempts=1 + number % 2,
                retried="busy",
            )
            for number in range(first, first + per_task)
        )
        task = Summary(done=per_task, seconds=100.0, worker=f"node{first % 999}:1", shards=ends, failures=failures)
        writer.on_task_end(TaskEnd(task, Progress(total=many)))
    failures = tuple(ShardError(f"t[{i}]", f"cause {i}", traceback="x" * 8000) for i in range(1000))
    writer.on_job_end(JobEnd(Summary(done=many, failures=failures), Progress(total=many), None))
    assert writer.report.timeline.spans == []
    assert len(writer.report.timeline.busy) <= 49
    assert len(writer.report.failures) == 50
    assert (tmp_path / "big.json").stat().st_size < 300_000
    assert (tmp_path / "big.html").stat().st_size < 600_000
    check_page((tmp_path / "big.html").read_text())


def test_records(store, tmp_path):
    new = store.map_shards(ToZip(tmp_path / "zips"))
    records = new.records()
    assert len(records) == SHARDS
    assert [record.shard for record in records] == ["(base)", *(f"a[{i}]" for i in range(SHARDS - 1))]
    assert sum(record.nbytes for record in records) == new.summary.nbytes
    table = records.to_dataframe()
    assert table.nbytes.sum() == new.summary.nbytes
    assert str(table.begun.dtype).endswith("UTC]")
    assert "7 records" in repr(records)
    with pytest.raises(UsageError, match=r"ledger of .* is not found"):
        store.records()


def test_the_summary_has_a_view(store, tmp_path):
    summary = store.map_shards(Fail("a[2]"), ToZip(tmp_path / "zips"), accept_failed=["a[2]"]).summary
    text = "".join(Balance(summary._repr_html_()).text)
    assert re.search(r"6 shards done by the job.*1 failed shard", text)
