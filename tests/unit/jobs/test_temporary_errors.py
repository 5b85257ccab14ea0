"""Temporary errors: raised by users' steps, or caused by one."""

import errno
import os
from dataclasses import dataclass

import dask
import pytest
from helpers_jobs import blocks_at, mark

import shardedstore
from shardedstore import CorruptError, ShardsFailed, Step, TemporaryError
from shardedstore.storage.errors import is_transient
from shardedstore.storage.retry import Backoff
from shardedstore.transforms import ToZip


def raised_from(error, cause):
    """An error that was raised from another error."""
    try:
        raise error from cause
    except type(error) as found:
        return found


def raised_while(error, before, *, is_hidden=False):
    """An error that was raised while another error was handled."""
    try:
        try:
            raise before
        except type(before):
            if is_hidden:
                raise error from None
            raise error  # noqa: B904
    except type(error) as found:
        return found


PASSING = [
    TemporaryError("busy"),
    raised_from(ValueError("no answer"), ConnectionResetError()),
    raised_from(RuntimeError("no"), raised_from(KeyError("x"), TimeoutError())),
    raised_from(ValueError("no"), TemporaryError("busy")),
    raised_while(ValueError("no"), OSError(errno.EIO, "I/O")),
    raised_while(RuntimeError("no"), raised_from(KeyError("x"), ConnectionRefusedError())),
]
LASTING = [
    ValueError("no"),
    raised_from(ValueError("no"), KeyError("x")),
    raised_from(ValueError("no"), OSError(errno.ENOSPC, "full")),
    raised_while(ValueError("no"), ConnectionResetError(), is_hidden=True),
    raised_while(ValueError("no"), PermissionError(errno.EACCES, "denied")),
    raised_from(CorruptError("damaged"), OSError(errno.EIO, "I/O")),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_errors_that_may_pass(error):
    assert is_transient(error)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_errors_that_stay(error):
    assert not is_transient(error)


def test_errors_that_come_from_one_another_are_looked_at_once():
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert not is_transient(one)


@dataclass(frozen=True)
class Busy(Step):
    """Raises errors for each shard, one at each attempt, by their places in the tables above."""

    folder: str
    passing: bool
    place: int

    def __call__(self, entries, shard):
        if mark(os.path.join(self.folder, shard.name)) == 1:
            raise (PASSING if self.passing else LASTING)[self.place]
        return entries


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_shard_is_tried_again_after_one(place, tmp_path, monkeypatch):
    monkeypatch.setattr("shardedstore.storage.retry.BACKOFF", Backoff(0.001))
    store = blocks_at(tmp_path / "source.zarr", 3)
    with dask.config.set(scheduler="synchronous"):
        result = store.map_shards(Busy(str(tmp_path / "seen"), True, place), ToZip(tmp_path / "out"))
        assert (result.summary.done, result.summary.retries) == (4, 4)
        with pytest.raises(ShardsFailed, match="4 of 4 shards failed"):
            store.map_shards(Busy(str(tmp_path / "failed"), False, place), ToZip(tmp_path / "failed-out"))


def test_it_is_public():
    assert issubclass(shardedstore.TemporaryError, shardedstore.ShardedStoreError)
    assert not issubclass(shardedstore.TemporaryError, shardedstore.UsageError)
