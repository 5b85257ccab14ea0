"""Limits of requests, bytes and memory."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from shardedstore import Limits, ShardedStore, UsageError, step
from shardedstore.cli import main
from shardedstore.jobs.limits import forget, throttle_of
from shardedstore.jobs.token_bucket import FileBucket, Rates, file_bucket
from shardedstore.storage.request_metrics import list_pages
from shardedstore.storage.throttle import current_throttle, spend, throttled
from shardedstore.transforms import CopyTo, ToZip

MIB = 1 << 20


@pytest.fixture
def store(tmp_path):
    """An array of 2 MiB in 32 chunks and 8 shards, without compression."""
    zarr.create_array(
        tmp_path / "source.zarr", name="a", data=np.ones(2 * MIB, "u1"), chunks=(MIB // 16,), compressors=None
    )
    return ShardedStore.partition(tmp_path / "source.zarr", {"a": (MIB // 4,)})


def rate_of(bucket, callers, spent, number):
    """The rate of callers that each spend tokens a number of times, at once."""
    times = []

    def call(_):
        for _ in range(number):
            bucket.spend(*spent)
            times.append(time.monotonic())

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, range(callers)))
    return (len(times) - 1) / (max(times) - min(times))


@pytest.mark.parametrize(
    ("rates", "spent", "number", "expected"),
    [
        (Rates(200, None), (1, 9), 100, 200),
        (Rates(None, 10 * MIB), (5, MIB // 8), 40, 80),
        (Rates(100, 1000 * MIB), (1, 1), 40, 100),
    ],
    ids=str,
)
def test_four_callers_share_a_rate(rates, spent, number, expected):
    with file_bucket(rates) as bucket:
        found = rate_of(throttle_of(bucket), 4, spent, number)
        forget(bucket)
    assert found == pytest.approx(expected, rel=0.1)


class Counted:
    """A bucket as one process sees it, which counts the reserved tokens."""

    def __init__(self, bucket, number):
        self.name, self.rates, self._bucket, self.reserved = f"{bucket.name}-{number}", bucket.rates, bucket, [0, 0]

    def reserve(self, requests, nbytes):
        self.reserved = [before + more for before, more in zip(self.reserved, (requests, nbytes), strict=True)]
        return self._bucket.reserve(requests, nbytes)


@pytest.mark.parametrize(
    ("rates", "spent", "total"), [(Rates(400, None), (1, 0), 400), (Rates(None, 20 * MIB), (0, MIB // 16), 20 * MIB)]
)
def test_four_processes_reserve_what_they_spend(rates, spent, total):
    """A reserved token that is not used is lost, so few may be; and no token goes before its time."""
    number = total // max(spent) // 4
    with file_bucket(rates) as bucket, ThreadPoolExecutor(4) as pool:
        processes = [Counted(bucket, i) for i in range(4)]
        begun = time.monotonic()
        list(pool.map(lambda one: [throttle_of(one).spend(*spent) for _ in range(number)], processes))
        seconds = time.monotonic() - begun
        for one in processes:
            forget(one)
    reserved = sum(sum(one.reserved) for one in processes)
    assert total <= reserved <= 1.1 * total
    assert seconds >= 0.9


def test_a_bucket_keeps_little_for_later(tmp_path):
    (tmp_path / "bucket").write_bytes(bytes(16))
    now = [1000.0]
    bucket = FileBucket(str(tmp_path / "bucket"), Rates(10, None), lambda: now[0])
    assert [bucket.reserve(1, 99) for _ in range(4)] == pytest.approx([0, 0.05, 0.15, 0.25])
    now[0] += 60
    assert [bucket.reserve(1, 0) for _ in range(3)] == pytest.approx([0, 0.05, 0.15])
    assert bucket.reserve(0, 1) == 0


class Counter:
    """A throttle that counts."""

    def __init__(self):
        self.requests = self.nbytes = 0

    def spend(self, requests, nbytes):
        self.requests += requests
        self.nbytes += nbytes


def test_what_is_spent_without_a_throttle_is_free():
    spend(10**9, 10**9)
    assert current_throttle() is None


def test_a_listing_costs_a_request_for_each_thousand_objects():
    counter = Counter()
    with throttled(counter):
        assert sum(map(len, list_pages([range(50)] * 45))) == 2250
    assert counter.requests == 3


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_the_bytes_of_a_job_are_limited(store, tmp_path, scheduler):
    with dask.config.set(scheduler=scheduler, num_workers=4):
        begun = time.monotonic()
        new = store.map_shards(
            ToZip(tmp_path / "out"), limits=Limits(bytes_per_second="4 MiB")
        )  # reads 2 MiB, writes 2 MiB
        assert time.monotonic() - begun >= 0.9
    assert new.summary.done == 9
    assert zarr.open_array(new, path="a", mode="r")[:].sum() == 2 * MIB


def test_requests_to_an_object_store_are_limited(store, bucket):
    with dask.config.set(scheduler="threads", num_workers=4):
        begun = time.monotonic()
        new = store.map_shards(CopyTo(f"{bucket[0]}/out.zarr"), limits=Limits(requests_per_second=50))
        assert time.monotonic() - begun >= 32 / 50  # at least a request for each chunk
        assert new.verify(store).ok


class Gauge:
    """The most shards that were in a step at a time."""

    most = now = 0
    lock = threading.Lock()


def slow(entries, shard):
    for entry in entries:
        if entry.coords is not None:
            with Gauge.lock:
                Gauge.now += 1
                Gauge.most = max(Gauge.most, Gauge.now)
            time.sleep(0.02)
            with Gauge.lock:
                Gauge.now -= 1
        yield entry


def test_fewer_shards_run_at_a_time_where_memory_is_short(store, tmp_path):
    chain = step(slow, name="slow", version="1"), ToZip(tmp_path / "out")
    needs = {mount.path: mount.memory for mount in store.plan(*chain).estimate().mounts}
    memory = max(*needs.values(), 2 * needs["a"]) + 1
    Gauge.most = 0
    with dask.config.set(scheduler="threads", num_workers=6):
        store.map_shards(*chain, limits=Limits(memory=memory))
    assert 1 <= Gauge.most <= memory // needs["a"] < 6


def test_a_shard_that_does_not_fit_is_refused_by_name(store, tmp_path):
    with pytest.raises(
        UsageError,
        match=r"(the base|a shard of 'a') needs about .* of memory, more than the limit of 1.00 kiB in a worker",
    ):
        store.plan(step(slow, name="slow", version="1"), ToZip(tmp_path / "out"), limits=Limits(memory="1 KiB"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given",
    [{"requests_per_second": 0}, {"bytes_per_second": "fast"}, {"bytes_per_second": 0}, {"memory": "-1 GiB"}],
    ids=str,
)
def test_limits_that_mean_nothing_are_refused(store, tmp_path, given):
    with pytest.raises(UsageError, match=rf"{next(iter(given))}=.* is not a (positive number|size)"):
        store.plan(ToZip(tmp_path / "out"), limits=Limits(**given))


def test_a_lazy_job_can_not_share_rates(store, tmp_path):
    with pytest.raises(UsageError, match="a lazy job can't limit requests and bytes"):
        store.map_shards(ToZip(tmp_path / "out"), limits=Limits(requests_per_second=5), compute=False)
    store.map_shards(ToZip(tmp_path / "out"), limits=Limits(memory="1 GiB"), compute=False)


def test_the_command_takes_limits(store, tmp_path):
    call = ["convert", str(tmp_path / "source.zarr"), str(tmp_path / "out"), "--to", "zip", "--dry-run"]
    refused = CliRunner().invoke(main, [*call, "--max-memory", "1 KiB"])
    assert (refused.exit_code, "more than the limit of 1.00 kiB" in refused.stderr) == (2, True), refused.stderr
    given = ["--requests-per-second", "100", "--bytes-per-second", "200 MiB", "--max-memory", "4 GiB"]
    assert CliRunner().invoke(main, [*call, *given]).exit_code == 0
