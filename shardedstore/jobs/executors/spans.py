"""Spans and fine metrics of Dask: the tasks of a job by chain and path, and their seconds by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import distributed
from dask import annotate, get_annotations  # type: ignore[attr-defined]
from distributed.metrics import context_meter

from shardedstore.jobs.executors.base import Item, Result
from shardedstore.jobs.executors.worker_logs import keep_out_of_notebook

MOST_SPANS = 100  # of one job; the scheduler keeps them all, so further parts belong to the span of the job


def run_metered(work: Callable[[Item], Result], task: Item) -> Result:
    """Run a function on a task in a worker, and give its stages and its requests to Dask's fine metrics."""
    keep_out_of_notebook()
    result = work(task)
    for stage, seconds in getattr(result, "stages", {}).items():
        if seconds:
            context_meter.digest_metric(stage, seconds, "seconds")
    for kind, made in getattr(result, "requests", {}).items():
        context_meter.digest_metric(kind, made.count, "requests")
        if made.nbytes:
            context_meter.digest_metric(kind, made.nbytes, "bytes")
    return result


class Spans:
    """The spans of one call of an executor. Each is made once, although its tasks are submitted in many calls."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, ...], Any] = {}

    @contextmanager
    def of(self, names: tuple[str, ...]) -> Iterator[None]:
        """Put the tasks that are submitted in the block into the innermost of nested spans."""
        if names not in self._made and len(self._made) >= MOST_SPANS:
            names = names[:1]
        with annotate(span=self._annotation(names)):
            yield

    def _annotation(self, names: tuple[str, ...]) -> Any:
        """Return the annotation of a span, which has the identifiers of the spans around it."""
        if names not in self._made:
            outer = {"span": self._annotation(names[:-1])} if len(names) > 1 else {}
            with annotate(**outer), distributed.span(names[-1]):
                self._made[names] = get_annotations()["span"]
        return self._made[names]
