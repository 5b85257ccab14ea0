"""`verify`: equal results are equal at every level, and each kind of damage is found and named."""

import json
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from distributed import Client, LocalCluster
from helpers_jobs import TARGET, copied, ledger_at
from sources import SOURCES, build, cube, to_folder, to_memory
from zarr.storage import LocalStore

from shardedstore import ConfigError, PartitionError, ShardedStore, UsageError, cli
from shardedstore.jobs.differences import Difference
from shardedstore.jobs.open_shard import open_shard
from shardedstore.storage.retry import Backoff
from shardedstore.stores.hierarchy import read_nodes
from shardedstore.transforms import CopyTo, MapChunks, MigrateV3, Recompress, ToShardingCodec, ToZip
from shardedstore.verify.report import VerifyReport
from shardedstore.zarr.metadata import ArrayMeta

CUBE = SOURCES["cube-v3/"]
CHAINS: dict[str, Callable[[Path], list]] = {
    "ToZip": lambda out: [ToZip(out)],
    "CopyTo": lambda out: [CopyTo(out)],
    "CopyTo-shards": lambda out: [CopyTo(out, layout="shards")],
    "Recompress": lambda out: [Recompress("zstd", level=3), ToZip(out)],
    "Recompress-filters": lambda out: [
        Recompress("gzip", level=1, arrays=["wind_*"], filters=[{"id": "transpose", "order": [2, 0, 1]}]),
        ToZip(out),
    ],
    "MigrateV3": lambda out: [MigrateV3(), ToZip(out)],
    "ToShardingCodec": lambda out: [ToShardingCodec(out, object_size=64)],
    "MigrateV3-ToShardingCodec": lambda out: [MigrateV3(), ToShardingCodec(out, object_size=64)],
}


def fits(source: str, chain: str) -> bool:
    if chain == "Recompress-filters":
        return source == "cube-v3/"
    is_v3 = "v3" in source or source == "sharding-codec"
    return is_v3 != (chain.startswith("MigrateV3")) or (not is_v3 and chain != "ToShardingCodec")


# Every source in zips, and some of all formats by every chain.
BY_ALL = ("cube-v2.", "cube-v3/", "others-v3", "sharding-codec")
CASES = [
    (source, chain)
    for source in SOURCES
    for chain in CHAINS
    if fits(source, chain) and (chain == "ToZip" or source in BY_ALL)
]


@pytest.fixture(autouse=True)
def one_process():
    with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def source(tmp_path) -> ShardedStore:
    return ShardedStore.partition(to_folder(CUBE.contents(), tmp_path / "source.zarr"), CUBE.shards)


@pytest.fixture
def zipped(source, tmp_path) -> ShardedStore:
    return source.map_shards(ToZip(tmp_path / "out"))


def kinds(report: VerifyReport) -> set[str]:
    assert report.ok == (not report.differences)
    return {difference.kind for difference in report.differences}


def only(report: VerifyReport) -> Difference:
    assert not report.ok
    (difference,) = report.differences
    assert difference.what in str(report)
    return difference


def opposite(chunk, position):
    return -chunk


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def rewrite(path: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    """Rewrite a zip with other members, so that its own checksums agree."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)


def offset(path: Path, name: str) -> int:
    """The offset of a member's data."""
    with zipfile.ZipFile(path) as file:
        return file.getinfo(name).header_offset + 30 + len(name)


# Equal results


@pytest.mark.few(4)
@pytest.mark.parametrize(("name", "chain"), CASES)
def test_a_result_is_equal_to_its_source(name, chain, tmp_path):
    made_from = SOURCES[name]
    folder = to_folder(made_from.contents(), tmp_path / "source.zarr")
    source = ShardedStore.partition(folder, made_from.shards)
    result = source.map_shards(*CHAINS[chain](tmp_path / "out"))
    for report in (
        result.verify(level="exists"),
        result.verify(source, level="stored"),
        result.verify(folder),
        result.verify(source),
    ):
        assert report.ok, str(report)
        assert report.notes == ()
    assert report.level == "decoded"
    arrays = {path for path, node in read_nodes(source.config).items() if isinstance(node.meta, ArrayMeta)}
    assert arrays == report.digests.keys()
    assert report.arrays == len(arrays)
    shutil.rmtree(folder)
    assert result.verify().ok


def test_a_loaded_and_moved_result_is_verified_where_it_is(zipped, tmp_path):
    shutil.move(tmp_path / "out", tmp_path / "moved")
    shutil.rmtree(tmp_path / "source.zarr")
    report = ShardedStore.load(tmp_path / "moved").verify()
    assert report.ok
    assert (report.level, report.shards) == ("stored", 24)
    assert str(report) == "ok: 24 shards, by the stored bytes and the ledger's record of them"


def test_any_two_zarrs_are_compared(tmp_path):
    """No job made them, and the formats differ."""
    old, new = (ShardedStore.partition(to_folder(build(cube, keys), tmp_path / keys[:2])) for keys in ("v2.", "v3/"))
    report = old.verify(new)
    assert report.ok
    assert report.digests == new.verify(tmp_path / "v2").digests


def test_a_result_that_was_made_again_has_a_ledger_of_its_own(source, zipped, tmp_path):
    """The objects and records of a later job have other names than those of the first."""
    again = source.map_shards(Recompress("gzip", level=1), ToZip(tmp_path / "out"), overwrite=True)
    assert "~2" in again.config.base.source.url
    assert again.verify().ok
    with pytest.raises(UsageError, match="no ledger of the job that made this result"):
        zipped.verify()  # another shard is at its place there
    assert zipped.verify(source).ok


def test_on_a_cluster(source, zipped, tmp_path, monkeypatch):
    monkeypatch.setattr("shardedstore.jobs.shards.LEAST_WEIGHT", 1)
    flip(tmp_path / "out" / "height" / "0.zarr.zip", -200)
    with (
        dask.config.set(scheduler=None),
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        assert {d.shard for d in zipped.verify().differences} == {"height[0]"}
        assert {d.shard for d in zipped.verify(source).differences} == {"height[0]"}


def test_in_threads(source, zipped, monkeypatch):
    monkeypatch.setattr("shardedstore.jobs.shards.LEAST_WEIGHT", 1)
    with dask.config.set(scheduler="threads"):
        assert zipped.verify().ok
        assert zipped.verify(source).ok


def test_the_report_is_json(source, zipped):
    report = zipped.verify(source)
    document = json.loads(json.dumps(report.to_dict()))
    assert document["ok"] is True
    assert document["digests"]["temperature"].startswith("1:")
    assert len(document["digests"]) == report.arrays == 7


# Different results: zips

SHARD = "temperature[1/0]"
ZIP = "out/temperature/1/0.zarr.zip"
CHUNK = "c/0/0/1"  # in the block; in the whole array it is 2/0/1


def test_a_flipped_byte_in_a_zip(source, zipped, tmp_path):
    path = tmp_path / ZIP
    flip(path, offset(path, CHUNK) + 3)
    assert zipped.verify(level="exists").ok
    for report in (zipped.verify(), zipped.verify(source)):
        found = only(report)
        assert (found.kind, found.shard) == ("damaged", SHARD)
        assert "CRC-32 is wrong" in found.what
        assert CHUNK in found.what


def test_a_changed_chunk_whose_checksum_agrees(source, zipped, tmp_path):
    rewrite(tmp_path / ZIP, lambda members: members.update({CHUNK: members["c/0/0/0"]}))
    assert kinds(zipped.verify()) <= {"record", "size"}
    found = [d for d in zipped.verify(source).differences if d.kind == "data"]
    assert [(d.array, d.chunk, d.key, d.shard) for d in found] == [
        ("temperature", (2, 0, 1), "temperature/c/2/0/1", SHARD)
    ]
    assert "chunk (2, 0, 1)" in found[0].what
    assert "copy the named data from the source" in str(zipped.verify(source))


def test_chunks_that_changed_places(source, zipped, tmp_path):
    def change(members):
        members["c/0/0/0"], members[CHUNK] = members[CHUNK], members["c/0/0/0"]

    rewrite(tmp_path / ZIP, change)
    assert kinds(zipped.verify()) <= {"record", "size"}
    assert kinds(zipped.verify()) != set()
    chunks = [d.chunk for d in zipped.verify(source).differences if d.kind == "data"]
    assert chunks == [(2, 0, 0), (2, 0, 1)]


def test_a_chunk_that_is_gone(source, zipped, tmp_path):
    rewrite(tmp_path / ZIP, lambda members: members.pop(CHUNK))
    assert {d.shard for d in zipped.verify().differences} == {SHARD}
    (found,) = [d for d in zipped.verify(source).differences if d.kind == "missing"]
    assert (found.array, found.chunk, found.shard) == ("temperature", (2, 0, 1), SHARD)
    assert "holds only the fill value" in found.what


def test_a_key_that_was_added(source, zipped, tmp_path):
    rewrite(tmp_path / "out/simulation/fine.zarr.zip", lambda members: members.update({"note.txt": b"hello"}))
    assert {d.shard for d in zipped.verify().differences} == {"simulation/fine"}
    (found,) = [d for d in zipped.verify(source).differences if d.kind == "extra"]
    assert found.key == "simulation/fine/note.txt"


def test_a_zip_that_is_cut_off(source, zipped, tmp_path):
    path = tmp_path / ZIP
    path.write_bytes(path.read_bytes()[:-50])
    for report in (zipped.verify(level="exists"), zipped.verify(), zipped.verify(source)):
        found = only(report)
        assert (found.kind, found.shard) == ("size", SHARD)
        assert "bytes, but" in found.what
    assert "run the job again" in str(report)


def test_a_zip_that_is_gone(source, zipped, tmp_path):
    (tmp_path / ZIP).unlink()
    for report in (zipped.verify(level="exists"), zipped.verify(), zipped.verify(source)):
        found = only(report)
        assert (found.kind, found.shard) == ("missing", SHARD)


@pytest.mark.parametrize("level", ["stored", "decoded"])
def test_what_the_report_says_to_do_mends_it(level, source, zipped, tmp_path):
    path = tmp_path / ZIP
    before = path.read_bytes()
    flip(path, offset(path, CHUNK) + 3)
    against = source if level == "decoded" else None
    assert "--mark, and run the job again" in str(zipped.verify(against))
    assert source.map_shards(ToZip(tmp_path / "out")).summary.done == 0
    report = zipped.verify(against, mark=True)
    assert report.marked == report.damaged_shards == (SHARD,)
    assert "marked: 1 shard: run the job again" in str(report)
    summary = source.map_shards(ToZip(tmp_path / "out")).summary
    assert (summary.done, summary.skipped) == (1, 23)
    assert zipped.verify().ok
    assert path.read_bytes() == before


def test_a_base_that_can_not_be_read(source, zipped, tmp_path):
    path = tmp_path / "out/__base__.zarr.zip"
    path.write_bytes(b"\0" * path.stat().st_size)
    assert zipped.verify(level="exists").ok
    assert only(zipped.verify()).shard == "(base)"
    assert "metadata can't be read" in only(zipped.verify(source)).what


def test_a_record_that_is_missing(zipped, tmp_path):
    ledger_at(tmp_path / "out").mark(frozenset({3}))
    assert "the ledger has no record of it" in only(zipped.verify()).what


def test_files_of_a_copy_in_shards(source, tmp_path):
    result = source.map_shards(CopyTo(tmp_path / "out", layout="shards"))
    chunk = tmp_path / "out/temperature/1/0.zarr" / CHUNK
    flip(chunk, -1)
    assert result.verify(level="exists").ok
    assert (only(result.verify()).kind, only(result.verify()).shard) == ("record", SHARD)
    chunk.unlink()
    assert only(result.verify(level="exists")).kind == "size"
    shutil.rmtree(tmp_path / "out/temperature/1/0.zarr")
    assert only(result.verify(level="exists")).kind == "missing"


# One ordinary Zarr


@pytest.fixture
def copy(source, tmp_path) -> ShardedStore:
    return source.map_shards(CopyTo(tmp_path / "out.zarr"))


def test_chunks_of_one_zarr(source, copy, tmp_path):
    array = tmp_path / "out.zarr/temperature/c"
    first, second = array / "2/0/1", array / "2/0/0"
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    assert only(copy.verify(source, level="stored")).shard == SHARD
    chunks = [(d.chunk, d.key) for d in copy.verify(source).differences]
    assert chunks == [((2, 0, 0), "temperature/c/2/0/0"), ((2, 0, 1), "temperature/c/2/0/1")]
    first.unlink()
    second.write_bytes(other)
    assert only(copy.verify(level="exists")).kind == "missing"
    assert {d.kind for d in copy.verify(source).differences} == {"missing"}


def test_a_chunk_of_one_zarr_that_can_not_be_decoded(source, copy, tmp_path):
    path = tmp_path / "out.zarr/wind_u/c/1/0/1"
    path.write_bytes(b"rubbish")
    found = only(copy.verify(source))
    assert (found.kind, found.key) == ("damaged", "wind_u/c/1/0/1")
    assert "can't be decoded" in found.what


def test_damage_in_the_source_is_reported_as_such(source, copy, tmp_path):
    (tmp_path / "source.zarr/wind_u/c/1/0/1").write_bytes(b"rubbish")
    assert only(copy.verify(source)).what.startswith("the source: shard 'wind_u")


def test_what_is_added_to_one_zarr(source, copy, tmp_path):
    (tmp_path / "out.zarr/simulation/note.txt").write_bytes(b"hello")
    extra = only(copy.verify(level="exists"))
    assert extra.kind == "extra"
    assert "remove the result and the folder beside it" in str(extra)
    assert (only(copy.verify(source)).kind, only(copy.verify(source)).key) == ("extra", "simulation/note.txt")
    assert only(source.verify(copy)).kind == "missing"


def test_a_chunk_of_one_zarr_under_another_name(source, copy, tmp_path):
    """The number and the sizes of files are unchanged."""
    array = tmp_path / "out.zarr/temperature/c"
    (array / "2/0/1").rename(array / "2/0/11")
    found = {difference.shard: difference.kind for difference in copy.verify(level="exists").differences}
    assert found == {None: "extra", SHARD: "missing"}
    assert set(copy.verify().damaged_shards) == {"(base)", SHARD}


def test_a_document_of_one_zarr_that_is_gone(copy, tmp_path):
    (tmp_path / "out.zarr/simulation/coarse/field/zarr.json").unlink()
    found = only(copy.verify(level="exists"))
    assert (found.kind, found.key) == ("missing", "simulation/coarse/field/zarr.json")


def test_an_error_that_passes_is_no_difference(source, zipped, monkeypatch):
    monkeypatch.setattr("shardedstore.storage.retry.BACKOFF", Backoff(0))
    failed = []

    def fails_once(run, shard):
        if not failed:
            failed.append(shard.name)
            raise TimeoutError
        return open_shard(run, shard)

    monkeypatch.setattr("shardedstore.verify.data.open_shard", fails_once)
    assert zipped.verify(source).ok
    assert failed == ["(base)"]


def test_the_inner_chunk_of_an_object_is_named(source, tmp_path):
    result = source.map_shards(ToShardingCodec(tmp_path / "out.zarr", object_size=64))
    array = zarr.open_array(LocalStore(tmp_path / "out.zarr"), path="temperature", mode="r+")
    assert array.shards == (4, 2, 6)
    array[5, 3, 2] = -1
    found = only(result.verify(source))
    assert (found.chunk, found.key) == ((2, 1, 0), "temperature/c/1/1/0")
    assert kinds(result.verify(source, level="stored")) == {"record"}


# Metadata


def test_nodes_attributes_and_layouts(source, tmp_path):
    other = to_folder(CUBE.contents(), tmp_path / "other.zarr")
    root = zarr.open_group(other, mode="r+")
    root["wind_u"].attrs["units"] = "m/s"
    root.create_group("new")
    shutil.rmtree(other / "simulation")
    values = root["height"][:]
    del root["height"]
    root.create_array("height", data=values, chunks=(5,), dimension_names=("level",))
    report = ShardedStore.partition(other).verify(source)
    found = {(d.kind, d.array) for d in report.differences if d.array is not None}
    assert found == {
        ("attributes", "wind_u"),
        ("extra", "new"),
        ("missing", "simulation"),
        *(("missing", f"simulation/{name}") for name in ("coarse", "fine", "coarse/field", "fine/field")),
    }
    assert "its chunks are (5,) in the result and (2,) in the source" in str(report)
    assert report.compared_by["height"] == "values"


def test_a_step_that_changes_values_is_seen(source, tmp_path):
    result = source.map_shards(MapChunks(opposite, arrays=["wind_v"]), ToZip(tmp_path / "out"))
    assert result.verify().ok
    report = result.verify(source)
    assert {d.array for d in report.differences} == {"wind_v"}
    assert len(report.differences) == 6


def test_chunks_of_the_fill_value_that_are_not_stored_are_a_note(tmp_path):
    for name, stored in (("one", True), ("other", False)):
        root = zarr.create_group(tmp_path / name)
        data = np.zeros((4, 4), "i4")
        data[0, 0] = 1
        root.create_array("a", data=data, chunks=(2, 2), config={"write_empty_chunks": stored})
    report = ShardedStore.partition(tmp_path / "one").verify(tmp_path / "other")
    assert report.ok
    assert report.notes == (
        "'a': 4 chunks are stored in the result and 1 in the source; the others hold only the fill value",
    )


def test_many_differences_are_counted(tmp_path, monkeypatch):
    for module in "data", "compare":
        monkeypatch.setattr(f"shardedstore.verify.{module}.PER_STRETCH", 4)
    for name, sign in (("one", 1), ("other", -1)):
        zarr.create_group(tmp_path / name).create_array("a", data=sign * np.arange(1, 201), chunks=(1,))
    monkeypatch.setattr("shardedstore.verify.compare.MOST_NAMED", 10)
    report = ShardedStore.partition(tmp_path / "one").verify(tmp_path / "other")
    assert [d.chunk for d in report.differences[:-1]] == [(i,) for i in range(10)]
    assert report.differences[-1].what == ("'a': 54 more chunks and 34 more stretches of at least 4 chunks differ")


# The command line


def command(*arguments: object):
    return CliRunner().invoke(cli.main, ["verify", *map(str, arguments)])


def test_the_command_tells_by_its_exit_code(source, zipped, tmp_path):
    done = command(tmp_path / "out", "--level", "exists")
    assert (done.exit_code, done.stdout) == (0, "ok: 24 shards, by names and sizes\n")
    (tmp_path / ZIP).unlink()
    done = command(tmp_path / "out", "--level", "exists")
    assert done.exit_code == 1
    assert f"{SHARD}: '{tmp_path / ZIP}' is missing" in done.stdout
    done = command(tmp_path / "source.zarr", "--level", "decoded", "--scheduler", "tcp://127.0.0.1:1")
    assert done.exit_code == 5


def test_the_command_on_a_cluster(source, copy, tmp_path):
    (tmp_path / "out.zarr/wind_u/c/1/0/1").unlink()
    arguments = ["verify", str(tmp_path / "out.zarr"), "--against", str(tmp_path / "source.zarr"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "shardedstore", *arguments, "--workers", "1"],
        check=False,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert [(d["array"], d["chunk"], d["key"]) for d in document["differences"]] == [
        ("wind_u", [1, 0, 1], "wind_u/c/1/0/1")
    ]


# Results that can't be verified


def test_without_a_ledger_and_a_source(tmp_path):
    store = ShardedStore.partition(to_folder(CUBE.contents(), tmp_path / "a"))
    with pytest.raises(UsageError, match=r"no ledger of the job that made this result was found.*against="):
        store.verify()
    assert store.verify(level="exists").ok


def test_a_result_whose_config_was_edited_has_no_ledger(zipped, tmp_path):
    path = tmp_path / "out/shardedstore.json"
    document = json.loads(path.read_text())
    del document["shards"]["height"]
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="no ledger"):
        zipped.verify()


def test_decoded_data_of_a_job_without_digests(zipped):
    """They are compared with the job's source."""
    report = zipped.verify(level="decoded")
    assert report.ok
    assert report.arrays > 0


def test_a_level_that_is_not_known(zipped):
    with pytest.raises(UsageError, match="level='bytes' is not a level: use one of exists, stored, decoded"):
        zipped.verify(level="bytes")


def test_the_bytes_of_one_zarr_whose_ledger_does_not_tell_the_division(source, copy, tmp_path):
    path = tmp_path / "out.zarr.shardedstore/.shardedstore/job-1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "config": {}}))
    with pytest.raises(UsageError, match=r"does not have the job's division of the source.*level='exists'"):
        copy.verify()
    assert copy.verify(source).ok


def test_stores_that_have_no_location(zipped):
    with pytest.raises(ConfigError, match="MemoryStore, which has no location"):
        zipped.verify(to_memory(CUBE.contents()))


def test_a_source_that_is_not_there(zipped, tmp_path):
    with pytest.raises(PartitionError, match="nowhere does not exist"):
        zipped.verify(tmp_path / "nowhere")


def test_the_result_of_a_function(source, tmp_path, monkeypatch):
    monkeypatch.setenv(TARGET, str(tmp_path / "out"))
    result = source.map_shards(copied, to=tmp_path / "out")
    assert result.verify(level="exists").ok
    assert result.verify(source).ok
    with pytest.raises(UsageError, match=r"function of stores.*against=source"):
        result.verify()
    shutil.rmtree(tmp_path / "out/temperature/1/0")
    assert {d.shard for d in result.verify(level="exists").differences} == {SHARD}


# In an object store


@pytest.mark.few(1)
@pytest.mark.parametrize("chain", ["ToZip", "CopyTo", "CopyTo-shards"])
def test_a_result_in_an_object_store(chain, source, bucket):
    result = source.map_shards(*CHAINS[chain](f"{bucket.url}/a result"))
    assert result.verify(level="exists").ok
    assert result.verify(source, level="stored").ok
    assert result.verify(source).ok
    keys = [found["path"] for batch in bucket.client.list() for found in batch]
    bucket.client.delete(min(key for key in keys if re.search(r"/temperature/(c/|0/0[.]zarr(/c/|[.]zip))", key)))
    for report in (result.verify(level="exists"), result.verify(source)):
        assert kinds(report) <= {"missing", "size"}
        assert not report.ok
