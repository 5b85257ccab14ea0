"""Sparse arrays, with few chunks in large grids: blocks without chunks are not shards, and are never listed."""

import json
import os
from dataclasses import dataclass

import dask
import msgspec
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from helpers_jobs import Fail, files_of
from servers import upload
from sources import to_zip
from zarr.core.sync import sync

from shardedstore import ChainError, ConfigError, CorruptError, NoShardError, ShardedStore, ShardsFailed, Step
from shardedstore.cli import main
from shardedstore.jobs import sparse
from shardedstore.jobs.make_plan import make_plan
from shardedstore.storage.folders import open_folder
from shardedstore.transforms import CopyTo, MapBlocks, MapChunks, MigrateV3, Recompress, ToShardingCodec, ToZip
from shardedstore.transforms.base.chain import parse_chain

SIZE = 1000
POINTS = {(0, 0, 0): 1, (0, 999, 5): 2, (7, 3, 3): 3, (8, 0, 0): 4, (999, 999, 999): 5}  # in four blocks of ten planes
BLOCKS = [0, 99]
SHARDS = {"a": (10, -1, -1)}
FINE = {"a": (1, 100, -1)}
SINKS = {
    "zips": ToZip,
    "shards": lambda url: CopyTo(url, layout="shards"),
    "one Zarr": CopyTo,
    "sharding codec": ToShardingCodec,
}


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def make(path, points=POINTS, size=SIZE, zarr_format=3):
    group = zarr.create_group(path, zarr_format=zarr_format)
    array = group.create_array("a", shape=(size,) * 3, chunks=(1, 1, 1), dtype="i4", fill_value=-1)
    put(array, points)
    group.create_array("b", data=np.arange(3), chunks=(1,))
    return path


def put(array, points):
    for place, value in points.items():
        array[place] = value


def opened(path):
    return zarr.open_array(path, path="a", mode="r+")


@pytest.fixture
def source(tmp_path):
    return make(tmp_path / "source.zarr")


def check(store, points=POINTS):
    array = zarr.open_group(store, mode="r")["a"]
    assert {place: int(array[place]) for place in points} == points
    assert (array[100:102, :2, :2] == -1).all()


def mapped(source, sink, shards=SHARDS, **options):
    return ShardedStore.partition(source, shards).map_shards(sink, **options)


@pytest.mark.parametrize("shards", [SHARDS, FINE], ids=["coarse", "fine"])
@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.few(4)
def test_a_result(sink, shards, source, tmp_path):
    sink = SINKS[sink](tmp_path / "out")
    result = mapped(source, sink, shards)
    count = 1 + (len(BLOCKS) if shards is SHARDS else len(POINTS))
    assert result.summary.done == count
    check(result if sink.layout == "shards" else sink.url)
    assert result.verify().ok
    assert result.verify(ShardedStore.partition(source, shards)).ok
    assert (again := mapped(source, sink, shards).summary).skipped == count
    assert again.done == 0
    if sink.layout == "shards":
        loaded = ShardedStore.load(tmp_path / "out")
        check(loaded)
        assert len(loaded.shards) == count
        keys = sync(listed(loaded, "a/c/"))
        assert sorted(keys) == sorted(f"a/c/{'/'.join(map(str, place))}" for place in POINTS)
        assert len(files_of(tmp_path / "out")) < 40


def same(chunk, position):
    return chunk


async def listed(store, prefix):
    return [key async for key in store.list_prefix(prefix)]


@pytest.mark.parametrize("kind", ["v2", "zip", "view"])
def test_other_sources(kind, source, tmp_path):
    if kind == "v2":
        source = make(tmp_path / "v2.zarr", zarr_format=2)
    elif kind == "zip":
        to_zip(files_of(source), tmp_path / "source.zip")
        source = tmp_path / "source.zip"
    else:
        ShardedStore.partition(source, {"a": (500, -1, -1)}).save(tmp_path / "view.json")
        source = ShardedStore.load(tmp_path / "view.json")
    result = mapped(source, ToZip(tmp_path / "out"))
    assert result.summary.done == len(BLOCKS) + 1
    check(result)


@pytest.mark.s3
def test_an_object_store(source, bucket):
    upload(bucket.client, files_of(source), "source.zarr")
    result = mapped(f"{bucket.url}/source.zarr", CopyTo(f"{bucket.url}/out", layout="shards"))
    assert result.summary.done == len(BLOCKS) + 1
    check(ShardedStore.load(f"{bucket.url}/out"))
    assert result.verify().ok


@pytest.mark.parametrize("steps", [[Recompress("zstd")], [MapChunks(same)]], ids=["recompress", "map"])
def test_steps_of_which_nothing_comes_of_nothing(steps, source, tmp_path):
    result = ShardedStore.partition(source, SHARDS).map_shards(*steps, ToZip(tmp_path / "out"))
    assert result.summary.done == len(BLOCKS) + 1
    check(result)


def test_migrated(tmp_path):
    result = ShardedStore.partition(make(tmp_path / "v2.zarr", zarr_format=2), SHARDS).map_shards(
        MigrateV3(), ToShardingCodec(tmp_path / "out")
    )
    assert result.summary.done == len(BLOCKS) + 1
    check(tmp_path / "out")


def unchanged(entries, shard):
    yield from entries


@pytest.mark.parametrize("steps", [[MapBlocks(same)], ["a step"], ["a function"]], ids=str)
def test_what_may_make_something_of_nothing_gets_all_blocks(steps, source):
    from shardedstore import step

    chains = {"a step": [step(unchanged), ToZip("out")], "a function": [lambda store, path, block: store]}
    chain = parse_chain(chains.get(steps[0], [*steps, ToZip("out")]))
    config = ShardedStore.partition(source, SHARDS).config
    assert make_plan(config, needs_empty=chain.needs_empty).shard_count == 101
    assert make_plan(config).shard_count == 3


def test_an_array_without_any_chunk(tmp_path):
    result = mapped(make(tmp_path / "source.zarr", {}), ToZip(tmp_path / "out"))
    assert result.summary.done == 2
    check(result, {})
    assert result.verify(ShardedStore.partition(tmp_path / "source.zarr", SHARDS)).ok


@pytest.mark.parametrize("layout", ["zips", "shards"])
def test_an_object_that_is_lost_is_not_taken_for_an_empty_block(layout, source, tmp_path):
    mapped(source, SINKS[layout](tmp_path / "out"))
    store = ShardedStore.load(tmp_path / "out")
    (lost,) = [path for path in (tmp_path / "out/a").iterdir() if path.name.startswith("99.")]
    os.rename(lost, tmp_path / "lost")
    with pytest.raises((FileNotFoundError, CorruptError), match="99"):
        zarr.open_group(store, mode="r")["a"][999, 999, 999]
    assert not store.verify().ok
    assert mapped(source, SINKS[layout](tmp_path / "out")).summary.missing == 1
    check(ShardedStore.load(tmp_path / "out"))


@pytest.mark.parametrize("changed", ["metadata", "listing"])
def test_a_chunk_that_appears_later_where_there_was_none(changed, source, tmp_path):
    sink = ToZip(tmp_path / "out")
    mapped(source, sink, changed=changed)
    put(opened(source), {(500, 0, 0): 6})
    result = mapped(source, sink, changed=changed)
    assert (result.summary.done, result.summary.skipped) == (1, 3)
    check(ShardedStore.load(tmp_path / "out"), {**POINTS, (500, 0, 0): 6})
    assert result.verify(ShardedStore.partition(source, SHARDS)).ok
    os.unlink(source / "a/c/500/0/0")
    result = mapped(source, sink, changed=changed)
    assert result.summary.done == 0
    check(ShardedStore.load(tmp_path / "out"), {**POINTS, (500, 0, 0): -1})
    ShardedStore.prune(tmp_path / "out")
    check(ShardedStore.load(tmp_path / "out"))


def test_a_chunk_that_appears_in_a_block_is_seen_by_its_listing(source, tmp_path):
    sink = ToZip(tmp_path / "out")
    mapped(source, sink, changed="listing")
    put(opened(source), {(9, 9, 9): 6})
    result = mapped(source, sink, changed="listing")
    assert (result.summary.done, result.summary.changed) == (1, 1)
    check(ShardedStore.load(tmp_path / "out"), {**POINTS, (9, 9, 9): 6})


def test_growth(source, tmp_path):
    sink = ToZip(tmp_path / "out")
    mapped(source, sink)
    array = opened(source)
    array.resize((SIZE + 20, SIZE, SIZE))
    put(array, {(SIZE + 15, 1, 1): 6})
    result = mapped(source, sink)
    assert (result.summary.done, result.summary.skipped) == (3, 1)  # the base, the old last block, and the new one
    check(ShardedStore.load(tmp_path / "out"), {**POINTS, (SIZE + 15, 1, 1): 6})
    assert result.verify(ShardedStore.partition(source, SHARDS)).ok


@dataclass(frozen=True)
class Meanwhile(Step):
    """Writes to the source while it is read."""

    needs_empty = False
    file: str

    def __call__(self, entries, shard):
        os.makedirs(os.path.dirname(self.file), exist_ok=True)
        with open(self.file, "wb") as file:
            file.write(b"\x06\0\0\0")
        yield from entries


@pytest.mark.parametrize("sink", ["zips", "one Zarr"])
def test_a_chunk_that_appears_while_the_job_runs(sink, source, tmp_path):
    step = Meanwhile(str(source / "a/c/500/0/0"))
    with pytest.raises(CorruptError, match="chunks of 'a' appeared or disappeared while the job ran"):
        ShardedStore.partition(source, SHARDS).map_shards(step, SINKS[sink](tmp_path / "out"))
    assert not (tmp_path / "out/shardedstore.json").exists()
    result = ShardedStore.partition(source, SHARDS).map_shards(step, SINKS[sink](tmp_path / "out"))
    assert result.summary.done == 1


def test_half_of_a_job(source, tmp_path):
    view = ShardedStore.partition(source, SHARDS)
    with pytest.raises(ShardsFailed):
        view.map_shards(Recompress("zstd"), Failing("a[99]"), ToZip(tmp_path / "out"))
    half = ShardedStore.load(tmp_path / "out", partial=True, allow=[str(source)])
    check(half)
    again = half.map_shards(ToZip(tmp_path / "again"))
    check(again)


class Failing(Fail):
    needs_empty = False


def test_info_and_the_dry_run(source, tmp_path):
    mapped(source, ToZip(tmp_path / "out"))
    shown = CliRunner().invoke(main, ["info", str(tmp_path / "out")])
    assert shown.exit_code == 0
    assert "2 zips" in shown.stdout
    tried = CliRunner().invoke(
        main, ["convert", str(source), str(tmp_path / "new"), "--to", "zip", "--shards", "a=10,-1,-1", "--dry-run"]
    )
    assert tried.exit_code == 0
    assert "3 new" in tried.stdout


def test_a_view_shows_what_its_source_has_now(source, tmp_path):
    store = ShardedStore.partition(source, SHARDS)
    make_plan(store.config)
    put(opened(source), {(500, 0, 0): 6})
    check(store, {**POINTS, (500, 0, 0): 6})


def test_an_array_that_is_not_so_sparse_is_listed_no_further(source, monkeypatch):
    config = ShardedStore.partition(source, SHARDS).config
    assert make_plan(config).shard_count == 3
    monkeypatch.setattr(sparse, "MOST_LISTED", len(POINTS))  # and the array's document
    assert make_plan(config).shard_count == 101
    monkeypatch.setattr(sparse, "MOST_LISTED", len(POINTS) + 1)
    assert make_plan(config).shard_count == 3


@pytest.mark.parametrize(
    ("stored", "shards"), [(range(0), 2), (range(3, 40), 3), (range(3, 400), 101)], ids=["none", "few", "many"]
)
def test_blocks_of_a_small_grid(stored, shards, tmp_path):
    """For 2,000 places, in a hundred blocks and the base."""
    array = zarr.create_group(tmp_path / "source.zarr").create_array(
        "a", shape=(2000,), chunks=(1,), dtype="i4", fill_value=-1
    )
    expected = np.full(2000, -1)
    for place in stored:
        array[place] = expected[place] = place
    result = mapped(tmp_path / "source.zarr", ToZip(tmp_path / "out"), {"a": (20,)})
    assert result.summary.done == shards
    np.testing.assert_array_equal(zarr.open_array(result, path="a")[...], expected)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ([], "stored must be sorted ranges"),
        ([[3, 3]], "stored must be sorted ranges"),
        ([[5, 7], [6, 9]], "stored must be sorted ranges"),
        ([[0, 101]], "stored must be sorted ranges"),
        ([[-1, 3]], "stored"),
        ("0-3", "stored"),
    ],
)
def test_ranges_that_can_not_be(stored, message, source, tmp_path):
    mapped(source, ToZip(tmp_path / "out"))
    file = tmp_path / "out/shardedstore.json"
    document = json.loads(file.read_bytes())
    assert document["shards"]["a"]["blocks"]["stored"] == [[0, 1], [99, 100]]
    document["shards"]["a"]["blocks"]["stored"] = stored
    file.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=message):
        ShardedStore.load(tmp_path / "out")


def test_an_exception_for_a_block_without_chunks_is_refused(source, tmp_path):
    mapped(source, ToZip(tmp_path / "out"))
    file = tmp_path / "out/shardedstore.json"
    document = json.loads(file.read_bytes())
    document["shards"]["a"]["exceptions"] = {"5": {"kind": "zip", "url": "a/x.zip"}}
    file.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="'5', but its field stored says that it has no chunks"):
        ShardedStore.load(tmp_path / "out")


def test_what_lies_where_no_chunks_are_is_reported(source, tmp_path):
    result = mapped(source, CopyTo(tmp_path / "out"))
    put(opened(tmp_path / "out"), {(500, 0, 0): 6})
    assert not result.verify().ok
    assert open_folder(str(tmp_path / "out")).nbytes("a/c/500/0/0")


def test_ranges_stand_in_one_line_each(source, tmp_path):
    mapped(source, ToZip(tmp_path / "out"), FINE)
    assert '"stored": [[0,1],[9,10],' in (tmp_path / "out/shardedstore.json").read_text()
    config = ShardedStore.load(tmp_path / "out").config
    blocks = config.shards["a"].blocks
    assert [blocks.number(blocks.index(i)) for i in range(blocks.count)] == list(range(blocks.count))
    whole = msgspec.structs.replace(blocks, stored=None)
    assert [whole.index(whole.number(blocks.index(i))) for i in range(5)] == [blocks.index(i) for i in range(5)]


# Blocks without chunks, in results


def few(path, chunks=(0,)):
    array = zarr.create_group(path).create_array("t", shape=(20_000,), chunks=(10,), dtype="i4", fill_value=0)
    for chunk in chunks:
        array[10 * chunk : 10 * chunk + 10] = chunk + 1
    return array


@pytest.mark.few(2)
@pytest.mark.parametrize("how", ["appears", "goes", "appears in another block"])
@pytest.mark.parametrize("sink", [ToZip, CopyTo], ids=lambda sink: sink.__name__)
def test_shards_of_mixed_states_are_made_again(how, sink, tmp_path):
    array = few(tmp_path / "source.zarr", (0, 1) if how == "goes" else (0,))
    plan = ShardedStore.partition(tmp_path / "source.zarr", {"t": (100,)}).plan(sink(tmp_path / "out"))
    place = 51 if how == "appears in another block" else 1
    if how == "goes":
        os.rename(tmp_path / "source.zarr/t/c/1", tmp_path / "away")
    else:
        array[10 * place : 10 * place + 10] = 9
    with pytest.raises(CorruptError, match=r"appeared or disappeared while the job ran.*it makes these shards again"):
        plan.run()
    if how == "goes":
        os.rename(tmp_path / "away", tmp_path / "source.zarr/t/c/1")
    result = ShardedStore.partition(tmp_path / "source.zarr", {"t": (100,)}).map_shards(sink(tmp_path / "out"))
    np.testing.assert_array_equal(zarr.open_array(result, path="t", mode="r")[:], array[:])


def test_a_block_is_found_by_its_index(tmp_path):
    few(tmp_path / "source.zarr", (0, 51))
    result = ShardedStore.partition(tmp_path / "source.zarr", {"t": (100,)}).map_shards(ToZip(tmp_path / "out"))
    for key in ("t[5]", ("t", 5)):
        found = result.shards[key]
        assert found.name == "t[5]"
        assert zarr.open_array(found.open(), mode="r")[10:20].tolist() == [52] * 10
    assert "t[1]" not in result.shards
    with pytest.raises(NoShardError, match="this block has no chunks"):
        result.shards["t", 1]


def test_a_step_that_may_fill_empty_blocks_is_refused_where_these_have_no_objects(tmp_path):
    few(tmp_path / "source.zarr")
    source = ShardedStore.partition(tmp_path / "source.zarr", {"t": (100,)})
    plus = MapBlocks(lambda block, place: block + 1, name="plus")
    result = source.map_shards(ToZip(tmp_path / "zips"))
    with pytest.raises(ChainError, match=r"MapBlocks may make chunks in blocks without chunks, and 't' has no objects"):
        result.map_shards(plus, ToZip(tmp_path / "out"))
    expected = zarr.open_array(source.map_shards(plus, ToZip(tmp_path / "direct")), path="t", mode="r")[:]
    again = ShardedStore.partition(result, {"t": (100,)}).map_shards(plus, ToZip(tmp_path / "out"))
    np.testing.assert_array_equal(zarr.open_array(again, path="t", mode="r")[:], expected)
    assert sorted(set(expected.tolist())) == [1, 2]
    result.map_shards(Recompress("gzip"), ToZip(tmp_path / "three"))
