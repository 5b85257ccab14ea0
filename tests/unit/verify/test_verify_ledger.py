"""`verify` with the ledger only: decoded data without a source, resuming after an interruption, and marks."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from helpers_jobs import TARGET, copied, ledger_at
from sources import SOURCES, to_folder

from shardedstore import ChainError, DestinationError, Guards, ShardedStore, ShardsFailed, UsageError, cli
from shardedstore.jobs.layouts.shard_folder import ShardFolder
from shardedstore.jobs.manifest import JobManifest
from shardedstore.jobs.open_destination import claim
from shardedstore.storage.blobs import open_blob
from shardedstore.storage.folders import open_folder
from shardedstore.storage.retry import Backoff
from shardedstore.transforms import CopyTo, MapBlocks, MapChunks, Recompress, ToZip
from shardedstore.verify import journal, verify
from tests.unit.verify.test_verify import (
    CASES,
    CHAINS,
    CHUNK,
    CUBE,
    SHARD,
    ZIP,
    flip,
    kinds,
    offset,
    one_process,
    only,
    opposite,
    rewrite,
)

__all__ = ["one_process"]  # a fixture for every test here

MORE: dict[str, Callable[[Path], list]] = {
    **CHAINS,
    "MapChunks": lambda out: [MapChunks(opposite, arrays="wind_*"), ToZip(out)],
    "MapBlocks": lambda out: [MapBlocks(opposite, arrays="wind_*"), CopyTo(out)],
    "MapBlocks-halved": lambda out: [MapBlocks(halved, shape={"time": 2}, arrays="temperature"), ToZip(out)],
    "MapBlocks-halved-CopyTo": lambda out: [MapBlocks(halved, shape={"time": 2}, arrays="temperature"), CopyTo(out)],
}


def halved(block, position):
    return block[::2]


def digested(name: str, chain: str, tmp_path: Path) -> ShardedStore:
    made_from = SOURCES[name]
    folder, rules, include = to_folder(made_from.contents(), tmp_path / "source.zarr"), made_from.shards, None
    if "halved" in chain:  # no other array has this dimension
        rules, include = {"temperature": rules["temperature"]}, "temperature"
    source = ShardedStore.partition(folder, rules, include=include)
    return source.map_shards(*MORE[chain](tmp_path / "out"), digest=True)


@pytest.fixture
def source(tmp_path) -> ShardedStore:
    return ShardedStore.partition(to_folder(CUBE.contents(), tmp_path / "source.zarr"), CUBE.shards)


@pytest.fixture
def zipped(source, tmp_path) -> ShardedStore:
    return source.map_shards(ToZip(tmp_path / "out"), digest=True)


def records(folder: Path) -> dict:
    return ledger_at(folder).read()


# Decoded data, without the source


@pytest.mark.parametrize(("name", "chain"), [*CASES, ("cube-v3/", "MapChunks"), ("cube-v2.", "MapBlocks")])
@pytest.mark.few(14)
def test_what_was_written_is_there(name, chain, tmp_path):
    result = digested(name, chain, tmp_path)
    shutil.rmtree(tmp_path / "source.zarr")
    report = result.verify(level="decoded")
    assert report.ok, str(report)
    assert report.is_recorded
    assert report.arrays > 0
    assert str(report).endswith("by their decoded data and the ledger's record of them")


@pytest.mark.parametrize("name", ["cube-v3/", "cube-v2.", "sharding-codec", "types-v2", "types-v3"])
def test_the_sums_of_all_records_are_the_digests_of_the_arrays(name, tmp_path):
    """Digests of written data equal those of the data read from the result."""
    result = digested(name, "ToZip", tmp_path)
    totals: dict[str, list[int]] = {}
    for record in records(tmp_path / "out").values():
        for path, found in record.digests.items():
            total = totals.setdefault(path, [0, 0])
            total[0] = (total[0] + int(found.value, 16)) % 2**256
            total[1] += found.stored
    assert {path: f"1:{total[0]:064x}" for path, total in totals.items()} == result.verify(
        tmp_path / "source.zarr"
    ).digests
    assert any(stored for _, stored in totals.values())


def test_a_regridded_result(tmp_path):
    result = digested("cube-v3/", "MapBlocks-halved", tmp_path)
    assert result.verify(level="decoded").ok
    assert result.verify().ok


def test_a_regridded_zarr_whose_division_is_not_known(tmp_path):
    result = digested("cube-v3/", "MapBlocks-halved-CopyTo", tmp_path)
    try:
        report = result.verify()
    except UsageError as error:
        assert "a step changed their shape" in str(error)  # noqa: PT017 (either is right, but no false alarm)
    else:
        assert report.ok, str(report)


def test_a_changed_chunk_whose_checksum_agrees(zipped, tmp_path):
    rewrite(tmp_path / ZIP, lambda members: members.update({CHUNK: members["c/0/0/0"]}))
    found = [d for d in zipped.verify(level="decoded").differences if d.kind != "size"]
    assert all((d.kind, d.shard, d.array) == ("data", SHARD, "temperature") for d in found)
    assert not zipped.verify(level="decoded").ok


def test_a_chunk_that_can_not_be_decoded_is_named(source, tmp_path):
    result = source.map_shards(CopyTo(tmp_path / "out.zarr"), digest=True)
    path = tmp_path / "out.zarr/temperature/c/2/0/1"
    path.write_bytes(b"\0" * path.stat().st_size)
    found = only(result.verify(level="decoded"))
    assert (found.kind, found.shard, found.array, found.key) == (
        "damaged",
        SHARD,
        "temperature",
        "temperature/c/2/0/1",
    )
    assert "chunk (2, 0, 1) of 'temperature'" in found.what


def test_chunks_that_changed_places(source, tmp_path):
    result = source.map_shards(Recompress(None), CopyTo(tmp_path / "out.zarr"), digest=True)
    one, other = (tmp_path / f"out.zarr/temperature/c/2/0/{i}" for i in range(2))
    data = one.read_bytes(), other.read_bytes()
    one.write_bytes(data[1])
    other.write_bytes(data[0])
    assert result.verify(level="exists").ok
    found = only(result.verify(level="decoded"))
    assert (found.kind, found.shard, found.array) == ("data", SHARD, "temperature")
    assert "holds data in its 4 chunks that differ from the written data" in found.what


def test_a_shape_that_was_changed(source, tmp_path):
    result = source.map_shards(CopyTo(tmp_path / "out.zarr"), digest=True)
    path = tmp_path / "out.zarr/simulation/fine/field/zarr.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "fill_value": 7}))
    found = [d for d in result.verify(level="decoded").differences if d.kind == "layout"]
    assert [(d.shard, d.array) for d in found] == [("simulation/fine", "simulation/fine/field")]


def test_other_codecs_and_chunks_of_fill_values_are_no_difference(tmp_path):
    """Values are compared: other bytes with equal values are found equal."""
    root = zarr.create_group(tmp_path / "source.zarr")
    data = np.zeros((4, 4), "i4")
    data[0, 0] = 1
    root.create_array("a", data=data, chunks=(2, 2), config={"write_empty_chunks": True})
    result = ShardedStore.partition(tmp_path / "source.zarr", ["a"]).map_shards(CopyTo(tmp_path / "out"), digest=True)
    zarr.open_group(tmp_path / "out").create_array("a", data=data, chunks=(2, 2), overwrite=True, compressors=None)
    assert result.verify(level="decoded").ok
    assert result.verify().damaged_shards == ("a",)


def test_records_without_digests_are_reported(source, tmp_path):
    source.map_shards(ToZip(tmp_path / "out"))
    ledger_at(tmp_path / "out").mark(frozenset({3}))
    result = source.map_shards(ToZip(tmp_path / "out"), digest=True)
    with pytest.raises(UsageError, match=r"of 23 of 24 shards.*digest=True"):
        result.verify(level="decoded")


def test_a_source_that_can_not_be_decoded_fails_its_shard(tmp_path):
    folder = to_folder(CUBE.contents(), tmp_path / "source.zarr")
    (folder / "temperature/c/2/0/1").write_bytes(b"rubbish")
    source = ShardedStore.partition(folder, CUBE.shards)
    with pytest.raises(ShardsFailed) as caught:
        source.map_shards(ToZip(tmp_path / "out"), digest=True)
    (error,) = caught.value.exceptions
    assert error.shard == SHARD
    assert "can't be decoded" in error.cause


def test_the_bytes_are_the_same_and_so_is_the_job(source, tmp_path):
    one, other = (source.map_shards(ToZip(tmp_path / str(i)), digest=bool(i)) for i in range(2))
    assert [r.digest for r in records(tmp_path / "0").values()] == [r.digest for r in records(tmp_path / "1").values()]
    assert source.map_shards(ToZip(tmp_path / "1")).summary.done == 0
    assert one.verify(other).ok


def test_a_function_of_stores_has_no_digests(source, tmp_path, monkeypatch):
    monkeypatch.setenv(TARGET, str(tmp_path / "out"))
    with pytest.raises(ChainError, match="digest= is for a chain that ends in a sink"):
        source.map_shards(copied, to=tmp_path / "out", digest=True)


def test_an_array_that_has_grown(tmp_path):
    """Reused blocks were digested with the old shape of the array."""
    root = zarr.create_group(tmp_path / "source.zarr")
    array = root.create_array("a", shape=(8,), dtype="i4", chunks=(2,), dimension_names=("x",))
    array[:] = np.arange(1, 9)

    def job() -> ShardedStore:
        return ShardedStore.partition(tmp_path / "source.zarr", {"a": {"x": 4}}).map_shards(
            ToZip(tmp_path / "out"), digest=True
        )

    job()
    array.resize((14,))
    array[8:] = np.arange(1, 7)
    result = job()
    assert result.summary.skipped >= 1
    shapes = {r.digests["a"].shape for r in ledger_at(tmp_path / "out", 2).read().values()}
    assert shapes == {(8,), (14,)}
    for level in ("exists", "stored", "decoded"):
        report = ShardedStore.load(tmp_path / "out").verify(level=level)
        assert report.ok, str(report)


# Resuming after an interruption


WORK = {name: getattr(verify, name) for name in ("check_stored", "take")}


class Interrupted(BaseException):
    """An exception that ends a process like KeyboardInterrupt, which pytest handles itself."""


class Interrupts:
    """Ends a verify after some tasks."""

    def __init__(self, monkeypatch, name: str, after: int) -> None:
        self.work, self.after, self.seen = WORK[name], after, 0
        monkeypatch.setattr(verify, name, self)

    def __call__(self, task):
        if self.seen == self.after:
            raise Interrupted
        self.seen += 1
        return self.work(task)


@pytest.fixture
def small_tasks(monkeypatch):
    monkeypatch.setattr("shardedstore.jobs.shards.LEAST_WEIGHT", 1)


WAYS = [("stored", "check_stored"), ("decoded", "check_stored"), ("against", "take")]


def verified(result: ShardedStore, way: str, tmp_path: Path, **options):
    if way == "against":
        return result.verify(ShardedStore.partition(tmp_path / "source.zarr", CUBE.shards), **options)
    return result.verify(level=way, **options)


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("chain", ["ToZip", "CopyTo"])
@pytest.mark.parametrize(("way", "work"), WAYS)
def test_it_goes_on(way, work, chain, tmp_path, monkeypatch):
    result = digested("cube-v3/", chain, tmp_path)
    whole = Interrupts(monkeypatch, work, -1)
    expected = verified(result, way, tmp_path)
    first = Interrupts(monkeypatch, work, whole.seen // 2)
    with pytest.raises(Interrupted):
        verified(result, way, tmp_path)
    second = Interrupts(monkeypatch, work, -1)
    gone_on = verified(result, way, tmp_path)
    assert msgspec.structs.replace(gone_on, notes=expected.notes) == expected
    assert any(re.search(r"\d+ tasks were done by an interrupted call that started 2", note) for note in gone_on.notes)
    assert (first.seen > 5, first.seen + second.seen) == (True, whole.seen)
    third = Interrupts(monkeypatch, work, -1)
    assert verified(result, way, tmp_path) == expected
    assert third.seen == whole.seen  # the previous one had ended, so this one started again


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize(("way", "work"), WAYS)
def test_what_differs_is_found_again(way, work, zipped, tmp_path, monkeypatch):
    """The result does not depend on whether a task ran before or after the interruption."""
    for shard in ("temperature/0/0", "wind_v/1/0/1"):
        path = next((tmp_path / "out").glob(f"{shard}*.zip"))
        flip(path, path.stat().st_size // 3)
    expected = verified(zipped, way, tmp_path)
    assert len(expected.damaged_shards) == 2
    whole = Interrupts(monkeypatch, work, -1)
    verified(zipped, way, tmp_path)
    Interrupts(monkeypatch, work, whole.seen * 2 // 3)
    with pytest.raises(Interrupted):
        verified(zipped, way, tmp_path)
    Interrupts(monkeypatch, work, -1)
    assert verified(zipped, way, tmp_path).differences == expected.differences


@pytest.mark.usefixtures("small_tasks")
def test_what_was_mended_meanwhile_is_right(zipped, tmp_path, monkeypatch):
    path = tmp_path / "out/height/0.zarr.zip"
    flip(path, path.stat().st_size // 3)
    Interrupts(monkeypatch, "check_stored", 20)
    with pytest.raises(Interrupted):
        zipped.verify()
    flip(path, path.stat().st_size // 3)
    seen = Interrupts(monkeypatch, "check_stored", -1)
    assert zipped.verify().ok
    assert seen.seen == 4 + 1


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("change", ["nothing", "level", "size", "records"])
def test_another_verify_does_not_go_on_from_it(change, zipped, tmp_path, monkeypatch):
    Interrupts(monkeypatch, "check_stored", 20)
    with pytest.raises(Interrupted):
        zipped.verify()
    if change == "size":
        rewrite(tmp_path / ZIP, lambda members: members.pop(CHUNK))
    elif change == "records":
        ledger_at(tmp_path / "out").mark(frozenset({23}))
    seen = Interrupts(monkeypatch, "check_stored", -1)
    zipped.verify(level="decoded" if change == "level" else "stored")
    assert seen.seen == (4 if change == "nothing" else 24)


@pytest.mark.usefixtures("small_tasks")
def test_what_was_found_long_ago_is_not_believed(zipped, tmp_path, monkeypatch):
    Interrupts(monkeypatch, "check_stored", 20)
    with pytest.raises(Interrupted):
        zipped.verify()
    monkeypatch.setattr(journal, "OLD", -1)
    seen = Interrupts(monkeypatch, "check_stored", -1)
    assert zipped.verify().notes == ()
    assert seen.seen == 24


@pytest.mark.usefixtures("small_tasks")
def test_a_folder_can_be_named(zipped, tmp_path, monkeypatch):
    before = set((tmp_path / "out").rglob("*"))
    for _ in range(2):
        seen = Interrupts(monkeypatch, "check_stored", 3)
        with pytest.raises(Interrupted):
            zipped.verify(resume=tmp_path / "notes")
        assert seen.seen == 3
        monkeypatch.setattr(verify, "check_stored", seen.work)
    (file,) = [path for path in (tmp_path / "notes").rglob("*.jsonl") if path.stat().st_size][:1]
    assert len(file.read_text().splitlines()) == 1 + 3  # the start time, and the findings
    assert zipped.verify(resume=tmp_path / "notes").ok
    assert not list((tmp_path / "notes").rglob("*.jsonl"))
    assert set((tmp_path / "out").rglob("*")) == before
    assert zipped.verify(resume=False).ok
    assert set((tmp_path / "out").rglob("*")) == before


def test_two_zarrs_go_on_in_a_folder_that_is_named(tmp_path, monkeypatch, small_tasks):
    old, new = (ShardedStore.partition(to_folder(CUBE.contents(), tmp_path / n), CUBE.shards) for n in ("a", "b"))
    first = Interrupts(monkeypatch, "take", 30)
    with pytest.raises(Interrupted):
        old.verify(new, resume=tmp_path / "notes")
    second = Interrupts(monkeypatch, "take", -1)
    assert old.verify(new, resume=tmp_path / "notes").ok
    assert first.seen + second.seen == 48


def test_a_result_that_can_not_be_written_to_is_verified(zipped, tmp_path):
    (tmp_path / "out/.shardedstore/verify").write_bytes(b"")  # a file in place of the folder
    report = zipped.verify()
    assert report.ok
    (note,) = report.notes
    assert "can't be stored in" in note
    assert "resume=" in note
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DestinationError, match=r"can't be stored in '.*file'.*name another folder as resume="):
        zipped.verify(resume=tmp_path / "file")


@pytest.mark.usefixtures("small_tasks")
def test_a_torn_line_is_passed_over(zipped, tmp_path, monkeypatch):
    first = Interrupts(monkeypatch, "check_stored", 9)
    with pytest.raises(Interrupted):
        zipped.verify()
    (file,) = (tmp_path / "out/.shardedstore/verify").iterdir()
    lines = file.read_bytes()
    file.write_bytes(b"rubbish\n" + lines[:-4])
    second = Interrupts(monkeypatch, "check_stored", -1)
    assert zipped.verify().ok
    assert first.seen + second.seen == 24 + 1


@pytest.mark.usefixtures("small_tasks")
def test_what_could_not_be_looked_at_is_no_damage(zipped, tmp_path, monkeypatch):
    """The network is down for a while: the next call continues with the remaining tasks."""
    monkeypatch.setattr("shardedstore.storage.retry.BACKOFF", Backoff(0))

    def fails(url, options):
        if url.endswith(ZIP):
            raise TimeoutError("no answer")
        return open_blob(url, options)

    monkeypatch.setattr("shardedstore.verify.stored.open_blob", fails)
    report = zipped.verify(mark=True)
    assert (only(report).kind, report.damaged_shards, report.marked) == ("unread", (), ())
    assert "verify again" in str(report)
    monkeypatch.setattr("shardedstore.verify.stored.open_blob", open_blob)
    seen = Interrupts(monkeypatch, "check_stored", -1)
    assert zipped.verify().ok
    assert seen.seen == 1


# Marks


@pytest.mark.parametrize("chain", ["CopyTo", "CopyTo-shards", "ToShardingCodec", "Recompress"])
@pytest.mark.parametrize("way", ["stored", "decoded", "against"])
@pytest.mark.few(5)
def test_marked_shards_are_made_again(way, chain, source, tmp_path):
    out = tmp_path / "out"
    result = source.map_shards(*CHAINS[chain](out), digest=True)
    paths = [path for path in out.rglob("*") if path.is_file() and ".shardedstore" not in path.parts]
    before = {path: path.read_bytes() for path in paths}
    place = out / (
        "temperature/1/0" if "shards" in chain else "temperature/c/1" if chain == "ToShardingCodec" else "temperature"
    )
    damaged = max(path for path in before if str(path).startswith(str(place)) and path.name != "zarr.json")
    flip(damaged, damaged.stat().st_size // 2)
    report = verified(result, way, tmp_path, mark=True)
    assert len(report.marked) == 1, str(report)
    assert report.marked[0].startswith("temperature[")
    summary = source.map_shards(*CHAINS[chain](out), digest=True).summary
    assert (summary.done, summary.skipped) == (1, 23)
    assert {path: path.read_bytes() for path in paths} == before
    assert verified(result, way, tmp_path).ok


def test_what_is_missing_from_one_zarr_is_made_again(source, tmp_path):
    result = source.map_shards(CopyTo(tmp_path / "out.zarr"))
    (tmp_path / "out.zarr/temperature/c/2/0/1").unlink()
    (tmp_path / "out.zarr/simulation/fine/field/zarr.json").unlink()
    report = result.verify(mark=True)
    assert report.marked == (SHARD,)
    assert {d.key for d in report.differences} == {None, "simulation/fine/field/zarr.json"}
    assert source.map_shards(CopyTo(tmp_path / "out.zarr")).summary.done == 1
    assert result.verify().ok


def test_nothing_is_marked_where_nothing_differs(source, zipped):
    report = zipped.verify(mark=True)
    assert report.ok
    assert report.marked == ()
    assert zipped.verify(source, mark=True).marked == ()


def test_damage_in_the_source_marks_nothing(source, zipped, tmp_path):
    (tmp_path / "source.zarr/wind_u/c/1/0/1").write_bytes(b"rubbish")
    report = zipped.verify(source, mark=True)
    assert (only(report).is_of_source, report.marked) == (True, ())
    assert "repair it, or compare with another copy" in str(report)


def test_marks_need_a_ledger(source):
    with pytest.raises(UsageError, match="no ledger of the job"):
        source.verify(source, mark=True)


def test_the_command_marks_and_converts_again(zipped, tmp_path):
    path = tmp_path / ZIP
    flip(path, offset(path, CHUNK) + 3)

    def command(*arguments):
        return CliRunner().invoke(cli.main, ["verify", str(tmp_path / "out"), *arguments])

    assert command("--no-resume").exit_code == 1
    done = command("--mark", "--resume", str(tmp_path / "notes"))
    assert done.exit_code == 1
    assert "marked: 1 shard: run the same command again to make only these again" in done.stdout
    again = command()
    assert f"{SHARD}: the ledger has no record of it" in again.stdout


# In an object store


@pytest.mark.few(1)
@pytest.mark.parametrize("chain", ["ToZip", "CopyTo", "CopyTo-shards"])
def test_in_an_object_store(chain, source, bucket, tmp_path, monkeypatch, small_tasks):
    result = source.map_shards(*CHAINS[chain](f"{bucket.url}/a result"), digest=True)
    first = Interrupts(monkeypatch, "check_stored", 9)
    with pytest.raises(Interrupted):
        result.verify(level="decoded")
    second = Interrupts(monkeypatch, "check_stored", -1)
    assert result.verify(level="decoded").ok
    assert first.seen + second.seen == 24
    keys = [found["path"] for batch in bucket.client.list() for found in batch]
    assert not [key for key in keys if "/verify/" in key]
    victim = next(
        key for key in keys if key.endswith(("temperature/c/2/0/1", "temperature/1/0.zarr.zip", f"1/0.zarr/{CHUNK}"))
    )
    data = bytearray(bytes(bucket.client.get(victim).bytes()))
    data[len(data) // 3] ^= 1
    bucket.client.put(victim, bytes(data))
    for level in ("stored", "decoded"):
        assert result.verify(level=level).damaged_shards == (SHARD,)
    assert result.verify(level="stored", mark=True).marked == (SHARD,)
    assert source.map_shards(*CHAINS[chain](f"{bucket.url}/a result"), digest=True).summary.done == 1
    assert result.verify(level="decoded").ok
    assert kinds(result.verify()) == set()


def test_a_later_job_that_had_nothing_to_make_numbers_the_shards_anew(tmp_path):
    """Its ledger is valid, although no object has its name."""
    for i, name in enumerate("abcd"):
        zarr.create_array(tmp_path / f"in/{name}.zarr", data=np.arange(10**i))
    sink, pattern = ToZip(tmp_path / "out"), str(tmp_path / "in/*.zarr")
    ShardedStore.collect(pattern).map_shards(sink)
    shutil.rmtree(tmp_path / "in/b.zarr")
    result = ShardedStore.collect(pattern).map_shards(sink, guards=Guards(disappear=False))
    assert "~2" not in (tmp_path / "out/shardedstore.json").read_text()
    assert result.summary.done == 0
    assert result.verify().ok


def test_what_a_job_took_over_meanwhile_is_not_marked(source, tmp_path, monkeypatch):
    result = source.map_shards(ToZip(tmp_path / "out"))
    rewrite(tmp_path / ZIP, lambda members: members.pop(CHUNK))

    def slow(*arguments):
        if not (tmp_path / "out/.shardedstore/job-2.json").exists():
            claim(open_folder(str(tmp_path / "out")), JobManifest("later", ""), 1)
        return as_made(*arguments)

    as_made = ShardFolder.as_made
    monkeypatch.setattr(ShardFolder, "as_made", slow)
    report = result.verify(mark=True)
    assert not report.marked
    assert any("could not be marked" in note and "a later job" in note for note in report.notes)


def test_to_go_on_and_not_to_exclude_each_other(source, tmp_path):
    source.map_shards(ToZip(tmp_path / "out"))
    arguments = ["verify", str(tmp_path / "out"), "--resume", str(tmp_path / "kept"), "--no-resume"]
    told = CliRunner().invoke(cli.main, arguments)
    assert told.exit_code == 2
    assert "leave one out" in told.output
