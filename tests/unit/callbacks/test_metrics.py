"""Callbacks that send metrics: a file for Prometheus, OpenTelemetry, and a heartbeat."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dask
import pytest
from click.testing import CliRunner
from helpers_jobs import Fail, blocks_at

from shardedstore import ShardsFailed, UsageError, cli
from shardedstore.callbacks.opentelemetry import OpenTelemetry
from shardedstore.callbacks.ping import Ping
from shardedstore.callbacks.prometheus import PrometheusFile
from shardedstore.transforms import ToZip

SHARDS = 7
SAMPLE = re.compile(r"(\w+)\{(.*)\} (\S+)")


@pytest.fixture(autouse=True)
def sync():
    with dask.config.set(scheduler="sync"):
        yield


@pytest.fixture
def store(tmp_path):
    return blocks_at(tmp_path / "source.zarr", SHARDS - 1)


@contextmanager
def server(status=200, seconds=0.0):
    """A server that keeps the paths and the bodies of its requests, and waits before it answers."""
    told, stop = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            stop.wait(seconds)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}", told
    finally:
        stop.set()
        made.shutdown()
        made.server_close()


def samples(path):
    """The samples of a file by name and labels, after a check of its format."""
    found = {}
    for line in path.read_text().splitlines():
        if not line.startswith(("# HELP ", "# TYPE ")):
            name, labels, value = SAMPLE.fullmatch(line).groups()
            assert (name, labels) not in found
            found[name, labels] = float(value)
    return found


def value(path, name, label=""):
    (found,) = (
        number for (one, labels), number in samples(path).items() if one == f"shardedstore_{name}" and label in labels
    )
    return found


def test_a_ping_at_the_start_and_after_a_success(store, tmp_path):
    with server() as (url, told):
        store.map_shards(ToZip(tmp_path / "zips"), callbacks=[Ping(f"{url}/secret")])
    assert [path for path, _ in told] == ["/secret/start", "/secret"]
    assert told[1][1] == b"7 of 7 shards: 7 made, 0 done before, 0 failed"


def test_a_ping_after_a_failure(store, tmp_path):
    with server() as (url, told), pytest.raises(ShardsFailed):
        store.map_shards(Fail("a[2]"), ToZip(tmp_path / "zips"), callbacks=[Ping(f"{url}/secret/?create=1")])
    assert [path for path, _ in told] == ["/secret/start?create=1", "/secret/fail?create=1"]
    assert told[1][1].endswith(b"1 failed; failed")


@pytest.mark.parametrize("case", ["refused", "status", "slow"])
def test_a_ping_without_an_answer_fails_no_job(store, tmp_path, caplog, case):
    with server(503 if case == "status" else 200, 30.0 if case == "slow" else 0.0) as (url, _):
        chosen = "http://127.0.0.1:9" if case == "refused" else url
        ping = Ping(f"{chosen}/secret", seconds=0.2)
        new = store.map_shards(ToZip(tmp_path / "zips"), callbacks=[ping])
    assert new.summary.done == SHARDS
    assert "no answer from" in caplog.text
    assert "secret" not in caplog.text + repr(ping)


def test_what_is_no_url_is_refused():
    with pytest.raises(UsageError, match="does not begin with http") as raised:
        Ping("hc-ping.com/secret")
    assert "secret" not in str(raised.value)


def test_a_file_for_prometheus(store, tmp_path):
    path, zips = tmp_path / "job.prom", tmp_path / "zips"
    new = store.map_shards(ToZip(zips), callbacks=[PrometheusFile(path, dataset='era "5"\\')])
    assert {labels.rpartition(",state")[0] or labels for _, labels in samples(path)} >= {r'dataset="era \"5\"\\"'}
    assert [value(path, "job_shards", state) for state in ("done", "skipped", "failed", "left")] == [SHARDS, 0, 0, 0]
    assert value(path, "job_written_bytes") == new.summary.nbytes
    assert (value(path, "job_running"), value(path, "job_success")) == (0, 1)
    assert path.stat().st_mode & 0o777 == 0o644
    succeeded = value(path, "job_success_timestamp_seconds")
    with pytest.raises(ShardsFailed):
        store.map_shards(Fail("a[2]"), ToZip(tmp_path / "others"), callbacks=[PrometheusFile(path)])
    assert value(path, "job_success_timestamp_seconds") == succeeded
    assert (value(path, "job_success"), value(path, "job_failures", 'code="failed"')) == (0, 1)
    assert sorted(file.name for file in tmp_path.glob("job*")) == ["job.prom"]


def test_a_file_for_prometheus_that_cannot_be_written_fails_no_job(store, tmp_path, caplog):
    new = store.map_shards(ToZip(tmp_path / "zips"), callbacks=[PrometheusFile(tmp_path / "missing" / "job.prom")])
    assert new.summary.done == SHARDS
    assert "No such file or directory" in caplog.text


@pytest.mark.parametrize(("path", "labels"), [("job.txt", {}), ("job.prom", {"a-b": "x"})])
def test_a_file_that_prometheus_would_not_read_is_refused(path, labels):
    with pytest.raises(UsageError, match=r"node_exporter|label"):
        PrometheusFile(path, **labels)


def test_opentelemetry_with_providers(store, tmp_path):
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    reader, spans, tracers = InMemoryMetricReader(), InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    with pytest.raises(ShardsFailed):
        store.map_shards(
            Fail("a[2]"),
            ToZip(tmp_path / "zips"),
            callbacks=[OpenTelemetry(MeterProvider([reader]), tracers, attributes={"dataset": "era5"})],
        )
    (resource,) = reader.get_metrics_data().resource_metrics
    metrics = {metric.name: metric.data.data_points for metric in resource.scope_metrics[0].metrics}
    states = {point.attributes["state"]: point.value for point in metrics["shardedstore.shards"]}
    assert states == {"done": SHARDS - 1, "failed": 1}
    assert {point.attributes["code"] for point in metrics["shardedstore.failures"]} == {"failed"}
    assert sum(point.count for point in metrics["shardedstore.shard.duration"]) == SHARDS
    (span,) = spans.get_finished_spans()
    assert (span.name, span.attributes["dataset"], span.status.is_ok) == ("shardedstore.job", "era5", False)


def test_opentelemetry_sends_by_otlp(store, tmp_path, monkeypatch):
    with server() as (url, told):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        store.map_shards(ToZip(tmp_path / "zips"), callbacks=[OpenTelemetry()])
    assert {path for path, _ in told} == {"/v1/metrics", "/v1/traces"}
    assert any(b"shardedstore.written" in body for _, body in told)


def command(*arguments):
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


def test_the_options_of_the_command_line(store, tmp_path):
    source, zips, report = tmp_path / "source.zarr", tmp_path / "zips", tmp_path / "logs" / "a.html"
    rule = ("--shards", "a=1", "--to", "zip")
    store.map_shards(ToZip(zips))
    with server() as (url, told):
        asked = ("--report", report, "--ping", f"{url}/x", "--prometheus", tmp_path / "a.prom")
        done = command("convert", source, zips, *rule, *asked)
        refused = command("convert", tmp_path / "missing", zips, *rule, "--ping", f"{url}/y")
    assert (done.exit_code, refused.exit_code) == (0, 2), done.output + refused.output
    assert [path for path, _ in told] == ["/x/start", "/x", "/y/fail"]
    assert value(tmp_path / "a.prom", "job_shards", 'state="skipped"') == SHARDS
    assert "nothing was to do" in report.read_text()
    assert command("convert", source, zips, *rule, "--no-report").exit_code == 0
    assert len(list((zips / ".shardedstore").glob("report-*.json"))) == 1


def test_the_options_of_a_job_file(store, tmp_path, monkeypatch):
    store.map_shards(ToZip(tmp_path / "zips"), report=False)
    jobs = tmp_path / "jobs.toml"
    text = """[[job]]
name = "era"
source = "source.zarr"
destination = "zips"
to = "zip"
shards = {a = [1]}
prometheus = "{name}.prom"
ping = %s
"""
    jobs.write_text(text % '"https://hc/secret"')
    refused = command("run", jobs)
    assert (refused.exit_code, "holds no secrets" in refused.output) == (2, True), refused.output
    with server() as (url, told):
        monkeypatch.setenv("PING", f"{url}/secret")
        jobs.write_text(text % '"${PING}"')
        done = command("run", jobs)
    assert done.exit_code == 0, done.output
    assert [path for path, _ in told] == ["/secret/start", "/secret"]
    assert value(tmp_path / "era.prom", "job_success", 'job_name="era"') == 1
    report = (tmp_path / "zips/.shardedstore/report-1.json").read_text()
    assert "sha256:" in report
    assert "secret" not in report
