"""The proxy of the tests: it disturbs requests by its rules only, and logs all of them."""

import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, IncompleteRead, RemoteDisconnected
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from threading import Event, Thread

import pytest
from faultproxy import FaultProxy, Rule


class Storage(BaseHTTPRequestHandler):
    """A server that stores PUT bodies, ends connections after ``/short``, and returns the last request's headers."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_PUT(self):
        self.server.kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(201, b"")

    def do_GET(self):
        self.server.headers, self.server.peer = dict(self.headers), self.client_address
        self.close_connection = self.path == "/short"
        data = self.server.kept.get(self.path)
        if self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\r\n")
        elif self.path == "/endless":
            self.close_connection = True
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"until the end")
        elif self.path == "/empty":
            self.send_response(204)
            self.end_headers()
        else:
            self.answer(200 if data is not None else 404, data or b"")

    def do_HEAD(self):
        self.do_GET()

    def answer(self, status, data):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    def shutdown_request(self, request):
        super().shutdown_request(request)
        self.closed.set()

    def handle_error(self, request, client_address):
        """Do not log connections that the proxy has cut."""


@pytest.fixture
def upstream():
    with Server(("127.0.0.1", 0), Storage) as server:
        server.kept, server.closed = {"/a": bytes(range(256)) * 1000, "/short": b"short"}, Event()
        thread = Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(upstream):
    with FaultProxy(f"http://127.0.0.1:{upstream.server_port}") as proxy:
        yield proxy


@pytest.fixture
def connection(proxy):
    made = HTTPConnection(proxy.url.removeprefix("http://"), timeout=10)
    yield made
    made.close()


def ask(connection, method, path, body=None, headers=None):
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_001])
def test_bodies_pass_both_ways(size, connection, upstream, proxy):
    data = bytes(i % 251 for i in range(size))
    assert ask(connection, "PUT", "/b?c=d", data) == (201, b"")
    assert upstream.kept["/b?c=d"] == data
    assert ask(connection, "GET", "/b?c=d") == (200, data)
    assert [(line.method, line.path, line.status, line.received, line.sent) for line in proxy.log] == [
        ("PUT", "/b?c=d", 201, size, 0),
        ("GET", "/b?c=d", 200, 0, size),
    ]


def test_headers_pass_and_connections_are_kept(connection, upstream, proxy):
    assert ask(connection, "GET", "/a", headers={"Range": "bytes=0-3", "X-Own": "ä".encode("latin-1")})[0] == 200
    assert upstream.headers["Host"] == proxy.url.removeprefix("http://")
    assert upstream.headers["X-Own"] == "ä"
    assert proxy.log[0].range == "bytes=0-3"
    peer = upstream.peer
    assert ask(connection, "GET", "/nothing") == (404, b"")
    assert upstream.peer == peer


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/chunked", (200, b"abcde")),
        ("GET", "/endless", (200, b"until the end")),
        ("GET", "/empty", (204, b"")),
        ("HEAD", "/a", (200, b"")),
    ],
)
def test_answers_of_every_form_and_the_next_one(method, path, expected, connection):
    assert ask(connection, method, path) == expected
    assert ask(connection, method, path) == expected


def test_a_server_that_closes_its_end_between_requests(connection, upstream):
    assert ask(connection, "GET", "/short") == (200, b"short")
    assert upstream.closed.wait(10)
    assert ask(connection, "GET", "/short") == (200, b"short")


def test_a_client_that_waits_before_it_sends_its_body(connection, upstream):
    connection.putrequest("PUT", "/b")
    for field in (("Content-Length", "3"), ("Expect", "100-continue")):
        connection.putheader(*field)
    connection.endheaders()
    assert connection.sock.recv(100).startswith(b"HTTP/1.1 100 ")
    connection.send(b"abc")
    assert connection.getresponse().status == 201
    assert upstream.kept["/b"] == b"abc"


def test_a_status_is_given_in_place_of_the_answer(connection, upstream, proxy):
    proxy.rules.append(Rule("^PUT /b", "status", 503, count=1))
    status, body = ask(connection, "PUT", "/b", b"data")
    assert (status, b"<Code>SlowDown</Code>" in body) == (503, True)
    assert "/b" not in upstream.kept
    assert ask(connection, "PUT", "/b", b"data")[0] == 201
    assert [line.status for line in proxy.log] == [503, 201]
    proxy.rules.append(Rule("", "status", 404))
    assert ask(connection, "HEAD", "/a") == (404, b"")
    assert ask(connection, "GET", "/a")[0] == 404


def test_a_lost_answer_and_a_lost_request(connection, upstream, proxy):
    proxy.rules += [Rule("^PUT /done", "lose"), Rule("^PUT /not", "gone")]
    for path in ("/done", "/not"):
        with pytest.raises(ConnectionResetError, match="reset"):
            ask(connection, "PUT", path, b"data")
        connection.close()
    assert upstream.kept.keys() >= {"/done"}
    assert "/not" not in upstream.kept
    assert [line.status for line in proxy.log] == [0, 0]


@pytest.mark.parametrize(("action", "error"), [("reset", ConnectionResetError), ("truncate", IncompleteRead)])
def test_an_answer_that_is_cut_off(action, error, connection, proxy):
    proxy.rules.append(Rule("/a", action, 100_000, count=1))
    with pytest.raises(error, match=r"reset|100000 bytes read, 156000 more expected"):
        ask(connection, "GET", "/a")
    assert (proxy.log[0].status, proxy.log[0].sent) == (200, 100_000)
    connection.close()
    assert ask(connection, "GET", "/a")[0] == 200


def test_a_hanging_request_ends_with_its_client(proxy):
    proxy.rules.append(Rule("/a", "hang"))
    impatient = HTTPConnection(proxy.url.removeprefix("http://"), timeout=0.2)
    with pytest.raises(TimeoutError, match="timed out"):
        ask(impatient, "GET", "/a")
    impatient.close()
    assert proxy.log[0].answered == inf


def test_a_hanging_request_ends_with_the_proxy(upstream):
    with FaultProxy(f"http://127.0.0.1:{upstream.server_port}", Rule("/a", "hang")) as proxy:
        patient = HTTPConnection(proxy.url.removeprefix("http://"))
        patient.request("GET", "/a")
    with pytest.raises(RemoteDisconnected, match="without response"):
        patient.getresponse()
    patient.close()
    with pytest.raises(ConnectionRefusedError, match="refused"):
        ask(patient, "GET", "/a")


def test_a_server_that_is_gone_for_some_time(connection, proxy):
    proxy.rules.append(Rule("/b", "gone", 1, count=1))
    start = time.monotonic()
    for path in ("/b", "/a", "/a"):
        with pytest.raises(ConnectionResetError, match="reset"):
            ask(connection, "GET", path)
        connection.close()
    time.sleep(max(0, start + 1.5 - time.monotonic()))
    assert ask(connection, "GET", "/a")[0] == 200


def test_delays_add_up_and_do_not_wait_for_one_another(proxy):
    proxy.rules += [Rule("", "delay", 0.2), Rule("/a", "delay", 0.3)]

    def get(_):
        own = HTTPConnection(proxy.url.removeprefix("http://"))
        try:
            return ask(own, "GET", "/a")[0]
        finally:
            own.close()

    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(get, range(32))) == {200}
    assert min(line.answered - line.started for line in proxy.log) >= 0.5
    assert proxy.most_at_once() > 16
    proxy.clear()
    assert get(0) == 200
    assert get(0) == 200
    assert proxy.most_at_once() == 1


def test_some_are_spared_and_some_are_drawn_by_the_seed(connection, upstream):
    def refused(seed, lines):
        rule = Rule("^GET", "status", 500, fraction=0.3, skip=10, count=40)
        with FaultProxy(f"http://127.0.0.1:{upstream.server_port}", rule, seed=seed) as proxy:
            own = HTTPConnection(proxy.url.removeprefix("http://"))
            found = sorted(line for line in lines if ask(own, "GET", line)[0] == 500)
            own.close()
        assert rule.matched == len(lines)
        assert rule.fired == len(found)
        return found

    lines = [f"/{number}" for number in range(110)]
    one = refused(1, lines)
    assert 15 < len(one) < 40
    assert not set(one) & set(lines[:10])
    assert refused(1, lines[:10] + lines[:9:-1]) == one
    assert refused(2, lines) != one
    assert len(refused(1, ["/same"] * 110)) > 15
