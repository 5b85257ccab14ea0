"""A callback that sends the metrics and a span of a job by OpenTelemetry; needs ``shardedstore[otel]``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shardedstore.errors import UsageError
from shardedstore.jobs.callbacks import Callback, JobEnd, TaskEnd

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from shardedstore.jobs.job_plan import JobPlan
    from shardedstore.storage.request_metrics import RequestSum

SCOPE = "shardedstore"
FLUSH_MILLISECONDS = 5000  # the longest delay at the end of a job if the collector does not answer
COUNTERS = {
    "shards": ("{shard}", "Shards that have ended, by state."),
    "failures": ("{shard}", "Failed shards, by the code of the failure."),
    "written": ("By", "Stored bytes that were written."),
    "decoded": ("By", "Decoded bytes of the shards that have ended."),
    "entries": ("{entry}", "Entries that were written."),
    "retries": ("{attempt}", "Attempts that were repeated."),
    "throttled": ("{request}", "Requests that a busy server refused."),
    "throttled.duration": ("s", "Time in which requests waited for a busy server or for a limit of the job."),
    "requests": ("{request}", "Requests to storage, by kind."),
    "request.bytes": ("By", "Bytes that requests read and wrote, by kind."),
    "request.duration": ("s", "Sum of the latencies of requests, by kind."),
    "request.errors": ("{request}", "Failed requests, by kind."),
    "stage.duration": ("s", "Time of the workers, by stage."),
}


class OpenTelemetry(Callback):
    """Sends counters, a histogram of the durations of shards, and a span of the job.

    Without providers, the global ones of the process are used. If the process has none, the job gets providers of its own,
    which export by OTLP over HTTP. The environment variables of OpenTelemetry configure them, such as
    ``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_EXPORTER_OTLP_HEADERS`` and ``OTEL_SERVICE_NAME``. A collector that does not answer
    does not fail the job.

    Parameters
    ----------
    meter_provider : MeterProvider, optional
        The provider of the counters.
    tracer_provider : TracerProvider, optional
        The provider of the span.
    attributes : mapping of str to str, optional
        Attributes of the span and of all measurements. The default is the destination.

    Raises
    ------
    UsageError
        If the packages of OpenTelemetry are missing.

    Examples
    --------
    >>> store.map_shards(ToZip("out"), callbacks=[OpenTelemetry(attributes={"dataset": "era5"})])  # doctest: +SKIP
    """

    def __init__(
        self,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
        *,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        _check_installed()
        self.attributes = attributes
        self._given = meter_provider, tracer_provider

    def on_job_start(self, plan: JobPlan) -> None:
        # docstring inherited
        self._own: list[Any] = []
        meters, tracers = self._providers()
        self._all = [meters, tracers]
        self._attributes = dict({"destination": plan.destination or ""} if self.attributes is None else self.attributes)
        meter = meters.get_meter(SCOPE)
        self._counters = {
            name: meter.create_counter(f"{SCOPE}.{name}", unit, text) for name, (unit, text) in COUNTERS.items()
        }
        self._durations = meter.create_histogram(f"{SCOPE}.shard.duration", "s", "Durations of shards.")
        chain: dict[str, str | int] = {"chain": plan.chain, "shards": plan.shard_count, "decoded_bytes": plan.nbytes}
        self._span = tracers.get_tracer(SCOPE).start_span(f"{SCOPE}.job", attributes={**self._attributes, **chain})

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        task = event.task
        for state, number in (("done", task.done), ("skipped", task.skipped), ("failed", len(task.failures))):
            self._add("shards", number, state=state)
        for error in task.failures:
            self._add("failures", 1, code=error.code)
        self._add("written", task.nbytes)
        self._add("decoded", task.decoded_nbytes)
        self._add("entries", task.entries)
        self._add("retries", task.retries)
        self._add("throttled", task.throttled)
        self._add("throttled.duration", task.throttled_seconds)
        for kind, made in task.requests.items():
            self._add_requests(kind, made)
        for stage, seconds in task.stages.items():
            self._add("stage.duration", seconds, stage=stage)
        for shard in task.shards:
            self._durations.record(shard.seconds, self._attributes)

    def _add_requests(self, kind: str, made: RequestSum) -> None:
        self._add("requests", made.count, kind=kind)
        self._add("request.bytes", made.nbytes, kind=kind)
        self._add("request.duration", made.seconds, kind=kind)
        self._add("request.errors", made.errors, kind=kind)

    def _add(self, name: str, amount: float, **attributes: str) -> None:
        if amount:
            self._counters[name].add(amount, {**self._attributes, **attributes})

    def on_job_end(self, event: JobEnd) -> None:
        # docstring inherited
        from opentelemetry.trace import StatusCode

        job = event.job
        for kind, made in event.requests.items():
            self._add_requests(kind, made)
        self._span.set_attributes({"done": job.done, "skipped": job.skipped, "failed": len(job.failures)})
        if event.error is not None:
            code = next((error.code for error in job.failures), "")
            self._span.set_attribute("error.type", code or type(event.error).__name__)
            self._span.set_status(StatusCode.ERROR, type(event.error).__name__)
        self._span.end(time.time_ns())
        for provider in self._all:
            if hasattr(provider, "force_flush"):
                provider.force_flush(FLUSH_MILLISECONDS)
        for provider in self._own:
            provider.shutdown()

    def _providers(self) -> tuple[MeterProvider, TracerProvider]:
        """Return the given providers, the global ones, or new ones."""
        from opentelemetry.metrics import get_meter_provider
        from opentelemetry.trace import get_tracer_provider

        meters, tracers = self._given[0] or get_meter_provider(), self._given[1] or get_tracer_provider()
        if self._given[0] is None and not hasattr(meters, "force_flush"):  # the default provider drops all
            meters = self._own_meters()
        if self._given[1] is None and not hasattr(tracers, "force_flush"):
            tracers = self._own_tracers()
        return meters, tracers

    def _own_meters(self) -> MeterProvider:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        exporter = OTLPMetricExporter(timeout=FLUSH_MILLISECONDS / 1000)
        provider = SdkMeterProvider([PeriodicExportingMetricReader(exporter)], shutdown_on_exit=False)
        self._own.append(provider)
        return provider

    def _own_tracers(self) -> TracerProvider:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = SdkTracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=FLUSH_MILLISECONDS / 1000)))
        self._own.append(provider)
        return provider


def _check_installed() -> None:
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk.metrics  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"OpenTelemetry needs a package that is not installed ({error}): pip install 'shardedstore[otel]'"
        ) from None
