"""The end of a job as data, for logs and for ``--json``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from shardedstore.callbacks.log_events import Cause, End, State, timestamp
from shardedstore.errors import JobStopped, ShardError, ShardsFailed, by_frequency
from shardedstore.jobs.callbacks import Callback, JobEnd

if TYPE_CHECKING:
    from shardedstore.jobs.job_plan import JobPlan

MOST_NAMED = 5  # names of shards for each cause


class KeepEnd(Callback):
    """Keeps the end of a job as data."""

    def __init__(self) -> None:
        self.plan: JobPlan | None = None
        self.end: End | None = None

    def on_job_start(self, plan: JobPlan) -> None:
        # docstring inherited
        self.plan = plan

    def on_job_end(self, event: JobEnd) -> None:
        # docstring inherited
        self.end = job_end(self.plan, event)


def job_end(plan: JobPlan | None, event: JobEnd) -> End:
    """Return the end of a job."""
    state = state_of(event.error, has_failures=bool(event.job.failures))
    is_finished = state in ("done", "holes")
    return End(
        time=timestamp(),
        state=state,
        message=message_of(event.error),
        error=None if event.error is None else type(event.error).__name__,
        destination=None if plan is None else plan.destination,
        opened_url=plan.opened_url if plan is not None and is_finished else None,
        progress=event.progress,
        causes=causes_of(event.job.failures),
        failures_url=event.failures_url,
    )


def state_of(error: BaseException | None, *, has_failures: bool = False) -> State:
    """Return the state in which a job ended.

    >>> state_of(None), state_of(KeyboardInterrupt()), state_of(OSError("no route"))
    ('done', 'stopped', 'error')
    """
    if error is None:
        return "holes" if has_failures else "done"
    if isinstance(error, ShardsFailed):
        return "failed"
    return "stopped" if isinstance(error, KeyboardInterrupt | SystemExit | JobStopped) else "error"


def message_of(error: BaseException | None) -> str:
    """Return the first line of an error's message; empty if there is none."""
    if error is None:
        return ""
    text = error.message if isinstance(error, ShardsFailed) else str(error)
    return text.partition("\n")[0] or type(error).__name__


def causes_of(failures: Iterable[ShardError]) -> list[Cause]:
    """Return the failures by cause, the most frequent first."""
    groups = by_frequency(failures)
    return [
        Cause(
            code=errors[0].code,
            cause=errors[0].cause,
            count=len(errors),
            shards=[error.shard for error in errors[:MOST_NAMED]],
        )
        for errors in groups
    ]
