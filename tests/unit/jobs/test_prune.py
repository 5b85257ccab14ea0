"""Pruning removes objects that no config names, and keeps files of unknown origin."""

import json
import os
import time

import dask
import pytest
import zarr
from click.testing import CliRunner
from helpers_jobs import Fail, blocks_at, unchanged

from shardedstore import ConfigError, DestinationError, ShardedStore, ShardsFailed, UsageError, step
from shardedstore.cli import main
from shardedstore.jobs.ledger import FOLDER
from shardedstore.jobs.lock import held
from shardedstore.jobs.manifest import ledger_of, read_generation
from shardedstore.storage.folders import open_folder
from shardedstore.storage.publish import TEMPORARY
from shardedstore.transforms import CopyTo, Recompress, ToZip


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def source(tmp_path):
    return blocks_at(tmp_path / "source.zarr", 3)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def names(place):
    """The files of a destination, without those of jobs and the documents that refuse readers of Zarr."""
    found = (name for name, _ in open_folder(str(place)).sizes())
    return {name for name in found if not name.startswith(f"{FOLDER}/")} - {"zarr.json", ".zgroup"}


def jobs(place):
    folder = open_folder(str(place))
    ledgers = (name.partition("-")[0] for name in folder.names(f"{FOLDER}/ledger"))
    return [*(name for name in folder.names(FOLDER) if name.startswith("job-")), *ledgers]


def changed(label):
    """A step that makes it another job."""
    return step(unchanged, name=label, version="1")


FIRST = {"__base__.zarr.zip", "a/0.zarr.zip", "a/1.zarr.zip", "a/2.zarr.zip"}
SECOND = {name.replace(".zarr", "~2.zarr") for name in FIRST}


def test_objects_that_a_later_job_took_the_place_of_are_removed(source, out):
    source.map_shards(ToZip(out))
    size = sum((out / name).stat().st_size for name in FIRST)
    source.map_shards(Recompress("zstd"), ToZip(out), overwrite=True)
    assert names(out) == FIRST | SECOND | {"shardedstore.json"}
    tried = ShardedStore.prune(out, dry_run=True)
    assert names(out) == FIRST | SECOND | {"shardedstore.json"}
    pruned = ShardedStore.prune(out)
    assert pruned == tried
    assert names(out) == SECOND | {"shardedstore.json"}
    assert pruned.names[:4] == sorted(FIRST)
    assert (pruned.kept, pruned.nbytes >= size) == ({}, True)
    assert jobs(out) == ["job-2.json", "2"]
    assert [path.name for path in (out / FOLDER).glob("lock-*")] == ["lock-3.json"]  # the lock of pruning itself
    assert ShardedStore.load(out).verify(source).ok
    assert ShardedStore.prune(out).names == []
    source.map_shards(changed("third"), ToZip(out), overwrite=True)
    assert jobs(out) == ["job-2.json", "job-3.json", "2", "3"]


def test_what_another_config_names_stays(source, out):
    source.map_shards(ToZip(out)).save(out / "before.json")
    source.map_shards(Recompress("zstd"), ToZip(out), overwrite=True)
    assert ShardedStore.prune(out).names == []
    assert ShardedStore.load(out / "before.json").verify(source).ok
    (out / "before.json").unlink()
    assert len(ShardedStore.prune(out).names) > len(FIRST)


@pytest.mark.parametrize("of", ["a view of", "inside"])
def test_what_another_config_names_by_a_sharded_store_in_it_stays(source, out, of):
    first = source.map_shards(ToZip(out))
    outer = ShardedStore.partition(first, {"a": (1,)}) if of == "a view of" else ShardedStore(first, {"g": first})
    outer.save(out / "other.json")
    source.map_shards(Recompress("zstd"), ToZip(out), overwrite=True)
    assert ShardedStore.prune(out).names == []
    assert ShardedStore.load(out / "other.json") == outer


def test_a_config_that_can_not_be_read_may_name_anything(source, out):
    source.map_shards(ToZip(out))
    source.map_shards(Recompress("zstd"), ToZip(out), overwrite=True)
    document = json.loads((out / "shardedstore.json").read_text())
    (out / "newer.json").write_text(json.dumps({**document, "version": 99}))
    with pytest.raises(ConfigError, match="version is 99"):
        ShardedStore.prune(out)
    (out / "newer.json").write_text(json.dumps(document)[:-9])
    with pytest.raises(ConfigError, match=r"'newer.json' may be a config, and can't be read: .*it is not JSON"):
        ShardedStore.prune(out)
    assert names(out) > FIRST
    (out / "newer.json").write_text('{"format": "other"}')
    (out / "text.json").write_text("not json")
    assert ShardedStore.prune(out).names


def test_what_a_job_that_has_not_ended_needs_stays(source, out):
    result = source.map_shards(ToZip(out))
    with pytest.raises(
        ShardsFailed
    ):  # its source is the first job's result, and the config in the folder is that of the first job
        result.map_shards(Fail("a[1]"), ToZip(out), overwrite=True)
    (out / "shardedstore.json").unlink()
    assert ShardedStore.prune(out).names == []
    assert names(out) == FIRST | SECOND - {"a/1~2.zarr.zip"}


def test_what_failed_and_was_given_up_is_removed(source, out):
    source.map_shards(ToZip(out))
    with pytest.raises(ShardsFailed):
        source.map_shards(Fail("a[1]"), ToZip(out), overwrite=True)
    (out / "a/1~2.zarr.zip").write_bytes(b"published, and killed before it was recorded")
    source.map_shards(changed("third"), ToZip(out), overwrite=True)
    ShardedStore.prune(out)
    assert names(out) == {name.replace(".zarr", "~3.zarr") for name in FIRST} | {"shardedstore.json"}


def test_files_of_others_stay(source, out, tmp_path):
    sink = CopyTo(out, layout="shards")
    source.map_shards(sink)
    source.map_shards(Recompress("zstd"), sink, overwrite=True)
    others = [out / "notes.txt", out / "a/0.txt", out / "a/1.zarr/c/notes.txt", out / "b~1/c~1.zarr.zip"]
    others += [out / FOLDER / "mine.txt", next((out / FOLDER).glob("ledger/1-*")) / "mine.txt"]
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    linked = elsewhere / "deep/zarr.json"
    for path in (*others, linked):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (out / "a/0.zarr/link").symlink_to(elsewhere)
    pruned = ShardedStore.prune(out)
    assert all(path.read_text() == "mine" for path in (*others, linked))
    assert not (out / "a/2.zarr").exists()
    assert not (out / "__base__.zarr").exists()
    assert (out / "a/1.zarr/zarr.json").exists()  # as a whole, it differs from the written bytes
    assert all(reason.endswith("has other files beside it") for reason in pruned.kept.values())
    assert {name.split("/")[1] for name in pruned.kept} == {"1.zarr"}
    assert ShardedStore.load(out).verify(source).ok


def test_a_file_that_took_the_place_of_ours_stays(source, out):
    source.map_shards(ToZip(out))
    source.map_shards(Recompress("zstd"), ToZip(out), overwrite=True)
    (out / "a/1.zarr.zip").write_bytes(b"mine")
    os.unlink(out / "a/2.zarr.zip")
    (out / "a/2.zarr.zip").symlink_to(out.parent / "source.zarr/zarr.json")
    pruned = ShardedStore.prune(out)
    assert (out / "a/1.zarr.zip").read_bytes() == b"mine"
    assert (out / "a/2.zarr.zip").is_symlink()
    assert pruned.kept == {"a/1.zarr.zip": "was changed after it was written, or has other files beside it"}
    assert "job-1.json" in jobs(out)


HOUR = 3600.0


def age(place, hours, of=""):
    """Set the modification times of all files, or of files with this prefix, to an earlier time."""
    at = time.time() - hours * HOUR
    for name, _ in open_folder(str(place)).sizes():
        if name.startswith(of):
            os.utime(place / name, (at, at))


def removed(out, hours):
    return {name for name in ShardedStore.prune(out, older_than=hours * HOUR).names if not name.startswith(FOLDER)}


def test_what_was_replaced_lately_stays_however_old_it_is(source, out):
    opened = source.map_shards(ToZip(out))
    age(out, 99)
    source.map_shards(Recompress("zstd"), ToZip(out), overwrite=True)
    pruned = ShardedStore.prune(out, older_than=HOUR)
    assert pruned.names == []
    assert pruned.kept == dict.fromkeys(sorted(FIRST), "was replaced recently")
    assert opened.verify(source).ok
    age(out, 2)
    assert removed(out, 1) == FIRST


def test_it_counts_from_when_the_result_was_replaced_and_not_from_later_results(source, out):
    for i, hours in enumerate((50, 30, 10)):
        source.map_shards(changed(f"{i}"), ToZip(out), overwrite=True)
        age(out / FOLDER, hours, f"job-{i + 1}")
        age(out / FOLDER, hours, f"ledger/{i + 1}-")
    age(out, 99, "a/")
    age(out, 99, "__base__")
    assert removed(out, 31) == set()
    assert removed(out, 29) == FIRST
    assert removed(out, 11) == set()
    assert removed(out, 9) == SECOND


def test_what_a_later_result_took_over_counts_from_when_that_was_replaced(source, out, tmp_path):
    source.map_shards(ToZip(out), changed="listing")
    zarr.open_array(tmp_path / "source.zarr/a", mode="r+")[:1] = 9
    source.map_shards(ToZip(out), changed="listing")
    taken = FIRST - {"a/0.zarr.zip"}
    assert not any((out / name.replace(".zarr", "~2.zarr")).exists() for name in taken)
    age(out, 99)
    source.map_shards(Recompress("zstd"), ToZip(out), overwrite=True)
    assert removed(out, 50) == {"a/0.zarr.zip"}
    assert removed(out, 0) == taken | {"a/0~2.zarr.zip"}


def test_what_a_job_left_that_died_counts_from_when_it_was_written_or_given_up(source, out):
    source.map_shards(ToZip(out))
    with pytest.raises(ShardsFailed):
        source.map_shards(Fail("a[1]"), ToZip(out), overwrite=True)
    (out / "a/1~2.zarr.zip").write_bytes(b"published, and killed before it was recorded")
    source.map_shards(changed("third"), ToZip(out), overwrite=True)
    age(out, 99)
    age(out, 0, "a/1~2")
    assert removed(out, 1) == (FIRST | SECOND) - {"a/1~2.zarr.zip"}
    age(out, 2)
    assert removed(out, 1) == {"a/1~2.zarr.zip"}


@pytest.mark.parametrize("of", ["shardedstore.json", f"{FOLDER}/job-2", f"{FOLDER}/ledger/2-"])
def test_of_times_that_disagree_the_latest_counts(source, out, of):
    source.map_shards(ToZip(out))
    source.map_shards(Recompress("zstd"), ToZip(out), overwrite=True)
    if of == "shardedstore.json":  # unknown with a ledger that could not be compacted
        for name in ledger_of(place := open_folder(str(out)), read_generation(place, 2)).compacted():
            os.rename(out / name, out / name.replace("compacted-", "0/0-").replace(".zst", ""))
    age(out, 99)
    age(out, 0, of)
    assert removed(out, 1) == set()
    age(out, -50, of)  # by a clock that was ahead
    assert (removed(out, 1), removed(out, 0)) == (set(), FIRST)


def test_the_files_of_the_last_results_stay_for_their_readers(source, out, tmp_path):
    opened = [source.map_shards(ToZip(out), changed="listing")]
    for number in (1, 2, 3):  # of each later result, two objects are new
        zarr.open_array(tmp_path / "source.zarr/a", mode="r+")[number - 1] = 9
        opened.append(source.map_shards(ToZip(out), changed="listing"))
    values = [zarr.open_array(one, path="a", mode="r")[:].tolist() for one in opened]
    pruned = ShardedStore.prune(out, keep_last=3)
    assert {name for name in pruned.names if not name.startswith(FOLDER)} == {"a/0.zarr.zip"}
    assert pruned.kept.keys() == {"a/1.zarr.zip", "a/2.zarr.zip"}
    assert set(pruned.kept.values()) == {"belongs to one of the last 3 results"}
    assert [zarr.open_array(one, path="a", mode="r")[:].tolist() for one in opened[1:]] == values[1:]
    assert {"job-2.json", "job-3.json", "job-4.json"} <= set(jobs(out))
    assert ShardedStore.prune(out, keep_last=3).names == []
    assert ShardedStore.prune(out, keep_last=2, older_than="1h").names == []
    assert removed(out, 0) == {"a/1.zarr.zip", "a/2.zarr.zip"}
    assert opened[-1].verify(source).ok


def test_a_job_that_did_not_end_is_no_result_to_keep(source, out):
    first = source.map_shards(ToZip(out))
    with pytest.raises(ShardsFailed):
        source.map_shards(Fail("a[1]"), ToZip(out), overwrite=True)
    source.map_shards(changed("third"), ToZip(out), overwrite=True)
    gone = {name for name in ShardedStore.prune(out, keep_last=2).names if not name.startswith(FOLDER)}
    assert gone == SECOND - {"a/1~2.zarr.zip"}
    assert first.verify(source).ok


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep_last": 0}, r"keep_last=0 is not a number of results: write 1 or more"),
        ({"keep_last": True}, r"keep_last=True is not a number of results"),
        ({"older_than": "7M"}, r"'7M' is not an age: write a number and one of the units"),
        ({"older_than": -1}, r"-1 is not an age"),
    ],
)
def test_a_retention_that_means_nothing_is_refused(source, out, given, message):
    source.map_shards(ToZip(out))
    with pytest.raises(UsageError, match=message):
        ShardedStore.prune(out, **given)


def test_the_command_reports_as_json(source, out):
    source.map_shards(ToZip(out))
    source.map_shards(Recompress("zstd"), ToZip(out), overwrite=True)
    run = CliRunner().invoke(main, ["prune", str(out), "--dry-run", "--keep-last", "2", "--json"])
    told = json.loads(run.stdout)
    assert (told["destination"], told["dry_run"], told["names"], told["nbytes"]) == (str(out), True, [], 0)
    assert told["kept"].keys() == FIRST
    run = CliRunner().invoke(main, ["prune", str(out), "--json"])
    assert {name for name in json.loads(run.stdout)["names"] if not name.startswith(FOLDER)} == FIRST


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        (
            "s3://bucket/my%20zips",
            {
                "Rules": [
                    {
                        "ID": "unfinished-uploads my zips/",
                        "Status": "Enabled",
                        "Filter": {"Prefix": "my zips/"},
                        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
                    }
                ]
            },
        ),
        (
            "gs://bucket",
            {"lifecycle": {"rule": [{"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 7}}]}},
        ),
    ],
)
def test_the_command_prints_a_rule_for_unfinished_uploads(url, rule):
    run = CliRunner().invoke(main, ["prune", url, "--upload-rule"])
    assert json.loads(run.stdout) == rule
    assert ShardedStore.upload_rule(url) == rule


@pytest.mark.parametrize("url", ["az://container/out", "/data/out"])
def test_other_places_need_no_rule_for_unfinished_uploads(url):
    run = CliRunner().invoke(main, ["prune", url, "--upload-rule"])
    assert (run.exit_code, run.stdout) == (0, "")
    assert "no rule is needed" in run.stderr


def test_what_was_replaced_lately_stays_in_an_object_store(source, bucket):
    url = f"{bucket[0]}/out"
    source.map_shards(ToZip(url))
    source.map_shards(Recompress("zstd"), ToZip(url), overwrite=True)
    assert ShardedStore.prune(url, older_than=HOUR).names == []
    assert names(url) >= FIRST | SECOND
    assert {*ShardedStore.prune(url, dry_run=True).names} > FIRST


def test_what_killed_processes_left_is_removed(source, out):
    source.map_shards(ToZip(out))
    left = out / f"a/{TEMPORARY}{os.uname().nodename}-1-00000000.tmp"
    left.write_bytes(b"half")
    assert ShardedStore.prune(out, dry_run=True).names == [str(left.relative_to(out))]
    assert left.exists()
    assert ShardedStore.prune(out).nbytes == 4
    assert not left.exists()


def test_rebuilt_consolidated_metadata_goes_too(source, out):
    for chain in [[], [Recompress("zstd")]]:
        source.map_shards(*chain, ToZip(out), overwrite=True, consolidated=True)
    pruned = ShardedStore.prune(out)
    assert "__consolidated__.zarr/zarr.json.shardedstore" in pruned.names
    assert "__consolidated__~2.zarr/zarr.json.shardedstore" in names(out)


def test_the_documents_of_one_ordinary_zarr_are_kept_for_the_same_call(source, out):
    source.map_shards(CopyTo(out))
    source.map_shards(CopyTo(out), overwrite=True)
    place = out.parent / "out.shardedstore"
    assert jobs(place) == ["job-1.json", "job-2.json", "1", "2"]
    ShardedStore.prune(out)
    assert jobs(place) == ["job-2.json", "2"]
    assert ShardedStore.load(place).verify(source).ok
    assert source.map_shards(CopyTo(out)).summary.done == 0


def test_it_waits_for_no_one(source, out):
    source.map_shards(ToZip(out))
    source.map_shards(Recompress("zstd"), ToZip(out), overwrite=True)
    with held(open_folder(str(out))), pytest.raises(DestinationError, match="is being written to by"):
        ShardedStore.prune(out)
    assert names(out) > FIRST


def test_a_folder_of_no_job_is_left_alone(tmp_path):
    (tmp_path / "0.zarr.zip").touch()
    with pytest.raises(UsageError, match="no job ever wrote"):
        ShardedStore.prune(tmp_path)


def test_the_command_line(source, out):
    source.map_shards(ToZip(out))
    source.map_shards(Recompress("zstd"), ToZip(out), overwrite=True)
    tried = CliRunner().invoke(main, ["prune", str(out), "--dry-run", "--verbose"])
    assert tried.exit_code == 0
    assert tried.stdout.startswith("__base__.zarr.zip\na/0.zarr.zip\n")
    assert "6 files would be removed" in tried.stdout
    assert names(out) > FIRST
    young = CliRunner().invoke(main, ["prune", str(out), "--older-than", "1d"])
    assert "0 files removed; 0 B" in young.stdout
    assert young.stderr == "kept: __base__.zarr.zip was replaced recently and 3 others\n"
    assert CliRunner().invoke(main, ["prune", str(out)]).stdout.startswith("6 files removed; ")
    wrong = CliRunner().invoke(main, ["prune", str(out), "--older-than", "soon"])
    assert wrong.exit_code == 2
    assert "is not an age" in wrong.stderr


def test_objects_of_an_object_store(source, bucket):
    url, _ = bucket[0], bucket[1]
    source.map_shards(ToZip(f"{url}/out"))
    source.map_shards(Recompress("zstd"), ToZip(f"{url}/out"), overwrite=True)
    place = open_folder(f"{url}/out")
    place.write("a/notes.txt", b"mine")
    assert names(f"{url}/out") >= FIRST
    ShardedStore.prune(f"{url}/out")
    assert names(f"{url}/out") == SECOND | {"shardedstore.json", "a/notes.txt"}
    assert ShardedStore.load(f"{url}/out").verify(source).ok
