"""A compacted ledger holds the same records, whatever is interrupted or runs at the same time."""

import shutil
import subprocess
import threading
from unittest.mock import patch

import dask
import msgspec
import pytest
from helpers_jobs import blocks_at, ledger_at
from hypothesis import given
from hypothesis import strategies as st

from shardedstore import CorruptError, ShardedStore
from shardedstore.jobs.compacted_ledger import pack, read_one, unpack
from shardedstore.jobs.ledger import FOLDER, Ledger, Record
from shardedstore.storage.folders import LocalFolder, open_folder
from shardedstore.transforms import ToZip


def record(number, digest="d"):
    return Record(3, 99, digest, shard=number)


def write(ledger, segment, *records):
    with ledger.writer(segment) as append:
        for one in records:
            append(one)


def files(ledger):
    return sorted(name for name, _ in ledger.folder.sizes(f"{FOLDER}/ledger"))


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(open_folder(str(tmp_path)), 1)
    for segment in range(100):
        write(ledger, segment, record(2 * segment), record(2 * segment + 1))
    return ledger


@given(st.dictionaries(st.integers(0, 1 << 40), st.binary(max_size=100)), st.integers(0, 1 << 40), st.integers(0, 20))
def test_each_segment_is_read_alone(segments, other, tail):
    class Blob:
        def tail(self, n):
            return data[-n:], len(data)

        def read(self, start, stop):
            return data[start:stop]

    data = pack(segments)
    with patch("shardedstore.jobs.compacted_ledger.TAIL", max(tail, 12)):
        assert dict(unpack(data)) == {number: lines for number, lines in segments.items() if lines}
        for number in {*segments, other}:
            assert read_one(Blob(), number) == segments.get(number, b"")


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d[:-30] + d[-20:], lambda d: b"x" * 9 + d[9:], lambda d: b""]
)
def test_a_damaged_file_is_reported(ledger, damage):
    ledger.compact()
    (name,) = files(ledger)
    ledger.folder.write(name, damage(ledger.folder.read(name)))
    with pytest.raises(CorruptError, match="is damaged: remove it and run the job again"):
        ledger.read()
    with pytest.raises(CorruptError, match="is damaged"):
        ledger.read_segment(0)


def test_all_records_are_in_one_file(ledger):
    before = ledger.read()
    ledger.compact()
    assert len(files(ledger)) == 1
    assert ledger.read() == before
    assert ledger.is_compacted()
    assert list(ledger.read_segment(7)) == [14, 15]
    assert ledger.read_segment(100) == {}
    kept = files(ledger)
    ledger.compact()
    assert files(ledger) == kept


@pytest.mark.skipif(shutil.which("zstdcat") is None, reason="zstdcat shows it")
def test_it_can_be_looked_at(ledger):
    ledger.compact()
    shown = subprocess.run(
        ["zstdcat", f"{ledger.folder.url}/{files(ledger)[0]}"], capture_output=True, check=True
    ).stdout
    assert len(shown.splitlines()) == 200


def test_what_is_appended_later_wins_and_is_compacted_again(ledger):
    ledger.compact()
    write(ledger, 3, record(6, "made again"))
    assert ledger.read_segment(3) == {6: record(6, "made again"), 7: record(7)}
    for _ in range(2):
        assert ledger.read()[6] == record(6, "made again")
        assert len(ledger.read()) == 200
        ledger.compact()
    assert len(files(ledger)) == 1


def test_what_was_made_again_wins_over_what_was_taken_over(tmp_path):
    ledger = Ledger(open_folder(str(tmp_path)), 2)
    ledger.inherit([(0, [record(0), record(1)])])
    write(ledger, 0, record(1, "made again"))
    for _ in range(2):
        assert ledger.read() == ledger.read_segment(0) == {0: record(0), 1: record(1, "made again")}
        ledger.compact()
    assert ledger.has_inherited()


class Interrupted(LocalFolder):
    """Raises after some writes and removals."""

    def step(self):
        left = self.left
        object.__setattr__(self, "left", left - 1)
        if left == 0:
            raise KeyboardInterrupt

    def write(self, name, data, *, create=False):
        self.step()
        super().write(name, data, create=create)

    def remove_all(self, names):
        for name in names:
            self.step()
            super().remove_all([name])


@pytest.mark.parametrize("left", [0, 1, 2, 50, 100])
def test_nothing_is_lost_when_it_is_interrupted(ledger, left):
    before = ledger.read()
    folder = Interrupted(ledger.folder.url)
    object.__setattr__(folder, "left", left)
    with pytest.raises(KeyboardInterrupt):
        Ledger(folder, 1).compact()
    assert ledger.read() == before
    assert ledger.read_segment(7) == {14: record(14), 15: record(15)}
    ledger.compact()
    assert ledger.read() == before
    assert len(files(ledger)) == 1


def test_a_file_that_grows_meanwhile_stays(ledger):
    class Late(LocalFolder):
        def write(self, name, data, *, create=False):
            append(record(301, "late"))
            super().write(name, data, create=create)

    with ledger.writer(150) as append:
        append(record(300))
        Ledger(Late(ledger.folder.url), 1).compact()
    assert len(files(ledger)) == 2
    assert ledger.read_segment(150) == {300: record(300), 301: record(301, "late")}


def test_readers_and_others_who_compact_do_not_disturb(ledger):
    before, wrong, ended = ledger.read(), [], threading.Event()

    def read():
        while not ended.is_set():
            if ledger.read() != before or ledger.read_segment(9) != {18: record(18), 19: record(19)}:
                wrong.append("a record is missing")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(10):
        for segment in range(100):
            write(ledger, segment, record(2 * segment), record(2 * segment + 1))
        ledger.compact()
    ended.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert ledger.read() == before


def test_a_job_that_has_ended_leaves_one_file_and_goes_on_from_it(tmp_path):
    divided, out = blocks_at(tmp_path / "source.zarr", 6), tmp_path / "out"
    with dask.config.set(scheduler="synchronous"):
        divided.map_shards(ToZip(out))
        ledger = ledger_at(out)
        assert len(files(ledger)) == 1
        (out / "a/3.zarr.zip").unlink()
        result = divided.map_shards(ToZip(out), compute=False).compute()
        assert (result.summary.done, result.summary.skipped) == (1, 6)
        assert len(files(ledger)) == 1
        assert ShardedStore.load(out).verify(divided).ok


def test_in_an_object_store_what_tells_of_a_writer_that_died_stays(bucket):
    ledger = Ledger(open_folder(f"{bucket[0]}/out"), 1)
    for segment in range(3):
        write(ledger, segment, record(segment))
    ledger.folder.write(f"{FOLDER}/ledger/1/0/1-abc-0.jsonl", b"")
    ledger.folder.write(f"{FOLDER}/ledger/1/0/1-abc-1.jsonl", b'{"shard":9,"entries":3,"nbytes":99,"digest":"d"}\n')
    ledger.compact()
    assert ledger.unfinished()
    assert len(files(ledger)) == 2
    assert set(ledger.read()) == {0, 1, 2, 9}
    assert set(ledger.read_segment(1)) == {1, 9}


def test_of_two_compacted_files_the_later_one_wins(tmp_path):
    """An interrupted compaction has not removed its input."""
    ledger = Ledger(open_folder(str(tmp_path)), 1)
    write(ledger, 0, record(1))
    ledger.compact()
    (old,) = files(ledger)
    kept = ledger.folder.read(old)
    again = msgspec.structs.replace(record(1), attempts=9)
    write(ledger, 0, again)
    ledger.compact()
    ledger.folder.write(old, kept)
    assert ledger.read() == {1: again}
    ledger.compact()
    assert ledger.read() == {1: again}
