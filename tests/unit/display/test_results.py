"""Views of results: summaries, records, reports of verification and unfinished jobs; small and large ones."""

import pickle
import re
import shutil

import dask
import msgspec
import numpy as np
import pytest
import zarr
from IPython.lib.pretty import pretty
from pages import Page

from shardedstore import ShardedStore, ShardError, ShardRecord
from shardedstore.display.records import records_to_html
from shardedstore.jobs.differences import Difference
from shardedstore.jobs.partial_state import Partial, PathState
from shardedstore.jobs.records_report import report_of_records
from shardedstore.transforms import Recompress, ToZip
from shardedstore.verify.report import VerifyReport

HOSTILE = "<script>alert('1')</script>&"
SCREEN = 40  # lines
MOST_BYTES = 150_000  # of HTML


@pytest.fixture
def result(tmp_path):
    root = zarr.create_group(tmp_path / "in.zarr")
    root.create_array("t", data=np.arange(80), chunks=(2,), compressors=None)
    root.create_array("<b>u", data=np.arange(8), chunks=(2,))
    store = ShardedStore.partition(tmp_path / "in.zarr", {"t": (20,), "<b>u": "whole"})
    with dask.config.set(scheduler="sync"):
        return store.map_shards(Recompress("zstd"), ToZip(tmp_path / "out"))


def checked(view):
    page = Page(view._repr_html_())
    assert "script" not in page.tags
    assert len(view._repr_html_()) < MOST_BYTES
    assert len(repr(view).splitlines()) < SCREEN
    return " ".join(page.texts)


def test_a_summary_has_the_pictures_of_its_report(result):
    text = checked(result.summary)
    assert "6 shards done by the job" in text
    assert "Sizes before and after" in text
    assert "/t" in text
    assert "Slowest shards" in text
    assert result.summary.report.number == 1


def test_a_summary_is_printed_as_a_line(result):
    counts, *notices = str(result.summary).splitlines()
    assert pretty(result.summary) == str(result.summary).rstrip()
    assert re.fullmatch(r"6 shards done by the job; \d+ entries, .* written; .* in the threads of the workers", counts)
    assert notices == [str(notice) for notice in result.summary.notices]


def test_records(result, tmp_path):
    text = checked(result.records())
    assert "6 records of shards" in text
    assert "in the source" in text
    assert "Shards over time" in text
    report = ShardedStore.load(tmp_path / "out").records().to_report()
    assert (report.done, report.workers, [row.path for row in report.arrays]) == (6, 1, [None, "<b>u", "t"])


class Many(list):
    def to_report(self):
        return report_of_records(self)


@pytest.mark.parametrize("number", [10, 10_000])
def test_many_records_have_a_bounded_view(number):
    records = Many(
        ShardRecord(
            f"{HOSTILE}[{i}]", f"{HOSTILE}{i % 1000}", str(i), i, i % 9 > 0, HOSTILE if i % 9 == 0 else "", 4, 400 + i, 40, 4000,
            1.5 + i % 7, 1, 1e9 * (i > 3) + i / 10, f"node{i % 100}:1",
        )
        for i in range(number)
    )  # fmt: skip
    page = records_to_html(records, HOSTILE)
    assert "script" not in Page(page).tags
    assert len(page) < 400_000
    report = records.to_report()
    assert report.done + report.failed == number
    assert report.timeline.seconds < 60  # the first shards are of an earlier run


def test_verify(result, tmp_path):
    with dask.config.set(scheduler="sync"):
        report = result.verify(tmp_path / "in.zarr")
    text = checked(report)
    assert "equal: 2 arrays in 6 shards" in text
    assert repr(report).splitlines()[:2] == [
        "equal: 2 arrays in 6 shards, by their decoded data",
        "  array  differences  compared by",
    ]
    for digest in report.digests.values():
        assert digest not in text
        assert digest not in repr(report)
    assert set(report.digests) == {"t", "<b>u"}


@pytest.mark.parametrize("number", [1, 10, 10_000])
def test_differences(number):
    found = [
        Difference("data", f"{HOSTILE} chunk {i} differs", "mark it", shard=f"t[{i}]", array=f"{HOSTILE}{i % 500}")
        for i in range(number)
    ]
    text = checked(VerifyReport.of("decoded", number, found, arrays=3, notes=[HOSTILE] * number))
    assert f"differs: {number:,} difference" in text
    assert "next step: mark it" in text


def test_an_unfinished_job_says_what_is_missing(result, tmp_path):
    (tmp_path / "out/shardedstore.json").unlink()
    (tmp_path / "out/t/2.zarr.zip").unlink()
    store = ShardedStore.load(tmp_path / "out", partial=True, allow=[tmp_path])
    (path,) = store.partial.unfinished
    assert (path.path, path.done, path.total, path.missing, path.parts) == ("t", 3, 4, "t[2]", (1, 1, 0, 1))
    assert "/t: 3 of 4 shards done; 1 missing: t[2]" in repr(store)
    assert "/t 3 of 4 [2]" in checked(store.partial)
    assert "folder" not in store.partial.to_dict()


def test_an_unfinished_job_has_records_and_a_report(result, tmp_path):
    (tmp_path / "out/shardedstore.json").unlink()
    store = pickle.loads(pickle.dumps(ShardedStore.load(tmp_path / "out", partial=True, allow=[tmp_path])))
    assert len(store.records()) == 6
    assert store.report().done == 6
    assert "first missing" in checked(store)
    shutil.rmtree(tmp_path / "out/t")
    later = ShardedStore.load(tmp_path / "out", partial=True, allow=[tmp_path]).partial
    assert "/t: 0 of 4 shards done; 4 missing, the first is t[0]" in repr(later)


def test_many_paths_of_an_unfinished_job():
    paths = tuple(
        PathState(f"{HOSTILE}{i}", i % 3, 3, f"{i}[0]" if i % 3 < 2 else "", (0.5,) * 60) for i in range(1000)
    )
    text = checked(Partial(5, 10, 3000, HOSTILE, paths))
    assert "1,000" in text or "988 more" in text
    assert msgspec.json.encode(Partial(5, 10, 3000, "", paths).to_dict())


def test_failures_of_a_summary(result):
    failed = [ShardError(f"t[{i}]", HOSTILE, path="t", key=f"t/{i}") for i in range(10_000)]
    text = checked(type(result.summary)(failures=tuple(failed)))
    assert "10,000 failed shards" in text
