"""The end of a command that runs a job: the line of ``--json``, and the place of the list of failures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from shardedstore.callbacks.log_events import End, timestamp
from shardedstore.callbacks.outcome import KeepEnd, message_of, state_of
from shardedstore.cli.common import note, tell

MOST_LISTED = 1  # failures that need no file


class Outcome(KeepEnd):
    """Keeps the end of a job, or the error of a job that did not start."""

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
        return msgspec.structs.replace(end, exit_code=exit_code)


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
        if end.failures_url is not None and sum(cause.count for cause in end.causes) > MOST_LISTED:
            note(f"{end.failures_url} lists all failures")
        if as_json:
            tell(msgspec.json.encode(end).decode(), always=True)
