"""The options of the log and of the progress of a run."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from shardedstore.callbacks.log import JobLog, LogFormat
from shardedstore.callbacks.progress import Shown
from shardedstore.jobs.callbacks import Callback


class LogOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The log and the progress of a run."""

    format: Annotated[
        LogFormat | None,
        Meta(
            description="Write a log with a line for each event, as text or as JSON.", extra={"option": "--log-format"}
        ),
    ] = None
    file: Annotated[
        str | None,
        Meta(
            description="Append the log to this file. The default is standard error, in place of the progress bar.",
            extra={"option": "--log-file", "metavar": "FILE"},
        ),
    ] = None
    quiet: Annotated[
        bool,
        Meta(description="Print only errors: no progress, no notes and no results.", extra={"option": "--quiet"}),
    ] = False

    def callbacks(self, job: str = "") -> list[Callback]:
        """Return the callbacks that write the log; each line names the job.

        Raises
        ------
        UsageError
            If the file can't be written.
        """
        if self.format is None and self.file is None:
            return []
        return [JobLog(self.file, self.format or "text", job)]

    def progress(self) -> Shown:
        """Return the value of ``progress=``: nothing if the log goes to standard error."""
        return not self.quiet and (self.format is None or self.file is not None)
