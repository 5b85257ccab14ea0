"""Requests to object stores: a limit for the process, which busy servers lower, and retries."""

import threading
import time
from dataclasses import replace

import dask
import pytest
from conformance import contents_of
from faultproxy import FaultProxy, Rule
from helpers_jobs import CUBE_SHARDS, cube_at, division
from obstore.exceptions import BaseError

from shardedstore import ShardedStore, ShardsFailed
from shardedstore.jobs import shards
from shardedstore.storage.requests import AT_ONCE, READS, WRITES, Limiter, is_throttling, requests
from shardedstore.storage.retry import Backoff
from shardedstore.transforms import CopyTo, ToZip

QUICK = Backoff(0.05, 0.4)
SLOW_DOWN = BaseError("Server returned non-2xx status code: 503 Service Unavailable: <Code>SlowDown</Code>")
NOT_BY_OBSTORE = {"retry_config": {"max_retries": 0}}
DATA = r"^(PUT|POST) .*(\.zip|/c/|/ledger/)"  # writes of workers, not those of the client


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Use short pauses, and forget the state of earlier tests' servers."""
    for shared in READS, WRITES:
        shared.__init__()
        monkeypatch.setattr(shared, "backoff", QUICK)


# The limit


def test_the_bound_is_that_of_all_threads_together():
    shared, flying, most, lock = Limiter(6), 0, 0, threading.Lock()

    def request(_):
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        time.sleep(0.005)
        with lock:
            flying -= 1

    def stream():
        with requests(shared, 8) as submit:
            for future in [submit(request, i) for i in range(40)]:
                future.result()

    threads = [threading.Thread(target=stream) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 6


def test_refusals_lower_the_bound_and_what_goes_well_raises_it():
    now = [100.0]
    shared = Limiter(64, clock=lambda: now[0])
    assert all(
        shared.refused(SLOW_DOWN, now[0]) for _ in range(50)
    )  # all requests in flight together lower the limit once
    assert shared.bound == 32
    for _ in range(10):
        now[0] += AT_ONCE
        shared.refused(SLOW_DOWN, now[0])
    assert shared.bound == 1
    for _ in range(40):
        shared.went_well()
    assert 7 < shared.bound < 10  # one more after each number of requests that equals the limit
    for _ in range(4000):
        shared.went_well()
    assert shared.bound == 64
    assert shared.take_refused() == 60
    assert shared.take_refused() == 0


def test_patience_ends_with_a_server_that_never_answers_otherwise():
    shared, asked = Limiter(backoff=QUICK, patience=0.3), []

    def request():
        asked.append(time.monotonic())
        raise SLOW_DOWN

    with pytest.raises(BaseError, match="SlowDown"):
        shared.call(request, threading.Event())
    assert 0.3 <= asked[-1] - asked[0] < 5
    count = len(asked)
    with pytest.raises(BaseError, match="SlowDown"):
        shared.call(request, threading.Event())
    assert len(asked) == count + 1  # nothing waits again for a server that is known to be down


def test_who_waits_for_a_server_gives_up_when_the_rest_has_failed():
    started = time.monotonic()
    waiting = threading.Event()

    def refused(_):
        waiting.set()
        raise SLOW_DOWN

    def stream():
        with requests(Limiter(backoff=Backoff(30)), 4) as submit:
            submit(refused, 0)
            waiting.wait()
            raise ValueError("another")

    with pytest.raises(ValueError, match="another"):
        stream()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SLOW_DOWN, True),
        (BaseError("status code: 429 Too Many Requests"), True),
        (BaseError("status code: 500 Internal Server Error"), False),
        (BaseError("status code: 403 Forbidden"), False),
        (ValueError("status code: 503"), False),
        (TimeoutError(), False),
    ],
)
def test_what_is_throttling(error, expected):
    assert is_throttling(error) == expected


# Jobs on a server that is too busy


@pytest.fixture
def proxy(s3_server, bucket, use_environment):
    with FaultProxy(s3_server.endpoint) as made:
        use_environment(replace(s3_server, endpoint=made.url).environment())
        yield made


@pytest.mark.few(2)
@pytest.mark.s3
@pytest.mark.parametrize("options", [NOT_BY_OBSTORE, {}], ids=["by us alone", "by obstore first"])
@pytest.mark.parametrize("sink", [ToZip, CopyTo])
def test_a_job_on_a_server_that_is_too_busy_takes_longer_and_ends_well(sink, options, bucket, proxy, tmp_path):
    store = division(cube_at(tmp_path / "source"))
    proxy.rules.append(Rule(DATA, "status", 503, fraction=0.3))
    with dask.config.set(scheduler="synchronous"):
        result = store.map_shards(sink(f"{bucket.url}/out", storage_options=options), retries=0)
    assert contents_of(result) == contents_of(store)
    assert result.summary.done == CUBE_SHARDS
    assert proxy.rules[0].fired  # the choice of requests depends on random names


@pytest.mark.s3
@pytest.mark.parametrize("code", [503, 429])
def test_a_job_outlives_a_time_in_which_all_is_refused(code, bucket, proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LEAST_WEIGHT", 1)
    store = division(cube_at(tmp_path / "source"))
    rule = Rule(DATA, "status", code, after=r"^PUT .*temperature/0/1")
    proxy.rules.append(rule)
    outage = threading.Thread(target=lambda: (_wait_for(rule), time.sleep(3), proxy.rules.clear()))
    outage.start()
    with dask.config.set(scheduler="threads", num_workers=3):
        result = store.map_shards(ToZip(f"{bucket.url}/out", storage_options=NOT_BY_OBSTORE), retries=0)
    outage.join()
    assert contents_of(ShardedStore.load(f"{bucket.url}/out")) == contents_of(store)
    assert result.summary.retries == 0  # no shard fails for it
    assert result.summary.throttled == rule.fired
    assert 3 <= rule.fired < 150  # a few threads wait some seconds, longer each time


@pytest.mark.s3
def test_a_server_that_is_never_less_busy_fails_the_shards(bucket, proxy, tmp_path, monkeypatch):
    for shared in READS, WRITES:
        monkeypatch.setattr(shared, "patience", 0.5)
    store = division(cube_at(tmp_path / "source"))
    proxy.rules.append(Rule(r"^PUT .*\.zip", "status", 503))
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(ShardsFailed, match=f"{CUBE_SHARDS} of {CUBE_SHARDS} shards failed") as caught,
    ):
        store.map_shards(ToZip(f"{bucket.url}/out", storage_options=NOT_BY_OBSTORE), retries=0)
    assert "the server is too busy or out of order: try again later" in str(caught.value.exceptions[0])


def _wait_for(rule):
    end = time.monotonic() + 60
    while not rule.fired and time.monotonic() < end:
        time.sleep(0.01)
