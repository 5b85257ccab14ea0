"""Errors of failed shards: their fields, and the codes of their causes."""

import errno
import json
import pickle
import re
from dataclasses import dataclass

import dask
import numpy as np
import pytest
import zarr
from paths import ROOT

from shardedstore import CorruptError, ShardedStore, ShardError, ShardsFailed, Step, TemporaryError
from shardedstore.errors import CODES
from shardedstore.jobs.differences import Difference
from shardedstore.transforms import MapChunks, MigrateV3, Recompress, ToZip

PAGE = ROOT / "docs" / "errors.md"


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@dataclass(frozen=True)
class Raise(Step):
    """Raises an error for one block."""

    error: BaseException
    name: str = ""

    def __call__(self, entries, shard):
        if shard.block == (1, 0):
            raise self.error
        yield from entries


def source(tmp_path, zarr_format=3):
    group = zarr.create_group(tmp_path / "source.zarr", zarr_format=zarr_format)
    group.create_array("t", data=np.arange(48).reshape(8, 6), chunks=(2, 3))
    return ShardedStore.partition(tmp_path / "source.zarr", {"t": (4, 6)})


def failure(store, *chain, **options):
    with pytest.raises(ShardsFailed) as failed:
        store.map_shards(*chain, retries=1, **options)
    (error,) = failed.value.exceptions
    return error


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("how", ["recompress", "map"])
def test_a_damaged_chunk_is_named_by_its_key_in_the_source(how, zarr_format, tmp_path):
    store = source(tmp_path, zarr_format)
    key = {2: "t/3.1", 3: "t/c/3/1"}[zarr_format]
    (tmp_path / "source.zarr" / key).write_bytes(b"damaged")
    step = Recompress("gzip") if how == "recompress" else MapChunks(lambda chunk, place: chunk, name="same")
    error = failure(store, step, ToZip(tmp_path / "out"))
    assert (error.code, error.error_type) == ("corrupt", "CorruptError")
    assert (error.shard, error.path, error.block) == ("t[1/0]", "t", (1, 0))
    assert (error.key, error.chunk, error.attempts) == (key, (3, 1), 1)
    assert error.url == str(tmp_path / "source.zarr")
    assert "Traceback" in error.traceback
    assert key in error.cause


@pytest.mark.parametrize(
    ("raised", "code", "attempts"),
    [
        (OSError(errno.ENOSPC, "full"), "no-space", 1),
        (OSError(errno.EDQUOT, "full"), "quota", 1),
        (OSError(errno.EROFS, "read-only"), "read-only", 1),
        (PermissionError(errno.EACCES, "denied"), "access-denied", 1),
        (CorruptError("bad"), "corrupt", 1),
        (TemporaryError("busy"), "temporary", 2),
        (TimeoutError("slow"), "temporary", 2),
        (KeyError("x"), "failed", 1),
        (SystemExit(1), "failed", 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_the_code_of_an_error(raised, code, attempts, tmp_path):
    error = failure(source(tmp_path), Raise(raised), ToZip(tmp_path / "out"))
    assert (error.code, error.attempts, error.error_type) == (code, attempts, type(raised).__name__)
    assert bool(error.remedy) == (code in ("no-space", "quota", "read-only", "access-denied"))


def test_the_error_of_a_function_says_which_chunk_it_had(tmp_path):
    def function(chunk, place):
        if place == (4, 3):
            raise ValueError("no")
        return chunk

    error = failure(source(tmp_path), MapChunks(function, name="f"), ToZip(tmp_path / "out"))
    assert (error.key, error.chunk, error.code) == ("t/c/2/1", (2, 1), "failed")


def test_a_worker_that_can_not_read_the_source(tmp_path):
    lazy = source(tmp_path).map_shards(ToZip(tmp_path / "out"), compute=False)
    (tmp_path / "source.zarr").rename(tmp_path / "away")
    with pytest.raises(ShardsFailed) as failed:
        lazy.compute()
    assert {error.code for error in failed.value.exceptions} == {"unprepared-worker"}


def test_an_error_pickles_and_is_json(tmp_path):
    error = failure(source(tmp_path), Raise(KeyError("x")), ToZip(tmp_path / "out"))
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)
    told = json.loads(json.dumps(error.to_dict()))
    assert (told["shard"], told["block"], told["code"]) == ("t[1/0]", [1, 0], "failed")


def test_equal_causes_are_reported_once():
    errors = [ShardError(f"t[{i}]", f"CorruptError: 't/c/{i}' can't be decoded", key=f"t/c/{i}") for i in range(9)]
    failed = ShardsFailed("10 of 12 shards failed", [*errors, ShardError("u", "KeyError: 1", worker="n1:7")])
    assert str(failed).split("\n") == [
        "10 of 12 shards failed",
        "shard 't[0]' failed: CorruptError: 't/c/0' can't be decoded [failed] (9 shards)",
        "  shard  key in the source",
        *(f"  t[{i}]   t/c/{i}" for i in range(7)),
        "  ... and 2 shards more",
        "shard 'u' failed: KeyError: 1 [failed]",
        "  shard  worker",
        "  u      n1:7",
    ]
    assert [len(some) for some in failed.failures.by_cause()] == [9, 1]


def test_the_page_has_every_code_and_every_attribute():
    text, _, differences = PAGE.read_text().partition("## Differences")
    assert set(re.findall(r"^\| `([a-z-]+)` \| .* \| (?:yes|no)[^|]* \|$", text, re.MULTILINE)) == set(CODES)
    assert attributes_in(text) == set(ShardError("x", "y").to_dict())
    assert attributes_in(differences) | {"shards"} == set(Difference.__struct_fields__)


def attributes_in(text):
    """Return the names of attributes that begin the rows of tables."""
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| [^|]+ \|$", text, re.MULTILINE)
    return {name for names in rows for name in re.findall("[a-z_]+", names)}


def test_migrate_v3_names_the_chunk(tmp_path):
    store = source(tmp_path, 2)
    array = zarr.create_array(
        tmp_path / "source.zarr",
        name="s",
        shape=(4,),
        chunks=(2,),
        dtype="i4",
        filters=None,
        zarr_format=2,
        compressors=None,
    )
    array[:] = 1
    (tmp_path / "source.zarr" / "t" / "1.0").write_bytes(b"damaged")
    error = failure(store, MigrateV3(portable=True), Recompress("gzip"), ToZip(tmp_path / "out"))
    assert (error.key, error.chunk) == ("t/1.0", (1, 0))
