"""A callback that reports the start, the success and the failure of a job to a monitoring service.

The requests are those of https://healthchecks.io and of services with the same interface: ``URL/start``, ``URL`` and
``URL/fail``.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, urlopen

from shardedstore.errors import UsageError
from shardedstore.jobs.callbacks import Callback, JobEnd

if TYPE_CHECKING:
    from shardedstore.jobs.job_plan import JobPlan

SECONDS = 5.0  # for one request
MOST_SECONDS = 8.0  # for one request and its name look-up, which has no time-out
ATTEMPTS = 2  # of the last request, since a lost last request raises an alarm
logger = logging.getLogger("shardedstore")


class Ping(Callback):
    """Sends a request to a URL at the start, after a success, and after a failure of a job.

    The body of the last request holds the numbers of shards and the code of the first failure. A failed request is
    logged, and does not fail the job. The URL is treated as a secret: messages show its host only.

    Parameters
    ----------
    url : str
        The URL for a success. ``/start`` and ``/fail`` are appended to its path for the other requests.
    seconds : float
        The time-out of a request.

    Raises
    ------
    UsageError
        If `url` is not a URL of HTTP or HTTPS.

    Examples
    --------
    >>> Ping("https://hc-ping.com/8a3f5c1e-0000-4000-8000-d5f0c2a1b9e7")
    Ping('https://hc-ping.com/...')

    Use it as ``store.map_shards(ToZip("out"), callbacks=[Ping(os.environ["PING_URL"])])``.
    """

    def __init__(self, url: str, *, seconds: float = SECONDS) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                "the URL of a ping does not begin with http:// or https://: copy the whole URL from the monitoring service"
            )
        self._url, self._seconds = parts, seconds

    def __repr__(self) -> str:
        return f"Ping('{self._url.scheme}://{self._url.hostname}/...')"

    def on_job_start(self, plan: JobPlan) -> None:
        # docstring inherited
        self._send("/start", f"{plan.shard_count} shards", 1)

    def on_job_end(self, event: JobEnd) -> None:
        # docstring inherited
        job, ended = event.job, event.progress.ended
        code = next((error.code for error in job.failures), type(event.error).__name__)
        text = f"{ended} of {event.progress.total} shards: {job.done} made, {job.skipped} done before, {len(job.failures)} failed"
        self._send("/fail" if event.error else "", f"{text}; {code}" if event.error else text, ATTEMPTS)

    def refused(self, error: BaseException) -> None:
        """Send the request of a failure for a job that can't start.

        Parameters
        ----------
        error : BaseException
            The reason. The request has the name of its class only.
        """
        self._send("/fail", f"the job can't start: {type(error).__name__}", ATTEMPTS)

    def _send(self, ending: str, body: str, attempts: int) -> None:
        """Send a request in a separate thread, since the name look-up has no time-out."""
        thread = threading.Thread(
            target=self._try, args=(ending, body, attempts), name="shardedstore-ping", daemon=True
        )
        thread.start()
        thread.join(max(MOST_SECONDS, attempts * self._seconds + 1))

    def _try(self, ending: str, body: str, attempts: int) -> None:
        url = urlunsplit(self._url._replace(path=f"{self._url.path.rstrip('/')}{ending}"))
        for attempt in range(attempts):
            try:
                with urlopen(Request(url, body.encode(), method="POST"), timeout=self._seconds):
                    return
            except Exception as error:  # noqa: BLE001 (no error of a monitoring service may fail a job)
                if attempt + 1 == attempts:
                    status = getattr(error, "code", "")
                    logger.warning("no answer from %r: %s %s", self, type(error).__name__, status)
