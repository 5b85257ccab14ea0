"""The ledger: jobs resume, and destinations with other files are not changed."""

import json
import os
import shutil
from pathlib import Path

import dask
import pytest
import zarr
from conformance import check_same_contents
from helpers_jobs import CUBE, CUBE_SHARDS, Seen, Slow, blocks_at, cube_at, division, files_of, ledger_at
from sources import SOURCES

from shardedstore import DestinationError, ShardedStore, ShardsFailed, step
from shardedstore.fields import FILE_NAME
from shardedstore.jobs import shards
from shardedstore.jobs.ledger import FOLDER, Ledger, Record
from shardedstore.jobs.manifest import JobManifest, read_manifest, versioned
from shardedstore.jobs.open_destination import check_destination, open_destination
from shardedstore.storage.folders import open_folder
from shardedstore.stores.locations import Directory
from shardedstore.transforms import ToZip


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def source(tmp_path):
    return cube_at(tmp_path / "source.zarr")


# Records


def record(number, digest="d", location=None):
    return Record(3, 99, digest, location, shard=number)


def write(ledger, segment, *records):
    with ledger.writer(segment) as append:
        for one in records:
            append(one)


def ledger_files(folder):
    return sorted(path for path in (Path(folder) / FOLDER / "ledger").rglob("*") if path.is_file())


def test_records_are_read_again(tmp_path):
    ledger = Ledger(open_folder(str(tmp_path)), 1)
    placed = record(7, location=Directory("/data/a"))
    write(ledger, 0, record(5), placed)
    write(ledger, 1, record(300))
    assert ledger.read() == {5: record(5), 7: placed, 300: record(300)}
    assert ledger.read_segment(0) == {5: record(5), 7: placed}
    assert ledger.read_segment(1) == {300: record(300)}
    assert ledger.read_segment(2) == {}


def test_segments_of_like_numbers_are_kept_apart(tmp_path):
    ledger = Ledger(open_folder(str(tmp_path)), 1)
    for segment in 1, 11, 110:
        write(ledger, segment, record(segment))
    assert [list(ledger.read_segment(segment)) for segment in (1, 11, 110)] == [[1], [11], [110]]


def test_records_of_several_attempts_are_merged(tmp_path):
    ledger = Ledger(open_folder(str(tmp_path)), 1)
    for number in range(4):
        write(ledger, 0, record(number))
    assert set(ledger.read_segment(0)) == set(range(4))
    assert len(ledger_files(tmp_path)) == 4


def test_of_two_records_of_one_shard_the_later_holds(tmp_path):
    ledger = Ledger(open_folder(str(tmp_path)), 1)
    for digest in "abcdefgh":
        write(ledger, 0, record(5, digest))
        assert ledger.read() == ledger.read_segment(0) == {5: record(5, digest)}


def test_two_attempts_at_once_do_not_disturb_each_other(tmp_path):
    ledger = Ledger(open_folder(str(tmp_path)), 1)
    with ledger.writer(0) as one, ledger.writer(0) as other:
        for number in range(0, 100, 2):
            one(record(number))
            other(record(number + 1))
    assert set(ledger.read_segment(0)) == set(range(100))


@pytest.mark.parametrize(
    "torn", [b"", b"{", b'{"shard":2,"entries":3,"nbytes":99,"digest":"d"}', b"\0\0\0\0", b"\xff\xfe"]
)
def test_a_torn_last_line_is_passed_over(tmp_path, torn):
    ledger = Ledger(open_folder(str(tmp_path)), 1)
    write(ledger, 0, record(1))
    (file,) = ledger_files(tmp_path)
    file.write_bytes(file.read_bytes() + torn)
    assert ledger.read_segment(0) == {1: record(1)}
    assert ledger.read() == {1: record(1)}


@pytest.mark.parametrize("bad", [b"{", b"[]", b'{"shard":"x"}', b"\0\0\0\0", b"\xff\xfe", b""])
def test_a_damaged_line_is_passed_over(tmp_path, bad):
    ledger = Ledger(open_folder(str(tmp_path)), 1)
    write(ledger, 0, record(1))
    (file,) = ledger_files(tmp_path)
    good = file.read_bytes()
    file.write_bytes(good + bad + b"\n" + good.replace(b'"shard":1', b'"shard":2'))
    assert set(ledger.read_segment(0)) == {1, 2}


def test_an_attempt_that_does_nothing_leaves_no_file(tmp_path):
    write(Ledger(open_folder(str(tmp_path)), 1), 0)
    assert ledger_files(tmp_path) == []


def test_records_are_kept_when_the_attempt_ends_with_an_error(tmp_path):
    ledger = Ledger(open_folder(str(tmp_path)), 1)

    def stop():
        with ledger.writer(0) as append:
            append(record(1))
            raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        stop()
    assert ledger.read_segment(0) == {1: record(1)}


def test_a_record_is_in_the_file_at_once(tmp_path):
    """When the process is killed, only the current shard is lost."""
    ledger = Ledger(open_folder(str(tmp_path)), 1)
    with ledger.writer(0) as append:
        append(record(1))
        assert ledger.read_segment(0) == {1: record(1)}


def test_a_record_that_is_no_text_is_passed_over(tmp_path):
    ledger = Ledger(open_folder(str(tmp_path)), 1)
    write(ledger, 0, record(1), record(2))
    (file,) = ledger_files(tmp_path)
    file.write_bytes(file.read_bytes().replace(b'"digest":"', b'"digest":"\xff', 1))
    assert ledger.read() == {2: record(2)}


def test_generations_are_kept_apart(tmp_path):
    write(Ledger(open_folder(str(tmp_path)), 1), 0, record(1))
    assert Ledger(open_folder(str(tmp_path)), 2).read() == {}


def test_many_shards_need_few_files(tmp_path):
    blocks_at(tmp_path / "source.zarr", 600).map_shards(ToZip(tmp_path / "out"))
    assert len(list((tmp_path / "out" / "a").iterdir())) == 600
    assert len(ledger_files(tmp_path / "out")) <= 601 // shards.MOST_SHARDS + 1
    assert len(ledger_at(tmp_path / "out").read()) == 601


@pytest.mark.parametrize(
    ("name", "generation", "expected"),
    [
        ("a/0.zarr.zip", 1, "a/0.zarr.zip"),
        ("a/0.zarr.zip", 2, "a/0~2.zarr.zip"),
        ("a.b/0", 3, "a.b/0~3"),
        ("__consolidated__.zarr", 2, "__consolidated__~2.zarr"),
    ],
)
def test_objects_of_a_later_generation_have_other_names(name, generation, expected):
    assert versioned(name, generation) == expected


# Resuming


def states(folder):
    found = {path: path.stat() for path in folder.rglob("*") if path.name.endswith(".zip")}
    return {path: (stat.st_mtime_ns, stat.st_ino, stat.st_size) for path, stat in found.items()}


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"progress": lambda *counts: None}])
def test_a_job_that_is_done_is_done(source, tmp_path, options):
    division(source).map_shards(ToZip(tmp_path / "out"))
    before, files = states(tmp_path / "out"), files_of(tmp_path / "out")
    again = division(source).map_shards(Seen(str(tmp_path / "no")), ToZip(tmp_path / "other"))
    assert again.summary.skipped == 0
    again = division(source).map_shards(ToZip(tmp_path / "out"), **options)
    assert (again.summary.done, again.summary.skipped, again.summary.nbytes) == (0, CUBE_SHARDS, 0)
    assert states(tmp_path / "out") == before
    assert files_of(tmp_path / "out") == files
    check_same_contents(again, CUBE.contents())


def test_a_job_goes_on_lazily(source, tmp_path):
    division(source).map_shards(ToZip(tmp_path / "out"))
    again = division(source).map_shards(ToZip(tmp_path / "out"), compute=False).compute()
    assert (again.summary.done, again.summary.skipped) == (0, CUBE_SHARDS)


def test_a_result_that_was_moved_is_continued(source, tmp_path):
    division(source).map_shards(ToZip(tmp_path / "out"))
    (tmp_path / "out").rename(tmp_path / "moved")
    again = division(source).map_shards(ToZip(tmp_path / "moved"))
    assert (again.summary.done, again.summary.skipped) == (0, CUBE_SHARDS)


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 50), lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("compute", [True, False])
def test_an_output_that_is_lost_is_made_again(source, tmp_path, damage, compute):
    division(source).map_shards(ToZip(tmp_path / "out"))
    files = files_of(tmp_path / "out")
    for name in "temperature/1/2.zarr.zip", "__base__.zarr.zip":
        damage(tmp_path / "out" / name)
    again = division(source).map_shards(ToZip(tmp_path / "out"), compute=compute)
    again = again if compute else again.compute()
    assert (again.summary.done, again.summary.skipped) == (2, CUBE_SHARDS - 2)
    assert files_of(tmp_path / "out") == files


def test_a_config_that_is_lost_is_written_again(source, tmp_path):
    division(source).map_shards(ToZip(tmp_path / "out"))
    files = files_of(tmp_path / "out")
    (tmp_path / "out" / FILE_NAME).unlink()
    division(source).map_shards(ToZip(tmp_path / "out"))
    assert files_of(tmp_path / "out") == files


def test_an_output_that_vanishes_during_the_job_is_no_success(source, tmp_path):
    """The config is written only when each output exists at the place in its record."""
    lost = tmp_path / "out" / "height" / "0.zarr.zip"

    def remove(ended, total):
        if ended == total:
            lost.unlink()

    with pytest.raises(ShardsFailed, match=f"1 of {CUBE_SHARDS} shards failed") as caught:
        division(source).map_shards(ToZip(tmp_path / "out"), progress=remove)
    (error,) = caught.value.exceptions
    assert error.shard == "height[0]"
    assert "the written object is missing" in error.cause
    assert not (tmp_path / "out" / FILE_NAME).exists()


def test_a_ledger_that_can_not_be_written_is_a_failure_of_its_shards(source, tmp_path):
    (tmp_path / "out" / FOLDER).mkdir(parents=True)
    manifest = tmp_path / "first"
    division(source).map_shards(ToZip(manifest))
    shutil.copy(manifest / FOLDER / "job-1.json", tmp_path / "out" / FOLDER / "job-1.json")
    (tmp_path / "out" / FOLDER / "ledger").write_bytes(b"a file, where a folder should be")
    with pytest.raises((ShardsFailed, DestinationError), match=r"shards failed|can't be"):
        division(source).map_shards(ToZip(tmp_path / "out"))
    assert not (tmp_path / "out" / FILE_NAME).exists()


# A destination with other files


def other_files(source, out):
    out.mkdir()
    (out / "notes.txt").write_bytes(b"mine")
    (out / "temperature").mkdir()
    (out / "temperature" / "0.zarr.zip").write_bytes(b"mine")
    return division(source), ()


def other_chain(source, out):
    division(source).map_shards(Slow(0), ToZip(out))
    return division(source), ()


def other_options(source, out):
    division(source).map_shards(ToZip(out, zip64=True))
    return division(source), ()


def other_division(source, out):
    ShardedStore.partition(source, {"temperature": (4, -1, -1)}).map_shards(ToZip(out))
    return division(source), ()


def other_source(source, out):
    path = cube_at(source.parent / "other.zarr", SOURCES["cube-v2/"])
    division(path).map_shards(ToZip(out))
    return division(source), ()


def no_fingerprint(source, out):
    division(source).map_shards(step(lambda entries, shard: entries), ToZip(out))
    return division(source), (step(lambda entries, shard: entries),)


FOREIGN = {
    other_files: "holds files that no job of shardedstore wrote",
    other_chain: "holds the result of another chain of transforms",
    other_options: "holds the result of another chain of transforms",
    other_division: "holds the result of another source, of another division of this source, or of this source before it changed",
    other_source: "holds the result of another source",
    no_fingerprint: "this chain has no stable fingerprint, so it can't continue that job",
}


@pytest.mark.parametrize("make", FOREIGN)
@pytest.mark.parametrize("compute", [True, False])
def test_what_is_foreign_is_refused(source, tmp_path, make, compute):
    store, steps = make(source, tmp_path / "out")
    before = files_of(tmp_path / "out")
    with pytest.raises(DestinationError, match=f"{FOREIGN[make]}.*: name another destination, or set overwrite=True"):
        store.map_shards(*steps, ToZip(tmp_path / "out"), compute=compute)
    assert files_of(tmp_path / "out") == before


@pytest.mark.parametrize("make", FOREIGN)
def test_what_is_foreign_stays_beside_the_new(source, tmp_path, make):
    out = tmp_path / "out"
    store, steps = make(source, out)
    before = files_of(out)
    old_config = before.pop(FILE_NAME, None)
    result = store.map_shards(*steps, ToZip(out), overwrite=True)
    after = files_of(out)
    assert {name: after[name] for name in before} == before
    new = after.keys() - before.keys() - {FILE_NAME}
    assert len(new) == CUBE_SHARDS
    assert all("~2" in name for name in new)
    expected = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    check_same_contents(ShardedStore.load(out), expected)
    assert result.summary.done == CUBE_SHARDS
    if old_config is not None:
        (out / "old.json").write_bytes(old_config)
        old = ShardedStore.load(out / "old.json")
        assert zarr.open_group(old, mode="r")["temperature"][:].shape == (7, 5, 4)


def test_until_the_end_the_old_config_is_the_one(source, tmp_path):
    out = tmp_path / "out"
    division(source).map_shards(Slow(0), ToZip(out))
    old = (out / FILE_NAME).read_bytes()
    configs = []
    division(source).map_shards(
        ToZip(out), overwrite=True, progress=lambda *counts: configs.append((out / FILE_NAME).read_bytes())
    )
    assert set(configs) == {old}
    assert (out / FILE_NAME).read_bytes() != old


def test_a_job_beside_another_is_continued(source, tmp_path):
    division(source).map_shards(Slow(0), ToZip(tmp_path / "out"))
    division(source).map_shards(ToZip(tmp_path / "out"), overwrite=True)
    again = division(source).map_shards(ToZip(tmp_path / "out"))
    assert (again.summary.done, again.summary.skipped) == (0, CUBE_SHARDS)


def test_each_job_beside_others_has_a_generation(source, tmp_path):
    out = tmp_path / "out"
    for seconds in 0, 0.0001, 0.0002:
        division(source).map_shards(Slow(seconds), ToZip(out), overwrite=True)
    names = set(files_of(out))
    assert {"__base__.zarr.zip", "__base__~2.zarr.zip", "__base__~3.zarr.zip"} <= names
    assert len(names) == 3 * CUBE_SHARDS + 1


def test_the_names_of_another_generation_are_not_taken_again(source, tmp_path):
    """A result that was copied without its ledger looks like foreign files, but its config must still open."""
    out, copy = tmp_path / "out", tmp_path / "copy"
    division(source).map_shards(ToZip(out))
    division(source).map_shards(ToZip(out, zip64=True), overwrite=True)
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns(FOLDER))
    before = files_of(copy)
    division(source).map_shards(ToZip(copy), overwrite=True)
    after = files_of(copy)
    assert {name: after[name] for name in before if name != FILE_NAME} == {
        name: data for name, data in before.items() if name != FILE_NAME
    }
    assert "__base__~3.zarr.zip" in after


def test_a_shard_whose_name_looks_like_a_generation_is_not_overwritten(tmp_path):
    """The first job has a shard "a~2", and the second job would name its shard "a" like this."""
    for name in "a~2", "a":
        root = zarr.create_group(tmp_path / f"{name}.zarr")
        root.create_group(name, attributes={"name": name})
    out = tmp_path / "out"
    ShardedStore.partition(tmp_path / "a~2.zarr", ["a~2"]).map_shards(ToZip(out))
    before = (out / "a~2.zarr.zip").read_bytes()
    ShardedStore.partition(tmp_path / "a.zarr", ["a"]).map_shards(ToZip(out), overwrite=True)
    assert (out / "a~2.zarr.zip").read_bytes() == before


# A destination that can't be used


def test_a_file_in_the_way_is_refused(source, tmp_path):
    (tmp_path / "out").write_bytes(b"mine")
    for compute in True, False:
        with pytest.raises(DestinationError, match=r"the destination .*out' can't be used: .*Not a directory"):
            division(source).map_shards(ToZip(tmp_path / "out"), compute=compute, overwrite=True)
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_a_folder_that_can_not_be_made_is_refused(source, tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(DestinationError, match="can't be"):
        division(source).map_shards(ToZip(tmp_path / "file" / "out"))


def test_a_place_where_no_one_can_write_is_refused(source):
    """The system's own folder refuses root as well."""
    with pytest.raises(DestinationError, match=r"the destination '/proc/shardedstore' can't be written to"):
        division(source).map_shards(ToZip("/proc/shardedstore"))


def test_a_damaged_manifest_is_refused(source, tmp_path):
    division(source).map_shards(ToZip(tmp_path / "out"))
    (tmp_path / "out" / FOLDER / "job-1.json").write_bytes(b"{")
    with pytest.raises(DestinationError, match=r"job-1\.json' can't be read .*: name another destination"):
        division(source).map_shards(ToZip(tmp_path / "out"))


@pytest.mark.parametrize("inside", ["", "out", "temperature", "temperature/c/out", "./../source.zarr/out"])
def test_a_destination_in_the_source_is_refused(source, inside):
    with pytest.raises(DestinationError, match="is, or is inside, the source"):
        division(source).map_shards(ToZip(source / inside), overwrite=True)
    with pytest.raises(DestinationError, match="is, or is inside"):
        division(source).map_shards(ToZip(f"{source}/{inside}"), compute=False)


def test_links_into_the_source_are_seen_through(source, tmp_path):
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "source-link").symlink_to(source)
    for store, out in (
        (division(source), tmp_path / "link"),
        (division(source), tmp_path / "link" / "out"),
        (division(tmp_path / "source-link"), source / "out"),
    ):
        with pytest.raises(DestinationError, match="is, or is inside"):
            store.map_shards(ToZip(out), overwrite=True)


def test_a_destination_in_one_shard_of_the_source_is_refused(source, tmp_path):
    shutil.copytree(source / "temperature", tmp_path / "other.zarr")
    store = ShardedStore(source, {"more": tmp_path / "other.zarr"})
    with pytest.raises(DestinationError, match=r"is, or is inside, the source '.*other\.zarr'"):
        store.map_shards(ToZip(tmp_path / "other.zarr" / "out"))


def test_a_destination_that_is_the_folder_of_the_source_s_own_result_is_refused(source, tmp_path):
    first = division(source).map_shards(ToZip(tmp_path / "first"))
    before = files_of(tmp_path / "first")
    with pytest.raises(DestinationError, match="holds the result of another source"):
        first.map_shards(ToZip(tmp_path / "first"))
    assert files_of(tmp_path / "first") == before


def test_shards_are_not_written_into_a_source_that_lies_in_the_destination(tmp_path):
    """The shard "data" of the source "data" would go to "data/0~2.zarr.zip", beside the source's own files."""
    root = zarr.create_group(tmp_path / "data")
    root.create_array("data", shape=(4,), chunks=(1,), dtype="i4")
    before = files_of(tmp_path)
    with pytest.raises(
        DestinationError, match=r"'data/\{block\}\.zarr\.zip' of the destination .* lies inside the source"
    ):
        ShardedStore.partition(tmp_path / "data", {"data": (2,)}).map_shards(ToZip(tmp_path), overwrite=True)
    assert files_of(tmp_path) == before


# JobManifest


def test_nothing_is_written_by_a_check(tmp_path):
    wanted = JobManifest("s", "c")
    assert check_destination(open_folder(str(tmp_path / "out")), wanted, False) is None
    assert not (tmp_path / "out").exists()


def test_opening_twice_is_opening_once(tmp_path):
    """The task that opens the destination may run twice, also if other files are there."""
    (tmp_path / "notes.txt").touch()
    wanted = JobManifest("s", "c")
    first = open_destination(open_folder(str(tmp_path)), wanted, True)
    assert open_destination(open_folder(str(tmp_path)), wanted, True) == first
    assert read_manifest(open_folder(str(tmp_path))) == JobManifest("s", "c", 2, nonce=first.nonce)


def test_the_manifest_is_json(source, tmp_path):
    division(source).map_shards(ToZip(tmp_path / "out"))
    document = json.loads((tmp_path / "out" / FOLDER / "job-1.json").read_bytes())
    assert document["generation"] == 1
    assert len(document["source"]) == len(document["chain"]) == 64
