"""Plan the job of a spec."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from shardedstore.jobfiles.lines import Key
from shardedstore.jobfiles.open import open_source, source_options
from shardedstore.jobfiles.registry import make_sink, make_step
from shardedstore.jobfiles.secrets import resolve_storage
from shardedstore.jobfiles.spec import JobSpec, RunSpec, Transform
from shardedstore.jobs.job_plan import JobOptions, JobPlan
from shardedstore.jobs.move.finish import finish_move
from shardedstore.storage.options import take_options
from shardedstore.storage.sides import side_options
from shardedstore.storage.urls import normalize
from shardedstore.transforms.base.sink import Sink
from shardedstore.transforms.base.step import Step


def find_moved(spec: JobSpec) -> str | None:
    """Delete the rest of a source whose shards an earlier run moved; return the source's name, or None."""
    if spec.move is None:
        return None
    take_options(normalize(spec.source), source_options(spec))
    return finish_move(spec.destination, destination_options(spec), spec.source)


def plan_spec(spec: JobSpec) -> JobPlan:
    """Open the source of a job, and plan it."""
    store = open_source(spec)
    return store.plan(*make_steps(spec), make_spec_sink(spec), **plan_options(spec))


def make_steps(spec: JobSpec) -> list[Step]:
    """Return the steps of a job, in the order of the chain.

    >>> make_steps(JobSpec(source="a", destination="b", to="zip", v3=True, codec="zstd:level=5"))
    [MigrateV3(), Recompress('zstd', level=5)]
    """
    return [make_step(text) for _, text in _step_texts(spec)]


def _step_texts(spec: JobSpec) -> Iterator[tuple[tuple[Key, ...], Transform]]:
    """Yield the path of the value and the text of each step, in the order of the chain."""
    if spec.v3:
        yield ("v3",), "migrate-v3"
    for number, step in enumerate(spec.steps):
        yield ("steps", number), step
    if spec.codec:
        name, _, options = spec.codec.partition(":")
        yield ("codec",), f"recompress:codec={name}" + (f",{options}" if options else "")


def destination_options(spec: JobSpec, environment: Mapping[str, str] = os.environ) -> Any:
    """Return the storage options of the destination."""
    return side_options("destination", spec.destination, resolve_storage(spec.storage, environment), spec.profile)


def make_spec_sink(spec: JobSpec, environment: Mapping[str, str] = os.environ) -> Sink:
    """Return the sink of a job."""
    options = destination_options(spec, environment)
    given = {"storage_options": options} if options else {}
    return make_sink(spec.to, spec.destination, **given)


def transforms_of(
    spec: JobSpec, environment: Mapping[str, str]
) -> Iterator[tuple[tuple[Key, ...], Callable[[], Step | Sink]]]:
    """Yield the path of the value and a function that makes the transform, for each transform of a job."""
    for path, text in _step_texts(spec):
        yield path, partial(make_step, text)
    yield ("to",), partial(make_spec_sink, spec, environment)


def plan_options(spec: JobSpec) -> Any:
    """Return the fields of a job that are keywords of `ShardedStore.plan`."""
    return _fields(spec, JobOptions.__annotations__.keys() - {"to"})  # the keyword `to` is for a function


def run_options(spec: RunSpec) -> Any:
    """Return the fields of a run that are keywords of `JobPlan.run`."""
    return _fields(spec, inspect.signature(JobPlan.run).parameters)


def _fields(spec: JobSpec | RunSpec, keywords: Any) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__struct_fields__ if name in keywords}
