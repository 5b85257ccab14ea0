"""The requests that a job counts, and the requests that a proxy counts."""

import re
from collections import Counter
from dataclasses import replace

import dask
import numpy as np
import pytest
import zarr
from faultproxy import FaultProxy, Rule
from servers import upload
from sources import build

from shardedstore import Limits, Report, ShardedStore
from shardedstore.abc import Callback
from shardedstore.callbacks.opentelemetry import OpenTelemetry
from shardedstore.callbacks.prometheus import PrometheusFile
from shardedstore.transforms import CopyTo, ToZip


@pytest.fixture
def proxy(bucket, s3_server, use_environment):
    with FaultProxy(s3_server.endpoint) as proxy:
        use_environment(replace(s3_server, endpoint=proxy.url).environment())
        yield proxy


@pytest.fixture
def store(bucket, proxy):
    def array(store):
        zarr.create_array(store, name="a", data=np.arange(1200), chunks=(10,), shards=None)

    upload(bucket.client, build(array), "source.zarr")
    return ShardedStore.partition(f"{bucket.url}/source.zarr", {"a": (200,)})


class Keep(Callback):
    """Keeps the requests of the tasks, and the end."""

    def __init__(self):
        self.tasks = Counter()

    def on_task_end(self, event):
        self.tasks.update({kind: made.count for kind, made in event.task.requests.items()})

    def on_job_end(self, event):
        self.end = event


def counted(log):
    """The requests in the log of a proxy, by kind."""
    kinds = {"POST": "DELETE"}
    return Counter(
        "LIST" if "list-type=" in line.path else kinds.get(line.method, line.method)
        for line in log
        if "uploads" not in line.path and "uploadId" not in line.path
    )


@pytest.mark.few(2)
@pytest.mark.parametrize("sink", [ToZip, CopyTo])
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_all_requests_of_a_job_are_counted(store, bucket, proxy, sink, scheduler, tmp_path):
    path, kept = tmp_path / "job.prom", Keep()
    plan = store.plan(sink(f"{bucket.url}/result"))
    proxy.log.clear()
    with dask.config.set(scheduler=scheduler, num_workers=2):
        plan.run(callbacks=[kept, PrometheusFile(path, job="a")], report=False)
    found = {kind: made.count for kind, made in kept.end.job.requests.items()}
    assert found == counted(proxy.log), [line.path for line in proxy.log]
    own = Counter({kind: made.count for kind, made in kept.end.requests.items()})
    assert kept.tasks + own == Counter(found)
    assert kept.end.job.requests["GET"].nbytes > 1200 * 2
    assert all(0 < made.latency < 5 and not made.errors for made in kept.end.job.requests.values())
    samples = dict(re.findall(r'shardedstore_job_requests\{job="a",kind="(\w+)"\} (\d+)', path.read_text()))
    assert samples == {kind: str(count) for kind, count in found.items()}


def test_requests_are_in_the_report_and_sent_by_opentelemetry(store, bucket):
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    reader, kept = InMemoryMetricReader(), Keep()
    with dask.config.set(scheduler="sync"):
        new = store.map_shards(
            ToZip(f"{bucket.url}/result"), callbacks=[kept, OpenTelemetry(MeterProvider([reader]), TracerProvider())]
        )
    (resource,) = reader.get_metrics_data().resource_metrics
    metrics = {metric.name: metric.data.data_points for metric in resource.scope_metrics[0].metrics}
    sums = {point.attributes["kind"]: point.value for point in metrics["shardedstore.requests"]}
    assert sums == {kind: made.count for kind, made in kept.end.job.requests.items()}
    report = new.report()
    assert isinstance(report, Report)
    assert report.requests["GET"].count >= 120
    assert "mean latency" in report.to_html()
    assert f"{report.requests['GET'].count:,} GET" in str(report)


@pytest.mark.parametrize("case", ["busy", "limit"])
def test_waits_are_a_stage(store, bucket, proxy, case):
    """A busy server, and a limit of the job, make requests wait."""
    if case == "busy":
        options = {"retry_config": {"max_retries": 0}}
        store = ShardedStore.partition(f"{bucket.url}/source.zarr", {"a": (200,)}, storage_options=options)
        proxy.rules += [Rule(r"^GET .*source\.zarr/a/c/", "status", 503, count=2)]
    tasks = []

    class Tasks(Callback):
        def on_task_end(self, event):
            tasks.append(event.task)

    limits = {"limits": Limits(requests_per_second=100)} if case == "limit" else {}
    with dask.config.set(scheduler="sync"):
        new = store.map_shards(ToZip(f"{bucket.url}/result"), **limits, callbacks=[Tasks()])
    assert new.summary.throttled == (2 if case == "busy" else 0)
    assert new.summary.throttled_seconds > 0.4
    for task in tasks[1:]:
        assert sum(task.stages.values()) <= task.seconds + 0.05
    assert sum(task.stages["throttled"] for task in tasks) == pytest.approx(new.summary.throttled_seconds)
    assert new.report().stages["throttled"] > 0.4
