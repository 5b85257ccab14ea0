"""Unfinished jobs open with right data at any time: finished shards from the result, the rest from the source."""

import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from conformance import check_same_contents
from fuzz import examples
from helpers_jobs import Fail, Slow, blocks_at, copied, division, kill_session, ledger_at, python, script_of, wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources import SOURCES, to_folder
from zarr.storage import LocalStore

from shardedstore import ConfigError, ShardedStore, ShardsFailed, UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.ledger import FOLDER
from shardedstore.jobs.manifest import ledger_of, read_manifest
from shardedstore.jobs.shards import shard_runs
from shardedstore.storage.folders import open_folder
from shardedstore.stores.locations import BlockOf, ViewOf, Zip
from shardedstore.transforms import CopyTo, MigrateV3, Recompress, ToZip


@dataclass(frozen=True)
class SlowZip(ToZip):
    """Takes time over every shard."""

    def write(self, entries, shard, url):
        time.sleep(0.1)
        return super().write(entries, shard, url)


CHAINS = {
    "zip": lambda out: [ToZip(out)],
    "recompress": lambda out: [Recompress("zstd", level=1), ToZip(out)],
    "migrate": lambda out: [MigrateV3(), ToZip(out)],
    "shards": lambda out: [CopyTo(out, layout="shards")],
    "zarr": lambda out: [CopyTo(out)],
}
SLOW = {name: lambda out, name=name: [Slow(0.1), *CHAINS[name](out)] for name in CHAINS} | {
    "zip": lambda out: [SlowZip(out)]
}
CUBES = {
    name: source
    for name, source in SOURCES.items()
    if name in ("cube-v2.", "cube-v3/", "consolidated-v3", "root-array-v3")
}


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def values(store):
    """All arrays by path."""
    node = zarr.open(store, mode="r")
    if isinstance(node, zarr.Array):
        return {"": node[...]}
    return {path: member[...] for path, member in node.members(max_depth=None) if isinstance(member, zarr.Array)}


def check_equal(store, source):
    found, expected = values(store), values(LocalStore(source, read_only=True))
    assert found.keys() == expected.keys()
    for path, data in expected.items():
        np.testing.assert_array_equal(found[path], data, err_msg=path)


def load(out, source, **options):
    return ShardedStore.load(out, partial=True, allow=[source], **options)


def undo(out, shards):
    """Reset an ended job to a state in which only some of its shards are done."""
    place = open_folder(str(out))
    if not place.names(FOLDER):
        place = open_folder(f"{out}.shardedstore")
    ledger = ledger_of(place, read_manifest(place))
    records = ledger.read()
    place.remove(FILE_NAME)
    place.remove_all([name for name, _ in place.sizes(f"{FOLDER}/ledger")])
    with ledger.writer(0) as append:
        for number in shards:
            append(records[number])
    return records


@pytest.mark.few(3)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("name", CUBES)
def test_all_data_are_right_whatever_is_done(name, chain, tmp_path_factory):
    if chain == "migrate" and "v3" in name:
        pytest.skip("it is v3 already")
    tmp_path, case = tmp_path_factory.mktemp("job"), CUBES[name]
    source, out = to_folder(case.contents(), tmp_path / "source.zarr"), tmp_path / "out"
    division(source, case).map_shards(*CHAINS[chain](out))
    count = sum(case.mounts.values()) + 1
    kept = {path: path.read_bytes() for path in tmp_path.rglob(f"{FOLDER}/**/*") if path.is_file()}
    config = next(tmp_path.rglob(FILE_NAME))
    written = config.read_bytes()

    @settings(max_examples=examples(4), suppress_health_check=list(HealthCheck))
    @given(st.sets(st.integers(0, count - 1)), st.booleans())
    def check(shards, has_base):
        shards = shards | {0} if has_base else shards
        for path, data in kept.items():
            path.write_bytes(data)
        config.write_bytes(written)
        undo(out, sorted(shards))
        store = load(out, source)
        check_equal(store, source)
        assert (store.partial.done, store.partial.total) == (len(shards), count)
        assert store.partial.shown <= len(shards)
        if chain in ("zip", "shards"):
            assert store.partial.shown == len(shards)
        if chain in ("migrate", "zarr"):
            assert store.partial.shown == 0
        assert (store.partial.shown < count) == bool(store.partial.reason)
        check_equal(pickle.loads(pickle.dumps(store)), source)
        check_equal(ShardedStore.from_config(store.get_config()), source)

    check()


@pytest.mark.few(2)
@pytest.mark.cluster
@pytest.mark.parametrize("chain", CHAINS)
def test_a_job_that_runs_can_be_read_at_any_moment(chain, tmp_path):
    case = SOURCES["cube-v2." if chain == "migrate" else "cube-v3/"]
    source, out = to_folder(case.contents(), tmp_path / "source.zarr"), tmp_path / "out"
    call = script_of(__file__, f"slow_job({str(source)!r}, {str(out)!r}, {chain!r})")
    process = python("-c", call, log=tmp_path / "log")
    job = out if chain != "zarr" else Path(f"{out}.shardedstore")
    seen = set()
    try:
        wait_until((job / FOLDER / "job-1.json").exists)
        while process.poll() is None:
            store = load(out, source)
            check_equal(store, source)
            seen.add(store.partial and store.partial.shown)
    finally:
        kill_session(process)
    assert (tmp_path / "log").read_text().endswith("done\n"), (tmp_path / "log").read_text()
    assert load(out, source).partial is None
    check_equal(load(out, source), source)
    assert len(seen) >= 2


def slow_job(source, out, chain):
    """A job with slow shards, in a separate process."""
    cube = next(case for name, case in SOURCES.items() if name.startswith("cube"))
    with patch("shardedstore.jobs.shards.LEAST_WEIGHT", 1), dask.config.set(scheduler="threads", num_workers=2):
        division(Path(source), cube).map_shards(*SLOW[chain](out))
    print("done", flush=True)


def test_what_is_shown_of_a_copy_is_key_by_key_that_of_the_source(tmp_path):
    case = SOURCES["cube-v3/"]
    source, out = to_folder(case.contents(), tmp_path / "source.zarr"), tmp_path / "out"
    division(source, case).map_shards(ToZip(out))
    records = undo(out, range(0))
    for done in ([3], [0, 3, 4, 9], range(len(records) - 1), range(1, len(records)), range(len(records))):
        undo_to(out, records, done)
        check_same_contents(load(out, source), case.contents())


def undo_to(out, records, shards):
    ledger = ledger_at(out)
    ledger.folder.remove_all([name for name, _ in ledger.folder.sizes(f"{FOLDER}/ledger")])
    with ledger.writer(0) as append:
        for number in shards:
            append(records[number])


def test_a_changed_array_is_shown_as_a_whole_when_it_is_done(tmp_path):
    case = SOURCES["cube-v3/"]
    source, out = to_folder(case.contents(), tmp_path / "source.zarr"), tmp_path / "out"
    divided = division(source, case)
    divided.map_shards(Recompress("zstd", level=1), ToZip(out))
    runs = {run.path: range(run.number, run.number + run.stop) for run in shard_runs(divided.config)}
    records = undo(out, range(0))

    def codecs(*shards):
        undo_to(out, records, shards)
        store = load(out, source)
        group = zarr.open_group(store, mode="r")
        return store.partial, {name: str(group[name].compressors) for name in ("temperature", "wind_u")}

    before = codecs()[1]
    assert codecs(*runs["temperature"])[1] == before  # the base, which holds its metadata, is not done
    partial, half = codecs(0, *runs["temperature"][:-1])
    assert half == before
    assert partial.shown == 1
    assert f"{partial.done} of {partial.total} shards are done; 1 of them is shown from its new place" in str(partial)
    partial, now = codecs(0, *runs["temperature"])
    assert now["temperature"] != before["temperature"]
    assert now["wind_u"] == before["wind_u"]
    assert partial.shown == 1 + len(runs["temperature"])
    assert "more are not done" in str(partial)


def test_the_fewer_blocks_are_named(tmp_path):
    divided, out = blocks_at(tmp_path / "source.zarr", 20), tmp_path / "out"
    divided.map_shards(ToZip(out))
    records = undo(out, range(0))
    undo_to(out, records, [4, 5])
    mount = load(out, tmp_path / "source.zarr").config.shards["a"]
    assert isinstance(mount.location, ViewOf)
    assert set(mount.exceptions) == {"3", "4"}
    undo_to(out, records, range(1, 20))
    store = load(out, tmp_path / "source.zarr")
    mount = store.config.shards["a"]
    assert isinstance(mount.location, Zip)
    assert {name: type(location) for name, location in mount.exceptions.items()} == {"19": BlockOf}
    check_equal(store, tmp_path / "source.zarr")


def test_consolidated_metadata_is_shown_only_where_it_is_right(tmp_path):
    case = SOURCES["consolidated-v3"]
    source, out = to_folder(case.contents(), tmp_path / "source.zarr"), tmp_path / "out"
    division(source, case).map_shards(Recompress("zstd", level=1), ToZip(out))
    undo(out, [0, 1, 2])
    store = load(out, source)
    assert store.partial.shown
    for path, array in zarr.open_group(store, mode="r").members(max_depth=None):
        assert array.metadata.to_dict() == zarr.open(store, path=path, mode="r").metadata.to_dict()


def test_a_job_that_has_ended_is_its_result(tmp_path):
    divided, out = blocks_at(tmp_path / "source.zarr", 3), tmp_path / "out"
    result = divided.map_shards(ToZip(out))
    assert ShardedStore.load(out, partial=True).config == result.config  # the source need not be allowed
    assert ShardedStore.load(out, partial=True).partial is None
    undo_records = ledger_at(out)
    records = undo_records.read()
    undo_to(out, records, range(4))  # it was killed before it compacted the ledger
    assert ShardedStore.load(out, partial=True).config == result.config
    copy = divided.map_shards(CopyTo(tmp_path / "out.zarr"))
    assert ShardedStore.load(tmp_path / "out.zarr", partial=True).config == copy.config


def test_an_earlier_result_is_not_taken_for_that_of_a_job_that_runs(tmp_path):
    divided, out = blocks_at(tmp_path / "source.zarr", 3), tmp_path / "out"
    divided.map_shards(ToZip(out))
    with pytest.raises(ShardsFailed):
        divided.map_shards(Fail("a[1]"), ToZip(out), overwrite=True)
    store = load(out, tmp_path / "source.zarr")
    assert store.partial.done == 3
    check_equal(store, tmp_path / "source.zarr")
    assert ShardedStore.load(out).partial is None


def test_a_shard_that_is_gone_is_shown_from_the_source(tmp_path):
    divided, out = blocks_at(tmp_path / "source.zarr", 3), tmp_path / "out"
    divided.map_shards(ToZip(out))
    undo(out, range(4))
    (out / "a/1.zarr.zip").unlink()
    store = load(out, tmp_path / "source.zarr")
    assert store.partial.shown == 3
    check_equal(store, tmp_path / "source.zarr")


def test_a_source_must_be_allowed(tmp_path):
    divided, out = blocks_at(tmp_path / "source.zarr", 3), tmp_path / "out"
    divided.map_shards(ToZip(out))
    undo(out, [0, 1])
    with pytest.raises(
        ConfigError, match=r"the source that '.*job-1.json' names: .*outside.*allow=\['.*source.zarr'\]"
    ):
        ShardedStore.load(out, partial=True)
    with pytest.raises(ConfigError, match="2 of 4 shards are done; run the same call again, or open"):
        ShardedStore.load(out)


def test_where_no_job_ever_wrote_there_is_nothing_to_show(tmp_path):
    with pytest.raises(ConfigError, match="no config can be read"):
        ShardedStore.load(tmp_path, partial=True)


def test_a_source_of_zips_is_shown_as_well(tmp_path):
    divided, zips = blocks_at(tmp_path / "source.zarr", 4), tmp_path / "zips"
    first = divided.map_shards(ToZip(zips))
    for chain, shown in ([[], 3], [[Recompress("zstd")], 0]):
        out = tmp_path / f"out{shown}"
        first.map_shards(*chain, ToZip(out))
        undo(out, [0, 1, 2])
        store = load(out, zips)
        assert store.partial.shown == shown
        check_equal(store, tmp_path / "source.zarr")


def test_the_result_opens_with_xarray(tmp_path):
    case = SOURCES["dataset-v3"]
    source, out = to_folder(case.contents(), tmp_path / "source.zarr"), tmp_path / "out"
    division(source, case).map_shards(Recompress("zstd"), ToZip(out))
    records = undo(out, range(0))
    for count in range(len(records)):
        undo_to(out, records, range(count))
        for group in "fine", "simulation/coarse":
            opened = (xr.open_zarr(store, group=group, consolidated=False) for store in (load(out, source), source))
            xr.testing.assert_identical(*(dataset.load() for dataset in opened))


# Shards that fail


def test_shards_that_fail_are_shown_from_the_source(tmp_path):
    divided, out = blocks_at(tmp_path / "source.zarr", 5), tmp_path / "out"
    mended = tmp_path / "mended"
    chain = [Fail("a[1]", str(mended)), ToZip(out)]
    with pytest.warns(UserWarning, match=r"1 of 6 shards failed.*not to the step's taste"):
        store = divided.map_shards(*chain, on_error="partial")
    assert [error.shard for error in store.summary.failures] == ["a[1]"]
    assert (store.partial.done, store.partial.total) == (5, 6)
    assert store.summary.done == 5
    check_equal(store, tmp_path / "source.zarr")
    assert not (out / FILE_NAME).exists()
    mended.touch()
    store = divided.map_shards(*chain, on_error="partial")
    assert (store.summary.skipped, store.summary.failures, store.partial) == (5, (), None)
    check_equal(store, tmp_path / "source.zarr")
    assert (out / FILE_NAME).exists()


def test_a_lazy_job_shows_the_source_too(tmp_path):
    divided, out = blocks_at(tmp_path / "source.zarr", 5), tmp_path / "out"
    job = divided.map_shards(Fail("a[1]"), CopyTo(out), compute=False, on_error="partial")
    with pytest.warns(UserWarning, match="1 of 6 shards failed"):
        store = job.compute()
    assert store.partial.shown == 0
    check_equal(store, tmp_path / "source.zarr")


def fails_at_2(store, shard_path, chunk_dims):
    if chunk_dims == "2":
        raise ValueError("no")
    return copied(store, shard_path, chunk_dims)


@pytest.mark.parametrize("to", [None, "config"])
def test_a_function_whose_shards_fail_shows_what_is_whole(to, tmp_path, monkeypatch):
    monkeypatch.setenv("SHARDEDSTORE_TEST_TARGET", str(tmp_path / "copies"))
    divided = blocks_at(tmp_path / "source.zarr", 5)
    with pytest.warns(UserWarning, match="1 of 6 shards failed"):
        store = divided.map_shards(fails_at_2, on_error="partial", to=to and tmp_path / to)
    assert (store.partial.done, store.partial.shown) == (5, 1)
    check_equal(store, tmp_path / "source.zarr")
    if to:
        again = ShardedStore.load(tmp_path / to, partial=True, allow=[tmp_path])
        assert again.config == store.config


def test_another_word_for_on_error_is_refused(tmp_path):
    with pytest.raises(UsageError, match="'finish', 'stop' or 'partial'"):
        blocks_at(tmp_path / "source.zarr", 2).map_shards(ToZip(tmp_path / "out"), on_error="ignore")
