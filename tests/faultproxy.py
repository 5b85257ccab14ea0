"""An HTTP proxy in front of one server that delays, refuses, cuts off and loses requests by rules.

Heads and bodies pass unchanged, so that signatures stay valid, and every request is logged. Each client connection has a
thread and a connection to the server. Bodies of requests are held in memory, bodies of answers are not.

    with FaultProxy(server.endpoint) as proxy:
        proxy.rules += [Rule("", "delay", 0.05), Rule("^PUT .*zip", "status", 503, fraction=0.1)]
        ...
        assert proxy.most_at_once() > 8
"""

from __future__ import annotations

import random
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from threading import Event, Lock, Thread
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

from http_wire import Connection, Head

CODES = {503: "SlowDown", 500: "InternalError", 429: "TooManyRequests", 403: "AccessDenied", 401: "ExpiredToken"}

Action = Literal[
    "delay",  # wait for `value` seconds first: delays add up, but only the first other action is taken
    "status",  # answer `value`, without asking the server
    "hang",  # never answer
    "gone",  # reset the connection without asking the server, and all connections for the next `value` seconds
    "lose",  # let the server process the request, but reset the connection instead of answering
    "reset",  # reset the connection after `value` bytes of the answer's body
    "truncate",  # end the connection in good order after `value` bytes of the answer's body
]


@dataclass
class Rule:
    """Action for requests whose line, ``GET /path?query``, matches a pattern.

    The first `skip` matches are spared, and all requests before the first one that matches `after`. Of the rest, a `fraction` is
    taken, at most `count`. The choice depends on the proxy's seed, the line and the number of its earlier occurrences, and not
    on threads.
    """

    pattern: str
    action: Action
    value: float = 0
    fraction: float = 1
    count: float = inf
    skip: int = 0
    after: str = ""
    matched: int = 0
    fired: int = 0


@dataclass
class Request:
    """A line of the log: the request, its time (monotonic clock) and the client's status; 0 means no answer."""

    method: str
    path: str
    fields: Mapping[str, str]  # their names are in lower case
    received: int  # bytes of the request's body
    started: float
    answered: float = inf
    status: int = 0
    sent: int = 0  # bytes of the answer's body

    @property
    def range(self) -> str | None:
        return self.fields.get("range")


class FaultProxy:
    """A proxy that listens at `url` in its `with` block."""

    def __init__(self, upstream: str, *rules: Rule, seed: int = 0) -> None:
        parts = urlsplit(upstream)
        self.upstream = parts.hostname, parts.port
        self.rules = list(rules)
        self.log: list[Request] = []
        self.seed = seed
        self._seen: Counter[str] = Counter()
        self._gone_until = 0.0
        self._lock = Lock()
        self._closed = Event()
        self._open: set[Connection] = set()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.settimeout(0.1)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = Thread(target=self._accept, name="faultproxy")
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._accepting.join()
        self._listener.close()

    def clear(self) -> None:
        """Forget the log and all rules."""
        self.log, self.rules = [], []

    def most_at_once(self) -> int:
        """Return the largest number of requests that waited for answers at the same time."""
        times = [time for request in list(self.log) for time in ((request.started, 1), (request.answered, -1))]
        most = waiting = 0
        for _, step in sorted(times):
            waiting += step
            most = max(most, waiting)
        return most

    def writes(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield the path and the fields of each request that writes an object; of an upload in parts, one request."""
        for request in list(self.log):
            path, _, query = request.path.partition("?")
            if (request.method == "PUT" and query in ("", "comp=blocklist")) or query.startswith("uploads"):
                yield unquote(path), request.fields

    def asked(self, head: Head) -> Head:
        """Return the head of a request for the server."""
        return head

    def answered(self, head: Head) -> Head:
        """Return the head of an answer for the client."""
        return head

    def _accept(self) -> None:
        serving: list[Thread] = []
        while not self._closed.is_set():
            try:
                client = Connection(self._listener.accept()[0])
            except TimeoutError:
                continue
            serving = [*filter(Thread.is_alive, serving), Thread(target=self._serve, args=[client], name="faultproxy")]
            serving[-1].start()
        with self._lock:
            for connection in self._open:
                connection.shut()
        for thread in serving:
            thread.join()

    def _serve(self, client: Connection) -> None:
        server = None
        self._keep(client)
        try:
            while head := Head.read(client.stream):
                if server is None or server.has_ended():
                    self._drop(server)
                    server = self._keep(Connection(socket.create_connection(self.upstream)))
                if not self._exchange(client, server, head):
                    break
        except OSError:
            client.reset_when_closed()
        finally:
            self._drop(client)
            self._drop(server)

    def _keep(self, connection: Connection) -> Connection:
        with self._lock:
            self._open.add(connection)
        if self._closed.is_set():
            connection.shut()
        return connection

    def _drop(self, connection: Connection | None) -> None:
        if connection is not None:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _exchange(self, client: Connection, server: Connection, head: Head) -> bool:
        """Forward one request and its answer; return whether the connection stays open."""
        started = time.monotonic()
        if head.fields.get("expect", "").lower() == "100-continue":
            client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = b"".join(head.body(client.stream, 0))
        request = Request(*head.words[:2], head.fields, len(body), started)
        delay, action, value = self._decide(request)
        self._closed.wait(delay)
        match action:
            case "status":
                _refuse(client, request, value)
                return True
            case "hang":
                client.wait_for_end()
                return False
            case "gone":
                raise ConnectionResetError
        server.send(self.asked(head).raw)
        server.send(body)
        answer = Head.read(server.stream)
        while answer and answer.status < 200:
            answer = Head.read(server.stream)
        answer = answer and self.answered(answer)
        if answer is None or action == "lose":
            raise ConnectionResetError
        request.answered, request.status = time.monotonic(), answer.status
        if not _pass_on(client, server, answer, request, inf if action is None else value):
            if action == "reset":
                raise ConnectionResetError
            return False
        return "close" not in (head.fields.get("connection", "") + answer.fields.get("connection", "")).lower()

    def _decide(self, request: Request) -> tuple[float, Action | None, int]:
        """Log a request, and return its delay and its action."""
        line = f"{request.method} {request.path}"
        with self._lock:
            self.log.append(request)
            self._seen[line] += 1
            if time.monotonic() < self._gone_until:
                return 0, "gone", 0
            delay = 0.0
            for rule in self.rules:
                if not self._fires(rule, line):
                    continue
                if rule.action != "delay":
                    if rule.action == "gone":
                        self._gone_until = time.monotonic() + rule.value
                    return delay, rule.action, int(rule.value)
                delay += rule.value
            return delay, None, 0

    def _fires(self, rule: Rule, line: str) -> bool:
        if re.search(rule.after, line):
            rule.after = ""
        if rule.after or not re.search(rule.pattern, line):
            return False
        rule.matched += 1
        if rule.matched <= rule.skip or rule.fired >= rule.count:
            return False
        drawn = f"{self.seed} {rule.pattern} {rule.action} {line} {self._seen[line]}"
        if rule.fraction < 1 and random.Random(drawn).random() >= rule.fraction:
            return False
        rule.fired += 1
        return True


def _refuse(client: Connection, request: Request, status: int) -> None:
    body = f"<?xml version='1.0'?><Error><Code>{CODES.get(status, 'Refused')}</Code><Message>by rule</Message></Error>"
    request.answered, request.status = time.monotonic(), status
    request.sent = 0 if request.method == "HEAD" else len(body)
    head = f"HTTP/1.1 {status} By Rule\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    client.send((head + body[: request.sent]).encode())


def _pass_on(client: Connection, server: Connection, answer: Head, request: Request, limit: float) -> bool:
    """Forward an answer with `limit` bytes of its body; return whether it was complete and connections stay open."""
    if request.method == "HEAD" or answer.status in (204, 304):
        client.send(answer.raw)
        return True
    head = answer.raw
    for piece in answer.body(server.stream, inf):
        some = piece[: int(min(limit - request.sent, len(piece)))]
        request.sent += len(some)
        client.send(head + some)
        head = b""
        if len(some) < len(piece):
            return False
    client.send(head)
    return "content-length" in answer.fields or "transfer-encoding" in answer.fields
