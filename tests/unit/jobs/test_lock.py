"""The lock: one job at a time at a destination, and another one after it in any case."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import msgspec
import psutil
import pytest
from helpers_jobs import Slow, cube_at, division, wait_until

from shardedstore import DestinationError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs import lock
from shardedstore.jobs.ledger import FOLDER
from shardedstore.jobs.lock import Holder, held
from shardedstore.storage.folders import LocalFolder, open_folder
from shardedstore.transforms import ToZip

HOLDER = """
import sys, time
from shardedstore.storage.folders import open_folder
from shardedstore.jobs.lock import held

with held(open_folder(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def quick(monkeypatch):
    for name, seconds in {"RENEWAL": 0.1, "LIFE": 1.0, "LOOK": 0.1}.items():
        monkeypatch.setattr(lock, name, seconds)


def start_holder(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    process.stdout.close()
    return process


def number_of(place):
    """The number of the latest lock."""
    return max(int(name[len("lock-") : -len(".json")]) for name in place.names(FOLDER) if name.startswith("lock-"))


def latest(place):
    """The holder in the latest lock."""
    return msgspec.json.decode(place.read(file_of(number_of(place))), type=Holder)


def file_of(number):
    return f"{FOLDER}/lock-{number}.json"


def write(place, number, holder, **changes):
    place.write(file_of(number), msgspec.json.encode(msgspec.structs.replace(holder, **changes)))


def elsewhere(place, **changes):
    """Pretend that another machine holds the lock."""
    write(place, number_of(place), latest(place), machine="another", **changes)


class Watched(LocalFolder):
    """A folder that calls a function with the holder before and after it is written."""

    def __init__(self, path, before=lambda *_: None, after=lambda *_: None):
        super().__init__(str(path))
        self.before, self.after = before, after

    def write(self, name, data, *, create=False):
        holder = msgspec.json.decode(data, type=Holder)
        self.before(holder, create)
        super().write(name, data, create=create)
        self.after(holder, create)


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path):
    place = open_folder(str(tmp_path))
    message = rf"is being written to by .* \(process {os.getpid()}, since 20"
    with held(place), pytest.raises(DestinationError, match=message), held(place):
        pass
    with held(place):
        pass


def test_two_that_come_at_once_do_not_both_get_it(tmp_path):
    place = open_folder(str(tmp_path))
    got, refused, together = [], [], threading.Barrier(8)

    def hold():
        together.wait()
        try:
            with held(place):
                got.append(1)
                time.sleep(0.5)
        except DestinationError:
            refused.append(1)

    threads = [threading.Thread(target=hold) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)


@pytest.mark.parametrize("reaped", [True, False])
def test_what_a_killed_process_of_this_machine_held_is_taken_over_at_once(tmp_path, reaped):
    """Also a zombie process, as in a container without an init."""
    process = start_holder(str(tmp_path))
    place = open_folder(str(tmp_path))
    with pytest.raises(DestinationError, match=rf"process {process.pid},"), held(place):
        pass
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
    began = time.monotonic()
    with held(place):
        assert time.monotonic() - began < lock.LIFE / 2
    process.wait()


def test_what_this_process_could_not_free_is_not_held(tmp_path):
    """Otherwise, a notebook that lost its connection at the end would wait for itself."""

    def lost(holder, create):
        if holder.free:
            raise TimeoutError

    place = open_folder(str(tmp_path))
    with held(Watched(tmp_path, before=lost)):
        pass
    assert not latest(place).free
    with held(place):
        assert number_of(place) == 2


def test_one_that_counts_elsewhere_lives_and_one_that_does_not_is_dead(tmp_path, quick):
    place = open_folder(str(tmp_path))
    with held(place):
        elsewhere(place)
        with pytest.raises(DestinationError, match="is being written to by"), held(place):
            pass
    elsewhere(place, free=False)
    with held(place):
        assert not latest(place).free
    assert latest(place).free


def test_a_holder_that_was_taken_over_is_reported(tmp_path, quick):
    place = open_folder(str(tmp_path))
    with held(place) as lost:
        write(place, number_of(place) + 1, latest(place), nonce="another")
        assert lost.wait(10)
    assert latest(place).nonce == "another"
    assert not latest(place).free


def test_an_interrupt_that_comes_when_the_lock_is_made_leaves_none(tmp_path):
    def interrupted(holder, create):
        if create:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), held(Watched(tmp_path, after=interrupted)):
        pass
    assert latest(open_folder(str(tmp_path))).free


def test_a_number_that_was_removed_is_not_taken_while_a_later_one_is_held(tmp_path):
    """A process that has watched the lock for a while makes the next number, which already existed and was removed."""
    place, parent = open_folder(str(tmp_path)), psutil.Process(os.getppid())
    others = []

    def late(holder, create):
        if create and not others:
            another = {"nonce": "another", "process": parent.pid, "begun": parent.create_time()}
            others.append(msgspec.structs.replace(holder, **another))
            write(place, 2, others[0])

    with (
        pytest.raises(DestinationError, match=rf"is being written to by .* \(process {parent.pid},"),
        held(Watched(tmp_path, before=late)),
    ):
        pass
    assert latest(place) == others[0]


def test_a_lock_that_is_no_text_is_taken_over(tmp_path):
    place = open_folder(str(tmp_path))
    with held(place):
        pass
    place.write(file_of(1), b'{"who": "\xff"}')
    with held(place):
        assert number_of(place) == 2


@pytest.mark.slow
def test_a_second_run_of_a_job_is_refused_while_the_first_is_at_work(tmp_path):
    source = cube_at(tmp_path / "source.zarr")
    results = []

    def first():
        with dask.config.set(scheduler="threads"):
            results.append(division(source).map_shards(Slow(0.3), ToZip(tmp_path / "out")))

    thread = threading.Thread(target=first)
    thread.start()
    wait_until(lambda: open_folder(str(tmp_path / "out")).names(".shardedstore/ledger"))
    with pytest.raises(DestinationError, match="is being written to by"):
        division(source).map_shards(Slow(0.3), ToZip(tmp_path / "out"))
    thread.join()
    assert len(results) == 1
    assert (tmp_path / "out" / FILE_NAME).exists()
    assert division(source).map_shards(Slow(0.3), ToZip(tmp_path / "out")).summary.done == 0


def test_a_stopped_process_is_not_taken_for_dead(tmp_path):
    """A sleeping machine, or a process in a debugger: the same process continues later."""
    process = start_holder(str(tmp_path))
    try:
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(DestinationError, match="is being written to by"), held(open_folder(str(tmp_path))):
            pass
    finally:
        process.kill()
        process.wait()


def test_the_lock_works_in_an_object_store(bucket, quick):
    place = open_folder(bucket.url)
    with held(place):
        with pytest.raises(DestinationError, match="is being written to by"), held(place):
            pass
        elsewhere(place)
        with pytest.raises(DestinationError, match="is being written to by"), held(place):
            pass
    elsewhere(place, free=False)
    with held(place):
        pass


def test_a_damaged_lock_is_no_lock(tmp_path):
    Path(tmp_path, ".shardedstore").mkdir()
    Path(tmp_path, ".shardedstore", "lock-1.json").write_bytes(b"{")
    with held(open_folder(str(tmp_path))):
        assert Path(tmp_path, ".shardedstore", "lock-2.json").exists()
