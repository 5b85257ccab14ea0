"""Spans and fine metrics of a job on a cluster."""

import time

import dask
import pytest
from distributed import Client, LocalCluster, span
from helpers_jobs import blocks_at

from shardedstore.jobs.executors.spans import MOST_SPANS, Spans
from shardedstore.transforms import Recompress, ToZip

COUNT = 6


@pytest.mark.cluster
def test_tasks_are_in_spans_with_the_seconds_of_their_stages(tmp_path):
    with LocalCluster(1, threads_per_worker=2, processes=False, dashboard_address=":0") as made, Client(made) as client:
        blocks_at(tmp_path / "source.zarr", COUNT).map_shards(Recompress("gzip"), ToZip(tmp_path / "zips"))

        def metrics(dask_scheduler):
            found = dask_scheduler.extensions["spans"].spans.values()
            return [(one.name, dict(one.cumulative_worker_metrics)) for one in found]

        end = time.monotonic() + 20  # workers send their metrics once a second
        while time.monotonic() < end:
            found = client.run_on_scheduler(metrics)
            if ("ToZip", "a") in dict(found) and any(key[2] == "encode" for key in dict(found)["ToZip", "a"]):
                break
            time.sleep(0.2)
    by_name = dict(found)
    assert len(by_name) == len(found), "each span is made once"
    assert {name for name in by_name if name[0] == "ToZip"} == {("ToZip",), ("ToZip", "base"), ("ToZip", "a")}
    labels = {key[2] for key in by_name["ToZip", "a"] if key[0] == "execute"}
    assert labels >= {"read", "decode", "encode", "write"}


def test_spans_lie_in_the_span_of_the_user_and_their_number_is_bounded():
    spans = Spans()
    with span("nightly"):
        for path in range(2 * MOST_SPANS):
            with spans.of(("ToZip", f"a{path}")):
                name = dask.get_annotations()["span"]["name"]
                assert name[:2] == ("nightly", "ToZip")
    assert name == ("nightly", "ToZip")
