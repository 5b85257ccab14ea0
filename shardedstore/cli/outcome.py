"""The end of a command that runs a job: the line of ``--json``, and the place of the list of failures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from shardedstore.callbacks.log_events import End, timestamp
from shardedstore.callbacks.outcome import KeepEnd, message_of, state_of
from shardedstore.callbacks.report import ReportWriter
from shardedstore.cli.common import note, tell


class Outcome(KeepEnd):
    """Keeps the end of a job, or the error of a job that did not start.

    Attributes
    ----------
    report : ReportWriter or None
        The callback that writes the report.
    """

    report: ReportWriter | None = None

    @contextlib.contextmanager
    def noting_errors(self) -> Iterator[None]:
        """Keep an error on its way to `user_errors`."""
        try:
            yield
        except Exception as error:
            if self.end is None or self.end.error is None:
                self._keep(error)
            raise

    def _keep(self, error: Exception) -> None:
        end = self.end or End(time=timestamp(), state="error")
        name, message = type(error).__name__, message_of(error)
        self.end = msgspec.structs.replace(end, state=state_of(error), error=name, message=message, opened_url=None)

    def last(self, exit_code: int) -> End:
        """Return the end with the exit code of the command."""
        end = self.end or End(time=timestamp(), state="done" if exit_code in (0, 3) else "error")
        url = None if self.report is None else self.report.html_url
        return msgspec.structs.replace(end, exit_code=exit_code, report_url=url)


def place_lines(failures_url: str | None, report_url: str | None) -> Iterator[str]:
    """Yield the places of the failures and of the report, if there are failures.

    >>> list(place_lines("out/failures.jsonl", "out/report-1.html"))
    ['failed shards: out/failures.jsonl', 'report: out/report-1.html']
    """
    if failures_url is not None:
        yield f"failed shards: {failures_url}"
        if report_url is not None:
            yield f"report: {report_url}"


@contextlib.contextmanager
def outcome(as_json: bool) -> Iterator[Outcome]:
    """Print the end of the command: the place of many failures, and with `as_json` the last line of stdout."""
    kept, code = Outcome(), 0
    try:
        yield kept
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        raise
    except BaseException:
        code = 1
        raise
    finally:
        end = kept.last(code)
        for line in place_lines(end.failures_url, end.report_url):
            note(line)
        if as_json:
            tell(msgspec.json.encode(end).decode(), always=True)
