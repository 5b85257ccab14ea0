"""One job at a time at a destination, and another after it, whatever became of the first."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import msgspec
import pytest
from helpers_jobs import Slow, cube_at, division, wait_until

from shardedstore import DestinationError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs import lock
from shardedstore.jobs.lock import held
from shardedstore.storage.folders import open_folder
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


def latest(place):
    return lock._latest(place)[1]


def elsewhere(place, **changes):
    """Make it look as if another machine held the lock."""
    number, holder = lock._latest(place)
    lock._write(place, number, msgspec.structs.replace(holder, machine="another", **changes))


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
    """Also one that nobody has waited for, as in a container without an init."""
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


def test_what_this_process_could_not_free_is_not_held(tmp_path, monkeypatch):
    """Else a notebook whose connection was lost at the end would wait for itself."""
    place, write = open_folder(str(tmp_path)), lock._write

    def lost(folder, number, holder, *, create=False):
        if holder.free:
            raise TimeoutError
        write(folder, number, holder, create=create)

    with monkeypatch.context() as patched:
        patched.setattr(lock, "_write", lost)
        with held(place):
            pass
    assert not latest(place).free
    with held(place):
        assert lock._latest(place)[0] == 2


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


def test_a_holder_that_was_taken_over_is_told(tmp_path, quick):
    place = open_folder(str(tmp_path))
    with held(place) as lost:
        number, holder = lock._latest(place)
        lock._write(place, number + 1, msgspec.structs.replace(holder, nonce="another"), create=True)
        assert lost.wait(10)
    assert latest(place).nonce == "another"
    assert not latest(place).free


def test_an_interrupt_that_comes_when_the_lock_is_made_leaves_none(tmp_path, monkeypatch):
    place, write = open_folder(str(tmp_path)), lock._write

    def interrupted(folder, number, holder, *, create=False):
        write(folder, number, holder, create=create)
        if create:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(lock, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt), held(place):
            pass
    assert latest(place).free


def test_a_number_that_was_removed_is_not_taken_while_a_later_one_is_held(tmp_path, monkeypatch):
    """One that has watched the lock for a while makes the next number, which has come and gone."""
    place, write = open_folder(str(tmp_path)), lock._write
    others = []

    def late(folder, number, holder, *, create=False):
        if create and not others:
            others.extend([msgspec.structs.replace(holder, nonce="another"), number + 2])
            write(folder, number + 2, others[0], create=True)
        write(folder, number, holder, create=create)

    monkeypatch.setattr(lock, "_write", late)
    monkeypatch.setattr(lock, "_mine", {"another"})
    with pytest.raises(DestinationError, match="is being written to by"), held(place):
        pass
    assert latest(place) == others[0]


def test_a_lock_that_is_no_text_is_taken_over(tmp_path):
    place = open_folder(str(tmp_path))
    with held(place):
        pass
    place.write(lock._path(1), b'{"who": "\xff"}')
    with held(place):
        assert lock._latest(place)[0] == 2


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
    """A machine that sleeps, or a process that a debugger holds: the same process goes on later."""
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
