"""Three successive failures by a common cause stop a job with one message; failures of single shards do not."""

import errno
import os
import pickle
from dataclasses import dataclass

import dask
import pytest
from click.testing import CliRunner
from helpers_jobs import blocks_at
from obstore.exceptions import GenericError, PermissionDeniedError, UnauthenticatedError

from shardedstore import CorruptError, ShardError, ShardsFailed, Step, cli
from shardedstore.storage.errors import is_transient, systemic
from shardedstore.transforms import ToZip

COUNT = 41


@pytest.fixture(autouse=True)
def threads():
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


def remote(status: str, code: str = "") -> GenericError:
    body = f": <Error><Code>{code}</Code></Error>" if code else ""
    return GenericError(
        f"Generic S3 error: Error performing PUT https://host/bucket/a in 2s - Server returned non-2xx status code: {status}"
        f'{body}\n\nDebug source:\nGeneric {{ store: "S3" }}'
    )


ROOM, ACCESS, READ_ONLY = "make room", "access is denied", "is read-only"
FATAL = {
    "no space": (OSError(errno.ENOSPC, "No space left on device", "/out/a"), ROOM),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), ROOM),
    "read-only": (OSError(errno.EROFS, "Read-only file system"), READ_ONLY),
    "no right": (PermissionError(errno.EACCES, "Permission denied"), ACCESS),
    "507": (remote("507 Insufficient Storage"), ROOM),
    "403": (remote("403 Forbidden"), ACCESS),
    "expired": (remote("400 Bad Request", "ExpiredToken"), ACCESS),
    "denied": (PermissionDeniedError("no"), ACCESS),
    "unauthenticated": (UnauthenticatedError("no"), ACCESS),
}
OWN = {
    "corrupt": CorruptError("damaged"),
    "value": ValueError("no"),
    "404": remote("404 Not Found"),
    "busy": remote("503 Slow Down"),
    "missing": FileNotFoundError(errno.ENOENT, "no such file"),
}


@pytest.mark.parametrize("name", FATAL)
def test_causes_that_all_shards_meet(name):
    error, remedy = FATAL[name]
    assert remedy in systemic(error)
    assert not is_transient(error)
    outer = RuntimeError("the step failed")
    outer.__cause__ = error
    assert remedy in systemic(outer)


@pytest.mark.parametrize("name", OWN)
def test_causes_of_single_shards(name):
    assert systemic(OWN[name]) == ""


def test_an_error_keeps_its_remedy_on_its_way():
    error = pickle.loads(pickle.dumps(ShardError("a[1]", "OSError: full", "make room")))
    assert (str(error), error.remedy) == ("shard 'a[1]' failed: OSError: full", "make room")


@dataclass(frozen=True)
class FailFor(Step):
    """Fails for shards with some numbers, by the name of an error above, until a file exists."""

    error: str
    every: int = 1
    mended: str = "/nonexistent"

    def __call__(self, entries, shard):
        number = 0 if shard.block is None else shard.block[0] + 1
        if number % self.every == 0 and not os.path.exists(self.mended):
            raise FATAL[self.error][0] if self.error in FATAL else OWN[self.error]
        return entries


@pytest.mark.parametrize("on_error", ["finish", "partial"])
@pytest.mark.parametrize("name", ["no space", "403"])
def test_three_in_a_row_stop_a_job_with_one_message(name, on_error, tmp_path):
    store, mended = blocks_at(tmp_path / "source.zarr", COUNT - 1), tmp_path / "mended"
    chain = FailFor(name, mended=str(mended)), ToZip(tmp_path / "out")
    if on_error == "partial":
        with pytest.warns(UserWarning, match="the job stopped, as the other shards would fail as well"):
            assert len(store.map_shards(*chain, on_error=on_error).summary.failures) < 10
    else:
        with pytest.raises(ShardsFailed, match=rf"0 are done; the job stopped, .* well: .*{FATAL[name][1]}") as caught:
            store.map_shards(*chain)
        assert len(caught.value.exceptions) < 10
        assert str(caught.value).count("failed: ") == 1
    mended.touch()
    assert store.map_shards(*chain).summary.done == COUNT  # earlier failures are not counted


@pytest.mark.parametrize(("name", "every"), [("corrupt", 1), ("404", 1), ("no space", 4)])
def test_other_failures_and_failures_among_successes_do_not(name, every, tmp_path):
    store = blocks_at(tmp_path / "source.zarr", COUNT - 1)
    failed = len(range(0, COUNT, every))
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(ShardsFailed, match=f"{failed} of {COUNT} shards failed .*; {COUNT - failed} are done: run"),
    ):
        store.map_shards(FailFor(name, every), ToZip(tmp_path / "out"))


def test_a_lazy_job_stops_each_of_its_tasks(tmp_path):
    store = blocks_at(tmp_path / "source.zarr", 1000)
    job = store.map_shards(FailFor("no space"), ToZip(tmp_path / "out"), compute=False)
    with pytest.raises(ShardsFailed, match=r"were not tried, and 0 are done; the job stopped") as caught:
        job.compute()
    assert len(caught.value.exceptions) < 500


@pytest.mark.parametrize("most", [2, 30])
def test_a_job_that_ends_at_its_most_failures_says_so(most, tmp_path):
    store = blocks_at(tmp_path / "source.zarr", 1000)
    message = rf"stopped at max_failures={most} \(--max-failures\): run the same job"
    with pytest.raises(ShardsFailed, match=message) as caught:
        store.map_shards(FailFor("value"), ToZip(tmp_path / "out"), max_failures=most)
    assert most <= len(caught.value.exceptions) < 10 * most  # each running task also ends after this number


def test_the_command_line_has_the_option():
    found = CliRunner().invoke(cli.main, ["convert", "--help"])
    assert "--max-failures N" in found.stdout
    assert CliRunner().invoke(cli.main, ["convert", "a", "b", "--to", "zip", "--max-failures", "0"]).exit_code == 2
