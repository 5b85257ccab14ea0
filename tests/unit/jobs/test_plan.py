"""The plan: numbers, computed weights and segments of shards."""

import itertools
import pickle
import resource
import time

import pytest
import zarr
from helpers_jobs import CUBE, CUBE_SHARDS, cube_at, division
from hypothesis import example, given
from hypothesis import strategies as st
from sources import build, numbers, to_folder

from shardedstore import PartitionError, ShardedStore
from shardedstore.jobs import shards
from shardedstore.jobs.make_plan import make_plan
from shardedstore.jobs.shards import LEAST_WEIGHT, MOST_SEGMENTS, MOST_SHARDS, Load, Plan, Run
from shardedstore.stores.locations import Config, Directory, Zip
from shardedstore.zarr.grid import Blocks, ChunkKeys

KEYS = ChunkKeys("default", "/")
BASE = Directory("/source")


def plan_of(mounts: list[tuple[int, Load]], base: Load) -> Plan:
    """A plan of arrays with given numbers of blocks and sizes."""
    runs, loads, number = [Run(0, "", BASE, mounted={})], [base], 1
    for i, (count, load) in enumerate(mounts):
        runs.append(Run(number, f"a{i}", BASE, Blocks((count,), (1,), KEYS), 0, count))
        loads.append(load)
        number += count
    return Plan(Config(BASE), {}, tuple(runs), tuple(loads))


loads = st.builds(Load, st.integers(0, 10**6), st.integers(0, 10**15))
plans_of_any_size = st.builds(plan_of, st.lists(st.tuples(st.integers(1, 3000), loads), max_size=5), loads)


@given(plans_of_any_size)
@example(plan_of([], Load()))
@example(plan_of([(1, Load())], Load()))
@example(plan_of([(1000, Load(0, 1 << 50))], Load(1, 1)))
def test_every_shard_is_in_exactly_one_segment(plan):
    found = [
        (shard.number, shard.path, shard.block, shard.is_base)
        for segment in plan.segments()
        for run in segment.runs
        for shard in run.shards()
    ]
    expected = [(shard.number, shard.path, shard.block, shard.is_base) for run in plan.runs for shard in run.shards()]
    assert found == expected
    assert [number for number, *_ in found] == list(range(plan.shard_count))


@given(plans_of_any_size)
@example(plan_of([(3000, Load(0, 1 << 50)), (5, Load(5, 0))], Load(0, 1 << 50)))
def test_segments_are_of_about_equal_weight(plan):
    total = sum(load.weight for load in plan.loads)
    most = max(LEAST_WEIGHT, total // MOST_SEGMENTS)
    weights = {
        run.path: max(load.weight // (run.stop - run.first), 1) for run, load in zip(plan.runs, plan.loads, strict=True)
    }
    segments = plan.segments()
    for segment in segments:
        weight = sum(weights[run.path] * (run.stop - run.first) for run in segment.runs)
        assert weight <= most or segment.count == 1
        assert segment.count <= MOST_SHARDS
    for one, other in itertools.pairwise(segments):
        first = weights[other.runs[0].path]
        weight = sum(weights[run.path] * (run.stop - run.first) for run in one.runs)
        assert one.count == MOST_SHARDS or weight + first > most, "it had room for the next shard"


@given(plans_of_any_size)
def test_segments_are_numbered_and_the_same_each_time(plan):
    segments = plan.segments()
    assert [segment.number for segment in segments] == list(range(len(segments)))
    assert segments == plan.segments()


@given(plans_of_any_size, st.integers(0, 99))
def test_a_segment_splits_into_its_shards(plan, which):
    segments = plan.segments()
    segment = segments[which % len(segments)]
    parts = segment.split()
    assert [part.count for part in parts] == [1] * segment.count
    assert {part.number for part in parts} == {segment.number}
    assert [s for part in parts for s in part.runs[0].shards()] == [s for run in segment.runs for s in run.shards()]


@given(plans_of_any_size, st.sets(st.integers(0, 300)))
def test_a_segment_without_what_is_done_has_the_rest(plan, done):
    segment = plan.segments()[0]
    left = segment.without(frozenset(done))
    every = [shard.number for run in segment.runs for shard in run.shards()]
    assert [shard.number for run in left.runs for shard in run.shards()] == [n for n in every if n not in done]
    assert left.number == segment.number


@given(plans_of_any_size)
@example(plan_of([(1000, Load(100, 1 << 25))], Load()))
def test_segments_that_go_to_an_object_store_are_smaller(plan):
    near, far = plan.segments(), plan.segments(to_remote=True)
    assert len(near) <= len(far)
    assert sum(segment.count for segment in far) == plan.shard_count
    there = plan._replace(config=Config(Directory("s3://bucket/source")))
    assert [segment.count for segment in there.segments()] == [segment.count for segment in far]


def test_a_segment_to_an_object_store_is_an_eighth():
    plan = plan_of([(1024, Load(0, 1 << 34))], Load())  # of 16 MiB each
    assert {segment.count for segment in plan.segments()[1:-1]} == {12}
    assert {segment.count for segment in plan.segments(to_remote=True)[1:-1]} == {1}


def test_what_is_left_of_a_segment_is_described_by_ranges():
    (segment,) = plan_of([(200, Load())], Load()).segments()
    left = segment.without(frozenset({50, 51, 120}))
    assert [(run.number, run.first, run.stop) for run in left.runs] == [
        (0, 0, 1),
        (1, 0, 49),
        (52, 51, 119),
        (121, 120, 200),
    ]


def test_a_million_shards_are_planned_in_seconds(tmp_path):
    root = zarr.create_group(tmp_path / "source.zarr")
    root.create_array("a", shape=(1000, 1000, 64), chunks=(1, 1, 8), dtype="f8")
    store = ShardedStore.partition(tmp_path / "source.zarr", {"a": (1, 1, -1)})
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    plan = make_plan(store.config, needs_empty=True)  # no chunk is stored
    segments = plan.segments()
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB
    assert plan.shard_count == 1_000_001
    assert 1_000_001 / MOST_SHARDS <= len(segments) < 8500
    assert sum(segment.count for segment in segments) == plan.shard_count
    assert max(len(pickle.dumps(segment)) for segment in segments) < 1000


def test_shards_are_weighed_without_a_listing(tmp_path):
    """Missing chunks weigh as much as existing ones."""
    source = cube_at(tmp_path / "source.zarr")
    plan = make_plan(division(source).config)
    for chunk in source.glob("temperature/c/**/*"):
        if chunk.is_file():
            chunk.unlink()
    assert make_plan(division(source).config) == plan


def test_a_plan_counts_files_and_bytes(tmp_path):
    plan = make_plan(division(cube_at(tmp_path / "source.zarr")).config)
    loads = dict(zip([run.path for run in plan.runs], plan.loads, strict=True))
    assert loads["temperature"] == Load(4 * 3 * 2, 7 * 5 * 4 * 4)
    assert loads["simulation/fine"] == Load(2 + 3 * 2, 6 * 4 * 4)
    assert loads[""] == Load(1 + 4 + 1 + 1 + 1, 4)  # documents of the root, four arrays, a scalar, a group; one chunk
    assert plan.files == len(CUBE.contents())
    assert plan.shard_count == CUBE_SHARDS


def test_the_base_is_the_first_shard(tmp_path):
    plan = make_plan(division(cube_at(tmp_path / "source.zarr")).config)
    assert [shard.is_base for shard in plan.runs[0].shards()] == [True]
    assert all(run.mounted is None for run in plan.runs[1:])


def test_the_digest_of_the_source_is_that_of_its_metadata(tmp_path):
    source = cube_at(tmp_path / "source.zarr")
    before = make_plan(division(source).config).source
    next(path for path in source.glob("temperature/c/**/*") if path.is_file()).unlink()
    assert make_plan(division(source).config).source == before
    zarr.open_group(source).attrs["title"] = "another"
    assert make_plan(division(source).config).source != before


def one_array(store):
    zarr.create_array(store, name="a", data=numbers(8), chunks=(2,))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (Blocks((5,), (1,), KEYS), r"'a' was divided as an array of \(5,\) chunks, and now has \(4,\): partition the"),
        (Blocks((4,), (1,), ChunkKeys("v2", ".")), "'a' was divided as an array of"),
    ],
)
def test_an_array_that_is_not_as_it_was_divided_is_refused(tmp_path, blocks, message):
    path = to_folder(build(one_array), tmp_path / "source.zarr")
    config = ShardedStore.partition(path, {"a": (2,)}).config
    mount = shards.msgspec.structs.replace(config.shards["a"], blocks=blocks)
    with pytest.raises(PartitionError, match=message):
        make_plan(shards.msgspec.structs.replace(config, shards={"a": mount}))


def test_an_array_that_is_gone_is_refused(tmp_path):
    path = to_folder(build(one_array), tmp_path / "source.zarr")
    config = ShardedStore.partition(path, {"a": (2,)}).config
    (path / "a" / "zarr.json").unlink()
    with pytest.raises(PartitionError, match="'a' is divided into blocks, but the source has no array there"):
        make_plan(config)


def test_a_source_that_is_gone_is_refused(tmp_path):
    with pytest.raises(PartitionError, match=r"holds no Zarr|can't be read"):
        make_plan(Config(Directory(str(tmp_path / "nothing"))))
    with pytest.raises(PartitionError, match="can't be read"):
        make_plan(Config(Zip(str(tmp_path / "nothing.zip"))))
